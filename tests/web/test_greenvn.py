"""GreenVN over HTTP: the page's own examples, every code, changes of people and of the VN, and bulk."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import aiohttp
import orjson
import pytest

from cordboard.node import Node, running_node
from cordboard.routing.allocate import Code
from cordboard.settings import Settings
from cordboard.simulator.client import Answer, Client
from cordboard.storage.database import Connection
from cordboard.storage.feed import Position

from .conftest import MakeShop
from .shop import (
    ADMIN_TOKEN,
    AGENT,
    CUSTOMER,
    OTHER_AGENT,
    OTHER_CUSTOMER,
    UNKNOWN_ID,
    ShiftedClock,
    Shop,
    assert_refused,
    open_shop,
)

# reference/greenvn.txt, with digits where it masks them.
PAGE_BODY = b"""{
  "connection_id": "Sample_Connection",
  "aparty_numbers": [
    "+919170006528"
  ],
  "bparty_numbers": [
    "+918100006620"
  ],
  "aparty_pins": [
    1234
  ],
  "bparty_pins": [
    2345
  ],
  "strictness": "false",
  "preferences": {
    "pin_code": "560041"
  },
  "usage": "twoway",
  "flow_id": "440080",
  "deallocation_policy": {
    "duration": "600s"
  }
}"""
PAGE_DATA = {
    "bparty_numbers": ["+918100006620"],
    "connection_id": "Sample_Connection",
    "greenvn": "+914048212136",
    "state": "active",
    "aparty_pins": [1234],
    "usage": "twoway",
    "bparty_pins": [2345],
    "aparty_numbers": ["+919170006528"],
}
PAGE_CALL_PARTY = {
    "aparty_numbers": ["+919950000640", "+919900005641"],
    "bparty_numbers": ["+917980000840", "+917980000841"],
    "aparty_pins": [12340],
    "bparty_pins": [2340],
    "usage": "twoway",
}
PAGE_VN = {
    "strictness": "false",
    "preferences": {"greenvn": "+917205827365", "region": "KA", "number_type": "landline"},
}
BAD, MISSING, TAKEN, NOTHING_FREE = Code.BAD, Code.MISSING, Code.PIN_OR_NUMBER_TAKEN, Code.NOTHING_FREE


def order(connection_id: str | None = "order", **changed: Any) -> dict[str, Any]:
    """A good create; `changed` replaces keys, None takes one away."""
    body = {
        "connection_id": connection_id,
        "aparty_numbers": [AGENT],
        "bparty_numbers": [CUSTOMER],
        "usage": "twoway",
    }
    return {key: value for key, value in (body | changed).items() if value is not None}


async def post(shop: Shop, body: object, **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await shop.ask("POST", "/greenvn", body, headers=sent)


async def make(shop: Shop, connection_id: str = "order", **changed: Any) -> dict[str, Any]:
    answer = await post(shop, order(connection_id, **changed))
    assert answer.status == 200, answer.body
    data: dict[str, Any] = answer.data
    return data


async def get(shop: Shop, made: dict[str, Any]) -> Any:
    return (await shop.ask("GET", f"/greenvn/{made['greenvn_id']}")).data


async def call_party(shop: Shop, made: dict[str, Any], body: object) -> Answer:
    return await shop.ask("PUT", f"/greenvn/{made['greenvn_id']}/call-party", body)


async def swap(shop: Shop, made: dict[str, Any], body: object = None) -> Answer:
    return await shop.ask("PUT", f"/greenvn/{made['greenvn_id']}/vn", body)


async def set_line(shop: Shop, number: str, **state: bool) -> None:
    answer = await shop.client.admin("PATCH", f"/tenants/{shop.id}/vns/{number}", state)
    assert answer.status == 200, answer.body


async def shop_with(make_shop: MakeShop, lines: list[dict[str, Any]], **settings: Any) -> Shop:
    """A shop whose lines are these alone; each has a number of its own unless it says one."""
    shop = await make_shop(settings)
    numbers = [line.get("number", "+9170" + own[5:]) for own, line in zip(shop.lines, lines, strict=False)]
    for own in shop.lines:
        await shop.client.admin("DELETE", f"/tenants/{shop.id}/vns/{own}")
    vns = [{**line, "number": number} for line, number in zip(lines, numbers, strict=True)]
    added = await shop.client.admin("POST", f"/tenants/{shop.id}/vns", {"vns": vns})
    assert added.status == 201, added.body
    return Shop(shop.client, shop.credentials, tuple(numbers), shop.switchboard, shop.clock)


# ── the page ─────────────────────────────────────────────────────────────────


async def test_the_examples_of_the_page_are_answered_as_the_page_says(make_shop: MakeShop) -> None:
    lines: list[dict[str, Any]] = [
        {"number": "+914048212136", "region": "KA", "type": "landline"},
        {"number": "+911140000001", "region": "DL", "type": "landline"},
        {"number": "+917205827365", "region": "KA", "type": "mobile"},
        {"number": "+918040000002", "region": "KA", "type": "landline", "reserved": True},
    ]
    shop = await shop_with(make_shop, lines)
    await set_line(shop, "+917205827365", drained=True)
    answer = await shop.ask("POST", "/greenvn", raw=PAGE_BODY, headers={"cache-control": "no-cache"})
    assert answer.status == 200
    assert list(answer.body) == ["success", "status", "code", "message", "data", "request_id", "method"]
    data = answer.data
    extra = {
        "green_vn": "+914048212136",
        "flow_id": "440080",
        "greenvn_id": data["greenvn_id"],
    }
    assert data == PAGE_DATA | extra
    assert await get(shop, data) == data

    changed = await call_party(shop, data, PAGE_CALL_PARTY)
    assert (changed.status, changed.data) == (200, data | PAGE_CALL_PARTY)

    await set_line(shop, "+917205827365", drained=False)
    swapped = await swap(shop, data, PAGE_VN)
    # It is a mobile number: two of three preferences are met, and no other line meets more.
    at = {"greenvn": "+917205827365", "green_vn": "+917205827365"}
    assert (swapped.status, swapped.data) == (200, data | PAGE_CALL_PARTY | at)
    anywhere = await swap(shop, data)
    assert anywhere.data["greenvn"] in ("+914048212136", "+911140000001")

    gone = await shop.ask("DELETE", f"/greenvn/{data['greenvn_id']}")
    assert (gone.status, gone.data) == (200, anywhere.data | {"state": "vault"})
    assert await get(shop, data) == gone.data
    for method, path, body in (
        ("DELETE", "", None),
        ("PUT", "/call-party", PAGE_CALL_PARTY),
        ("PUT", "/vn", None),
    ):
        again = await shop.ask(method, f"/greenvn/{data['greenvn_id']}{path}", body)
        assert_refused(again, 410, Code.DELETED, "greenvn_id")


async def test_the_refusal_of_the_page_for_a_connection_that_exists(make_shop: MakeShop) -> None:
    shop = await make_shop({"flows": ["440080"]})
    await make(shop)
    answer = await post(shop, order(aparty_numbers=[OTHER_AGENT], bparty_numbers=[OTHER_CUSTOMER]))
    assert_refused(answer, 409, Code.CLIENT_ID_TAKEN)
    assert "Allocation exists for this connection id." in answer.body["message"]
    # It comes before "nothing free", too.
    strict = {**order(), "strictness": True, "preferences": {"region": "TN"}}
    assert_refused(await post(shop, strict), 409, Code.CLIENT_ID_TAKEN)
    # And before regions and flows, which no promise places.
    for wrong in ({"preferences": {"region": "XX"}}, {"flow_id": "unknown"}):
        assert_refused(await post(shop, {**order(), **wrong}), 409, Code.CLIENT_ID_TAKEN)
    # GreenPin has ids of its own.
    assert (await shop.post(shop.order(a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER]))).status == 200


async def test_what_is_not_sent_is_empty_or_left_out(shop: Shop) -> None:
    data = await make(shop)
    assert (data["aparty_pins"], data["bparty_pins"]) == ([], [])
    assert "flow_id" not in data
    assert list(data) == [
        "connection_id",
        "aparty_numbers",
        "bparty_numbers",
        "aparty_pins",
        "bparty_pins",
        "usage",
        "state",
        "greenvn_id",
        "greenvn",
        "green_vn",
    ]


async def test_the_duration_is_read_in_both_spellings_and_ends_the_allocation(shop: Shop) -> None:
    for key, line in (("deallocation_policy", 0), ("Deallocation_policy", 1)):
        people = {"aparty_numbers": [f"+91981000000{line}"], "bparty_numbers": [f"+91982000000{line}"]}
        made = await make(shop, key, **people, **{key: {"duration": "90s"}})
        assert made["state"] == "active"
        shop.clock.advance(91)
        assert (await get(shop, made))["state"] == "vault"
        assert_refused(await swap(shop, made), 410, Code.DELETED)
        # Its people and its id are free at once, whoever sweeps.
        assert (await make(shop, key, **people))["state"] == "active"


async def test_the_only_line_is_free_as_soon_as_its_allocation_has_ended(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, [{}])
    await make(shop, "first", deallocation_policy={"duration": "90s"}, aparty_pins=[77])
    assert_refused(await post(shop, order("second")), 452, NOTHING_FREE)
    shop.clock.advance(91)
    assert (await make(shop, "second", aparty_pins=[77]))["greenvn"] == shop.lines[0]


# ── every code ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changed", "status", "code", "field"),
    [
        ({"connection_id": None}, 400, MISSING, "connection_id"),
        ({"aparty_numbers": None}, 400, MISSING, "aparty_numbers"),
        ({"aparty_numbers": []}, 400, MISSING, "aparty_numbers"),
        ({"bparty_numbers": None, "bparty_pins": [1]}, 400, MISSING, "bparty_numbers"),
        ({"usage": None}, 400, MISSING, "usage"),
        ({"connection_id": 5}, 400, BAD, "connection_id"),
        ({"connection_id": ""}, 400, BAD, "connection_id"),
        ({"connection_id": "a\0"}, 400, BAD, "connection_id"),
        ({"aparty_numbers": AGENT}, 400, BAD, "aparty_numbers"),
        ({"aparty_numbers": [9800000021]}, 400, BAD, "aparty_numbers[0]"),
        ({"aparty_numbers": [f"+91980000{n:04d}" for n in range(11)]}, 400, BAD, "aparty_numbers"),
        ({"usage": "threeway"}, 400, BAD, "usage"),
        ({"aparty_pins": 1234}, 400, BAD, "aparty_pins"),
        ({"aparty_pins": [5, "0123"]}, 400, BAD, "aparty_pins[1]"),
        ({"bparty_pins": [0]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": ["0"]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [-1]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [1.5]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [12.0]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [True]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [1_000_000_000]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [""]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": ["१"]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": [[1]]}, 400, BAD, "bparty_pins[0]"),
        ({"bparty_pins": list(range(1, 12))}, 400, BAD, "bparty_pins"),
        ({"strictness": "yes"}, 400, BAD, "strictness"),
        ({"strictness": 1}, 400, BAD, "strictness"),
        ({"preferences": "KA"}, 400, BAD, "preferences"),
        ({"preferences": {"type": "satellite"}}, 400, BAD, "preferences.type"),
        ({"preferences": {"number_type": 1}}, 400, BAD, "preferences.number_type"),
        ({"preferences": {"pin_code": 560041}}, 400, BAD, "preferences.pin_code"),
        ({"preferences": {"pin_code": "056004"}}, 400, BAD, "preferences.pin_code"),
        ({"preferences": {"greenvn": "12"}}, 400, Code.BAD_NUMBER, "preferences.greenvn"),
        ({"preferences": {"region": "KAR"}}, 403, Code.REGION, "preferences.region"),
        ({"deallocation_policy": {"duration": "600"}}, 400, BAD, "deallocation_policy.duration"),
        ({"Deallocation_policy": {"duration": 600}}, 400, BAD, "Deallocation_policy.duration"),
        ({"flow_id": 44}, 400, BAD, "flow_id"),
        ({"flow_id": "unknown"}, 422, Code.FLOW, "flow_id"),
        ({"aparty_tag": 5}, 400, BAD, "aparty_tag"),
        ({"aparty_numbers": ["12"]}, 400, Code.BAD_NUMBER, "aparty_numbers[0]"),
        ({"aparty_numbers": ["+14155552671"]}, 400, Code.BAD_NUMBER, "aparty_numbers[0]"),
        ({"aparty_numbers": [AGENT, AGENT]}, 409, Code.ALL_DUPLICATES, "aparty_numbers"),
        ({"aparty_numbers": [CUSTOMER]}, 409, Code.BOTH_SIDES, "bparty_numbers"),
        ({"aparty_pins": [7, 8], "bparty_pins": ["8"]}, 409, TAKEN, "bparty_pins"),
        ({"strictness": True, "preferences": {"region": "TN"}}, 452, NOTHING_FREE, "greenvn"),
        ({"strictness": "true", "preferences": {"type": "mobile"}}, 452, NOTHING_FREE, "greenvn"),
        # Where several rules are broken.
        ({"usage": "x", "aparty_numbers": None}, 400, MISSING, "aparty_numbers"),
        ({"usage": "x", "aparty_numbers": ["12"]}, 400, BAD, "usage"),
        ({"aparty_numbers": ["12"], "preferences": {"region": "X"}}, 400, Code.BAD_NUMBER, "aparty_numbers"),
        ({"aparty_numbers": [CUSTOMER], "flow_id": "x"}, 409, Code.BOTH_SIDES, "bparty_numbers"),
        ({"flow_id": "x", "preferences": {"region": "X"}}, 403, Code.REGION, "preferences.region"),
        (
            {"flow_id": "x", "strictness": True, "preferences": {"region": "TN"}},
            422,
            Code.FLOW,
            "flow_id",
        ),
    ],
)
async def test_what_is_wrong_is_told_and_leaves_nothing(
    make_shop: MakeShop, changed: dict[str, Any], status: int, code: Code, field: str
) -> None:
    shop = await make_shop({"flows": ["440080"]})
    before = await shop.rows()
    body = {key: value for key, value in (order() | changed).items() if value is not None}
    assert_refused(await post(shop, body), status, code, field)
    assert await shop.rows() == before


@pytest.mark.parametrize("pins", [b"[0123]", b"[12, 0123]", b"[-01]", b"[ 00 ]"])
async def test_a_pin_with_a_leading_zero_is_no_json_and_told_of_all_the_same(shop: Shop, pins: bytes) -> None:
    body = orjson.dumps(order())[:-1] + b', "bparty_pins": ' + pins + b"}"
    answer = await shop.ask("POST", "/greenvn", raw=body)
    assert_refused(answer, 400, BAD, "bparty_pins")
    broken = await shop.ask("POST", "/greenvn", raw=b'{"aparty_pins": [10, 200], "usage": }')
    assert_refused(broken, 400, BAD, "not JSON")


async def test_a_party_cannot_be_a_virtual_number(shop: Shop) -> None:
    answer = await post(shop, order(aparty_numbers=[shop.lines[0]]))
    assert_refused(answer, 400, Code.BAD_NUMBER, "aparty_numbers[0]")


@pytest.mark.parametrize(
    ("pins", "shown"),
    [([1234, "987654321"], [1234, 987654321]), ([None], []), ([None, 7, 7], [7]), ([], [])],
)
async def test_pins_are_integers_on_the_wire(shop: Shop, pins: list[Any], shown: list[int]) -> None:
    data = await make(shop, aparty_pins=pins)
    assert data["aparty_pins"] == shown
    assert (await get(shop, data))["aparty_pins"] == shown


async def test_unknown_keys_and_nulls_do_no_harm(shop: Shop) -> None:
    nulls = dict.fromkeys(("aparty_pins", "preferences", "flow_id", "deallocation_policy", "aparty_tag"))
    body = {**order(), **nulls, "colour": "green"}
    assert (await post(shop, body)).status == 200


@pytest.mark.parametrize("path", ["", "/members"])
async def test_nobody_finds_what_is_not_theirs(make_shop: MakeShop, path: str) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    made = await make(shop)
    pinned = (await shop.make(a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER]))["greenpin_id"]
    for who, id in ((neighbour, made["greenvn_id"]), (shop, UNKNOWN_ID), (shop, "5"), (shop, pinned)):
        assert_refused(await who.ask("GET", f"/greenvn/{id}{path}"), 404, Code.NOT_FOUND, "greenvn_id")
    for method, place, body in (
        ("DELETE", "", None),
        ("PUT", "/vn", None),
        ("PUT", "/call-party", {"aparty_numbers": [AGENT]}),
    ):
        answer = await neighbour.ask(method, f"/greenvn/{made['greenvn_id']}{place}", body)
        assert_refused(answer, 404, Code.NOT_FOUND, "greenvn_id")
    assert_refused(await shop.get(made["greenvn_id"]), 404, Code.NOT_FOUND, "greenpin_id")


async def test_an_idempotency_key_brings_the_first_answer_again(shop: Shop) -> None:
    first = await post(shop, order(), Idempotency_Key="k")
    again = await post(shop, order(), Idempotency_Key="k")
    assert again.body == first.body
    assert again.headers["Idempotent-Replayed"] == "true"
    assert_refused(await post(shop, order("other"), Idempotency_Key="k"), 409, Code.CLIENT_ID_TAKEN)


# ── the choice ───────────────────────────────────────────────────────────────


async def test_people_who_meet_twice_meet_on_different_lines(shop: Shop) -> None:
    lines = {(await make(shop, f"order-{n}"))["greenvn"] for n in range(4)}
    assert lines == set(shop.lines)
    assert_refused(await post(shop, order("fifth")), 452, NOTHING_FREE)
    # Others may use the same lines, and share the load.
    for n in range(4):
        await make(shop, f"other-{n}", aparty_numbers=[OTHER_AGENT], bparty_numbers=[OTHER_CUSTOMER])


async def test_a_pin_means_one_allocation_on_a_line(shop: Shop) -> None:
    def people(n: int) -> dict[str, Any]:
        return {"aparty_numbers": [f"+91983000000{n}"], "bparty_numbers": [f"+91984000000{n}"]}

    lines = {(await make(shop, f"order-{n}", **people(n), aparty_pins=[1234]))["greenvn"] for n in range(4)}
    assert lines == set(shop.lines)
    taken = order("fifth", **people(4), bparty_pins=[55, 1234])
    assert_refused(await post(shop, taken), 452, NOTHING_FREE)
    assert (await make(shop, "fifth", **people(4), bparty_pins=[55]))["state"] == "active"


async def test_what_cools_is_not_given_to_others_and_to_the_same_pair_elsewhere(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, [{}, {}], deletion_time=600)
    made = await make(shop)
    await shop.ask("DELETE", f"/greenvn/{made['greenvn_id']}")
    [other] = set(shop.lines) - {made["greenvn"]}
    # Whether the cooling line is tried first or not.
    assert (await make(shop, "again"))["greenvn"] == other
    named = {"strictness": True, "preferences": {"greenvn": made["greenvn"]}}
    assert_refused(await post(shop, order("named", **named)), 452, NOTHING_FREE)
    assert_refused(await post(shop, order("third")), 452, NOTHING_FREE)
    stranger = {"aparty_numbers": [OTHER_AGENT], "bparty_numbers": [OTHER_CUSTOMER]}
    assert (await make(shop, "stranger", **stranger, preferences=named["preferences"]))["greenvn"] == made[
        "greenvn"
    ]
    shop.clock.advance(601)
    assert (await make(shop, "third"))["greenvn"] == made["greenvn"]


async def test_a_pin_that_cools_everywhere_is_free_nowhere(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, [{}], deletion_time=600)
    made = await make(shop, aparty_pins=[4321])
    await shop.ask("DELETE", f"/greenvn/{made['greenvn_id']}")
    others = {"aparty_numbers": [OTHER_AGENT], "bparty_numbers": [OTHER_CUSTOMER]}
    assert_refused(await post(shop, order("next", **others, bparty_pins=[4321])), 452, NOTHING_FREE)
    assert (await make(shop, "next", **others, bparty_pins=[4322]))["greenvn"] == shop.lines[0]


async def test_preferences_strictness_reserved_and_drained(make_shop: MakeShop) -> None:
    lines: list[dict[str, Any]] = [
        {"region": "KA", "type": "mobile"},
        {"region": "DL", "type": "landline"},
        {"region": "KA", "type": "landline", "reserved": True},
    ]
    shop = await shop_with(make_shop, lines, default_region="DL")
    mobile, landline, reserved = shop.lines
    people = iter(range(100))

    async def given(strictness: object = None, **preferences: Any) -> str | int:
        n = next(people)
        body = order(
            f"order-{n}",
            aparty_numbers=[f"+91983000{n:04d}"],
            bparty_numbers=[f"+91984000{n:04d}"],
            preferences=preferences,
            strictness=strictness,
        )
        answer = await post(shop, body)
        code: int = answer.body["code"]
        line: str = answer.data["greenvn"] if answer.status == 200 else ""
        return line or code

    assert await given() == landline
    assert await given(region="KA") == mobile
    assert await given(pin_code="560041") == mobile
    assert await given(type="landline") == landline
    assert await given(number_type="mobile") == mobile
    assert await given("true", region="KA", type="landline") == NOTHING_FREE
    assert await given("false", region="KA", type="landline") in (mobile, landline)
    assert await given(True, greenvn=reserved) == reserved
    assert await given(greenvn="0" + reserved[3:]) == reserved
    await set_line(shop, landline, drained=True)
    assert await given(region="DL") == mobile
    assert await given(True, greenvn=landline) == NOTHING_FREE
    await set_line(shop, reserved, reserved=False)
    assert await given(True, region="KA", type="landline") == reserved


@pytest.mark.parametrize(("choice", "is_same"), [("prefer_sticky", True), ("avoid_sticky", False)])
async def test_a_pair_meets_where_it_met_before_or_just_not_there(
    make_shop: MakeShop, choice: str, is_same: bool
) -> None:
    shop = await make_shop({"vn_choice": choice})
    seen = []
    for n in range(4):
        # The other way round it is the same pair.
        people = {"aparty_numbers": [CUSTOMER], "bparty_numbers": [AGENT]} if n % 2 else {}
        made = await make(shop, f"order-{n}", **people)
        seen.append(made["greenvn"])
        await shop.ask("DELETE", f"/greenvn/{made['greenvn_id']}")
    together = [one == following for one, following in pairwise(seen)]
    assert together == [is_same] * 3


async def test_all_who_ask_at_once_for_one_agent_get_a_line_of_their_own(make_shop: MakeShop) -> None:
    lines = [f"+9160{n:08d}" for n in range(40)]
    shop = await make_shop(None, lines)
    orders = [order(f"order-{n}", bparty_numbers=[f"+9198400000{n:02d}"]) for n in range(45)]
    answers = await asyncio.gather(*(post(shop, body) for body in orders))
    good = [answer.data["greenvn"] for answer in answers if answer.status == 200]
    assert sorted(good) == lines
    assert {answer.status for answer in answers} == {200, 452}


async def test_two_nodes_never_put_one_pair_on_one_line(
    own_settings: Settings, session: aiohttp.ClientSession, clock: ShiftedClock
) -> None:
    theirs = own_settings.model_copy(
        update={
            "data_dir": own_settings.data_dir.with_name("theirs"),
            "board_dir": own_settings.data_dir.with_name("theirs-board"),
        }
    )
    async with running_node(own_settings, clock) as one, running_node(theirs, clock) as other:
        here = Client(session, one.url, ADMIN_TOKEN)
        there = Client(session, other.url, ADMIN_TOKEN)
        lines = [f"+9161{n:08d}" for n in range(12)]
        shop = await open_shop(one, here, clock, None, lines)
        await _is_ready(other, shop)

        async def ask(client: Client, n: int) -> Answer:
            return await client.api(shop.credentials, "POST", "/greenvn", order(f"order-{n}"))

        for start in range(0, 12, 4):
            answers = await asyncio.gather(
                *(ask(client, n) for n, client in enumerate((here, there, here, there), start))
            )
            assert [answer.status for answer in answers] == [200] * 4, [a.body for a in answers]
        made = [(await shop.ask("POST", "/greenvn", order(f"order-{n}"))).body["code"] for n in range(12)]
        assert made == [Code.CLIENT_ID_TAKEN] * 12
        routes = (await shop.rows())["route"]
        places = {(row["virtual_number"], row["number"]) for row in map(orjson.loads, routes)}
        assert len(routes) == len(places) == 24
        assert_refused(await ask(there, 12), 452, NOTHING_FREE)


async def _is_ready(node: Node, shop: Shop) -> None:
    """Wait until a node has seen all that the shop's own node has."""
    keeper = shop.switchboard.keeper
    for cell, (n, _) in keeper.tables.positions_by_cell().items():
        assert await node.switchboard.keeper.wait_for(Position(cell, n), 30)


