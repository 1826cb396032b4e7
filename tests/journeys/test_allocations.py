"""GreenPin over REST as a client sees it: the documented example, every code, repeats, limits."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from cordboard.clock import SECOND_US, SystemClock
from cordboard.simulator.client import Answer, Client
from cordboard.simulator.receiver import EventKind
from cordboard.simulator.wire import as_start_time

from .conftest import MakeTenant
from .world import PIN, WRONG_PINS, Tenant, a_line, a_person, raw_exchange

UNKNOWN_ID = "d7ffd4b3-c861-4bda-a024-9cef1ae2f2a8"
ENVELOPE = {"success", "status", "code", "message", "data"}

# The page's own example (reference/greenpin-create.txt), letter for letter.
PAGE_LINES = ("+916292134471", "+916292134464", "+916292134465")
PAGE_EXAMPLE = """{
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


def order(tenant: Tenant, **changed: Any) -> dict[str, Any]:
    """A create that is right in everything but what is changed."""
    body: dict[str, Any] = {
        "transaction_id": f"ORD-{a_person()}",
        "a": {"vns": [tenant.line], "numbers": [a_person()]},
        "b": {"numbers": [a_person()], "pin": PIN},
    }
    return body | changed


def is_error(answer: Answer, status: int, code: int, field: str = "") -> None:
    assert (answer.status, answer.body["status"], answer.body["code"]) == (status, status, code), answer.body
    assert set(answer.body) - {"request_id", "method"} == ENVELOPE
    assert (answer.body["success"], answer.body["data"]) == (False, None)
    assert field in answer.body["message"], answer.body["message"]


# As documented


async def test_the_example_of_the_page_answers_every_key_of_the_page(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"aparty_pin_enabled": "true", "bparty_pin_enabled": "false"}, PAGE_LINES)
    answer = await tenant.api("POST", "/greenpin", raw=PAGE_EXAMPLE.encode())
    body = dict(answer.body)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    data = body.pop("data")
    assert {key: body[key] for key in ("success", "status", "code", "message")} == {
        "success": True,
        "status": 200,
        "code": None,
        "message": None,
    }
    assert set(body) <= {"success", "status", "code", "message", "request_id", "method"}
    greenpin_id, deallocation_time = data.pop("greenpin_id"), data.pop("deallocation_time")
    assert data == {
        "transaction_id": "random_string",
        "a": {"vns": ["+916292134471", "+916292134464"], "numbers": ["+917987686144"], "pin": "123"},
        "b": {"vns": ["+916292134465", "+916292134464"], "numbers": ["+919956555625"]},
        "usage": "twoway",
        "state": "active",
    }
    assert len(greenpin_id) == 36
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", deallocation_time)
    got = await tenant.api("GET", f"/greenpin/{greenpin_id}")
    assert got.data == {**data, "greenpin_id": greenpin_id, "deallocation_time": deallocation_time}
    update = orjson.loads(PAGE_EXAMPLE)
    del update["transaction_id"]
    updated = await tenant.api("PUT", f"/greenpin/{greenpin_id}", update)
    assert (updated.status, updated.body["method"]) == (200, "PUT")
    assert updated.body["request_id"]
    assert updated.data["a"] == data["a"], "its own values again change nothing"


@pytest.mark.parametrize("key", ["deallocation_policy", "Deallocation_policy"])
@pytest.mark.parametrize(
    ("duration", "seconds"), [("1200s", 1200), ("90m", 5400), ("2h", 7200), ("3d", 259_200)]
)
async def test_a_duration_has_four_units_and_its_key_two_spellings(
    tenant: Tenant, key: str, duration: str, seconds: int
) -> None:
    earliest_us = SystemClock().now_us() + seconds * SECOND_US
    made = await tenant.create(order(tenant, **{key: {"duration": duration}}))
    latest_us = SystemClock().now_us() + seconds * SECOND_US
    # Account-local time, to the second.
    assert as_start_time(earliest_us) <= made.data["deallocation_time"] <= as_start_time(latest_us)


async def test_without_an_end_there_is_no_deallocation_time(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"max_deallocation_time": "-1"})
    made = (await tenant.create(order(tenant))).data
    assert made["deallocation_time"] is None


