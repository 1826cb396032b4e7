"""Calls over GreenVN: listed people both ways, one way, strangers who join, and a line that is swapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .conftest import MakeTenant
from .world import Tenant, a_line, a_person

A_PIN, B_PIN = 4821, 77193


async def allocated(
    tenant: Tenant, a: Sequence[str], b: Sequence[str], usage: str = "twoway", **more: Any
) -> Mapping[str, Any]:
    body = {"connection_id": f"ORD-{a_person()}", "aparty_numbers": a, "bparty_numbers": b, "usage": usage}
    answer = await tenant.api("POST", "/greenvn", body | more)
    assert answer.status == 200, answer.body
    data: Mapping[str, Any] = answer.data
    return data


async def assert_reaches(tenant: Tenant, caller: str, line: str, *targets: str) -> None:
    """Without a PIN, and showing the line."""
    call = tenant.call(caller, line)
    assert await call.select() == "connect"
    connect = await call.connect()
    assert connect.body["destination"] == {"numbers": list(targets)}
    assert connect.body["outgoing_phone_number"] == line


async def members(tenant: Tenant, made: Mapping[str, Any]) -> list[tuple[str, str]]:
    answer = await tenant.api("GET", f"/greenvn/{made['greenvn_id']}/members")
    return [(member["number"], member["side"]) for member in answer.data["members"]]


async def test_listed_people_reach_each_other_both_ways_without_a_pin(tenant: Tenant) -> None:
    agent, colleague, customer = a_person(), a_person(), a_person()
    made = await allocated(tenant, [agent, colleague], [customer], aparty_pins=[A_PIN], bparty_pins=[B_PIN])
    line = made["greenvn"]
    await assert_reaches(tenant, agent, line, customer)
    await assert_reaches(tenant, colleague, line, customer)
    await assert_reaches(tenant, customer, line, agent, colleague)


async def test_on_a_oneway_allocation_b_is_refused_until_it_is_twoway(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    made = await allocated(tenant, [agent], [customer], "oneway", bparty_pins=[B_PIN])
    await assert_reaches(tenant, agent, made["greenvn"], customer)
    assert await tenant.call(customer, made["greenvn"]).select() == "reject"
    stranger = tenant.call(a_person(), made["greenvn"])
    assert await stranger.select() == "reject"
    assert await stranger.enter(str(B_PIN)) == "reject"
    changed = await tenant.api(
        "PUT",
        f"/greenvn/{made['greenvn_id']}/call-party",
        {"aparty_numbers": [agent], "usage": "twoway"},
    )
    assert changed.status == 200
    await assert_reaches(tenant, customer, made["greenvn"], agent)


async def test_a_stranger_joins_with_a_pin_once_and_connects_without_from_then_on(tenant: Tenant) -> None:
    agent, customer, stranger = a_person(), a_person(), a_person()
    made = await allocated(tenant, [agent], [customer], aparty_pins=[5, A_PIN])
    line = made["greenvn"]
    first = tenant.call(stranger, line)
    assert await first.select() == "pin"
    assert await first.enter("1111") == "pin"
    assert await first.enter(str(A_PIN)) == "connect"
    assert await first.targets() == [customer]
    await assert_reaches(tenant, stranger, line, customer)
    await assert_reaches(tenant, customer, line, agent, stranger)
    assert await members(tenant, made) == [(stranger, "a")]
    # Whoever knows the other PIN of the side joins, too; the PINs of a side that is listed do not bother it.
    assert await tenant.call(a_person(), line).enter("5") == "connect"
    await assert_reaches(tenant, agent, line, customer)


async def test_a_member_follows_to_another_line_and_the_old_one_knows_nobody(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant(None, [a_line(), a_line()])
    agent, customer, stranger = a_person(), a_person(), a_person()
    made = await allocated(tenant, [agent], [customer], bparty_pins=[B_PIN])
    old = made["greenvn"]
    assert await tenant.call(stranger, old).enter(str(B_PIN)) == "connect"
    swapped = (await tenant.api("PUT", f"/greenvn/{made['greenvn_id']}/vn")).data
    new = swapped["greenvn"]
    assert {old, new} == set(tenant.virtual_numbers)
    await assert_reaches(tenant, agent, new, customer, stranger)
    await assert_reaches(tenant, stranger, new, agent)
    assert await members(tenant, made) == [(stranger, "b")]
    for caller in (agent, customer, stranger):
        assert await tenant.call(caller, old).select() == "reject"


async def test_a_member_stays_behind_where_the_new_line_knows_it_otherwise(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant(None, [a_line(), a_line()])
    agent, customer, stranger, colleague = (a_person() for _ in range(4))
    made = await allocated(tenant, [agent], [customer], aparty_pins=[A_PIN])
    assert await tenant.call(stranger, made["greenvn"]).enter(str(A_PIN)) == "connect"
    other = await allocated(tenant, [stranger], [colleague])
    assert other["greenvn"] != made["greenvn"]
    swapped = (await tenant.api("PUT", f"/greenvn/{made['greenvn_id']}/vn")).data
    assert swapped["greenvn"] == other["greenvn"]
    await assert_reaches(tenant, stranger, other["greenvn"], colleague)
    await assert_reaches(tenant, agent, other["greenvn"], customer)
    assert await members(tenant, made) == []


async def test_two_allocations_share_a_line_and_their_people_never_meet(tenant: Tenant) -> None:
    first = [a_person(), a_person()]
    second = [a_person(), a_person()]
    made = await allocated(tenant, first[:1], first[1:], aparty_pins=[A_PIN])
    other = await allocated(tenant, second[:1], second[1:], aparty_pins=[B_PIN])
    assert made["greenvn"] == other["greenvn"] == tenant.line
    await assert_reaches(tenant, first[0], tenant.line, first[1])
    await assert_reaches(tenant, second[0], tenant.line, second[1])
    call = tenant.call(a_person())
    assert await call.enter(str(B_PIN)) == "connect"
    assert await call.targets() == [second[1]]


async def test_a_released_allocation_connects_nobody(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    made = await allocated(tenant, [agent], [customer], aparty_pins=[A_PIN])
    assert (await tenant.api("DELETE", f"/greenvn/{made['greenvn_id']}")).data["state"] == "vault"
    for caller in (agent, customer, a_person()):
        assert await tenant.call(caller).select() == "reject"


async def test_a_changed_pin_ends_what_was_joined_with_the_old_one(tenant: Tenant) -> None:
    agent, customer, stranger = a_person(), a_person(), a_person()
    made = await allocated(tenant, [agent], [customer], aparty_pins=[A_PIN])
    assert await tenant.call(stranger).enter(str(A_PIN)) == "connect"
    await tenant.api(
        "PUT",
        f"/greenvn/{made['greenvn_id']}/call-party",
        {"aparty_numbers": [agent], "aparty_pins": [B_PIN]},
    )
    assert await members(tenant, made) == []
    assert await tenant.call(stranger).select() == "pin"