# ── changes ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 400, MISSING, "aparty_numbers"),
        ({"usage": "oneway", "aparty_pins": [1]}, 400, MISSING, "aparty_numbers"),
        ({"aparty_numbers": None}, 400, MISSING, "aparty_numbers"),
        ({"bparty_numbers": []}, 400, MISSING, "bparty_numbers"),
        ({"aparty_numbers": AGENT}, 400, BAD, "aparty_numbers"),
        ({"aparty_numbers": [AGENT], "aparty_pins": ["01"]}, 400, BAD, "aparty_pins[0]"),
        ({"aparty_numbers": [AGENT], "usage": "x"}, 400, BAD, "usage"),
        ({"aparty_numbers": ["12"]}, 400, Code.BAD_NUMBER, "aparty_numbers[0]"),
        ({"aparty_numbers": [CUSTOMER]}, 409, Code.BOTH_SIDES, "bparty_numbers"),
        ({"aparty_numbers": [AGENT], "aparty_pins": [22]}, 409, TAKEN, "bparty_pins"),
        ({"aparty_numbers": [OTHER_AGENT]}, 409, TAKEN, "aparty_numbers"),
        ({"aparty_numbers": [AGENT], "aparty_pins": [99]}, 409, TAKEN, "aparty_pins"),
    ],
)
async def test_a_change_of_parties_that_breaks_a_rule_changes_nothing(
    make_shop: MakeShop, body: object, status: int, code: Code, field: str
) -> None:
    shop = await shop_with(make_shop, [{}])
    made = await make(shop, aparty_pins=[11], bparty_pins=[22])
    others = {"aparty_numbers": [OTHER_AGENT], "bparty_numbers": [OTHER_CUSTOMER]}
    await make(shop, "other", **others, aparty_pins=[99])
    before = await shop.rows()
    assert_refused(await call_party(shop, made, body), status, code, field)
    assert await shop.rows() == before