async def test_a_pin_is_made_of_the_length_asked_for(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"aparty_pin_enabled": "true", "bparty_pin_length": 6})
    body = order(
        tenant,
        a={"vns": [tenant.line], "numbers": [a_person()], "pin_length": "9"},
        b={"numbers": [a_person()]},
    )
    made = (await tenant.create(body)).data
    assert (len(made["a"]["pin"]), len(made["b"]["pin"])) == (9, 6)
    assert made["b"]["vns"] == [tenant.line], "a side without lines of its own takes the other's"
    got = (await tenant.api("GET", f"/greenpin/{made['greenpin_id']}")).data
    assert got == made


async def test_an_update_changes_what_it_names_and_nothing_else(tenant: Tenant) -> None:
    agent, customer, other = a_person(), a_person(), a_person()
    made = await tenant.allocate([agent], [customer])
    path = f"/greenpin/{made['greenpin_id']}"
    changed = (await tenant.api("PUT", path, {"b": {"numbers": [other]}})).data
    assert changed == {**made, "b": {**made["b"], "numbers": [other]}}
    assert await tenant.call(agent).targets() == [other]
    assert await tenant.call(customer).select() == "pin"
    changed = (await tenant.api("PUT", path, {"usage": "oneway"})).data
    assert changed["usage"] == "oneway"
    assert await tenant.call(other).select() == "reject"
    later = (await tenant.api("PUT", path, {"deallocation_policy": {"duration": "5h"}})).data
    assert later["deallocation_time"] > made["deallocation_time"]
    new_pin = (await tenant.api("PUT", path, {"b": {"pin_length": 6}})).data
    assert len(new_pin["b"]["pin"]) == 6


async def test_an_update_that_changes_a_pin_ends_the_memberships_of_its_side(tenant: Tenant) -> None:
    agent, customer, stranger = a_person(), a_person(), a_person()
    made = await tenant.allocate([agent], [customer])
    await tenant.call(stranger).enter(PIN)
    assert await tenant.call(agent).targets() == [customer, stranger]
    await tenant.api("PUT", f"/greenpin/{made['greenpin_id']}", {"b": {"pin": "9090"}})
    assert await tenant.call(agent).targets() == [customer]


async def test_a_deleted_allocation_is_a_vault_that_can_be_seen_and_not_changed(tenant: Tenant) -> None:
    agent = a_person()
    made = await tenant.allocate([agent], [a_person()], transaction_id="ORD-gone")
    path = f"/greenpin/{made['greenpin_id']}"
    deleted = await tenant.api("DELETE", path)
    assert (deleted.status, deleted.data["state"]) == (200, "vault")
    event = await tenant.told(EventKind.DEALLOCATED)
    assert event.body == {
        "transaction_id": "ORD-gone",
        "greenpin_id": made["greenpin_id"],
        "usage": "twoway",
        "aparty_numbers": made["a"]["numbers"],
        "bparty_numbers": made["b"]["numbers"],
        "aparty_vns": made["a"]["vns"],
        "bparty_vns": made["b"]["vns"],
        "aparty_pins": [],
        "bparty_pins": [PIN],
        "state": "vault",
    }
    assert (await tenant.api("GET", path)).data["state"] == "vault"
    is_error(await tenant.api("DELETE", path), 410, 22)
    is_error(await tenant.api("PUT", path, {"usage": "oneway"}), 410, 22)
    assert await tenant.call(agent).select() == "reject"
    assert len(await tenant.all_events(EventKind.DEALLOCATED)) == 1
    again = await tenant.allocate([agent], [a_person()], transaction_id="ORD-gone")
    assert again["greenpin_id"] != made["greenpin_id"], "its PIN, its people and its client id are free"


