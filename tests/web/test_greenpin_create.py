"""POST /greenpin: the page's own example, all bad input, and what two requests may not both have."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import aiohttp
import orjson
import pytest

from cordboard.clock import EPOCH
from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer

from .conftest import MakeShop
from .shop import AGENT, CUSTOMER, OTHER_AGENT, OTHER_CUSTOMER, Shop, assert_refused

# reference/greenpin-create.txt, byte for byte.
PAGE_BODY = b"""{
"transaction_id": "random_string",
    "a": {
        "vns": [
            "6292134471",
            "6292134464"
        ],
        "numbers": [
            "7987686144"
        ],
        "pin": "123",
        "pin_length": 2
    },
    "b": {
        "vns": [
            "6292134465",
            "6292134464"
        ],
        "numbers": [
            "9956555625"
        ],
        "pin": "234",
        "pin_length": "3"
    },
    "usage": "twoway",
    "deallocation_policy": {
        "duration": "1200s"
    }
}"""
PAGE_ANSWER = {
    "success": True,
    "status": 200,
    "code": None,
    "message": None,
    "data": {
        "transaction_id": "random_string",
        "greenpin_id": "d7ffd4b3-c861-4bda-a024-9cef1ae2f2a8",
        "a": {
            "vns": ["+916292134471", "+916292134464"],
            "numbers": ["+917987686144"],
            "pin": "123",
        },
        "b": {
            "vns": ["+916292134465", "+916292134464"],
            "numbers": ["+919956555625"],
        },
        "usage": "twoway",
        "state": "active",
        "deallocation_time": "2020-03-27 12:17:09",
    },
}
INDIA = timedelta(hours=5, minutes=30)


def keys_of(value: object) -> object:
    """The keys of nested objects, in their order."""
    return [(key, keys_of(inner)) for key, inner in value.items()] if isinstance(value, dict) else None


async def test_the_curl_example_of_the_page_gets_the_answer_of_the_page(make_shop: MakeShop) -> None:
    shop = await make_shop(
        {"bparty_pin_enabled": "false"}, ["+916292134471", "+916292134464", "+916292134465"]
    )
    before_us = shop.clock.now_us()
    answer = await shop.ask("POST", "/greenpin", raw=PAGE_BODY, headers={"cache-control": "no-cache"})
    after_us = shop.clock.now_us()

    assert answer.status == 200
    body = dict(answer.body)
    request_id, method = body.pop("request_id"), body.pop("method")
    assert (len(request_id), int(request_id, 16) > 0, method) == (32, True, "POST")
    assert keys_of(body) == keys_of(PAGE_ANSWER)
    data: dict[str, Any] = body["data"]
    assert UUID(data["greenpin_id"]).version == 4
    ends = datetime.strptime(data["deallocation_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) - INDIA
    earliest = EPOCH + timedelta(microseconds=before_us, seconds=1200)
    assert earliest.replace(microsecond=0) <= ends <= EPOCH + timedelta(microseconds=after_us, seconds=1200)
    given = {"greenpin_id": data["greenpin_id"], "deallocation_time": data["deallocation_time"]}
    assert body == {**PAGE_ANSWER, "data": {**PAGE_ANSWER["data"], **given}}  # type: ignore[dict-item]

    again = await shop.get(data["greenpin_id"])
    assert again.data == data


async def test_the_body_needs_no_content_type(shop: Shop) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await shop.ask("POST", "/greenpin", shop.order(), headers=headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"


# ── what the pages show ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"a__numbers": ["9800000021"]}, {"a__numbers": [AGENT]}),
        ({"a__numbers": ["09800000021", "+919800000022"]}, {"a__numbers": [AGENT, OTHER_AGENT]}),
        ({"a__numbers": [AGENT, "9800000021", OTHER_AGENT]}, {"a__numbers": [AGENT, OTHER_AGENT]}),
        ({"a__numbers": None}, {"a__numbers": []}),
        ({"a__pin": "0007"}, {"a__pin": "0007"}),
        ({"a__pin": "0007", "a__pin_length": 2}, {"a__pin": "0007"}),
        ({"a__pin": "1"}, {"a__pin": "1"}),
        ({"a__pin": "987654321"}, {"a__pin": "987654321"}),
        ({"usage": "oneway"}, {"usage": "oneway"}),
        ({}, {"usage": "twoway"}),
        ({"nobody": {"knows": ["this"]}, "aparty_tag": "shop", "bparty_tag": "home"}, {}),
    ],
)
async def test_what_the_pages_show_is_taken(
    shop: Shop, changed: dict[str, Any], expected: dict[str, Any]
) -> None:
    data = await shop.make(**changed)
    flat = data | {f"a__{key}": value for key, value in data["a"].items()}
    assert {key: flat[key] for key in expected} == expected


@pytest.mark.parametrize(("length", "digits"), [(None, 4), (1, 1), ("3", 3), (9, 9), ("9", 9)])
async def test_a_pin_is_drawn_of_the_length_asked_for(shop: Shop, length: object, digits: int) -> None:
    data = await shop.make(a__pin_length=length, b__pin_length=length)
    assert [len(data[side]["pin"]) for side in "ab"] == [digits, digits]
    assert all(data[side]["pin"].isdigit() for side in "ab")


@pytest.mark.parametrize("key", ["deallocation_policy", "Deallocation_policy"])
@pytest.mark.parametrize(
    ("text", "seconds"), [("20s", 20), ("15m", 900), ("2h", 7200), ("3d", 259_200), ("400d", 170 * 86_400)]
)
async def test_durations_have_units_and_are_cut_to_the_longest(
    shop: Shop, key: str, text: str, seconds: int
) -> None:
    before = shop.clock.now_us() // 1_000_000
    data = await shop.make("order", **{key: {"duration": text}})
    after = shop.clock.now_us() // 1_000_000
    ends = datetime.strptime(data["deallocation_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) - INDIA
    assert before + seconds <= (ends - EPOCH).total_seconds() <= after + seconds


async def test_without_a_duration_the_setting_counts(make_shop: MakeShop) -> None:
    endless = await make_shop({"max_deallocation_time": "-1"})
    assert (await endless.make())["deallocation_time"] is None
    utc = await make_shop({"max_deallocation_time": "1h", "timezone": "UTC"})
    ends = datetime.strptime((await utc.make())["deallocation_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    assert abs((ends - EPOCH).total_seconds() - utc.clock.now_us() / 1e6 - 3600) < 60


@pytest.mark.parametrize("side", ["a", "b"])
async def test_a_side_without_vns_takes_those_of_the_other(shop: Shop, side: str) -> None:
    other = "b" if side == "a" else "a"
    empties: list[Any] = [None, []]
    for number, empty in enumerate(empties):
        data = await shop.make(
            f"order-{number}",
            **{f"{side}__vns": empty, f"{other}__vns": [shop.lines[2], shop.lines[3]]},
        )
        assert data[side]["vns"] == data[other]["vns"] == [shop.lines[2], shop.lines[3]]


async def test_null_is_as_good_as_absent(shop: Shop) -> None:
    nulls = {"pin": None, "pin_length": None}
    body = shop.order() | {"usage": None, "deallocation_policy": None, "aparty_tag": None}
    body["a"] |= nulls
    body["b"] |= nulls | {"numbers": None}
    answer = await shop.post(body)
    assert answer.status == 200
    assert (answer.data["usage"], answer.data["b"]["numbers"]) == ("twoway", [])


async def test_ten_numbers_and_unicode_ids_are_taken(shop: Shop) -> None:
    numbers = [f"+9198000001{n:02d}" for n in range(10)]
    data = await shop.make("Größe 42 ✓", a__numbers=numbers)
    assert (data["transaction_id"], data["a"]["numbers"]) == ("Größe 42 ✓", numbers)
    assert (await shop.make("x" * 255, a__numbers=None))["transaction_id"] == "x" * 255


# ── flags ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("a", "b"), [("true", "false"), ("false", "true"), ("false", "false"), (True, False)]
)
async def test_only_sides_whose_pin_is_on_show_one(make_shop: MakeShop, a: object, b: object) -> None:
    shop = await make_shop({"aparty_pin_enabled": a, "bparty_pin_enabled": b})
    data = await shop.make(a__pin="123", b__pin="234")
    assert ("pin" in data["a"], "pin" in data["b"]) == (a in (True, "true"), b in (True, "true"))


async def test_a_common_pin_is_on_both_sides_whatever_their_flags(make_shop: MakeShop) -> None:
    shop = await make_shop(
        {"common_pin_enabled": "true", "common_pin_length": 6, "aparty_pin_enabled": "false"}
    )
    drawn = await shop.make("drawn")
    assert drawn["a"]["pin"] == drawn["b"]["pin"]
    assert len(drawn["a"]["pin"]) == 6
    given = await shop.make("given", a__numbers=None, b__pin="777", b__numbers=[OTHER_CUSTOMER])
    assert given["a"]["pin"] == given["b"]["pin"] == "777"
    two = await shop.post(shop.order("two", a__pin="111", b__pin="112"))
    assert_refused(two, 400, Code.BAD, "b.pin")
    # Taken on the VNs of both sides.
    taken = shop.order("taken", a__numbers=None, b__numbers=None, a__pin="777")
    taken["a"], taken["b"] = {**taken["b"], "pin": "777"}, taken["a"] | {"numbers": [OTHER_AGENT]}
    assert_refused(await shop.post(taken), 409, Code.PIN_OR_NUMBER_TAKEN, "pin")


# ── bad input ────────────────────────────────────────────────────────────────

ELEVEN = [f"+9198000001{n:02d}" for n in range(11)]
MISSING, BAD, NUMBER = Code.MISSING, Code.BAD, Code.BAD_NUMBER


@pytest.mark.parametrize(
    ("changed", "status", "code", "field"),
    [
        # 3: something is missing.
        ({"transaction_id": None}, 400, MISSING, "transaction_id"),
        ({"a": None, "b": None}, 400, MISSING, "a.vns"),
        ({"a__numbers": None, "b__numbers": None}, 400, MISSING, "a.numbers"),
        ({"a__numbers": [], "b__numbers": []}, 400, MISSING, "a.numbers"),
        ({"a__vns": None, "b__vns": None}, 400, MISSING, "a.vns"),
        ({"a__vns": [], "b__vns": []}, 400, MISSING, "a.vns"),
        ({"usage": "oneway", "b__numbers": None}, 400, MISSING, "b.numbers"),
        ({"usage": "oneway", "b__numbers": []}, 400, MISSING, "b.numbers"),
        # 5: of the wrong type or beyond a bound.
        ({"transaction_id": 7}, 400, BAD, "transaction_id"),
        ({"transaction_id": ""}, 400, BAD, "transaction_id"),
        ({"transaction_id": "x" * 256}, 400, BAD, "transaction_id"),
        ({"transaction_id": "a\0b"}, 400, BAD, "transaction_id"),
        ({"transaction_id": ["x"]}, 400, BAD, "transaction_id"),
        ({"a": "x"}, 400, BAD, "a "),
        ({"b": ["x"]}, 400, BAD, "b "),
        ({"a__numbers": AGENT}, 400, BAD, "a.numbers"),
        ({"a__numbers": 9800000021}, 400, BAD, "a.numbers"),
        ({"a__numbers": {"0": AGENT}}, 400, BAD, "a.numbers"),
        ({"b__numbers": [CUSTOMER, 9800000021]}, 400, BAD, "b.numbers[1]"),
        ({"b__numbers": [CUSTOMER, [AGENT]]}, 400, BAD, "b.numbers[1]"),
        ({"b__numbers": [None]}, 400, BAD, "b.numbers[0]"),
        ({"a__numbers": ELEVEN}, 400, BAD, "a.numbers"),
        ({"a__numbers": [AGENT] * 11}, 400, BAD, "a.numbers"),
        ({"a__vns": "x"}, 400, BAD, "a.vns"),
        ({"a__vns": [5]}, 400, BAD, "a.vns[0]"),
        ({"a__vns": ["9"] * 51}, 400, BAD, "a.vns"),
        ({"a__pin": "12a4"}, 400, BAD, "a.pin"),
        ({"a__pin": ""}, 400, BAD, "a.pin"),
        ({"a__pin": "1234567890"}, 400, BAD, "a.pin"),
        ({"a__pin": "١٢٣"}, 400, BAD, "a.pin"),
        ({"a__pin": 1234}, 400, BAD, "a.pin"),
        ({"a__pin": "12\n"}, 400, BAD, "a.pin"),
        ({"a__pin_length": 0}, 400, BAD, "a.pin_length"),
        ({"a__pin_length": 10}, 400, BAD, "a.pin_length"),
        ({"b__pin_length": -1}, 400, BAD, "b.pin_length"),
        ({"b__pin_length": "10"}, 400, BAD, "b.pin_length"),
        ({"b__pin_length": "x"}, 400, BAD, "b.pin_length"),
        ({"b__pin_length": ""}, 400, BAD, "b.pin_length"),
        ({"b__pin_length": 3.0}, 400, BAD, "b.pin_length"),
        ({"b__pin_length": True}, 400, BAD, "b.pin_length"),
        ({"b__pin_length": [4]}, 400, BAD, "b.pin_length"),
        ({"usage": "both"}, 400, BAD, "usage"),
        ({"usage": "TWOWAY"}, 400, BAD, "usage"),
        ({"usage": 2}, 400, BAD, "usage"),
        ({"deallocation_policy": "1200s"}, 400, BAD, "deallocation_policy"),
        ({"deallocation_policy": {"duration": "5x"}}, 400, BAD, "deallocation_policy.duration"),
        ({"deallocation_policy": {"duration": "1200"}}, 400, BAD, "deallocation_policy.duration"),
        ({"deallocation_policy": {"duration": 1200}}, 400, BAD, "deallocation_policy.duration"),
        ({"deallocation_policy": {"duration": "0s"}}, 400, BAD, "deallocation_policy.duration"),
        ({"deallocation_policy": {"duration": "-1"}}, 400, BAD, "deallocation_policy.duration"),
        ({"deallocation_policy": {"duration": ""}}, 400, BAD, "deallocation_policy.duration"),
        ({"deallocation_policy": {"duration": "1 h"}}, 400, BAD, "deallocation_policy.duration"),
        ({"Deallocation_policy": {"duration": "5x"}}, 400, BAD, "Deallocation_policy.duration"),
        ({"aparty_tag": 5}, 400, BAD, "aparty_tag"),
        # 16: no telephone number.
        ({"a__numbers": [AGENT, "12"]}, 400, NUMBER, "a.numbers[1]"),
        ({"a__numbers": ["+91980000002a"]}, 400, NUMBER, "a.numbers[0]"),
        ({"a__numbers": [""]}, 400, NUMBER, "a.numbers[0]"),
        ({"a__numbers": ["9" * 5_000]}, 400, NUMBER, "a.numbers[0]"),
        ({"b__numbers": ["+14155552671"]}, 400, NUMBER, "b.numbers[0]"),
        ({"b__vns": ["nonsense"]}, 400, NUMBER, "b.vns[0]"),
        # 8: somebody else's.
        ({"a__vns": ["+918099999999"]}, 403, Code.NOT_PERMITTED, "a.vns[0]"),
        # 13, 14: numbers that say nothing, or two things.
        ({"a__numbers": [AGENT, AGENT]}, 409, Code.ALL_DUPLICATES, "a.numbers"),
        ({"b__numbers": [CUSTOMER, "9800000031"]}, 409, Code.ALL_DUPLICATES, "b.numbers"),
        ({"b__numbers": [AGENT]}, 409, Code.BOTH_SIDES, "b.numbers"),
        ({"b__numbers": [CUSTOMER, "09800000021"]}, 409, Code.BOTH_SIDES, "b.numbers"),
    ],
)
async def test_bad_input_has_its_code_names_its_field_and_changes_nothing(
    shop: Shop, changed: dict[str, Any], status: int, code: Code, field: str
) -> None:
    before = await shop.rows()
    answer = await shop.post(shop.order(**changed))
    assert_refused(answer, status, code, field)
    assert answer.body["data"] is None
    assert await shop.rows() == before


async def test_a_party_number_may_not_be_a_virtual_number_of_anybody(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    for line in (shop.lines[3], neighbour.lines[0]):
        assert_refused(await shop.post(shop.order(b__numbers=[line])), 400, NUMBER, "b.numbers[0]")
    foreign = await shop.post(shop.order(b__vns=[shop.lines[0], neighbour.lines[0]]))
    assert_refused(foreign, 403, Code.NOT_PERMITTED, "b.vns[1]")


async def test_foreign_numbers_pass_where_the_setting_allows_them(make_shop: MakeShop) -> None:
    shop = await make_shop({"intl_num_sup": "true"})
    data = await shop.make(b__numbers=["+14155552671"])
    assert data["b"]["numbers"] == ["+14155552671"]


@pytest.mark.parametrize("side", ["a", "b"])
async def test_a_side_needs_numbers_where_its_pin_is_off(make_shop: MakeShop, side: str) -> None:
    shop = await make_shop({f"{side}party_pin_enabled": "false"})
    nobodies: list[Any] = [None, []]
    for nobody in nobodies:
        changed = {f"{side}__numbers": nobody, f"{side}__pin": "123"}
        answer = await shop.post(shop.order("order", **changed))
        assert_refused(answer, 400, MISSING, f"{side}.numbers")


@pytest.mark.parametrize(
    ("changed", "status", "code", "field"),
    [
        ({"transaction_id": None, "a__pin": 5}, 400, MISSING, "transaction_id"),
        ({"b__vns": None, "a__vns": None, "usage": "both"}, 400, MISSING, "a.vns"),
        ({"b__numbers": None, "a": "x"}, 400, MISSING, "a.numbers"),
        ({"usage": "oneway", "b__numbers": None, "a__pin_length": 0}, 400, MISSING, "b.numbers"),
        # A list that cannot be read is there.
        ({"b__numbers": None, "a__numbers": "x"}, 400, BAD, "a.numbers"),
        ({"b__vns": None, "a__vns": 5}, 400, BAD, "a.vns"),
        ({"usage": "oneway", "b__numbers": [5]}, 400, BAD, "b.numbers[0]"),
        ({"a__numbers": ["x"], "a__pin": "x"}, 400, BAD, "a.pin"),
        ({"a__numbers": ["x"], "a__vns": ["+918099999999"]}, 400, NUMBER, "a.numbers[0]"),
        ({"a__vns": ["+918099999999"], "b__numbers": [AGENT]}, 403, Code.NOT_PERMITTED, "a.vns[0]"),
        ({"a__numbers": [AGENT, AGENT], "b__numbers": [AGENT]}, 409, Code.ALL_DUPLICATES, "a.numbers"),
    ],
)
async def test_of_several_broken_rules_the_first_is_answered(
    shop: Shop, changed: dict[str, Any], status: int, code: Code, field: str
) -> None:
    assert_refused(await shop.post(shop.order(**changed)), status, code, field)


async def test_messages_show_no_number_and_no_pin_whole(shop: Shop) -> None:
    await shop.make("first", a__pin="4321", b__pin="8765")
    bodies = [
        shop.order("second", a__pin="4321", a__numbers=[OTHER_AGENT]),
        shop.order("third", a__pin="43217777777"),
        shop.order("fourth", b__numbers=[AGENT]),
        shop.order("fifth", a__vns=["+918099999999"]),
        shop.order("sixth", b__numbers=[shop.lines[0]]),
    ]
    for body in bodies:
        message = (await shop.post(body)).body["message"]
        for secret in ("4321", AGENT[1:], AGENT[3:], shop.lines[0][1:], "8099999999"):
            assert secret not in message


# ── what only one may have ───────────────────────────────────────────────────


async def test_a_transaction_id_names_one_live_allocation(shop: Shop) -> None:
    first = await shop.make()
    before = await shop.rows()
    other = shop.order(a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER])
    answer = await shop.post(other)
    assert_refused(answer, 409, Code.CLIENT_ID_TAKEN, "transaction_id")
    assert "Allocation exists for this connection id." in answer.body["message"]
    assert await shop.rows() == before
    await shop.delete(first["greenpin_id"])
    assert (await shop.post(other)).status == 200


async def test_a_pin_is_one_side_of_one_allocation_on_a_virtual_number(shop: Shop) -> None:
    await shop.make("first", a__pin="1234")
    before = await shop.rows()
    taken = shop.order("second", a__pin="1234", a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER])
    assert_refused(await shop.post(taken), 409, Code.PIN_OR_NUMBER_TAKEN, "a.pin")
    crossed = shop.order("second", b__vns=[shop.lines[2], shop.lines[0]], b__pin="1234", a__pin="1")
    assert_refused(await shop.post(crossed), 409, Code.PIN_OR_NUMBER_TAKEN, "b.pin")
    twins = shop.order("twins", b__vns=[shop.lines[0]], a__pin="77", b__pin="77")
    assert_refused(await shop.post(twins), 409, Code.PIN_OR_NUMBER_TAKEN, "b.pin")
    assert await shop.rows() == before
    elsewhere = await shop.make("elsewhere", a__pin="1234", a__vns=[shop.lines[2]], b__vns=[shop.lines[3]])
    assert elsewhere["a"]["pin"] == "1234"


async def test_one_agent_has_twenty_pins_on_one_virtual_number(shop: Shop) -> None:
    made = [await shop.make(f"order-{n}", b__numbers=[f"+9198000002{n:02d}"]) for n in range(20)]
    assert len({data["a"]["pin"] for data in made}) == 20


async def test_a_number_without_pin_has_one_route_on_a_virtual_number(make_shop: MakeShop) -> None:
    shop = await make_shop({"aparty_pin_enabled": "false"})
    await shop.make("first")
    before = await shop.rows()
    answer = await shop.post(shop.order("second", b__numbers=[OTHER_CUSTOMER]))
    assert_refused(answer, 409, Code.PIN_OR_NUMBER_TAKEN, "a.numbers")
    assert "when the PIN of its side was switched otherwise" in answer.body["message"]
    assert await shop.rows() == before


async def test_when_all_pins_of_a_length_are_taken_there_is_nothing_free(shop: Shop) -> None:
    made = [
        await shop.make(f"order-{n}", a__pin_length=1, b__numbers=[f"+9198000002{n:02d}"]) for n in range(10)
    ]
    assert {data["a"]["pin"] for data in made} == set("0123456789")
    before = await shop.rows()
    answer = await shop.post(shop.order("eleventh", a__pin_length=1, b__numbers=[OTHER_CUSTOMER]))
    assert_refused(answer, 452, Code.NOTHING_FREE, "a.pin")
    assert await shop.rows() == before
    await shop.delete(made[3]["greenpin_id"])
    last = await shop.make("eleventh", a__pin_length=1, b__numbers=[OTHER_CUSTOMER])
    assert last["a"]["pin"] == made[3]["a"]["pin"]


async def test_a_released_pin_rests_for_the_cool_off(make_shop: MakeShop) -> None:
    shop = await make_shop({"deletion_time": 60})
    first = await shop.make("first", a__pin="1234")
    await shop.delete(first["greenpin_id"])
    again = shop.order("second", a__pin="1234")
    assert_refused(await shop.post(again), 409, Code.PIN_OR_NUMBER_TAKEN, "a.pin")
    shop.clock.advance(61)
    assert (await shop.post(again)).status == 200


async def test_a_drawn_pin_is_found_among_pins_that_cool(make_shop: MakeShop) -> None:
    shop = await make_shop({"deletion_time": 60})
    made = [
        await shop.make(f"order-{n}", a__pin_length=1, b__numbers=[f"+9198000002{n:02d}"]) for n in range(9)
    ]
    for data in made:
        await shop.delete(data["greenpin_id"])
    [free] = set("0123456789") - {data["a"]["pin"] for data in made}
    tenth = await shop.make("tenth", a__pin_length=1)
    assert tenth["a"]["pin"] == free
    eleventh = shop.order("eleventh", a__pin_length=1, b__numbers=[OTHER_CUSTOMER])
    assert_refused(await shop.post(eleventh), 452, Code.NOTHING_FREE, "a.pin")
    shop.clock.advance(61)
    assert (await shop.post(eleventh)).status == 200


async def test_a_life_beyond_all_dates_is_cut(make_shop: MakeShop) -> None:
    shop = await make_shop({"max_deallocation_time": "-1"})
    long_lived = await shop.make(deallocation_policy={"duration": "999999999d"})
    assert long_lived["deallocation_time"].startswith("30")


async def test_an_ended_allocation_stands_in_nobodys_way(shop: Shop) -> None:
    first = await shop.make(a__pin="1234", deallocation_policy={"duration": "20s"})
    shop.clock.advance(21)
    second = await shop.make(a__pin="1234")
    assert second["greenpin_id"] != first["greenpin_id"]
    assert (await shop.get(first["greenpin_id"])).data["state"] == "vault"


# ── races ────────────────────────────────────────────────────────────────────


async def at_once(*bodies: dict[str, Any], shop: Shop) -> list[Answer]:
    return await asyncio.gather(*(shop.post(body) for body in bodies))


async def test_of_creates_with_one_transaction_id_one_is_made(shop: Shop) -> None:
    bodies = [
        shop.order("same", a__numbers=[f"+9198000001{n:02d}"], b__numbers=[f"+9198000002{n:02d}"])
        for n in range(8)
    ]
    answers = await at_once(*bodies, shop=shop)
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    assert {answer.body["code"] for answer in answers} == {None, Code.CLIENT_ID_TAKEN}


async def test_of_creates_with_one_pin_one_is_made(shop: Shop) -> None:
    bodies = [shop.order(f"order-{n}", a__pin="1234") for n in range(8)]
    answers = await at_once(*bodies, shop=shop)
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    assert {answer.body["code"] for answer in answers} == {None, Code.PIN_OR_NUMBER_TAKEN}


async def test_of_creates_with_one_number_that_needs_no_pin_one_is_made(make_shop: MakeShop) -> None:
    shop = await make_shop({"aparty_pin_enabled": "false"})
    bodies = [shop.order(f"order-{n}", b__numbers=[f"+9198000002{n:02d}"]) for n in range(8)]
    answers = await at_once(*bodies, shop=shop)
    assert sorted(answer.status for answer in answers) == [200] + [409] * 7
    assert {answer.body["code"] for answer in answers} == {None, Code.PIN_OR_NUMBER_TAKEN}


async def test_creates_at_once_draw_different_pins_until_none_is_free(shop: Shop) -> None:
    bodies = [
        shop.order(f"order-{n}", a__pin_length=1, b__numbers=[f"+9198000002{n:02d}"]) for n in range(12)
    ]
    answers = await at_once(*bodies, shop=shop)
    made = [answer for answer in answers if answer.status == 200]
    assert len({answer.data["a"]["pin"] for answer in made}) == len(made) == 10
    assert [answer.body["code"] for answer in answers if answer.status != 200] == [Code.NOTHING_FREE] * 2


async def test_a_create_and_a_delete_of_its_pin_leave_no_half(shop: Shop) -> None:
    for turn in range(5):
        first = await shop.make(f"first-{turn}", a__pin="1234")
        _, second = await asyncio.gather(
            shop.delete(first["greenpin_id"]), shop.post(shop.order(f"second-{turn}", a__pin="1234"))
        )
        assert second.status in (200, 409)
        if second.status == 200:
            await shop.delete(second.data["greenpin_id"])
    assert (await shop.rows())["pin_claim"] == []


# ── bodies ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"[1,",
        b"not json",
        b'{"transaction_id": "x",}',
        b'{"transaction_id": NaN}',
        b'{"n": 1e400}',
        b"\xff\xfe{}",
        b'{"transaction_id": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 40_000,
        b"null",
        b"[]",
        b'"text"',
        b"5",
    ],
)
async def test_what_is_no_json_object_is_a_bad_body(shop: Shop, raw: bytes) -> None:
    before = await shop.rows()
    assert_refused(await shop.ask("POST", "/greenpin", raw=raw), 400, BAD, "The body")
    assert await shop.rows() == before


@pytest.mark.parametrize("raw", [b"", b"  \n", b"{}"])
async def test_an_empty_body_lacks_its_transaction_id(shop: Shop, raw: bytes) -> None:
    assert_refused(await shop.ask("POST", "/greenpin", raw=raw), 400, MISSING, "transaction_id")


async def test_of_two_equal_keys_the_last_counts(shop: Shop) -> None:
    raw = b'{"transaction_id": 5, "transaction_id": "last", "b": {"numbers": ["%s"], "vns": ["%s"]}}' % (
        CUSTOMER.encode(),
        shop.lines[0].encode(),
    )
    assert (await shop.ask("POST", "/greenpin", raw=raw)).data["transaction_id"] == "last"


async def test_a_body_is_at_most_256_kib(shop: Shop) -> None:
    def padded(size: int) -> bytes:
        body = orjson.dumps(shop.order("padded", padding=""))
        return body.replace(b'"padding":""', b'"padding":"%s"' % (b"x" * (size - len(body))))

    assert (await shop.ask("POST", "/greenpin", raw=padded(256 << 10))).status == 200
    before = await shop.rows()
    for size in ((256 << 10) + 1, 1_000_000):
        answer = await shop.ask("POST", "/greenpin", raw=padded(size))
        assert_refused(answer, 413, Code.TOO_MANY, "262144 bytes")
    assert await shop.rows() == before


async def test_the_limit_holds_for_a_body_of_unknown_length(
    shop: Shop, session: aiohttp.ClientSession
) -> None:
    async def long_body() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 10_000

    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/greenpin"
    async with session.post(url, data=long_body(), headers=shop.authorization) as response:
        assert (response.status, (await response.json())["code"]) == (413, Code.TOO_MANY)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_as_its_headers_say_is_bad(
    shop: Shop, session: aiohttp.ClientSession, encoding: str
) -> None:
    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/greenpin"
    headers = {**shop.authorization, "Content-Encoding": encoding}
    async with session.post(url, data=b"no zip at all", headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (400, Code.BAD)


async def test_a_zip_is_measured_unpacked(shop: Shop, session: aiohttp.ClientSession) -> None:
    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/greenpin"
    headers = {**shop.authorization, "Content-Encoding": "gzip"}
    async with session.post(url, data=gzip.compress(b" " * (50 << 20)), headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (413, Code.TOO_MANY)
    small = gzip.compress(orjson.dumps(shop.order()))
    async with session.post(url, data=small, headers=headers) as response:
        assert response.status == 200
