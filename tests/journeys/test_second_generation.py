"""Calls of the second generation: who is asked, who is locked out by wrong PINs, and who is not."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any

import aiohttp
import pytest

from cordboard.simulator.client import Client
from cordboard.simulator.platform import Applet
from cordboard.simulator.receiver import EventKind, Receiver

from .conftest import MakeEngine, MakeTenant
from .world import ADMIN_TOKEN, PROMPT_AGAIN, REFUSAL, WRONG_PINS, Call, Tenant, a_person, make_tenant

NOBODY = {"fetch_after_attempt": False, "destination": {"numbers": []}}


def wrong_pins(pin: str) -> list[str]:
    return [wrong for wrong in (*WRONG_PINS, "6666") if wrong != pin]


async def made(
    tenant: Tenant, from_: Sequence[str], to: Sequence[str] = (), **more: Any
) -> Mapping[str, Any]:
    body = {"caller_id_number": tenant.line, "from": list(from_), "to": list(to), **more}
    answer = await tenant.api("POST", "/greenpin", body)
    assert answer.status == 201, answer.body
    data: Mapping[str, Any] = answer.body["response"]
    return data


async def change(tenant: Tenant, allocation: Mapping[str, Any], **changed: Any) -> None:
    answer = await tenant.api("PUT", f"/greenpin/{allocation['greenpin_id']}", changed)
    assert answer.status == 200, answer.body


async def enter_wrong(call: Call, pin: str, times: int, *, skip: int = 0) -> str:
    """What is said after the last of so many wrong PINs of one call."""
    said = ""
    for wrong in wrong_pins(pin)[skip : skip + times]:
        said = await call.enter(wrong)
    return said


async def lock(tenant: Tenant, caller: str | None, pin: str) -> None:
    """Three wrong PINs over two calls."""
    assert await enter_wrong(tenant.call(caller), pin, 2) == "pin"
    assert await enter_wrong(tenant.call(caller), pin, 1) == "reject"


async def is_refused_like_everybody(call: Call) -> None:
    passthru, gather, connect = await call.passthru(), await call.gather(), await call.connect()
    greeting = await call.greeting()
    assert (passthru.status, passthru.body) == (302, {"select": "reject"})
    assert gather.body["gather_prompt"] == {"text": REFUSAL}
    assert (connect.status, connect.body) == (200, NOBODY)
    assert greeting.body == REFUSAL


async def test_from_enters_nothing_and_to_enters_the_pin(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    assert await tenant.call(agent).targets() == [customer]
    call = tenant.call(customer)
    assert await call.select() == "pin"
    assert (await call.gather()).body["max_input_digits"] == 4
    assert await call.select(allocation["pin"]) == "connect"
    assert await call.targets() == [agent]
    assert await tenant.call(customer).select() == "pin", "each call anew"


async def test_without_a_to_whoever_enters_the_pin_is_it(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    allocation = await made(tenant, [agent])
    call = tenant.call(stranger)
    assert await call.enter(allocation["pin"]) == "connect"
    assert await call.targets() == [agent]
    assert await tenant.call(agent).targets() == [stranger]
    members = await tenant.api("GET", f"/greenpin/{allocation['greenpin_id']}/members")
    [member] = members.body["response"]["members"]
    assert member["number"] == stranger


async def test_three_wrong_pins_over_two_calls_lock_to_out_and_an_update_lets_it_in(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    pin = allocation["pin"]
    await lock(tenant, customer, pin)
    await is_refused_like_everybody(tenant.call(customer))
    call = tenant.call(customer)
    assert await call.select(pin) == "reject", "the right PIN comes too late"
    assert await call.targets(pin) == []
    # A stranger or a withheld caller with the right PIN is `to`, too.
    for other in (a_person(), None):
        assert await tenant.call(other).select(pin) == "reject"
    assert await tenant.call(agent).targets() == [customer]

    await change(tenant, allocation, record=False)
    assert await tenant.call(customer).enter(pin) == "connect"
    assert len(await tenant.all_events(EventKind.VERIFICATION_FAILED)) == 3


async def test_within_one_call_the_lock_is_the_end_of_it(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer], max_pin_attempts=2)
    call = tenant.call(customer)
    assert await enter_wrong(call, allocation["pin"], 1) == "pin"
    assert (await call.gather()).body["gather_prompt"] == {"text": PROMPT_AGAIN}
    assert await call.select(wrong_pins(allocation["pin"])[1]) == "reject"
    assert await call.select(allocation["pin"]) == "reject"
    await is_refused_like_everybody(tenant.call(customer))


async def test_an_update_with_own_values_alone_unlocks(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    await lock(tenant, customer, allocation["pin"])
    await change(tenant, allocation, **{"from": [agent]})
    assert await tenant.call(customer).enter(allocation["pin"]) == "connect"
    # The count began anew, too.
    await lock(tenant, customer, allocation["pin"])


async def test_a_bulk_update_unlocks(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    await lock(tenant, customer, allocation["pin"])
    items = [{"greenpin_id": allocation["greenpin_id"], "max_pin_attempts": 3}]
    assert (await tenant.api("PUT", "/greenpin", items)).status == 200
    assert await tenant.call(customer).enter(allocation["pin"]) == "connect"


async def test_an_update_forgets_what_was_counted_so_far(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    await enter_wrong(tenant.call(customer), allocation["pin"], 2)
    await change(tenant, allocation, record=False)
    await enter_wrong(tenant.call(customer), allocation["pin"], 2)
    assert await tenant.call(customer).enter(allocation["pin"]) == "connect"


async def test_a_success_in_between_resets_the_count(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    pin = allocation["pin"]
    for _ in range(3):
        call = tenant.call(customer)
        assert await enter_wrong(call, pin, 2) == "pin"
        assert await call.enter(pin) == "connect"
    await lock(tenant, customer, pin)
    assert await tenant.call(customer).select() == "reject"


async def test_a_repeated_request_counts_once(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    call = tenant.call(customer)
    await call.gather()
    wrong = wrong_pins(allocation["pin"])[0]
    for _ in range(4):
        assert await call.select(wrong) == "pin"
    assert await tenant.call(customer).enter(allocation["pin"]) == "connect"


async def test_strangers_lock_nobody_out(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    for _ in range(3):
        assert await enter_wrong(tenant.call(a_person()), allocation["pin"], 2) == "pin"
    assert await tenant.call(customer).enter(allocation["pin"]) == "connect"


@pytest.mark.parametrize("attempts", [1, 4])
async def test_withheld_callers_count(tenant: Tenant, attempts: int) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer], max_pin_attempts=attempts)
    for attempt in range(attempts):
        assert await tenant.call(customer).select() == "pin"
        await enter_wrong(tenant.call(None), allocation["pin"], 1, skip=attempt)
    assert await tenant.call(customer).select() == "reject"
    assert await tenant.call(None).select() == "reject"
    assert await tenant.call(agent).targets() == [customer]


async def test_where_a_vn_bears_many_nothing_locks(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"vn_sharing": "pin"})
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer], max_pin_attempts=1)
    for caller in (customer, None, customer):
        assert await enter_wrong(tenant.call(caller), allocation["pin"], 2) == "pin"
    assert await tenant.call(customer).enter(allocation["pin"]) == "connect"


async def test_guesses_at_once_lock_too(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    calls = [tenant.call(customer) for _ in range(6)]
    await asyncio.gather(*(call.gather() for call in calls))
    await asyncio.gather(*(call.select(wrong_pins(allocation["pin"])[0]) for call in calls))
    assert await tenant.call(customer).select() == "reject"
    assert await tenant.call(agent).targets() == [customer]


async def test_a_lock_outlives_the_board(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, tmp_path: Path
) -> None:
    board = tmp_path / "board"
    engine = fresh_engine(CORDBOARD_BOARD_DIR=str(board))
    await engine.start()
    before = await make_tenant(Client(session, engine.base_url, ADMIN_TOKEN), session, receiver)
    agent, customer = a_person(), a_person()
    allocation = await made(before, [agent], [customer], record=True, custom_field="order_id=12345")
    await lock(before, customer, allocation["pin"])
    assert await engine.stop() == 0
    rmtree(board)

    await engine.start()
    after = replace(before, client=Client(session, engine.base_url, ADMIN_TOKEN))
    assert await after.call(customer).select(allocation["pin"]) == "reject"
    told = (await after.call(agent).connect()).body
    assert (told["destination"]["numbers"], told["record"]) == ([customer], True)
    assert told["custom_field"] == "order_id=12345"
    await change(after, allocation, record=True)
    assert await after.call(customer).enter(allocation["pin"]) == "connect"


async def test_a_lock_does_not_outlive_its_allocation(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    await lock(tenant, customer, allocation["pin"])
    assert (await tenant.api("DELETE", f"/greenpin/{allocation['greenpin_id']}")).status == 200
    again = await made(tenant, [agent], [customer])
    assert await tenant.call(customer).enter(again["pin"]) == "connect"


async def test_the_policy_reaches_the_connect_applet_after_a_pin(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer], record=True, custom_field="order_id=12345")
    call = tenant.call(customer)
    assert await call.enter(allocation["pin"]) == "connect"
    told = await call.connect()
    assert told.body == {
        "fetch_after_attempt": False,
        "destination": {"numbers": [agent]},
        "outgoing_phone_number": tenant.line,
        "record": True,
        "custom_field": "order_id=12345",
    }
    plain = await call.hop(Applet.CONNECT, is_programmable=False)
    assert plain.body == agent


async def test_calls_are_counted(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    allocation = await made(tenant, [agent], [customer])
    call = tenant.call(agent)
    assert await call.select() == "connect"
    await call.talk(customer, tenant.line)
    await tenant.told(EventKind.CALL_COMPLETED, call_sid=call.call_sid)
    shown = await tenant.api("GET", f"/greenpin/{allocation['greenpin_id']}")
    assert shown.body["response"]["call_count"] == 1