async def test_a_bulk_update_does_what_can_be_done(tenant: Tenant) -> None:
    first = await tenant.allocate([a_person()], [a_person()])
    second = await tenant.allocate([a_person()], [a_person()], pin="1234")
    items = [
        {"greenpin_id": first["greenpin_id"], "usage": "oneway"},
        {"greenpin_id": UNKNOWN_ID, "usage": "oneway"},
        {"greenpin_id": second["greenpin_id"], "usage": "sideways"},
    ]
    answer = await tenant.api("PUT", "/greenpin", {"greenpins": items})
    assert answer.status == 207
    assert [(item["greenpin_id"], item["success"], item["status"], item["code"]) for item in answer.data] == [
        (first["greenpin_id"], True, 200, None),
        (UNKNOWN_ID, False, 404, 1),
        (second["greenpin_id"], False, 400, 5),
    ]
    assert (await tenant.api("GET", f"/greenpin/{first['greenpin_id']}")).data["usage"] == "oneway"
    assert (await tenant.api("GET", f"/greenpin/{second['greenpin_id']}")).data == second
    answer = await tenant.api("PUT", "/greenpin", {"greenpins": items[:1]})
    assert (answer.status, answer.body["success"]) == (200, True)
    is_error(await tenant.api("PUT", "/greenpin", {"greenpins": items[:1] * 101}), 413, 17)


async def test_settings_are_kept_as_they_were_set(tenant: Tenant) -> None:
    before = (await tenant.api("GET", "/settings")).data
    assert before["aparty_pin_enabled"] == "false"
    assert before["bparty_pin_length"] in {4, "4"}
    answer = await tenant.api("PUT", "/settings", {"max_pin_attempts": 5, "sms_config": {"sender": "ACME"}})
    assert answer.status == 200
    after = (await tenant.api("GET", "/settings")).data
    assert after == {**before, "max_pin_attempts": 5, "sms_config": {"sender": "ACME"}}
    is_error(await tenant.api("PUT", "/settings", {"max_pin_attempts": "many"}), 400, 5, "max_pin_attempts")
    assert (await tenant.api("GET", "/settings")).data == after


# Codes


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"transaction_id": None}, 3, "transaction_id"),
        ({"transaction_id": 17}, 5, "transaction_id"),
        ({"a": {"numbers": ["9800000999"]}, "b": {"numbers": ["9800000998"]}}, 3, "vns"),
        ({"a": None, "b": None}, 3, ""),
        ({"b": []}, 5, "b"),
        ({"a": {"vns": "LINE", "numbers": ["9800000999"]}}, 5, "a.vns"),
        ({"a": {"vns": ["LINE"], "numbers": "9800000999"}}, 5, "a.numbers"),
        ({"a": {"vns": ["LINE"], "numbers": [9800000999]}}, 5, "a.numbers"),
        ({"a": {"vns": ["LINE"], "numbers": [f"98000010{n:02d}" for n in range(11)]}}, 5, "a.numbers"),
        ({"b": {"numbers": ["9800000999"], "pin": "12a4"}}, 5, "b.pin"),
        ({"b": {"numbers": ["9800000999"], "pin": "1234567890"}}, 5, "b.pin"),
        ({"b": {"numbers": ["9800000999"], "pin_length": 0}}, 5, "b.pin_length"),
        ({"b": {"numbers": ["9800000999"], "pin_length": 10}}, 5, "b.pin_length"),
        ({"b": {"numbers": ["9800000999"], "pin_length": "four"}}, 5, "b.pin_length"),
        ({"usage": "sideways"}, 5, "usage"),
        ({"deallocation_policy": {"duration": "5x"}}, 5, "duration"),
        ({"deallocation_policy": {"duration": "300"}}, 5, "duration"),
        ({"deallocation_policy": {"duration": 300}}, 5, "duration"),
        ({"deallocation_policy": "2h"}, 5, "deallocation_policy"),
        ({"usage": "oneway", "b": {"pin": "4321"}}, 3, "b.numbers"),
        ({"b": {"numbers": ["12"]}}, 16, "b.numbers"),
        ({"b": {"numbers": ["not a number"]}}, 16, "b.numbers"),
        ({"b": {"numbers": ["+14155550123"]}}, 16, "b.numbers"),
        ({"b": {"numbers": ["LINE"]}}, 16, "b.numbers"),
    ],
)
async def test_a_bad_request_names_the_field_and_changes_nothing(
    tenant: Tenant, changed: Mapping[str, Any], code: int, field: str
) -> None:
    body = orjson.dumps(order(tenant, **changed)).replace(b"LINE", tenant.line.encode())
    is_error(await tenant.api("POST", "/greenpin", raw=body), 400, code, field)
    assert (await tenant.create(order(tenant))).status == 200


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"text"', b"\xff\xfe", b'{"a": NaN}'])
async def test_what_is_no_json_object_is_a_bad_request(tenant: Tenant, raw: bytes) -> None:
    is_error(await tenant.api("POST", "/greenpin", raw=raw), 400, 5)
    is_error(await tenant.api("PUT", "/settings", raw=raw), 400, 5)


