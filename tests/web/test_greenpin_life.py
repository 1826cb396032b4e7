"""What becomes of a GreenPin: read, updated, released, ended; one by one and in bulk."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest

from cordboard.clock import EPOCH
from cordboard.routing.allocate import Code
from cordboard.simulator.platform import random_call_sid

from .conftest import MakeShop
from .shop import (
    AGENT,
    BULK_ITEMS_MAX,
    CUSTOMER,
    OTHER_AGENT,
    OTHER_CUSTOMER,
    UNKNOWN_ID,
    Shop,
    assert_refused,
)

INDIA = timedelta(hours=5, minutes=30)


def own_values(data: dict[str, Any]) -> dict[str, Any]:
    """An update with what the allocation has already."""
    return {
        "a": data["a"] | {"pin_length": len(data["a"]["pin"])},
        "b": data["b"] | {"pin_length": str(len(data["b"]["pin"]))},
        "usage": data["usage"],
    }


# ── read and release ─────────────────────────────────────────────────────────


async def test_a_released_allocation_is_vaulted_and_can_still_be_read(shop: Shop) -> None:
    made = await shop.make()
    deleted = await shop.delete(made["greenpin_id"])
    assert (deleted.status, deleted.body["method"]) == (200, "DELETE")
    assert deleted.data == made | {"state": "vault"}
    assert (await shop.get(made["greenpin_id"])).data == made | {"state": "vault"}
    before = await shop.rows()
    assert_refused(await shop.delete(made["greenpin_id"]), 410, Code.DELETED, "greenpin_id")
    assert_refused(await shop.put(made["greenpin_id"], {"usage": "oneway"}), 410, Code.DELETED, "greenpin_id")
    assert await shop.rows() == before


async def test_past_its_end_it_is_vaulted_whether_swept_or_not(shop: Shop) -> None:
    made = await shop.make(deallocation_policy={"duration": "60s"})
    shop.clock.advance(61)
    assert (await shop.get(made["greenpin_id"])).data == made | {"state": "vault"}
    assert_refused(await shop.put(made["greenpin_id"], {"usage": "oneway"}), 410, Code.DELETED)
    assert_refused(await shop.delete(made["greenpin_id"]), 410, Code.DELETED)


@pytest.mark.parametrize(
    "greenpin_id",
    [
        UNKNOWN_ID,
        "x",
        "6447bb5370c340ea850bde2fd3c585ee",
        "{6447bb53-70c3-40ea-850b-de2fd3c585ee}",
        "%00",
        "%F0",
    ],
)
async def test_an_id_that_nobody_has_is_not_found(shop: Shop, greenpin_id: str) -> None:
    before = await shop.rows()
    for answer in (
        await shop.get(greenpin_id),
        await shop.put(greenpin_id, {"usage": "oneway"}),
        await shop.delete(greenpin_id),
        await shop.get(f"{greenpin_id}/members"),
    ):
        assert_refused(answer, 404, Code.NOT_FOUND)
    assert await shop.rows() == before


async def test_another_tenants_allocation_is_not_found(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    made = await neighbour.make()
    before = await neighbour.rows()
    for answer in (
        await shop.get(made["greenpin_id"]),
        await shop.put(made["greenpin_id"], {"usage": "oneway"}),
        await shop.delete(made["greenpin_id"]),
        await shop.get(f"{made['greenpin_id']}/members"),
    ):
        assert_refused(answer, 404, Code.NOT_FOUND, "greenpin_id")
    assert await neighbour.rows() == before


async def test_an_id_may_be_written_in_capitals(shop: Shop) -> None:
    made = await shop.make()
    assert (await shop.get(made["greenpin_id"].upper())).data == made


async def test_of_deletes_at_once_one_deletes(shop: Shop) -> None:
    made = await shop.make()
    answers = await asyncio.gather(*(shop.delete(made["greenpin_id"]) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200] + [410] * 5


# ── update ───────────────────────────────────────────────────────────────────


async def test_own_values_again_change_nothing(shop: Shop) -> None:
    made = await shop.make()
    before = await shop.rows()
    answer = await shop.put(made["greenpin_id"], own_values(made))
    assert (answer.status, answer.data, answer.body["method"]) == (200, made, "PUT")
    assert await shop.rows() == before


async def test_only_the_keys_named_change(shop: Shop) -> None:
    made = await shop.make()
    greenpin_id = made["greenpin_id"]
    oneway = (await shop.put(greenpin_id, {"usage": "oneway"})).data
    assert oneway == made | {"usage": "oneway"}
    numbers = (await shop.put(greenpin_id, {"b": {"numbers": ["9800000032"]}})).data
    assert numbers == oneway | {"b": made["b"] | {"numbers": [OTHER_CUSTOMER]}}
    lines = (await shop.put(greenpin_id, {"a": {"vns": [shop.lines[2], shop.lines[3]]}})).data
    assert lines == numbers | {"a": made["a"] | {"vns": [shop.lines[2], shop.lines[3]]}}
    empty = (await shop.put(greenpin_id, {"a": {"numbers": []}})).data
    assert empty == lines | {"a": lines["a"] | {"numbers": []}}
    assert (await shop.get(greenpin_id)).data == empty


async def test_the_pages_update_body_is_taken(shop: Shop) -> None:
    made = await shop.make()
    page = {
        "a": {"vns": [shop.lines[0][3:]], "numbers": ["7987686144"], "pin": "123", "pin_length": 3},
        "b": {"vns": [shop.lines[1][3:]], "numbers": ["9956555625"], "pin": "234", "pin_length": "3"},
        "usage": "twoway",
        "deallocation_policy": {"duration": "1200s"},
    }
    answer = await shop.put(made["greenpin_id"], page)
    assert answer.data["a"] == {"vns": [shop.lines[0]], "numbers": ["+917987686144"], "pin": "123"}
    assert answer.data["b"] == {"vns": [shop.lines[1]], "numbers": ["+919956555625"], "pin": "234"}


async def test_a_pin_wins_over_a_pin_length(shop: Shop) -> None:
    made = await shop.make(a__pin="1234", b__pin="2345")
    greenpin_id = made["greenpin_id"]
    same_length = (await shop.put(greenpin_id, {"a": {"pin_length": 4}})).data
    assert same_length["a"]["pin"] == "1234"
    given = (await shop.put(greenpin_id, {"a": {"pin": "77", "pin_length": 9}})).data
    assert given["a"]["pin"] == "77"
    drawn = (await shop.put(greenpin_id, {"a": {"pin_length": "6"}})).data
    assert (len(drawn["a"]["pin"]), drawn["b"]["pin"]) == (6, "2345")
    # The one it had is free again.
    other = await shop.make("other", a__pin="77", b__numbers=[OTHER_CUSTOMER])
    assert other["a"]["pin"] == "77"


async def test_a_duration_counts_from_the_update(shop: Shop) -> None:
    made = await shop.make(deallocation_policy={"duration": "60s"})
    shop.clock.advance(50)
    now = shop.clock.now_us() / 1e6
    longer = (await shop.put(made["greenpin_id"], {"Deallocation_policy": {"duration": "2m"}})).data
    ends = datetime.strptime(longer["deallocation_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) - INDIA
    assert abs((ends - EPOCH).total_seconds() - now - 120) < 30
    shop.clock.advance(60)
    assert (await shop.get(made["greenpin_id"])).data["state"] == "active"


async def test_a_common_pin_changes_on_both_sides(make_shop: MakeShop) -> None:
    shop = await make_shop({"common_pin_enabled": "true"})
    made = await shop.make(a__pin="1234")
    changed = (await shop.put(made["greenpin_id"], {"b": {"pin": "77"}})).data
    assert (changed["a"]["pin"], changed["b"]["pin"]) == ("77", "77")
    longer = (await shop.put(made["greenpin_id"], {"b": {"pin_length": 7}})).data
    assert longer["a"]["pin"] == longer["b"]["pin"]
    assert len(longer["a"]["pin"]) == 7
    two = await shop.put(made["greenpin_id"], {"a": {"pin": "1"}, "b": {"pin": "2"}})
    assert_refused(two, 400, Code.BAD, "b.pin")


async def test_a_pin_for_a_side_whose_pin_is_off_is_ignored(make_shop: MakeShop) -> None:
    shop = await make_shop({"aparty_pin_enabled": "false"})
    made = await shop.make()
    assert (await shop.put(made["greenpin_id"], {"a": {"pin": "77", "pin_length": 3}})).data == made
    nobody = await shop.put(made["greenpin_id"], {"a": {"numbers": []}})
    assert_refused(nobody, 400, Code.MISSING, "a.numbers")


async def test_flags_of_the_tenant_that_change_later_change_no_allocation(shop: Shop) -> None:
    made = await shop.make()
    await shop.ask("PUT", "/settings", {"aparty_pin_enabled": "false"})
    assert (await shop.get(made["greenpin_id"])).data == made
    changed = (await shop.put(made["greenpin_id"], {"a": {"pin": "77"}})).data
    assert changed["a"]["pin"] == "77"


MISSING, BAD, NUMBER = Code.MISSING, Code.BAD, Code.BAD_NUMBER


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 400, MISSING, "a, b, usage and deallocation_policy"),
        ({"a": {}, "b": {"numbers": None}, "usage": None, "deallocation_policy": {}}, 400, MISSING, "usage"),
        ({"aparty_tag": "x", "unknown": 1}, 400, MISSING, "usage"),
        ({"transaction_id": "order"}, 400, MISSING, "usage"),
        ({"transaction_id": "order", "usage": "oneway"}, 400, BAD, "transaction_id"),
        ({"transaction_id": 5, "usage": "oneway"}, 400, BAD, "transaction_id"),
        ({"a": {"numbers": []}, "b": {"numbers": []}}, 400, MISSING, "a.numbers"),
        ({"a": {"numbers": []}, "b": {"numbers": []}, "usage": "both"}, 400, MISSING, "a.numbers"),
        ({"usage": "oneway", "b": {"numbers": []}}, 400, MISSING, "b.numbers"),
        ({"a": {"vns": []}}, 400, BAD, "a.vns"),
        ({"a": 5}, 400, BAD, "a "),
        ({"a": {"numbers": [f"+9198000001{n:02d}" for n in range(11)]}}, 400, BAD, "a.numbers"),
        ({"a": {"numbers": [5]}}, 400, BAD, "a.numbers[0]"),
        ({"a": {"pin": "12x"}}, 400, BAD, "a.pin"),
        ({"a": {"pin_length": 0}}, 400, BAD, "a.pin_length"),
        ({"b": {"pin_length": "10"}}, 400, BAD, "b.pin_length"),
        ({"usage": "both"}, 400, BAD, "usage"),
        ({"deallocation_policy": {"duration": "5x"}}, 400, BAD, "deallocation_policy.duration"),
        ({"a": {"numbers": ["nonsense"]}}, 400, NUMBER, "a.numbers[0]"),
        ({"a": {"vns": ["+918099999999"]}}, 403, Code.NOT_PERMITTED, "a.vns[0]"),
        ({"a": {"numbers": [AGENT, AGENT]}}, 409, Code.ALL_DUPLICATES, "a.numbers"),
        ({"a": {"numbers": [CUSTOMER]}}, 409, Code.BOTH_SIDES, "b.numbers"),
    ],
)
async def test_bad_updates_have_their_code_name_their_field_and_change_nothing(
    shop: Shop, body: dict[str, Any], status: int, code: Code, field: str
) -> None:
    made = await shop.make()
    before = await shop.rows()
    assert_refused(await shop.put(made["greenpin_id"], body), status, code, field)
    assert await shop.rows() == before


async def test_an_update_may_not_take_what_another_has(make_shop: MakeShop) -> None:
    shop = await make_shop({"bparty_pin_enabled": "false"})
    await shop.make("first", a__pin="1234")
    second = await shop.make("second", a__pin="4321", b__numbers=[OTHER_CUSTOMER])
    moved = await shop.make("moved", a__pin="1234", a__vns=[shop.lines[2]], b__vns=[shop.lines[3]])
    before = await shop.rows()
    pin = await shop.put(second["greenpin_id"], {"a": {"pin": "1234"}})
    assert_refused(pin, 409, Code.PIN_OR_NUMBER_TAKEN, "a.pin")
    number = await shop.put(second["greenpin_id"], {"b": {"numbers": [CUSTOMER]}})
    assert_refused(number, 409, Code.PIN_OR_NUMBER_TAKEN, "b.numbers")
    # The PIN that it keeps is another's on the VN that it asks for.
    line = await shop.put(moved["greenpin_id"], {"a": {"vns": [shop.lines[0]]}})
    assert_refused(line, 409, Code.PIN_OR_NUMBER_TAKEN, "a.pin")
    assert await shop.rows() == before
    with_new_pin = await shop.put(moved["greenpin_id"], {"a": {"vns": [shop.lines[0]], "pin_length": 5}})
    assert with_new_pin.status == 200


async def test_an_update_draws_no_pin_where_none_is_free(shop: Shop) -> None:
    for n in range(10):
        await shop.make(f"order-{n}", a__pin_length=1, b__numbers=[f"+9198000002{n:02d}"])
    last = await shop.make("last", b__numbers=[OTHER_CUSTOMER])
    before = await shop.rows()
    refused = await shop.put(last["greenpin_id"], {"a": {"pin_length": 1}})
    assert_refused(refused, 452, Code.NOTHING_FREE, "a.pin")
    assert await shop.rows() == before


async def test_updates_at_once_all_happen_one_after_the_other(shop: Shop) -> None:
    made = await shop.make()
    bodies = [{"a": {"numbers": [f"+9198000001{n:02d}"]}} for n in range(8)]
    answers = await asyncio.gather(*(shop.put(made["greenpin_id"], body) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    last = (await shop.get(made["greenpin_id"])).data["a"]["numbers"]
    assert last in [body["a"]["numbers"] for body in bodies]


async def test_of_updates_to_one_pin_one_gets_it(shop: Shop) -> None:
    made = [await shop.make(f"order-{n}", b__numbers=[f"+9198000002{n:02d}"]) for n in range(6)]
    answers = await asyncio.gather(
        *(shop.put(data["greenpin_id"], {"a": {"pin": "777777"}}) for data in made)
    )
    assert sorted(answer.status for answer in answers) == [200] + [409] * 5


# ── members ──────────────────────────────────────────────────────────────────


async def test_members_are_those_who_entered_a_pin(shop: Shop, session: aiohttp.ClientSession) -> None:
    made = await shop.make(a__pin="1234", b__pin="9876")
    path = f"{made['greenpin_id']}/members"
    assert (await shop.get(path)).data == {"members": []}
    now = datetime.fromtimestamp(shop.clock.now_us() / 1e6, UTC)
    for caller, line, pin in ((OTHER_AGENT, 0, "1234"), (OTHER_CUSTOMER, 1, "9876")):
        hop = {
            "CallSid": random_call_sid(),
            "CallFrom": caller,
            "CallTo": shop.lines[line],
            "Direction": "incoming",
            "CallType": "call-attempt",
            "digits": f'"{pin}"',
        }
        url = f"{shop.client.base_url}/v1/tenants/{shop.id}/exotel/passthru"
        async with session.get(url, params=hop, headers=shop.authorization) as response:
            assert response.status == 200, await response.text()
    members = (await shop.get(path)).data["members"]
    assert [(member["number"], member["side"]) for member in members] == [
        (OTHER_AGENT, "a"),
        (OTHER_CUSTOMER, "b"),
    ]
    for member in members:
        assert member["joined_at"].endswith("+05:30")
        assert abs(datetime.fromisoformat(member["joined_at"]) - now) < timedelta(seconds=30)


# ── bulk ─────────────────────────────────────────────────────────────────────


async def bulk(shop: Shop, *items: object) -> Any:
    return await shop.ask("PUT", "/greenpin", {"greenpins": items})


async def test_a_bulk_update_of_good_items_answers_200(shop: Shop) -> None:
    first = await shop.make("first")
    second = await shop.make("second", b__numbers=[OTHER_CUSTOMER])
    answer = await bulk(
        shop,
        {"greenpin_id": first["greenpin_id"], "usage": "oneway"},
        {"greenpin_id": second["greenpin_id"], "a": {"pin": "0007"}},
    )
    assert (answer.status, answer.body["success"], answer.body["method"]) == (200, True, "PUT")
    assert answer.data == [
        {
            "greenpin_id": first["greenpin_id"],
            "success": True,
            "status": 200,
            "code": None,
            "message": None,
            "data": first | {"usage": "oneway"},
        },
        {
            "greenpin_id": second["greenpin_id"],
            "success": True,
            "status": 200,
            "code": None,
            "message": None,
            "data": second | {"a": second["a"] | {"pin": "0007"}},
        },
    ]


async def test_good_items_of_a_bulk_update_happen_and_bad_ones_are_told(shop: Shop) -> None:
    made, gone = await shop.make("made"), await shop.make("gone", b__numbers=[OTHER_CUSTOMER])
    await shop.delete(gone["greenpin_id"])
    items = [
        {"greenpin_id": UNKNOWN_ID, "usage": "oneway"},
        {"greenpin_id": made["greenpin_id"], "usage": "oneway"},
        {"greenpin_id": gone["greenpin_id"], "usage": "oneway"},
        {"greenpin_id": made["greenpin_id"], "a": {"pin": "x"}},
        {"usage": "oneway"},
    ]
    answer = await bulk(shop, *items)
    assert (answer.status, answer.body["code"]) == (207, None)
    assert [(item["success"], item["status"], item["code"]) for item in answer.data] == [
        (False, 404, 1),
        (True, 200, None),
        (False, 410, 22),
        (False, 400, 5),
        (False, 400, 3),
    ]
    assert [item["greenpin_id"] for item in answer.data] == [item.get("greenpin_id") for item in items]
    assert "a.pin" in answer.data[3]["message"]
    odd = await bulk(
        shop, {"greenpin_id": 5}, {"greenpin_id": made["greenpin_id"]}, "x", {"greenpin_id": "x"}
    )
    assert [item["code"] for item in odd.data] == [BAD, MISSING, BAD, Code.NOT_FOUND]


async def test_the_same_id_twice_in_a_bulk_update_takes_the_last(shop: Shop) -> None:
    made = await shop.make()
    answer = await bulk(
        shop,
        {"greenpin_id": made["greenpin_id"], "a": {"pin": "1"}},
        {"greenpin_id": made["greenpin_id"], "a": {"pin": "22"}},
    )
    assert answer.status == 200
    assert (await shop.get(made["greenpin_id"])).data["a"]["pin"] == "22"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, MISSING),
        ({"greenpins": []}, 400, MISSING),
        ({"greenpins": None}, 400, MISSING),
        ({"greenpins": {"greenpin_id": UNKNOWN_ID}}, 400, BAD),
        ({"greenpins": [{"greenpin_id": UNKNOWN_ID}] * (BULK_ITEMS_MAX + 1)}, 413, Code.TOO_MANY),
    ],
)
async def test_a_bulk_update_that_is_no_list_is_refused_whole(
    shop: Shop, body: object, status: int, code: Code
) -> None:
    assert_refused(await shop.ask("PUT", "/greenpin", body), status, code, "greenpins")


async def test_as_many_items_as_the_limit_are_taken(shop: Shop) -> None:
    answer = await bulk(shop, *[{"greenpin_id": UNKNOWN_ID, "usage": "oneway"}] * BULK_ITEMS_MAX)
    assert answer.status == 207


async def test_bulk_bodies_may_be_4_mib(shop: Shop) -> None:
    made = await shop.make()
    item = {"greenpin_id": made["greenpin_id"], "usage": "oneway", "padding": "x" * 600_000}
    assert (await bulk(shop, item)).status == 200