async def test_lists_replace_and_what_is_not_named_stays(shop: Shop) -> None:
    made = await make(shop, aparty_pins=[11], bparty_pins=[22], flow_id="f")
    body = {
        "bparty_numbers": [OTHER_CUSTOMER, CUSTOMER],
        "aparty_pins": [],
        "bparty_pins": [33, "22"],
        "usage": "oneway",
        # Not changed here.
        "deallocation_policy": {"duration": "never"},
        "connection_id": "another",
    }
    answer = await call_party(shop, made, body)
    expected = made | {key: body[key] for key in ("bparty_numbers", "usage")}
    assert answer.data == expected | {"aparty_pins": [], "bparty_pins": [33, 22]}
    assert await get(shop, made) == answer.data
    rows = await shop.rows()
    assert (await call_party(shop, made, {"aparty_numbers": [AGENT]})).data == answer.data
    assert await shop.rows() == rows
    # The number that left, and its PIN, are free.
    swapped = await call_party(shop, made, {"bparty_numbers": [OTHER_CUSTOMER], "bparty_pins": [44]})
    assert swapped.status == 200
    free = {"aparty_numbers": [OTHER_AGENT], "bparty_numbers": [CUSTOMER], "bparty_pins": [22]}
    named = {"strictness": True, "preferences": {"greenvn": made["greenvn"]}}
    assert (await make(shop, "other", **free, **named))["greenvn"] == made["greenvn"]