async def test_an_empty_body_lacks_what_is_mandatory(tenant: Tenant) -> None:
    is_error(await tenant.api("POST", "/greenpin", {}), 400, 3)
    made = await tenant.allocate([a_person()], [a_person()])
    is_error(await tenant.api("PUT", f"/greenpin/{made['greenpin_id']}", {}), 400, 3)


@pytest.mark.parametrize("greenpin_id", [UNKNOWN_ID, "1", "x" * 300])
async def test_an_unknown_id_is_not_found(tenant: Tenant, greenpin_id: str) -> None:
    for method, body in (("GET", None), ("PUT", {"usage": "oneway"}), ("DELETE", None)):
        is_error(await tenant.api(method, f"/greenpin/{greenpin_id}", body), 404, 1)


async def test_an_allocation_of_another_tenant_is_not_found(new_tenant: MakeTenant) -> None:
    ours, theirs = await new_tenant(), await new_tenant()
    made = await theirs.allocate([a_person()], [a_person()])
    path = f"/greenpin/{made['greenpin_id']}"
    for method, body in (("GET", None), ("PUT", {"usage": "oneway"}), ("DELETE", None)):
        is_error(await ours.api(method, path, body), 404, 1)
    assert (await theirs.api("GET", path)).data == made


async def test_nothing_is_left_where_all_pins_of_a_length_are_taken(tenant: Tenant) -> None:
    def asking(**b: Any) -> dict[str, Any]:
        return order(tenant, b={"numbers": [a_person()], **b})

    for _ in range(10):
        made = await tenant.create(asking(pin_length=1))
        assert made.status == 200
    is_error(await tenant.create(asking(pin_length=1)), 452, 4, "b.pin")
    assert (await tenant.create(asking(pin_length=2))).status == 200


async def test_who_does_not_say_who_they_are_is_told_nothing(tenant: Tenant) -> None:
    path = f"/v1/tenants/{tenant.id}/greenpin"
    for user in (None, (tenant.id, "wrong"), (tenant.id, ""), ("nobody", tenant.credentials.api_token)):
        is_error(await tenant.client.ask("POST", path, order(tenant), user=user), 401, 7)
        is_error(await tenant.client.ask("GET", f"{path}/{UNKNOWN_ID}", user=user), 401, 7)
    applet_key = (tenant.id, tenant.credentials.applet_key)
    is_error(await tenant.client.ask("POST", path, order(tenant), user=applet_key), 401, 7)


async def test_the_credentials_of_one_tenant_open_no_other(new_tenant: MakeTenant) -> None:
    ours, theirs = await new_tenant(), await new_tenant()
    user = (ours.id, ours.credentials.api_token)
    answer = await ours.client.ask("GET", f"/v1/tenants/{theirs.id}/settings", user=user)
    is_error(answer, 403, 8)


async def test_a_line_that_is_not_of_the_tenant_is_not_permitted(new_tenant: MakeTenant) -> None:
    tenant, other = await new_tenant(), await new_tenant()
    for line in (other.line, a_line()):
        body = order(tenant, a={"vns": [line], "numbers": [a_person()]})
        is_error(await tenant.create(body), 403, 8, "a.vns")


@pytest.mark.parametrize("version", ["1", "1.0", "v1"])
async def test_a_version_may_be_named(tenant: Tenant, version: str) -> None:
    answer = await tenant.create(order(tenant), headers={"Exotel-Version": version})
    assert answer.status == 200


async def test_another_version_is_refused(tenant: Tenant) -> None:
    answer = await tenant.create(order(tenant), headers={"Exotel-Version": "2.0"})
    is_error(answer, 400, 9, "Exotel-Version")


