"""Every applet in every situation that a caller can be in, as conversations hop by hop."""

from __future__ import annotations

import asyncio

import pytest

from cordboard.simulator.platform import (
    HANG_UP,
    Applet,
    Callee,
    Connected,
    HungUp,
    KeyPlace,
    Refused,
    Shape,
    SimulatedCaller,
    Traits,
)
from cordboard.simulator.receiver import EventKind
from cordboard.simulator.wire import Leg, LegEnd, NumberStyle

from .conftest import MakeTenant
from .world import (
    PIN,
    PROMPT,
    PROMPT_AGAIN,
    REFUSAL,
    WELCOME,
    WRONG_PINS,
    Call,
    Tenant,
    a_line,
    a_person,
    national,
)

NOBODY = {"fetch_after_attempt": False, "destination": {"numbers": []}}


async def everything_heard(call: Call) -> list[tuple[int, str, object]]:
    """What all the applets answer, as a caller or a curious platform could compare it."""
    answers = [
        await call.passthru(),
        await call.gather(),
        await call.connect(),
        await call.hop(Applet.CONNECT, is_programmable=False),
        await call.greeting(),
    ]
    return [
        (answer.status, answer.headers["Content-Type"].partition(";")[0], answer.body) for answer in answers
    ]


async def is_refused_everywhere(call: Call) -> None:
    refusal = {
        "gather_prompt": {"text": REFUSAL},
        "max_input_digits": 1,
        "finish_on_key": "#",
        "input_timeout": 1,
        "repeat_menu": 0,
    }
    assert await everything_heard(call) == [
        (302, "text/plain", {"select": "reject"}),
        (200, "application/json", refusal),
        (200, "application/json", NOBODY),
        (200, "text/plain", ""),
        (200, "text/plain", REFUSAL),
    ]
    assert await call.select() == "reject"


# Listed callers