@pytest.mark.parametrize("raw", [None, b"", b" ", b"{}", b'{"strictness": true}'])
async def test_a_swap_without_wishes_takes_any_other_line(make_shop: MakeShop, raw: bytes | None) -> None:
    shop = await shop_with(make_shop, [{}, {}])
    made = await make(shop, aparty_pins=[11])
    [other] = set(shop.lines) - {made["greenvn"]}
    answer = await shop.ask("PUT", f"/greenvn/{made['greenvn_id']}/vn", raw=raw)
    assert (answer.status, answer.data) == (200, made | {"greenvn": other, "green_vn": other})
    # And back: what it had itself is no obstacle.
    assert (await swap(shop, made)).data == made


async def test_a_swap_finds_no_line_where_there_is_none(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, [{"region": "KA"}])
    made = await make(shop)
    assert_refused(await swap(shop, made), 452, NOTHING_FREE)
    rows = await shop.rows()
    stay = {"strictness": "true", "preferences": {"greenvn": made["greenvn"], "region": "KA"}}
    assert (await swap(shop, made, stay)).data == made
    assert await shop.rows() == rows
    elsewhere = {"strictness": "true", "preferences": {"region": "DL"}}
    assert_refused(await swap(shop, made, elsewhere), 452, NOTHING_FREE)


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"strictness": "maybe"}, 400, BAD, "strictness"),
        ({"preferences": {"region": 5}}, 400, BAD, "preferences.region"),
        ({"preferences": {"region": "XX"}}, 403, Code.REGION, "preferences.region"),
        ({"preferences": {"greenvn": "x"}}, 400, Code.BAD_NUMBER, "preferences.greenvn"),
        ([], 400, BAD, "JSON object"),
    ],
)
async def test_a_swap_that_breaks_a_rule_changes_nothing(
    shop: Shop, body: object, status: int, code: Code, field: str
) -> None:
    made = await make(shop)
    before = await shop.rows()
    assert_refused(await swap(shop, made, body), status, code, field)
    assert await shop.rows() == before