async def test_a_list_of_one_repeated_number_is_all_duplicates(tenant: Tenant) -> None:
    person = a_person()
    body = order(tenant, b={"numbers": [person, "0" + person[3:]]})
    is_error(await tenant.create(body), 409, 13, "b.numbers")
    twice = (await tenant.create(order(tenant, b={"numbers": [person, a_person(), person]}))).data
    assert len(twice["b"]["numbers"]) == 2


async def test_a_number_cannot_be_on_both_sides(tenant: Tenant) -> None:
    person = a_person()
    body = order(tenant, a={"vns": [tenant.line], "numbers": [person]}, b={"numbers": [person[3:]]})
    is_error(await tenant.create(body), 409, 14, "b.numbers")


async def test_a_client_id_names_one_live_allocation(tenant: Tenant) -> None:
    body = order(tenant)
    made = (await tenant.create(body)).data
    again = order(tenant, transaction_id=body["transaction_id"], b={"numbers": [a_person()], "pin": "1234"})
    refused = await tenant.create(again)
    is_error(refused, 409, 18)
    assert refused.body["message"].endswith("Allocation exists for this connection id.")
    await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")
    assert (await tenant.create(again)).status == 200


async def test_a_pin_or_a_caller_that_is_taken_on_the_line_is_refused(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    is_error(await tenant.create(order(tenant)), 409, 19, "b.pin")
    body = order(tenant, a={"vns": [tenant.line], "numbers": [agent]}, b={"numbers": [a_person()]})
    is_error(await tenant.create(body), 409, 19, "a.numbers")


async def test_only_one_of_many_that_want_the_same_pin_gets_it(tenant: Tenant) -> None:
    answers = await asyncio.gather(*(tenant.create(order(tenant)) for _ in range(16)))
    assert sorted(answer.status for answer in answers) == [200] + [409] * 15
    assert {answer.body["code"] for answer in answers} == {None, 19}


async def test_a_released_pin_cools_off(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"deletion_time": 600})
    agent = a_person()
    made = await tenant.allocate([agent], [a_person()], transaction_id="ORD-cool")
    await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")
    is_error(await tenant.create(order(tenant)), 409, 19, "b.pin")
    assert (await tenant.create(order(tenant, b={"numbers": [a_person()], "pin": "1212"}))).status == 200


async def test_of_several_faults_the_first_of_the_order_is_answered(tenant: Tenant) -> None:
    person = a_person()
    body = order(
        tenant, transaction_id=None, a={"vns": [a_line()], "numbers": [person]}, b={"numbers": [person, "12"]}
    )
    is_error(await tenant.create(body), 400, 3)
    body["transaction_id"] = "ORD-faults"
    is_error(await tenant.create(body), 400, 16)
    body["b"]["numbers"] = [person]
    is_error(await tenant.create(body), 403, 8)
    body["a"]["vns"] = [tenant.line]
    is_error(await tenant.create(body), 409, 14)


# Repeats


async def test_a_repeated_create_gets_the_first_answer_again(tenant: Tenant) -> None:
    body, key = order(tenant), {"Idempotency-Key": "k" * 255}
    first = await tenant.create(body, headers=key)
    second = await tenant.create(body, headers=key)
    assert first.status == second.status == 200
    assert second.data == first.data
    is_error(await tenant.create(order(tenant), headers=key), 409, 18, "Idempotency-Key")
    deleted = await tenant.api("DELETE", f"/greenpin/{first.data['greenpin_id']}")
    assert deleted.status == 200
    assert (await tenant.create(body, headers=key)).data == first.data


