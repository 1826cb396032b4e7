"""GreenPin and GreenVN, second generation: the page's own example, every status, and its life beside the
first generation."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from cordboard.clock import EPOCH
from cordboard.routing.allocate import Code
from cordboard.routing.model import SIDE_B, Admission, AllocationId, Outcome, RightPin, WrongPin
from cordboard.routing.numbers import E164, Pin
from cordboard.simulator.client import Answer
from cordboard.simulator.platform import random_call_sid
from cordboard.storage import allocations, outcomes, provisioning
from cordboard.storage.database import Connection
from cordboard.storage.outcomes import CallKey, NewOutcome

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

# reference/greenpin-create-2.txt, byte for byte but for the X in its numbers.
PAGE_BODY = b"""{
"caller_id_number": "+914000123456",
"from": ["+919900123456"],
"to": ["+918800123456"],
"duration": 3600,
"max_pin_attempts": 3,
"record": false,
"custom_field": "order_id=12345"
}"""
PAGE_KEYS = [
    "greenpin_id",
    "virtual_number",
    "pin",
    "from",
    "to",
    "status",
    "record",
    "created_at",
    "expires_at",
    "custom_field",
]
GREENVN_KEYS = [
    "greenvn_id",
    "virtual_number",
    "from",
    "to",
    "status",
    "record",
    "custom_field",
    "created_at",
    "expires_at",
]
INDIA = timedelta(hours=5, minutes=30)
TAKEN = Code.PIN_OR_NUMBER_TAKEN


def wish(shop: Shop, line: int = 0, **changed: Any) -> dict[str, Any]:
    """A good create; `from_` is `from`, and None takes a key away."""
    body: dict[str, Any] = {"caller_id_number": shop.lines[line], "from": [AGENT], "to": [CUSTOMER]}
    body |= {"from" if key == "from_" else key: value for key, value in changed.items()}
    return {key: value for key, value in body.items() if value is not None}


async def make(shop: Shop, product: str = "greenpin", line: int = 0, **changed: Any) -> dict[str, Any]:
    answer = await shop.ask("POST", f"/{product}", wish(shop, line, **changed))
    assert answer.status == 201, answer.body
    data: dict[str, Any] = answer.body["response"]
    return data


async def read(shop: Shop, id: str) -> dict[str, Any]:
    answer = await shop.ask("GET", path_of(id))
    assert answer.status == 200, answer.body
    data: dict[str, Any] = answer.body["response"]
    return data


def path_of(id: str) -> str:
    return f"/greenpin/{id}" if id.startswith("gp_") else f"/greenvn/{id}"


def assert_refused_second(answer: Answer, status: int, code: Code, *named: str) -> None:
    assert list(answer.body) == ["response"], answer.body
    said = answer.body["response"]
    assert list(said) == ["status", "code", "message", "request_id"]
    assert (answer.status, said["status"], said["code"]) == (status, status, int(code)), said
    for name in named:
        assert name in said["message"], said["message"]


def instant_of(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    assert moment.utcoffset() == INDIA
    return moment


async def drain(shop: Shop, line: int) -> None:
    switchboard = shop.switchboard
    position = await provisioning.set_virtual_number_state(
        switchboard.database, shop.id, E164(shop.lines[line]), shop.clock.now_us(), is_drained=True
    )
    assert await switchboard.propagate(position)


async def connect_reply(shop: Shop, caller: str, line: int = 0, **headers: str) -> Answer:
    """What the Connect applet is told for a new call."""
    url = (
        f"/v1/tenants/{shop.id}/exotel/connect?key={shop.credentials.applet_key}&CallSid={random_call_sid()}"
        f"&CallFrom=0{caller[3:]}&CallTo=0{shop.lines[line][3:]}&Direction=incoming&CallType=call-attempt"
    )
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await shop.client.ask("GET", url, headers=sent)


# ── create ───────────────────────────────────────────────────────────────────


async def test_the_curl_example_of_the_page_gets_the_answer_of_the_page(make_shop: MakeShop) -> None:
    shop = await make_shop(None, ["+914000123456"])
    before_us = shop.clock.now_us()
    answer = await shop.ask("POST", "/greenpin", raw=PAGE_BODY)
    after_us = shop.clock.now_us()

    assert (answer.status, list(answer.body)) == (201, ["response"])
    data = answer.body["response"]
    assert list(data) == PAGE_KEYS
    greenpin_id, pin = data["greenpin_id"], data["pin"]
    assert (greenpin_id[:3], len(greenpin_id), int(greenpin_id[3:], 16) > 0) == ("gp_", 35, True)
    assert (len(pin), pin.isascii(), pin.isdigit()) == (4, True, True)
    created, expires = instant_of(data["created_at"]), instant_of(data["expires_at"])
    earliest, latest = (EPOCH + timedelta(microseconds=us) for us in (before_us, after_us))
    assert earliest.replace(microsecond=0) <= created <= latest
    assert expires - created == timedelta(seconds=3600)
    given = ("greenpin_id", "pin", "created_at", "expires_at")
    assert {key: value for key, value in data.items() if key not in given} == {
        "virtual_number": "+914000123456",
        "from": ["+919900123456"],
        "to": ["+918800123456"],
        "status": "active",
        "record": False,
        "custom_field": "order_id=12345",
    }
    assert await read(shop, greenpin_id) == {**data, "call_count": 0}


async def test_what_is_not_said_has_the_defaults_of_the_page(make_shop: MakeShop) -> None:
    shop = await make_shop({"timezone": "UTC", "max_deallocation_time": "1h"})
    data = await make(shop, to=None)
    assert (data["to"], data["record"], data["custom_field"]) == ([], False, None)
    created, expires = map(datetime.fromisoformat, (data["created_at"], data["expires_at"]))
    assert (created.utcoffset(), expires - created) == (timedelta(0), timedelta(days=1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"from_": ["9800000021", "09800000022"]}, {"from": [AGENT, OTHER_AGENT]}),
        ({"from_": AGENT, "to": CUSTOMER}, {"from": [AGENT], "to": [CUSTOMER]}),
        ({"to": []}, {"to": []}),
        ({"record": True}, {"record": True}),
        ({"custom_field": "ü" * 256}, {"custom_field": "ü" * 256}),
        ({"max_pin_attempts": 10, "duration": 14_688_000, "pin": "1234", "transaction_id": "x"}, {}),
    ],
)
async def test_what_the_page_shows_is_taken(
    shop: Shop, changed: dict[str, Any], expected: dict[str, Any]
) -> None:
    data = await make(shop, **changed)
    assert {key: data[key] for key in expected} == expected


BAD, MISSING, NUMBER = Code.BAD, Code.MISSING, Code.BAD_NUMBER


@pytest.mark.parametrize(
    ("changed", "status", "code", "named"),
    [
        ({"from_": None}, 400, MISSING, "from"),
        ({"from_": []}, 400, MISSING, "from"),
        ({"caller_id_number": 5}, 400, BAD, "caller_id_number"),
        ({"from_": 9800000021}, 400, BAD, "from"),
        ({"from_": [AGENT, 5]}, 400, BAD, "from[1]"),
        ({"from_": [f"+9198000001{n:02d}" for n in range(11)]}, 400, BAD, "from"),
        ({"to": {"0": AGENT}}, 400, BAD, "to"),
        ({"duration": "3600"}, 400, BAD, "duration must be a whole number"),
        ({"duration": True}, 400, BAD, "duration"),
        ({"duration": 3600.0}, 400, BAD, "duration"),
        ({"record": "true"}, 400, BAD, "record must be true or false"),
        ({"custom_field": 7}, 400, BAD, "custom_field"),
        ({"custom_field": "a\0b"}, 400, BAD, "custom_field"),
        ({"max_pin_attempts": "3"}, 400, BAD, "max_pin_attempts"),
        ({"caller_id_number": "12"}, 400, NUMBER, "caller_id_number"),
        ({"from_": ["+91980000002a"]}, 400, NUMBER, "from[0]"),
        ({"to": ["+14155552671"]}, 400, NUMBER, "to[0]"),
        ({"caller_id_number": "+918099999999"}, 403, Code.NOT_PERMITTED, "caller_id_number"),
        ({"to": [CUSTOMER, "9800000031"]}, 409, Code.ALL_DUPLICATES, "to"),
        ({"to": [AGENT]}, 409, Code.BOTH_SIDES, "to"),
        ({"duration": 299}, 422, BAD, "duration"),
        ({"duration": 14_688_001}, 422, BAD, "duration"),
        ({"duration": -1}, 422, BAD, "duration"),
        ({"max_pin_attempts": 0}, 422, BAD, "max_pin_attempts"),
        ({"max_pin_attempts": 11}, 422, BAD, "max_pin_attempts"),
        ({"custom_field": "x" * 257}, 422, BAD, "custom_field"),
        # A wrong form is told before a bound.
        ({"duration": 1, "record": 5}, 400, BAD, "record"),
    ],
)
async def test_bad_input_has_its_status_names_its_field_and_changes_nothing(
    shop: Shop, changed: dict[str, Any], status: int, code: Code, named: str
) -> None:
    before = await shop.rows()
    products = ["greenpin"] if "max_pin_attempts" in changed else ["greenpin", "greenvn"]
    for product in products:
        assert_refused_second(
            await shop.ask("POST", f"/{product}", wish(shop, **changed)), status, code, named
        )
    assert await shop.rows() == before


async def test_a_virtual_number_is_no_party_and_a_drained_one_gets_nothing_new(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    for line in (shop.lines[1], neighbour.lines[0]):
        assert_refused_second(await shop.post(wish(shop, to=[line])), 400, NUMBER, "to[0]")
    foreign = wish(shop, caller_id_number=neighbour.lines[0])
    assert_refused_second(await shop.post(foreign), 403, Code.NOT_PERMITTED, "caller_id_number")
    made = await make(shop)
    await drain(shop, 0)
    await drain(shop, 1)
    assert_refused_second(await shop.post(wish(shop, 1)), 403, Code.NOT_PERMITTED, "caller_id_number")
    still = await shop.put(made["greenpin_id"], {"record": True})
    assert still.status == 200, "what stands on a drained number stays"


async def test_a_tenant_may_switch_this_generation_off(shop: Shop) -> None:
    made = await make(shop)
    assert (await shop.ask("PUT", "/settings", {"generation_2_enabled": "false"})).status == 200
    for product in ("greenpin", "greenvn"):
        refused = await shop.ask("POST", f"/{product}", wish(shop, 1))
        assert_refused_second(refused, 403, Code.NOT_PERMITTED, "generation_2_enabled")
    # What was made before can be read and taken away.
    assert (await read(shop, made["greenpin_id"]))["status"] == "active"
    assert (await shop.delete(made["greenpin_id"])).status == 200


async def test_errors_before_the_generation_is_known_have_the_form_of_the_first(shop: Shop) -> None:
    assert_refused(await shop.ask("POST", "/greenpin", raw=b"{"), 400, Code.BAD)
    assert_refused(await shop.ask("PUT", "/greenpin", raw=b"["), 400, Code.BAD)
    assert_refused(await shop.post({"from": [AGENT]}), 400, Code.MISSING, "transaction_id")
    assert_refused(await shop.post({"caller_id_number": None}), 400, Code.MISSING, "transaction_id")
    version = {"Exotel-Version": "9"}
    wrong = await shop.ask("POST", "/greenpin", wish(shop), headers=version)
    assert_refused(wrong, 400, Code.VERSION)
    nobody = await shop.client.ask("GET", f"/v1/tenants/{shop.id}/greenpin/gp_{'0' * 32}")
    assert_refused(nobody, 401, Code.UNAUTHENTICATED)


async def test_a_path_tells_the_generation_before_its_body_is_read(shop: Shop) -> None:
    made = await make(shop)
    broken = await shop.ask("PUT", f"/greenpin/{made['greenpin_id']}", raw=b"{")
    assert_refused_second(broken, 400, Code.BAD)
    large = await shop.ask("PUT", f"/greenpin/{made['greenpin_id']}", raw=b" " * (300 << 10))
    assert_refused_second(large, 413, Code.TOO_MANY)


# ── read, update, release ────────────────────────────────────────────────────


async def test_an_allocation_answers_only_in_its_own_generation(shop: Shop) -> None:
    second = await make(shop)
    first = await shop.make(a__vns=[shop.lines[1]], b__vns=[shop.lines[1]])
    digits = second["greenpin_id"].removeprefix("gp_")
    as_uuid = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
    as_second = "gp_" + first["greenpin_id"].replace("-", "")
    before = await shop.rows()
    for body in ({"usage": "oneway"}, {"record": True}):
        assert_refused(await shop.put(as_uuid, body), 404, Code.NOT_FOUND, "greenpin_id")
        assert_refused_second(await shop.put(as_second, body), 404, Code.NOT_FOUND, "greenpin_id")
    for ask in (shop.get, shop.delete):
        assert_refused(await ask(as_uuid), 404, Code.NOT_FOUND, "greenpin_id")
        assert_refused_second(await ask(as_second), 404, Code.NOT_FOUND, "greenpin_id")
    assert_refused_second(await shop.get(f"{as_second}/members"), 404, Code.NOT_FOUND)
    assert await shop.rows() == before


@pytest.mark.parametrize(
    "id",
    [
        f"gp_{UNKNOWN_ID.replace('-', '')}",
        f"gp_{UNKNOWN_ID}",
        "gp_",
        "gp_x",
        "gp_" + "0" * 33,
        "gp_" + "٠" * 32,
        f"gvn_{UNKNOWN_ID.replace('-', '')}",
    ],
)
async def test_an_id_that_nobody_has_is_not_found(shop: Shop, id: str) -> None:
    for answer in (await shop.get(id), await shop.put(id, {"record": True}), await shop.delete(id)):
        assert_refused_second(answer, 404, Code.NOT_FOUND, "greenpin_id")


async def test_ids_in_capitals_of_the_other_product_or_another_tenant_are_not_found(
    make_shop: MakeShop,
) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    made = await make(shop)
    capitals = "gp_" + made["greenpin_id"][3:].upper()
    if capitals != made["greenpin_id"]:
        assert_refused_second(await shop.get(capitals), 404, Code.NOT_FOUND)
    other = f"/greenvn/gvn_{made['greenpin_id'][3:]}"
    assert_refused_second(await shop.ask("GET", other), 404, Code.NOT_FOUND, "greenvn_id")
    assert_refused_second(await shop.ask("DELETE", other), 404, Code.NOT_FOUND, "greenvn_id")
    before = await shop.rows()
    for answer in (
        await neighbour.get(made["greenpin_id"]),
        await neighbour.put(made["greenpin_id"], {"record": True}),
        await neighbour.delete(made["greenpin_id"]),
    ):
        assert_refused_second(answer, 404, Code.NOT_FOUND, "greenpin_id")
    assert await shop.rows() == before


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"from": [OTHER_AGENT, AGENT]}, {"from": [OTHER_AGENT, AGENT]}),
        ({"to": [OTHER_CUSTOMER]}, {"to": [OTHER_CUSTOMER]}),
        ({"to": []}, {"to": []}),
        ({"from": [CUSTOMER], "to": [AGENT]}, {"from": [CUSTOMER], "to": [AGENT]}),
        ({"record": True}, {"record": True}),
        ({"custom_field": "x"}, {"custom_field": "x"}),
        ({"max_pin_attempts": 1}, {}),
    ],
)
async def test_an_update_changes_what_it_names(
    shop: Shop, body: dict[str, Any], expected: dict[str, Any]
) -> None:
    made = await make(shop)
    shop.clock.advance(5)
    answer = await shop.put(made["greenpin_id"], body)
    assert answer.status == 200, answer.body
    data = dict(answer.body["response"])
    updated = instant_of(data.pop("updated_at"))
    assert data == made | expected
    assert updated > instant_of(made["created_at"])
    assert await read(shop, made["greenpin_id"]) == {**data, "call_count": 0}


async def test_to_may_be_empty_and_set_later(shop: Shop) -> None:
    made = await make(shop, to=[])
    alone = await connect_reply(shop, AGENT, Exotel_Version="1.0")
    assert alone.body["destination"]["numbers"] == []
    assert (await shop.put(made["greenpin_id"], {"to": [CUSTOMER]})).status == 200
    both = await connect_reply(shop, AGENT, Exotel_Version="1.0")
    assert both.body["destination"]["numbers"] == [CUSTOMER]


async def test_a_duration_counts_from_the_update(shop: Shop) -> None:
    made = await make(shop)
    shop.clock.advance(1000)
    before_us = shop.clock.now_us()
    data = (await shop.put(made["greenpin_id"], {"duration": 300})).body["response"]
    ends = (instant_of(data["expires_at"]) - EPOCH).total_seconds()
    assert before_us // 1_000_000 + 300 <= ends <= shop.clock.now_us() / 1e6 + 300


async def test_own_values_again_change_nothing(shop: Shop) -> None:
    made = await make(shop, record=True)
    before = await shop.rows()
    own = {key: made[key] for key in ("from", "to", "record")}
    answer = await shop.put(made["greenpin_id"], own)
    assert answer.body["response"] == made | {"updated_at": made["created_at"]}
    assert await shop.rows() == before


@pytest.mark.parametrize(
    ("body", "status", "code", "named"),
    [
        ({}, 400, MISSING, "from, to, duration, record, custom_field, max_pin_attempts"),
        ({"unknown": 1, "record": None}, 400, MISSING, "from"),
        ([], 400, BAD, "object"),
        ({"from": []}, 400, MISSING, "from"),
        ({"caller_id_number": "+918000000001"}, 400, BAD, "caller_id_number cannot be changed"),
        ({"caller_id_number": "+918000000001", "record": True}, 400, BAD, "caller_id_number"),
        ({"caller_id_number": 5}, 400, BAD, "caller_id_number"),
        ({"to": [5]}, 400, BAD, "to[0]"),
        ({"to": ["12"]}, 400, NUMBER, "to[0]"),
        ({"to": [AGENT]}, 409, Code.BOTH_SIDES, "to"),
        ({"duration": "600"}, 400, BAD, "duration"),
        ({"duration": 299}, 422, BAD, "duration"),
        ({"max_pin_attempts": 11}, 422, BAD, "max_pin_attempts"),
        ({"custom_field": "x" * 257}, 422, BAD, "custom_field"),
    ],
)
async def test_a_bad_update_changes_nothing(
    shop: Shop, body: object, status: int, code: Code, named: str
) -> None:
    made = await make(shop)
    before = await shop.rows()
    assert_refused_second(await shop.put(made["greenpin_id"], body), status, code, named)
    assert await shop.rows() == before


async def test_a_deleted_allocation_says_so_and_is_not_deleted_twice(shop: Shop) -> None:
    made = await make(shop)
    id = made["greenpin_id"]
    deleted = (await shop.delete(id)).body["response"]
    assert (list(deleted), deleted["greenpin_id"], deleted["status"]) == (
        ["greenpin_id", "status", "deleted_at"],
        id,
        "deleted",
    )
    assert instant_of(deleted["deleted_at"]) >= instant_of(made["created_at"])
    assert await read(shop, id) == made | {"status": "deleted", "call_count": 0}
    before = await shop.rows()
    assert_refused_second(await shop.delete(id), 409, Code.DELETED, "greenpin_id")
    assert_refused_second(await shop.put(id, {"duration": 600}), 409, Code.DELETED, "greenpin_id")
    assert await shop.rows() == before


async def test_past_its_end_it_is_expired_and_its_vn_is_free(shop: Shop) -> None:
    made = await make(shop, duration=300)
    shop.clock.advance(301)
    assert (await read(shop, made["greenpin_id"]))["status"] == "expired"
    # Whether it was swept or not.
    again = await make(shop)
    assert_refused_second(await shop.put(made["greenpin_id"], {"duration": 600}), 409, Code.DELETED)
    assert_refused_second(await shop.delete(made["greenpin_id"]), 409, Code.DELETED)
    assert await read(shop, made["greenpin_id"]) == made | {"status": "expired", "call_count": 0}
    assert (await read(shop, again["greenpin_id"]))["status"] == "active"


async def test_of_deletes_at_once_one_deletes(shop: Shop) -> None:
    made = await make(shop)
    answers = await asyncio.gather(*(shop.delete(made["greenpin_id"]) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 5


async def test_calls_are_counted_and_told_of_the_policy(shop: Shop) -> None:
    made = await make(shop, record=True, custom_field="order_id=12345")
    told = await connect_reply(shop, AGENT, Exotel_Version="1.0")
    assert told.body == {
        "fetch_after_attempt": False,
        "destination": {"numbers": [CUSTOMER]},
        "outgoing_phone_number": shop.lines[0],
        "record": True,
        "custom_field": "order_id=12345",
    }
    assert (await connect_reply(shop, AGENT)).body == CUSTOMER
    await shop.switchboard.records.flush()
    assert (await read(shop, made["greenpin_id"]))["call_count"] == 2
    await shop.put(made["greenpin_id"], {"record": False})
    told = await connect_reply(shop, AGENT, Exotel_Version="1.0")
    assert (told.body["record"], told.body["custom_field"]) == (False, "order_id=12345")


async def test_without_a_policy_the_connect_reply_has_no_custom_field(shop: Shop) -> None:
    await make(shop)
    told = await connect_reply(shop, AGENT, Exotel_Version="1.0")
    assert (told.body["record"], "custom_field" in told.body) == (False, False)


# ── one allocation a VN ──────────────────────────────────────────────────────


def first_generation(shop: Shop) -> dict[str, Any]:
    """Of other people, so that only the VN can stand in the way."""
    numbers = {"a__numbers": [OTHER_AGENT], "b__numbers": [OTHER_CUSTOMER]}
    return shop.order("first", a__vns=[shop.lines[0]], b__vns=[shop.lines[3]], **numbers)


def other_people(shop: Shop) -> dict[str, Any]:
    return wish(shop, from_=[OTHER_AGENT], to=[OTHER_CUSTOMER])


@pytest.mark.parametrize("product", ["greenpin", "greenvn"])
async def test_a_vn_bears_one_allocation_also_beside_the_first_generation(shop: Shop, product: str) -> None:
    made = await make(shop, product)
    before = await shop.rows()
    for other in ("greenpin", "greenvn"):
        busy = await shop.ask("POST", f"/{other}", other_people(shop))
        assert_refused_second(busy, 409, TAKEN, "caller_id_number", "already allocated")
    assert_refused(await shop.post(first_generation(shop)), 409, TAKEN, "a.vns")
    assert await shop.rows() == before
    # Changed, it is still alone.
    id = made[f"{product}_id"]
    suffix = "/call-party" if product == "greenvn" else ""
    assert (await shop.ask("PUT", path_of(id) + suffix, {"to": ["+919800000077"]})).status == 200
    assert_refused(await shop.post(first_generation(shop)), 409, TAKEN, "a.vns")
    # Gone, it leaves the VN to the first generation.
    assert (await shop.ask("DELETE", path_of(id))).status == 200
    assert (await shop.post(first_generation(shop))).status == 200


@pytest.mark.parametrize("product", ["greenpin", "greenvn"])
async def test_a_vn_that_bears_the_first_generation_is_busy(shop: Shop, product: str) -> None:
    first = (await shop.post(first_generation(shop))).data
    before = await shop.rows()
    busy = await shop.ask("POST", f"/{product}", wish(shop))
    assert_refused_second(busy, 409, TAKEN, "caller_id_number")
    assert await shop.rows() == before
    await shop.delete(first["greenpin_id"])
    await make(shop, product)


@pytest.mark.parametrize("product", ["greenpin", "greenvn"])
async def test_an_end_frees_the_vn_for_the_first_generation_and_the_other_way_round(
    shop: Shop, product: str
) -> None:
    await make(shop, product, duration=300)
    shop.clock.advance(301)
    body = {**first_generation(shop), "deallocation_policy": {"duration": "60s"}}
    assert (await shop.post(body)).status == 200
    assert_refused_second(await shop.ask("POST", f"/{product}", wish(shop)), 409, TAKEN)
    shop.clock.advance(61)
    await make(shop, product)


async def test_an_update_of_the_first_generation_cannot_move_onto_it(shop: Shop) -> None:
    await make(shop)
    first = await shop.make(
        a__vns=[shop.lines[1]],
        b__vns=[shop.lines[1]],
        a__numbers=[OTHER_AGENT],
        b__numbers=[OTHER_CUSTOMER],
    )
    moved = await shop.put(first["greenpin_id"], {"a": {"vns": [shop.lines[0]]}})
    assert_refused(moved, 409, TAKEN, "a.vns")


async def test_of_creates_at_once_one_gets_the_vn(shop: Shop) -> None:
    bodies = [wish(shop, from_=[f"+9198000002{n:02d}"], to=[]) for n in range(8)]
    firsts = [first_generation(shop) | {"transaction_id": f"order-{n}"} for n in range(2)]
    answers = await asyncio.gather(*(shop.post(body) for body in [*bodies, *firsts]))
    seconds = [answer.status for answer in answers[:8]]
    made_firsts = [answer.status for answer in answers[8:]]
    assert set(seconds) <= {201, 409}
    assert seconds.count(201) <= 1
    assert seconds.count(201) + bool(made_firsts.count(200)) == 1


@pytest.mark.parametrize("product", ["greenpin", "greenvn"])
async def test_a_released_vn_cools_whole(make_shop: MakeShop, product: str) -> None:
    shop = await make_shop({"deletion_time": 60})
    made = await make(shop, product)
    await shop.ask("DELETE", path_of(made[f"{product}_id"]))
    assert_refused_second(await shop.post(other_people(shop)), 409, TAKEN, "caller_id_number")
    assert_refused(await shop.post(first_generation(shop)), 409, TAKEN, "a.vns")
    shop.clock.advance(61)
    assert (await shop.post(other_people(shop))).status == 201


@pytest.mark.parametrize("product", ["greenpin", "greenvn"])
async def test_a_cool_off_counts_from_the_end_however_late_it_is_noticed(
    make_shop: MakeShop, product: str
) -> None:
    shop = await make_shop({"deletion_time": 60})
    await make(shop, product, duration=300)
    shop.clock.advance(330)
    assert_refused_second(await shop.ask("POST", f"/{product}", other_people(shop)), 409, TAKEN)
    shop.clock.advance(31)
    await make(shop, product)


async def test_a_vn_that_was_drained_meanwhile_is_left_as_it_was(shop: Shop) -> None:
    """The board may not know yet what the database does."""

    async def drain_unseen(connection: Connection) -> None:
        await connection.execute(
            "UPDATE virtual_number SET is_drained = $2 WHERE number = $1", E164(shop.lines[0]), is_drained
        )

    is_drained = True
    await shop.switchboard.database.write(drain_unseen)
    assert_refused_second(await shop.post(wish(shop)), 409, TAKEN, "caller_id_number")
    is_drained = False
    await shop.switchboard.database.write(drain_unseen)
    assert (await shop.post(first_generation(shop))).status == 200


# ── many on a VN, told apart by their PINs ───────────────────────────────────


async def test_with_sharing_by_pin_a_vn_bears_many_but_a_from_number_once(make_shop: MakeShop) -> None:
    shop = await make_shop({"vn_sharing": "pin"})
    made = await make(shop)
    other = await make(shop, from_=[OTHER_AGENT])
    assert made["pin"] != other["pin"]
    assert (await shop.post(first_generation(shop) | {"a": {"vns": [shop.lines[0]]}})).status == 200
    taken = await shop.post(wish(shop, to=[OTHER_CUSTOMER]))
    assert_refused_second(taken, 409, TAKEN, "from")
    elsewhere = await make(shop, line=1)
    moved = await shop.put(other["greenpin_id"], {"from": [AGENT]})
    assert_refused_second(moved, 409, TAKEN, "from")
    # A GreenVN's people enter nothing, so none of them can be anybody else there.
    assert_refused_second(await shop.ask("POST", "/greenvn", wish(shop)), 409, TAKEN)
    apart = await make(shop, "greenvn", from_=["+919800000041"], to=["+919800000042"])
    assert apart["status"] == elsewhere["status"] == "active"
    await shop.delete(made["greenpin_id"])
    await make(shop)


async def test_a_change_of_the_setting_changes_no_allocation_that_stands(make_shop: MakeShop) -> None:
    shop = await make_shop()
    await make(shop)
    assert (await shop.ask("PUT", "/settings", {"vn_sharing": "pin"})).status == 200
    assert_refused_second(await shop.post(other_people(shop)), 409, TAKEN, "caller_id_number")
    shared = await make(shop, line=1)
    assert (await shop.ask("PUT", "/settings", {"vn_sharing": "exclusive"})).status == 200
    busy = {**other_people(shop), "caller_id_number": shop.lines[1]}
    assert_refused_second(await shop.post(busy), 409, TAKEN, "caller_id_number")
    assert (await shop.put(shared["greenpin_id"], {"to": []})).status == 200
    order = {**first_generation(shop), "a": {"vns": [shop.lines[1]], "numbers": [OTHER_AGENT]}}
    assert (await shop.post(order)).status == 200, "it still shares its VN"


async def test_a_right_pin_resets_the_count_but_takes_no_lock_away(shop: Shop) -> None:
    """Decided on a node that the lock had not reached; over HTTP it would be refused."""
    made = await make(shop)
    id = UUID(made["greenpin_id"].removeprefix("gp_"))
    tenant = shop.switchboard.tenants.get(shop.id)
    assert tenant is not None

    async def record(*results: Outcome) -> tuple[int, bool]:
        """(wrong PINs counted, locked) after these outcomes, each of a call of its own."""
        items = [
            NewOutcome(
                call=CallKey(shop.id, random_call_sid(), E164(shop.lines[0]), E164(CUSTOMER)),
                outcome=result,
                digits=Pin("0000"),
                start_time=None,
                settings=tenant.settings,
                at_us=shop.clock.now_us(),
            )
            for result in results
        ]

        async def write(connection: Connection) -> tuple[int, bool]:
            await outcomes.record(connection, tenant.cell, items, shop.clock.now_us())
            standing = (await allocations.find(connection, tenant.cell, [id]))[id].standing
            return standing.pin_failures, standing.allocation.is_locked

        return await shop.switchboard.database.write(write)

    wrong = WrongPin(b"wrong", AllocationId(id.bytes))
    right = RightPin(b"right", Admission(AllocationId(id.bytes), SIDE_B), False, resets_lock=True)
    assert await record(wrong) == (1, False)
    assert await record(wrong, wrong._replace(counts_against=None)) == (2, False)
    assert await record(right) == (0, False)
    assert await record(wrong, right) == (0, False)
    assert await record(wrong, wrong, wrong, wrong) == (4, True)
    assert await record(right) == (4, True)
    assert (await shop.put(made["greenpin_id"], {"record": False})).status == 200
    assert await record(wrong) == (1, False)


async def test_a_vn_without_a_free_pin_is_a_conflict(make_shop: MakeShop) -> None:
    shop = await make_shop({"vn_sharing": "pin", "deletion_time": 86_400})
    made = await make(shop)

    async def take_all(connection: Connection) -> None:
        await connection.execute(
            """
            INSERT INTO pin_claim (cell, virtual_number, pin, allocation_id, side, cooling_until)
            SELECT cell, virtual_number, lpad(n::text, 4, '0'), allocation_id, side, now() + interval '2 y'
            FROM pin_claim, generate_series(0, 9999) AS n WHERE virtual_number = $1
            ON CONFLICT DO NOTHING
            """,
            E164(shop.lines[0]),
        )

    await shop.switchboard.database.write(take_all)
    full = await shop.post(wish(shop, from_=[OTHER_AGENT]))
    assert_refused_second(full, 409, Code.NOTHING_FREE, "pin")
    assert made["pin"] not in str(full.body)


# ── bulk ─────────────────────────────────────────────────────────────────────


async def test_a_bulk_update_is_a_bare_array(shop: Shop) -> None:
    one, two = await make(shop), await make(shop, line=1)
    items = [
        {"greenpin_id": one["greenpin_id"], "record": True},
        {"greenpin_id": two["greenpin_id"], "to": [], "duration": 600},
    ]
    answer = await shop.ask("PUT", "/greenpin", items)
    reports = [{"greenpin_id": made["greenpin_id"], "status": "updated"} for made in (one, two)]
    assert (answer.status, answer.body) == (200, {"response": reports})
    assert (await read(shop, one["greenpin_id"]))["record"] is True
    assert (await read(shop, two["greenpin_id"]))["to"] == []


async def test_a_bulk_update_reports_what_failed(shop: Shop) -> None:
    made = await make(shop)
    gone = await make(shop, line=1)
    await shop.delete(gone["greenpin_id"])
    items = [
        {"greenpin_id": made["greenpin_id"], "custom_field": "x"},
        {"greenpin_id": gone["greenpin_id"], "custom_field": "x"},
        {"greenpin_id": UNKNOWN_ID, "custom_field": "x"},
        {"greenpin_id": made["greenpin_id"], "duration": 1},
        {"custom_field": "x"},
    ]
    answer = await shop.ask("PUT", "/greenpin", items)
    assert answer.status == 207
    reports = answer.body["response"]
    assert [(report["greenpin_id"], report["status"], report.get("code")) for report in reports] == [
        (made["greenpin_id"], "updated", None),
        (gone["greenpin_id"], "failed", Code.DELETED),
        (UNKNOWN_ID, "failed", Code.NOT_FOUND),
        (made["greenpin_id"], "failed", Code.BAD),
        (None, "failed", Code.MISSING),
    ]
    assert list(reports[1]) == ["greenpin_id", "status", "code", "message"]
    assert (await read(shop, made["greenpin_id"]))["custom_field"] == "x"
    nonsense = await shop.ask("PUT", "/greenpin", [5, {"greenpin_id": 5}, {"greenpin_id": "gp_x", "to": []}])
    assert [report["code"] for report in nonsense.body["response"]] == [BAD, BAD, Code.NOT_FOUND]


async def test_a_bulk_update_has_bounds(shop: Shop) -> None:
    assert_refused_second(await shop.ask("PUT", "/greenpin", []), 400, MISSING)
    many = [{"greenpin_id": "gp_x"}] * (BULK_ITEMS_MAX + 1)
    assert_refused_second(await shop.ask("PUT", "/greenpin", many), 413, Code.TOO_MANY)
    assert_refused(await shop.ask("PUT", "/greenpin", {"greenpins": []}), 400, MISSING, "greenpins")


# ── repeated requests ────────────────────────────────────────────────────────


async def test_a_repeated_request_gets_the_first_answer(shop: Shop) -> None:
    first = await shop.post(wish(shop), Idempotency_Key="key")
    before = await shop.rows()
    again = await shop.post(wish(shop), Idempotency_Key="key")
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await shop.post(wish(shop, 1), Idempotency_Key="key")
    assert_refused_second(other, 409, Code.CLIENT_ID_TAKEN, "Idempotency-Key")
    # The same body means something else for the other product.
    product = await shop.ask("POST", "/greenvn", wish(shop), headers={"Idempotency-Key": "key"})
    assert_refused_second(product, 409, Code.CLIENT_ID_TAKEN, "Idempotency-Key")
    assert_refused_second(await shop.post(wish(shop, 2), Idempotency_Key=""), 400, BAD, "Idempotency-Key")
    assert await shop.rows() == before


async def test_requests_at_once_under_one_key_make_one_allocation(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.post(wish(shop), Idempotency_Key="key") for _ in range(6)))
    assert {answer.status for answer in answers} == {201}
    assert len({answer.body["response"]["greenpin_id"] for answer in answers}) == 1
    assert len((await shop.rows())["allocation"]) == 1


# ── GreenVN ──────────────────────────────────────────────────────────────────


async def test_the_life_of_a_greenvn(shop: Shop) -> None:
    made = await make(
        shop, "greenvn", record=True, custom_field="x", duration=3600, max_pin_attempts="no key"
    )
    assert list(made) == GREENVN_KEYS
    id = made["greenvn_id"]
    assert (id[:4], len(id), made["status"], made["custom_field"]) == ("gvn_", 36, "active", "x")
    assert await read(shop, id) == {**made, "call_count": 0}
    # Both sides call without a PIN.
    for caller, called in ((AGENT, CUSTOMER), (CUSTOMER, AGENT)):
        told = await connect_reply(shop, caller, Exotel_Version="1.0")
        assert (told.body["destination"]["numbers"], told.body["record"]) == ([called], True)

    people = {"from": [OTHER_AGENT], "to": [CUSTOMER, OTHER_CUSTOMER]}
    parties = await shop.ask("PUT", f"/greenvn/{id}/call-party", people)
    data = dict(parties.body["response"])
    assert data.pop("updated_at")
    assert (parties.status, data) == (200, made | people)

    swapped = await shop.ask("PUT", f"/greenvn/{id}/vn", {"caller_id_number": shop.lines[1]})
    assert (swapped.status, swapped.body["response"]["virtual_number"]) == (200, shop.lines[1])
    assert (await connect_reply(shop, OTHER_AGENT, 1)).body == f"{CUSTOMER},{OTHER_CUSTOMER}"
    assert (await connect_reply(shop, OTHER_AGENT, 0)).body == ""
    # The VN that it left is free, the one it came to is not.
    await make(shop, "greenvn")
    assert_refused_second(await shop.post(wish(shop, 1, from_=["+919800000041"])), 409, TAKEN)

    deleted = (await shop.ask("DELETE", f"/greenvn/{id}")).body["response"]
    assert list(deleted) == ["greenvn_id", "status", "deleted_at"]
    assert_refused_second(await shop.ask("DELETE", f"/greenvn/{id}"), 409, Code.DELETED, "greenvn_id")
    assert (await read(shop, id))["status"] == "deleted"


async def test_a_greenvn_past_its_end_is_deleted(shop: Shop) -> None:
    made = await make(shop, "greenvn", duration=300)
    shop.clock.advance(301)
    assert (await read(shop, made["greenvn_id"]))["status"] == "deleted"
    late = await shop.ask("PUT", f"/greenvn/{made['greenvn_id']}/call-party", {"to": [OTHER_CUSTOMER]})
    assert_refused_second(late, 409, Code.DELETED, "greenvn_id")


@pytest.mark.parametrize("to", [None, []])
async def test_a_greenvn_needs_both_sides(shop: Shop, to: object) -> None:
    refused = await shop.ask("POST", "/greenvn", wish(shop, to=to))
    assert_refused_second(refused, 400, MISSING, "to must be given")


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "named"),
    [
        ("call-party", {}, 400, MISSING, "from, to"),
        ("call-party", {"record": True}, 400, MISSING, "from, to"),
        ("call-party", {"to": []}, 400, MISSING, "to"),
        ("call-party", {"from": []}, 400, MISSING, "from"),
        ("call-party", {"to": [AGENT]}, 409, Code.BOTH_SIDES, "to"),
        ("call-party", {"to": ["x"]}, 400, NUMBER, "to[0]"),
        ("call-party", {"caller_id_number": "+918000000001", "to": [CUSTOMER]}, 400, BAD, "caller_id"),
        ("vn", {}, 400, MISSING, "caller_id_number"),
        ("vn", {"from": [AGENT]}, 400, MISSING, "caller_id_number"),
        ("vn", {"caller_id_number": 5}, 400, BAD, "caller_id_number"),
        ("vn", {"caller_id_number": "x"}, 400, NUMBER, "caller_id_number"),
        ("vn", {"caller_id_number": "+918099999999"}, 403, Code.NOT_PERMITTED, "caller_id_number"),
    ],
)
async def test_a_bad_change_of_a_greenvn_changes_nothing(
    shop: Shop, path: str, body: dict[str, Any], status: int, code: Code, named: str
) -> None:
    made = await make(shop, "greenvn")
    before = await shop.rows()
    answer = await shop.ask("PUT", f"/greenvn/{made['greenvn_id']}/{path}", body)
    assert_refused_second(answer, status, code, named)
    assert await shop.rows() == before


async def test_a_greenvn_does_not_move_to_a_vn_that_is_busy(shop: Shop) -> None:
    made = await make(shop, "greenvn")
    await make(shop, line=1, from_=[OTHER_AGENT], to=[OTHER_CUSTOMER])
    before = await shop.rows()
    for line in (1, 3):
        if line == 3:
            order = shop.order("x", a__vns=[shop.lines[3]], b__vns=[shop.lines[3]])
            assert (await shop.post(order)).status == 200
            before = await shop.rows()
        busy = await shop.ask(
            "PUT", f"/greenvn/{made['greenvn_id']}/vn", {"caller_id_number": shop.lines[line]}
        )
        assert_refused_second(busy, 409, TAKEN)
        assert await shop.rows() == before
    assert (await connect_reply(shop, AGENT)).body == CUSTOMER


async def test_a_swapped_vn_cools_but_not_for_the_allocation_that_left_it(make_shop: MakeShop) -> None:
    shop = await make_shop({"deletion_time": 60})
    made = await make(shop, "greenvn")
    path = f"/greenvn/{made['greenvn_id']}/vn"
    assert (await shop.ask("PUT", path, {"caller_id_number": shop.lines[1]})).status == 200
    cooling = await shop.ask("POST", "/greenvn", other_people(shop))
    assert_refused_second(cooling, 409, TAKEN, "caller_id_number")
    assert (await shop.ask("PUT", path, {"caller_id_number": shop.lines[0]})).status == 200
    assert (await read(shop, made["greenvn_id"]))["virtual_number"] == shop.lines[0]


async def test_a_vn_whose_allocation_has_ended_is_picked_at_once(make_shop: MakeShop) -> None:
    """`nothing waits for a sweep`, though the board still shows every VN as borne alone."""
    shop = await make_shop()
    for line in shop.lines:
        body = {"caller_id_number": line, "from": [AGENT], "to": [CUSTOMER], "duration": 300}
        assert (await shop.ask("POST", "/greenvn", body)).status == 201
    wish = {
        "connection_id": "order",
        "aparty_numbers": [AGENT],
        "bparty_numbers": [CUSTOMER],
        "usage": "twoway",
    }
    assert (await shop.ask("POST", "/greenvn", wish)).status == 452
    shop.clock.advance(300)
    made = await shop.ask("POST", "/greenvn", wish)
    assert made.status == 200
    assert made.data["greenvn"] in shop.lines
    other = {**wish, "connection_id": "other", "aparty_numbers": [OTHER_AGENT]}
    assert (await shop.ask("POST", "/greenvn", other)).status == 200