async def test_a_swap_passes_by_a_line_where_somebody_still_cools(make_shop: MakeShop) -> None:
    lines: list[dict[str, Any]] = [{"region": "KA"}, {"region": "DL"}, {"region": "TN"}]
    shop = await shop_with(make_shop, lines, deletion_time=600)
    karnataka, delhi, tamil_nadu = shop.lines
    made = await make(shop, preferences={"region": "KA"})
    other = await make(shop, "other", bparty_numbers=[OTHER_CUSTOMER], preferences={"region": "DL"})
    assert (made["greenvn"], other["greenvn"]) == (karnataka, delhi)
    await shop.ask("DELETE", f"/greenvn/{other['greenvn_id']}")
    # The agent cools in Delhi, which no board knows.
    assert_refused(
        await swap(shop, made, {"strictness": True, "preferences": {"greenvn": delhi}}), 452, NOTHING_FREE
    )
    assert_refused(
        await swap(shop, made, {"strictness": True, "preferences": {"region": "DL"}}), 452, NOTHING_FREE
    )
    assert (await swap(shop, made, {"preferences": {"region": "DL"}})).data["greenvn"] == tamil_nadu
    # What it left cools for others; it may come back itself.
    assert (await swap(shop, made, {"preferences": {"region": "KA"}})).data["greenvn"] == karnataka