async def test_repeats_at_the_same_moment_make_one_allocation(tenant: Tenant) -> None:
    body, key = order(tenant), {"Idempotency-Key": "together"}
    answers = await asyncio.gather(*(tenant.create(body, headers=key) for _ in range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    assert len({answer.data["greenpin_id"] for answer in answers}) == 1


async def test_an_idempotency_key_is_the_tenants_own(new_tenant: MakeTenant) -> None:
    key = {"Idempotency-Key": "shared"}
    made = [
        await tenant.create(order(tenant), headers=key) for tenant in (await new_tenant(), await new_tenant())
    ]
    assert [answer.status for answer in made] == [200, 200]


async def test_a_create_that_failed_may_be_tried_again_under_its_key(tenant: Tenant) -> None:
    key = {"Idempotency-Key": "second-try"}
    is_error(await tenant.create(order(tenant, usage="sideways"), headers=key), 400, 5)
    assert (await tenant.create(order(tenant), headers=key)).status == 200


async def test_an_idempotency_key_has_a_length(tenant: Tenant) -> None:
    answer = await tenant.create(order(tenant), headers={"Idempotency-Key": "k" * 256})
    is_error(answer, 400, 5, "Idempotency-Key")


# Limits of HTTP


async def test_a_body_of_a_megabyte_is_too_large(tenant: Tenant) -> None:
    large = orjson.dumps({**order(tenant), "padding": "x" * (1 << 20)})
    is_error(await tenant.api("POST", "/greenpin", raw=large), 413, 17)
    is_error(await tenant.api("PUT", f"/greenpin/{UNKNOWN_ID}", raw=large), 413, 17)
    is_error(await tenant.api("PUT", "/settings", raw=large), 413, 17)
    fits = orjson.dumps({**order(tenant), "padding": "x" * (200 << 10)})
    assert (await tenant.api("POST", "/greenpin", raw=fits)).status == 200


async def test_a_bulk_body_may_be_larger(tenant: Tenant) -> None:
    made = await tenant.allocate([a_person()], [a_person()])
    item = {"greenpin_id": made["greenpin_id"], "usage": "oneway", "padding": "x" * (1 << 20)}
    assert (await tenant.api("PUT", "/greenpin", {"greenpins": [item]})).status == 200
    item["padding"] = "x" * (5 << 20)
    is_error(await tenant.api("PUT", "/greenpin", {"greenpins": [item]}), 413, 17)


async def test_a_path_or_a_method_that_does_not_exist_is_said_in_an_envelope(tenant: Tenant) -> None:
    is_error(await tenant.api("GET", "/greenping"), 404, 1)
    is_error(await tenant.api("GET", f"/greenpin/{UNKNOWN_ID}/x"), 404, 1)
    for method, path in (
        ("DELETE", "/settings"),
        ("PATCH", f"/greenpin/{UNKNOWN_ID}"),
        ("DELETE", "/greenpin"),
    ):
        answer = await tenant.api(method, path)
        assert (answer.status, answer.body["status"]) == (405, 405)
        assert set(answer.body) - {"request_id", "method"} == ENVELOPE
        assert answer.headers["Allow"]


async def test_a_request_line_may_have_64_kib_and_no_more(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(agent)
    assert await call.select(Insights="x" * 60_000) == "connect"
    answer = await call.passthru(Insights="x" * 70_000)
    assert answer.status in {400, 414, 431}
    assert await call.select() == "connect"


async def test_requests_that_cannot_be_read_stop_nobody(client: Client) -> None:
    for junk in (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 10 + b"X\r\n\r\n"):
        answered = await raw_exchange(client.base_url, junk)
        assert not answered or answered.startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))
    assert (await client.ask("GET", "/healthz")).status == 200


async def test_the_engine_says_how_it_is(client: Client, tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    await call.enter(WRONG_PINS[0])
    await call.enter(PIN)
    assert (await client.ask("GET", "/healthz")).status == 200
    assert (await client.ask("GET", "/readyz")).status == 200
    metrics = (await client.ask("GET", "/metrics")).body
    for name in (
        "cordboard_decisions_total{",
        "cordboard_decision_seconds_bucket",
        "cordboard_request_seconds_bucket",
        "cordboard_pin_outcomes_total{",
        "cordboard_allocations_live ",
        "cordboard_board_bytes ",
        "cordboard_board_age_seconds ",
        "cordboard_allocation_changes_total{",
        "cordboard_allocation_refusals_total{",
        "cordboard_commit_seconds_bucket",
        "cordboard_event_loop_lag_seconds_bucket",
        "cordboard_process_resident_memory_bytes{",
        "cordboard_database_connections_in_use{",
        "cordboard_feed_lag_rows ",
        "cordboard_expiry_lag_seconds ",
        "cordboard_events_pending ",
        "cordboard_events_oldest_pending_seconds ",
        "cordboard_events_dead 0.0",
        "cordboard_spool_records 0.0",
        "cordboard_database_up 1.0",
    ):
        assert f"\n{name}" in metrics, name