async def test_a_listed_caller_is_connected_by_every_applet(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    call = tenant.call(agent)
    passthru = await call.passthru()
    assert (passthru.status, passthru.body) == (200, {"select": "connect"})
    assert passthru.headers["Content-Type"].startswith("text/plain")
    assert await call.select() == "connect"
    gather = await call.gather()
    assert gather.body["gather_prompt"] == {"text": WELCOME}
    assert (gather.body["max_input_digits"], gather.body["input_timeout"], gather.body["repeat_menu"]) == (
        *(1, 1, 0),
    )
    connect = await call.connect()
    assert connect.headers["Content-Type"].startswith("application/json")
    assert connect.body["destination"] == {"numbers": [customer]}
    assert connect.body["outgoing_phone_number"] == tenant.line
    plain = await call.hop(Applet.CONNECT, is_programmable=False)
    assert (plain.status, plain.body) == (200, customer)
    assert plain.headers["Content-Type"].startswith("text/plain")
    greeting = await call.greeting()
    assert (greeting.status, greeting.body) == (200, WELCOME)


async def test_connect_may_be_the_only_applet_of_a_flow(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    assert await tenant.call(agent).targets() == [customer]


async def test_a_connected_caller_reaches_the_listed_numbers_in_their_order(tenant: Tenant) -> None:
    agent, customers = a_person(), [a_person(), a_person(), a_person()]
    await tenant.allocate([agent], customers[::-1])
    call = tenant.call(agent)
    assert await call.targets() == customers[::-1]
    plain = await call.hop(Applet.CONNECT, is_programmable=False)
    assert plain.body == ",".join(customers[::-1])


async def test_the_other_side_sees_a_line_of_its_own_so_that_a_call_back_works(
    new_tenant: MakeTenant,
) -> None:
    a_side, b_side, both = a_line(), a_line(), a_line()
    tenant = await new_tenant({"bparty_pin_enabled": "false"}, [a_side, b_side, both])
    agent, customer = a_person(), a_person()
    body = {
        "transaction_id": "ORD-lines",
        "a": {"vns": [a_side, both], "numbers": [agent]},
        "b": {"vns": [b_side, both], "numbers": [customer]},
    }
    assert (await tenant.create(body)).status == 200
    for line, shown in ((a_side, b_side), (both, both)):
        assert (await tenant.call(agent, line).connect()).body["outgoing_phone_number"] == shown
    assert await tenant.call(customer, b_side).targets() == [agent]
    assert await tenant.call(agent, b_side).targets() == [], "that line is not of the agent's side"


async def test_digits_of_a_menu_do_not_disturb_who_needs_no_pin(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    call = tenant.call(agent)
    assert await call.select("1") == "connect"
    assert await call.targets("1") == [customer]
    assert await tenant.all_events(EventKind.VERIFICATION_FAILED) == []


async def test_a_listed_caller_whose_side_has_its_pin_on_is_asked_for_it(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    call = tenant.call(customer)
    assert await call.select() == "pin"
    assert await call.enter(PIN) == "connect"
    assert await call.targets() == [agent]
    assert await tenant.all_events(EventKind.VERIFIED) == [], "a listed caller's success is no event"


async def test_one_agent_tells_twenty_orders_apart_by_their_pins(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"aparty_pin_enabled": "true", "bparty_pin_enabled": "false"})
    agent, customers = a_person(), [a_person() for _ in range(20)]
    for number, customer in enumerate(customers):
        body = {
            "transaction_id": f"ORD-{number}",
            "a": {"vns": [tenant.line], "numbers": [agent], "pin": f"70{number:02d}"},
            "b": {"numbers": [customer]},
        }
        assert (await tenant.create(body)).status == 200
    for number in (0, 7, 19):
        call = tenant.call(agent)
        assert await call.select() == "pin"
        assert await call.enter(f"70{number:02d}") == "connect"
        assert await call.targets() == [customers[number]]


# Strangers


async def test_a_stranger_with_the_right_pin_is_connected_and_told_of(tenant: Tenant) -> None:
    agent, customer, stranger = a_person(), a_person(), a_person()
    made = await tenant.allocate([agent], [customer], transaction_id="ORD-right")
    call = tenant.call(stranger)
    passthru = await call.passthru()
    assert (passthru.status, passthru.body) == (302, {"select": "pin"})
    prompt = (await call.gather()).body
    assert prompt["gather_prompt"] == {"text": PROMPT}
    assert prompt["max_input_digits"] == 4
    assert (await call.greeting()).body == PROMPT
    assert (await call.connect()).body == NOBODY
    right = await call.passthru(PIN)
    assert (right.status, right.body) == (200, {"select": "connect"})
    assert await call.targets(PIN) == [agent]
    assert (await call.greeting()).body == WELCOME
    event = await tenant.told(EventKind.VERIFIED)
    assert event.body == {
        "caller": stranger,
        "greenpin_id": made["greenpin_id"],
        "vn": tenant.line,
        "transaction_id": "ORD-right",
        "pin": PIN,
        "call_sid": call.call_sid,
    }
    assert event.headers["Content-Type"] == "application/json"


async def test_a_verified_call_stays_verified_whatever_its_later_hops_bring(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(stranger)
    assert await call.enter(PIN) == "connect"
    for digits in (None, PIN, "9999", "", "null"):
        assert await call.select(digits) == "connect"
        assert await call.targets(digits) == [agent]
    assert await tenant.all_events(EventKind.VERIFICATION_FAILED) == []
    assert len(tenant.events(EventKind.VERIFIED)) == 1


async def test_connect_takes_a_pin_as_passthru_does(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(stranger)
    await call.gather()
    assert await call.targets(PIN) == [agent]


async def test_a_member_is_asked_for_the_pin_again_and_told_of_once(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    made = await tenant.allocate([agent], [a_person()])
    for _ in range(2):
        call = tenant.call(stranger)
        assert await call.select() == "pin"
        assert await call.enter(PIN) == "connect"
    assert len(await tenant.all_events(EventKind.VERIFIED)) == 1
    members = await tenant.api("GET", f"/greenpin/{made['greenpin_id']}/members")
    assert stranger in repr(members.data)


async def test_a_member_is_reached_after_the_listed_numbers(tenant: Tenant) -> None:
    agent, customer, first, second = a_person(), a_person(), a_person(), a_person()
    await tenant.allocate([agent], [customer])
    for stranger in (first, second):
        assert await tenant.call(stranger).enter(PIN) == "connect"
    assert await tenant.call(agent).targets() == [customer, second, first]


async def test_a_side_that_nobody_is_on_yet_is_reached_once_somebody_joined(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    await tenant.allocate([agent])
    await is_refused_everywhere(tenant.call(agent))
    assert await tenant.call(stranger).enter(PIN) == "connect"
    assert await tenant.call(agent).targets() == [stranger]


async def test_a_common_pin_admits_to_the_side_without_listed_numbers(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"common_pin_enabled": "true"})
    customer, stranger = a_person(), a_person()
    made = await tenant.allocate(b=[customer])
    assert made["a"]["pin"] == made["b"]["pin"] == PIN
    call = tenant.call(stranger)
    assert await call.enter(PIN) == "connect"
    assert await call.targets() == [customer]


# Wrong PINs


async def test_wrong_pins_are_prompted_for_again_until_the_third(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(stranger)
    assert await call.select() == "pin"
    for wrong in WRONG_PINS[:2]:
        assert await call.enter(wrong) == "pin"
        assert (await call.gather(wrong)).body["gather_prompt"] == {"text": PROMPT_AGAIN}
        assert (await call.greeting()).body == PROMPT_AGAIN
    assert await call.enter(WRONG_PINS[2]) == "reject"
    await is_refused_everywhere(call)
    failed = await tenant.all_events(EventKind.VERIFICATION_FAILED)
    assert [set(event.body) for event in failed] == [{"start_time", "caller", "vn", "call_sid", "pin"}] * 3
    assert [event.body["pin"] for event in failed] == list(WRONG_PINS[:3])
    for event in failed:
        assert event.body["caller"] == stranger
        assert event.body["vn"] == tenant.line
        assert event.body["call_sid"] == call.call_sid
        assert event.body["start_time"].endswith("+05:30")


async def test_the_right_pin_after_the_last_attempt_is_not_looked_at(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    for wrong in WRONG_PINS[:3]:
        await call.enter(wrong)
    assert await call.enter(PIN) == "reject"
    assert await call.targets(PIN) == []
    assert await tenant.all_events(EventKind.VERIFIED) == []
    assert await tenant.call(call.caller).enter(PIN) == "connect", "the next call has its own attempts"


async def test_the_second_attempt_may_be_right(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(a_person())
    assert await call.enter(WRONG_PINS[0]) == "pin"
    assert await call.enter(PIN) == "connect"
    assert await call.targets() == [agent]


async def test_a_repeated_wrong_pin_burns_one_attempt(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    await call.gather()
    for _ in range(5):
        assert await call.select(WRONG_PINS[0]) == "pin"
        assert (await call.connect(WRONG_PINS[0])).body == NOBODY
    assert await call.enter(WRONG_PINS[1]) == "pin"
    assert await call.enter(PIN) == "connect"
    failed = await tenant.all_events(EventKind.VERIFICATION_FAILED)
    assert [event.body["pin"] for event in failed] == list(WRONG_PINS[:2])


async def test_the_same_hop_many_times_at_once_is_one_entry(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(a_person())
    await call.gather()
    assert await asyncio.gather(*(call.select(WRONG_PINS[0]) for _ in range(8))) == ["pin"] * 8
    await call.gather()
    assert await asyncio.gather(*(call.targets(PIN) for _ in range(8))) == [[agent]] * 8
    assert len(await tenant.all_events(EventKind.VERIFICATION_FAILED)) == 1
    assert len(tenant.events(EventKind.VERIFIED)) == 1


async def test_a_tenant_sets_how_many_attempts_there_are(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"max_pin_attempts": 1})
    await tenant.allocate([a_person()], [a_person()])
    assert await tenant.call(a_person()).enter(WRONG_PINS[0]) == "reject"


async def test_digits_that_can_be_no_pin_are_a_wrong_entry(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    assert await call.enter("1234567890123") == "pin"
    assert await call.enter("48*21") == "pin"
    assert await call.enter(PIN) == "connect"


async def test_a_wrong_pin_on_a_line_without_pins_is_prompted_for_again(tenant: Tenant) -> None:
    call = tenant.call(a_person())
    assert await call.select() == "reject"
    assert await call.select(WRONG_PINS[0]) == "pin", "or a guesser learns that there is nothing to guess"


async def test_a_caller_who_was_wrong_too_often_is_refused_in_later_calls(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"pin_failures_per_caller": "2/15m"})
    await tenant.allocate([a_person()], [a_person()])
    guesser = a_person()
    call = tenant.call(guesser)
    for wrong in WRONG_PINS[:2]:
        await call.enter(wrong)
    assert await tenant.call(guesser).enter(PIN) == "reject"
    assert await tenant.call(a_person()).enter(PIN) == "connect", "others are not held responsible"


async def test_pins_keep_their_leading_zeros(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()], pin="0042")
    call = tenant.call(a_person())
    assert await call.enter("42") == "pin"
    assert await call.enter("0042") == "connect"


async def test_as_many_digits_are_expected_as_the_longest_pin_has(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()], pin="12")
    await tenant.allocate([a_person()], [a_person()], pin="7654321")
    assert (await tenant.call(a_person()).gather()).body["max_input_digits"] == 7


# Empty entries


async def test_two_empty_entries_end_the_call_and_burn_no_attempt(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    await call.gather()
    assert await call.select() == "pin"
    assert (await call.gather()).body["gather_prompt"] == {"text": PROMPT_AGAIN}
    assert await call.select() == "reject"
    await is_refused_everywhere(call)
    assert await tenant.all_events() == []


async def test_old_digits_after_a_new_prompt_are_an_empty_entry(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    assert await call.enter(WRONG_PINS[0]) == "pin"
    assert await call.enter(WRONG_PINS[0]) == "pin"
    assert await call.enter(WRONG_PINS[0]) == "reject"
    assert len(await tenant.all_events(EventKind.VERIFICATION_FAILED)) == 1


async def test_a_decision_without_a_new_prompt_repeats_the_last_answer(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    await call.gather()
    for _ in range(4):
        assert await call.select() == "pin"
    assert await call.enter(PIN) == "connect"


@pytest.mark.parametrize("nothing", ['""', "", "null", '"#"'])
async def test_an_empty_entry_has_many_spellings(tenant: Tenant, nothing: str) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    for answer in ("pin", "reject"):
        await call.gather()
        assert await call.select(digits=nothing) == answer
    assert await tenant.all_events() == []


@pytest.mark.parametrize("keyed", [f'"{PIN}"', PIN, f"{PIN}#", f'"{PIN}#"', f' "{PIN}" '])
async def test_a_right_pin_has_many_spellings(tenant: Tenant, keyed: str) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(a_person())
    assert await call.select(digits=keyed) == "connect"


# Refusals


async def test_a_b_caller_on_a_oneway_allocation_is_refused(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer], usage="oneway")
    call = tenant.call(customer)
    await is_refused_everywhere(call)
    assert await tenant.call(agent).targets() == [customer]
    assert await tenant.all_events() == []


async def test_nobody_reaches_a_through_a_b_pin_of_a_oneway_allocation(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer], usage="oneway")
    call = tenant.call(a_person())
    assert await call.enter(PIN) == "reject"
    assert await call.targets(PIN) == []
    assert await tenant.all_events() == [], "a PIN that may not call is no failed one"


async def test_an_expired_allocation_connects_nobody(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer], duration="1s", transaction_id="ORD-short")
    verified = tenant.call(a_person())
    await tenant.told(EventKind.DEALLOCATED, transaction_id="ORD-short")
    for caller in (agent, customer, a_person()):
        await is_refused_everywhere(tenant.call(caller))
    await is_refused_everywhere(verified)


async def test_a_verified_call_ends_with_its_allocation(tenant: Tenant) -> None:
    made = await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    assert await call.enter(PIN) == "connect"
    assert (await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")).status == 200
    await is_refused_everywhere(call)


async def test_a_changed_pin_does_not_end_a_call_already_verified(tenant: Tenant) -> None:
    agent = a_person()
    made = await tenant.allocate([agent], [a_person()])
    call = tenant.call(a_person())
    assert await call.enter(PIN) == "connect"
    changed = await tenant.api("PUT", f"/greenpin/{made['greenpin_id']}", {"b": {"pin": "7777"}})
    assert changed.status == 200
    assert await call.targets() == [agent]
    assert await tenant.call(call.caller).enter(PIN) == "pin"


async def test_a_line_that_nobody_has_connects_nobody(tenant: Tenant) -> None:
    await tenant.allocate([agent := a_person()], [a_person()])
    await is_refused_everywhere(tenant.call(agent, a_line()))


async def test_a_line_of_another_tenant_connects_nobody(new_tenant: MakeTenant) -> None:
    ours, theirs = await new_tenant(), await new_tenant()
    agent = a_person()
    await theirs.allocate([agent], [a_person()])
    await is_refused_everywhere(ours.call(agent, theirs.line))
    stranger = ours.call(a_person(), theirs.line)
    assert await stranger.select(PIN) == "reject"
    assert await ours.all_events() == []
    assert theirs.events() == []


async def test_all_refusals_sound_alike(new_tenant: MakeTenant) -> None:
    tenant, other = await new_tenant(), await new_tenant()
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer], usage="oneway")
    await other.allocate([a_person()], [a_person()])
    guesser = other.call(a_person())
    for wrong in WRONG_PINS[:3]:
        await guesser.enter(wrong)
    refused = [
        tenant.call(customer),
        tenant.call(a_person()),
        tenant.call(a_person(), a_line()),
        tenant.call(agent, other.line),
        tenant.call(None),
        guesser,
    ]
    heard = [await everything_heard(call) for call in refused]
    assert [answers == heard[0] for answers in heard] == [True] * len(refused)


@pytest.mark.parametrize("direction", ["outbound-dial", "outbound-api", "inbound", "x"])
async def test_what_is_not_incoming_is_refused(tenant: Tenant, direction: str) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(agent)
    assert (await call.passthru(Direction=direction)).status == 302
    assert (await call.connect(Direction=direction)).body == NOBODY
    assert (await call.greeting(Direction=direction)).body == REFUSAL
    assert await call.select(Direction=None) == "connect", "an absent one is no reason"


# Callers that are hard to know


async def test_a_withheld_caller_is_asked_for_a_pin_and_remembered_by_nobody(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    made = await tenant.allocate([agent], [customer])
    for _ in range(2):
        call = tenant.call(None)
        assert await call.select() == "pin"
        assert await call.enter(PIN) == "connect"
        assert await call.targets() == [agent]
    verified = await tenant.all_events(EventKind.VERIFIED)
    assert [event.body["caller"] for event in verified] == [None, None], "each call is told of"
    assert await tenant.call(agent).targets() == [customer]
    members = await tenant.api("GET", f"/greenpin/{made['greenpin_id']}/members")
    assert members.status == 200


async def test_a_withheld_caller_is_refused_where_the_tenant_wants_so(new_tenant: MakeTenant) -> None:
    tenant = await new_tenant({"withheld_callers": "refuse"})
    await tenant.allocate([a_person()], [a_person()])
    await is_refused_everywhere(tenant.call(None))
    call = tenant.call(None)
    assert await call.enter(PIN) == "reject"


@pytest.mark.parametrize("written", ["", "anonymous", "null", "Restricted", "sip:agent7", "+", "0"])
async def test_a_caller_that_is_no_number_is_withheld(tenant: Tenant, written: str) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(None)
    assert await call.select(CallFrom=written, From=written) == "pin"


@pytest.mark.parametrize("style", NumberStyle)
async def test_numbers_are_known_however_they_are_written(tenant: Tenant, style: NumberStyle) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    transcript = await tenant.place(SimulatedCaller(agent, tenant.line), traits=Traits(numbers=style))
    assert transcript.result == Connected((customer,), tenant.line, customer)


async def test_a_call_sid_seen_with_another_caller_is_a_new_call(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    assert await call.enter(PIN) == "connect"
    other = Call(tenant, a_person(), tenant.line, call.call_sid)
    assert await other.select() == "pin"


async def test_without_a_call_sid_a_listed_caller_is_connected(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    call = tenant.call(agent)
    assert await call.select(CallSid=None) == "connect"
    assert (await call.connect(CallSid="")).body["destination"]["numbers"] == [customer]


async def test_without_a_call_sid_no_pin_is_taken(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    for digits in (PIN, WRONG_PINS[0]):
        assert await call.select(digits, CallSid=None) != "connect"
        assert (await call.connect(digits, CallSid=None)).body == NOBODY
    assert await tenant.all_events() == []


async def test_a_passthru_after_a_menu_ignores_digits(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    for digits in ("1", PIN):
        answer = await call.hop(Applet.PASSTHRU, digits, own_query="digits=ignore")
        assert (answer.status, answer.body) == (302, {"select": "pin"})
    await call.gather()
    answer = await call.hop(Applet.PASSTHRU, own_query="digits=ignore")
    assert answer.body == {"select": "pin"}
    assert await call.enter(PIN) == "connect"
    assert await tenant.all_events(EventKind.VERIFICATION_FAILED) == []


# Greetings


async def test_a_greeting_is_headed_before_it_is_got(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(agent)
    got = await call.greeting()
    head = await call.hop(Applet.GREETING, method="HEAD")
    assert (head.status, head.body) == (200, "")
    # Of two moments, and of two requests.
    own = {"Date", "X-Request-ID"}
    assert {key: value for key, value in head.headers.items() if key not in own} == {
        key: value for key, value in got.headers.items() if key not in own
    }


async def test_a_greeting_knows_the_call_by_its_call_sid(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(agent)
    assert await call.select() == "connect"
    company_number = national(a_line())
    alone = {"CallFrom": None, "CallTo": None, "Direction": None, "CallType": None}
    assert (await call.greeting(**alone, To=company_number)).body == WELCOME
    assert (await call.greeting(**alone, To=company_number, From="anonymous")).body == WELCOME
    assert (await tenant.call(agent).greeting(**alone)).body == WELCOME, (
        "by To and From, where nothing is known"
    )
    assert (await tenant.call(agent).greeting(**alone, To=company_number)).body == REFUSAL


async def test_a_greeting_changes_nothing(tenant: Tenant) -> None:
    await tenant.allocate([a_person()], [a_person()])
    call = tenant.call(a_person())
    for digits in (PIN, *WRONG_PINS):
        assert (await call.hop(Applet.GREETING, digits)).body == PROMPT
    assert await call.select() == "pin"
    assert await tenant.all_events() == []


# After the dial


async def test_a_finished_call_is_told_of_once(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    made = await tenant.allocate([agent], [customer], transaction_id="ORD-talk")
    call = tenant.call(agent)
    assert await call.targets() == [customer]
    for _ in range(3):
        assert (await call.talk(customer, tenant.line, talk_s=17)).status == 200
    other_end = [Leg(national(customer), national(tenant.line), LegEnd.BUSY, 9, 0)]
    assert (await call.end(other_end)).status == 200, "the first end counts"
    event = await tenant.told(EventKind.CALL_COMPLETED)
    body = dict(event.body)
    assert body.pop("start_time").endswith("+05:30")
    assert body.pop("current_time").endswith("+05:30")
    assert body == {
        "transaction_id": "ORD-talk",
        "call_sid": call.call_sid,
        "vn": tenant.line,
        "greenpin_id": made["greenpin_id"],
        "from": agent,
        "to": customer,
        "call_type": "completed",
        "dial_call_duration": 21,
        "on_call_duration": 17,
        "direction": "incoming",
        "recording_url": "null",
        "dial_call_status": "completed",
        "source": "exotel",
    }
    assert len(await tenant.all_events(EventKind.CALL_COMPLETED)) == 1


async def test_a_recording_is_told_of(tenant: Tenant) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    call = tenant.call(agent)
    await call.targets()
    await call.end([Leg(national(customer), national(tenant.line), LegEnd.TALKED, 4, 17)], is_recorded=True)
    event = await tenant.told(EventKind.CALL_COMPLETED)
    assert event.body["recording_url"] == f"https://recordings.example.net/{call.call_sid}.mp3"


@pytest.mark.parametrize(
    ("end", "call_type", "status"),
    [
        (LegEnd.NO_ANSWER, "incomplete", "no-answer"),
        (LegEnd.BUSY, "incomplete", "busy"),
        (LegEnd.CALLER_GAVE_UP, "client-hangup", "canceled"),
    ],
)
async def test_a_call_that_nobody_answered_is_told_of(
    tenant: Tenant, end: LegEnd, call_type: str, status: str
) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    caller = SimulatedCaller(agent, tenant.line, callees=(Callee(end, 7, 0),))
    await tenant.place(caller, Shape.BRANCHES)
    event = await tenant.told(EventKind.CALL_COMPLETED)
    assert (event.body["call_type"], event.body["dial_call_status"]) == (call_type, status)
    assert (event.body["dial_call_duration"], event.body["on_call_duration"]) == (7, 0)


async def test_a_voicemail_ends_a_call(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    call = tenant.call(agent)
    await call.targets()
    assert (await call.end(CallType="voicemail")).status == 200
    assert (await tenant.told(EventKind.CALL_COMPLETED)).body["call_type"] == "voicemail"


async def test_the_end_of_a_call_without_an_allocation_is_no_event(tenant: Tenant) -> None:
    call = tenant.call(a_person())
    assert await call.select() == "reject"
    assert (await call.end()).status == 200
    assert await tenant.all_events() == []


@pytest.mark.parametrize("call_type", [None, "", "call", "call-attempt", "telepathy"])
async def test_a_hop_of_an_unknown_type_is_a_decision(tenant: Tenant, call_type: str | None) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    assert await tenant.call(agent).select(CallType=call_type) == "connect"
    assert await tenant.call(a_person()).select(CallType=call_type) == "pin"


# Keys


@pytest.mark.parametrize("key_in", KeyPlace)
@pytest.mark.parametrize("applet", Applet)
async def test_the_key_is_accepted_in_the_query_in_the_path_and_as_a_password(
    tenant: Tenant, applet: Applet, key_in: KeyPlace
) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    assert (await tenant.call(agent).hop(applet, key_in=key_in)).status == 200


@pytest.mark.parametrize("applet", Applet)
async def test_without_the_right_key_nothing_is_told(new_tenant: MakeTenant, applet: Applet) -> None:
    ours, theirs = await new_tenant(), await new_tenant()
    agent = a_person()
    await ours.allocate([agent], [a_person()])
    path = f"/v1/tenants/{ours.id}/exotel"
    query = f"CallSid=abc&CallFrom={national(agent)}&CallTo={national(ours.line)}"
    tries = [
        await ours.client.ask("GET", f"{path}/{applet.value}?{query}"),
        await ours.client.ask("GET", f"{path}/{applet.value}?key=&{query}"),
        await ours.client.ask("GET", f"{path}/{applet.value}?key=wrong&{query}"),
        await ours.client.ask("GET", f"{path}/k/wrong/{applet.value}?{query}"),
        await ours.client.ask("GET", f"{path}/{applet.value}?{query}", user=(ours.id, "wrong")),
        await ours.client.ask(
            "GET", f"{path}/{applet.value}?{query}", user=(theirs.id, theirs.credentials.api_token)
        ),
        await ours.client.ask("GET", f"{path}/{applet.value}?key={theirs.credentials.applet_key}&{query}"),
        await ours.client.ask("GET", f"/v1/tenants/nobody/exotel/{applet.value}?key=wrong&{query}"),
    ]
    assert [answer.status for answer in tries] == [401] * len(tries)
    assert len({repr(answer.body) for answer in tries}) == 1, "nobody learns which tenants there are"


async def test_a_new_applet_key_works_beside_the_old_until_that_is_deleted(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    made = await tenant.client.admin("POST", f"/tenants/{tenant.id}/applet-keys")
    assert made.status == 201
    query = f"CallSid=abc&CallFrom={national(agent)}&CallTo={national(tenant.line)}"
    path = f"/v1/tenants/{tenant.id}/exotel/passthru"
    keys = [tenant.credentials.applet_key, made.body["applet_key"]]
    both = [(await tenant.client.ask("GET", f"{path}?key={key}&{query}")).status for key in keys]
    assert both == [200, 200]
    gone = await tenant.client.admin("DELETE", f"/tenants/{tenant.id}/applet-keys/{made.body['key_id']}")
    assert gone.status == 200
    after = [(await tenant.client.ask("GET", f"{path}?key={key}&{query}")).status for key in keys]
    assert after == [200, 401]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_an_applet_is_only_fetched(tenant: Tenant, method: str) -> None:
    for applet in Applet:
        assert (await tenant.call(a_person()).hop(applet, method=method)).status == 405


# Whole flows


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("key_in", [KeyPlace.QUERY, KeyPlace.PATH])
async def test_a_flow_connects_who_is_listed(tenant: Tenant, shape: Shape, key_in: KeyPlace) -> None:
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    transcript = await tenant.place(
        SimulatedCaller(agent, tenant.line), shape, key_in=key_in, greets_first=True
    )
    assert transcript.result == Connected((customer,), tenant.line, customer)
    assert f"“{WELCOME}”" in [hop.reply for hop in transcript.hops]
    assert (await tenant.told(EventKind.CALL_COMPLETED)).body["call_sid"] == transcript.call_sid


@pytest.mark.parametrize("shape", Shape)
@pytest.mark.parametrize("is_connect_programmable", [True, False])
async def test_a_flow_connects_a_stranger_at_the_second_attempt(
    tenant: Tenant, shape: Shape, is_connect_programmable: bool
) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    transcript = await tenant.place(
        SimulatedCaller(a_person(), tenant.line, keys=(f"{WRONG_PINS[0]}#", f"{PIN}#")),
        shape,
        is_connect_programmable=is_connect_programmable,
    )
    assert transcript.result == Connected((agent,), tenant.line, agent)
    kinds = [event.kind for event in await tenant.all_events()]
    assert sorted(kind.value for kind in kinds) == ["call completed", "failed verification", "verified"]


@pytest.mark.parametrize("shape", Shape)
async def test_a_flow_refuses_a_guesser(tenant: Tenant, shape: Shape) -> None:
    await tenant.allocate([a_person()], [a_person()])
    guesser = SimulatedCaller(a_person(), tenant.line, keys=WRONG_PINS)
    assert (await tenant.place(guesser, shape)).result == Refused(REFUSAL)
    assert len(await tenant.all_events(EventKind.VERIFICATION_FAILED)) == 3


@pytest.mark.parametrize("shape", Shape)
async def test_a_flow_refuses_who_keys_in_nothing(tenant: Tenant, shape: Shape) -> None:
    await tenant.allocate([a_person()], [a_person()])
    assert (await tenant.place(SimulatedCaller(a_person(), tenant.line), shape)).result == Refused(REFUSAL)
    assert await tenant.all_events() == []


async def test_a_caller_may_hang_up_at_the_prompt_and_call_again(tenant: Tenant) -> None:
    agent, stranger = a_person(), a_person()
    await tenant.allocate([agent], [a_person()])
    assert (await tenant.place(SimulatedCaller(stranger, tenant.line, keys=(HANG_UP,)))).result == HungUp()
    again = await tenant.place(SimulatedCaller(stranger, tenant.line, keys=(PIN,)))
    assert again.result == Connected((agent,), tenant.line, agent)


@pytest.mark.parametrize(
    "traits",
    [
        Traits(times_each=3),
        Traits(keeps_digits=False),
        Traits(times_each=2, keeps_digits=False, numbers=NumberStyle.LOST_PLUS),
    ],
)
async def test_what_platforms_get_wrong_changes_no_outcome(tenant: Tenant, traits: Traits) -> None:
    agent = a_person()
    made = await tenant.allocate([agent], [a_person()])
    transcript = await tenant.place(
        SimulatedCaller(a_person(), tenant.line, keys=(WRONG_PINS[0], "", PIN)), traits=traits
    )
    assert transcript.result == Connected((agent,), tenant.line, agent)
    await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")
    kinds = sorted(event.kind.value for event in await tenant.all_events())
    assert kinds == ["call completed", "deallocated", "failed verification", "verified"]


async def test_a_gather_that_loses_its_query_has_its_key_in_the_path(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    transcript = await tenant.place(
        SimulatedCaller(a_person(), tenant.line, keys=(PIN,)),
        traits=Traits(gather_loses_query=True),
        key_in=KeyPlace.PATH,
    )
    assert transcript.result == Connected((agent,), tenant.line, agent)