async def test_a_line_that_just_left_the_pool_is_passed_by(shop: Shop) -> None:
    gone = [int(number) for number in shop.lines[:2]]

    async def delete(connection: Connection) -> None:
        await connection.execute("DELETE FROM virtual_number WHERE number = ANY($1::bigint[])", gone)

    # The board learns nothing of it, as if it lagged behind.
    await shop.switchboard.database.write(delete)
    assert (await make(shop))["greenvn"] in shop.lines[2:]
    assert (await make(shop, "second"))["greenvn"] in shop.lines[2:]
    assert_refused(await post(shop, order("third")), 452, NOTHING_FREE)


async def test_a_drained_line_keeps_what_it_has(shop: Shop) -> None:
    made = await make(shop)
    await set_line(shop, made["greenvn"], drained=True)
    assert (await call_party(shop, made, {"aparty_numbers": [OTHER_AGENT]})).status == 200
    assert (await get(shop, made))["greenvn"] == made["greenvn"]


# ── bulk ─────────────────────────────────────────────────────────────────────


async def test_a_bulk_create_of_good_items_answers_200_in_the_order_given(shop: Shop) -> None:
    items = [order(f"order-{n}", bparty_numbers=[f"+91984000000{n}"]) for n in range(4)]
    answer = await shop.ask("POST", "/greenvn/bulk", {"greenvns": items})
    assert (answer.status, answer.body["success"], answer.body["message"]) == (200, True, None)
    assert [item["data"]["connection_id"] for item in answer.data] == [f"order-{n}" for n in range(4)]
    for item in answer.data:
        said = {key: item[key] for key in ("success", "status", "code", "message")}
        assert said == {"success": True, "status": 200, "code": None, "message": None}
        assert await get(shop, item) == item["data"]
    assert {item["data"]["greenvn"] for item in answer.data} == set(shop.lines)


async def test_each_item_of_a_bulk_create_fails_for_itself(shop: Shop) -> None:
    items: list[Any] = [
        order("1"),
        "x",
        order("2", usage="x"),
        order("1", aparty_numbers=[OTHER_AGENT], bparty_numbers=[OTHER_CUSTOMER]),
        order("3", strictness=True, preferences={"region": "TN"}),
        order("4", aparty_numbers=["12"]),
        # The one before it failed, so that there is nothing that it repeats.
        order("4", aparty_numbers=[OTHER_AGENT], bparty_numbers=[OTHER_CUSTOMER]),
        {},
    ]
    answer = await shop.ask("POST", "/greenvn/bulk", {"greenvns": items})
    assert (answer.status, answer.body["success"]) == (207, False)
    assert answer.body["message"] == "6 of 8 items failed."
    assert [item["code"] for item in answer.data] == [None, 5, 5, 18, 4, 16, None, 3]
    assert [item["greenvn_id"] is None for item in answer.data] == [
        not item["success"] for item in answer.data
    ]


@pytest.mark.parametrize(("path", "key"), [("greenvn", "greenvns"), ("greenpin", "greenpins")])
async def test_a_bulk_create_that_is_no_list_or_too_long_is_refused_whole(
    shop: Shop, path: str, key: str
) -> None:
    for body, status, code in (
        ({}, 400, MISSING),
        ({key: []}, 400, MISSING),
        ({key: {}}, 400, BAD),
        ({key: [{}] * 1_001}, 413, Code.TOO_MANY),
    ):
        assert_refused(await shop.ask("POST", f"/{path}/bulk", body), status, code, key)


async def test_a_bulk_create_of_greenpins(shop: Shop) -> None:
    items = [shop.order("1"), shop.order("2"), shop.order("1"), shop.order("3", a__vns=["+918099999999"])]
    answer = await shop.ask("POST", "/greenpin/bulk", {"greenpins": items})
    assert (answer.status, [item["code"] for item in answer.data]) == (207, [None, None, 18, 8])
    for item in answer.data[:2]:
        assert (await shop.get(item["greenpin_id"])).data == item["data"]


async def test_a_full_bulk_create_fits(make_shop: MakeShop) -> None:
    shop = await make_shop()
    items = [
        order(f"order-{n}", aparty_numbers=[f"+91985{n:07d}"], bparty_numbers=[f"+91986{n:07d}"])
        for n in range(1_000)
    ]
    answer = await shop.ask("POST", "/greenvn/bulk", {"greenvns": items})
    assert answer.status == 200, answer.body["message"]
    assert len({item["greenvn_id"] for item in answer.data}) == 1_000
