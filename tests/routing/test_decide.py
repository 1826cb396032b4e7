"""The decision: a naive model it must agree with, promises it must keep, and the order of its reasons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from cordboard.routing.decide import DIGITS_WITHOUT_PINS, EMPTY_ENTRIES_MAX, decide
from cordboard.routing.model import (
    NEVER_US,
    NEW_CALL,
    NOT_EXCEEDED,
    Admission,
    Allocation,
    AllocationId,
    AskPin,
    Call,
    CallPolicy,
    CallRules,
    Connect,
    Decision,
    EmptyEntry,
    Entry,
    Exceeded,
    LastEntry,
    Matched,
    NoEntry,
    Party,
    PinEntry,
    Product,
    Progress,
    Reason,
    Refuse,
    RightPin,
    Side,
    Usage,
    WrongPin,
    latest_first,
)
from cordboard.routing.numbers import E164, Pin

from .naive_model import (
    EXPIRIES_US,
    NOW_US,
    NUMBERS,
    OUTSIDER,
    VNS,
    Circumstances,
    ListBoard,
    Member,
    Row,
    World,
    allocation_id,
    asks_listed,
    breaks_a_rule,
    broken_worlds,
    circumstances,
    entry,
    is_live,
    listed,
    may_call,
    naive_decision,
    opposite,
    people,
    pins,
    vns,
    worlds,
)

# ── the model ────────────────────────────────────────────────────────────────


@settings(max_examples=700, deadline=None)
@given(worlds(), circumstances())
def test_it_agrees_with_the_naive_model(world: World, under: Circumstances) -> None:
    board = ListBoard(world)
    for call in under.calls():
        assert decide(call, board, NOW_US) == naive_decision(call, world, NOW_US)


@given(worlds())
def test_the_dice_only_throw_worlds_that_the_database_allows(world: World) -> None:
    assert not breaks_a_rule(world.rows, NOW_US)


def _is_refused(reason: Reason) -> Callable[[Decision], bool]:
    return lambda answer: isinstance(answer, Refuse) and answer.reason is reason


def _is_matched(matched: Matched) -> Callable[[Decision], bool]:
    return lambda answer: isinstance(answer, Connect) and answer.matched is matched


def _is_asked(last: LastEntry) -> Callable[[Decision], bool]:
    return lambda answer: isinstance(answer, AskPin) and answer.last_entry is last


# An unknown VN is left to the tables.
UNREACHED = {Reason.UNKNOWN_VN}
ANSWERS = {
    **{f"refuse {reason.value}": _is_refused(reason) for reason in Reason if reason not in UNREACHED},
    **{f"connect {matched.value}": _is_matched(matched) for matched in Matched},
    **{f"ask after {last.value}": _is_asked(last) for last in LastEntry},
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_dice_reach_every_answer(answer: str) -> None:
    is_it = ANSWERS[answer]

    def turns_up(case: tuple[World, Circumstances]) -> bool:
        world, under = case
        board = ListBoard(world)
        return any(is_it(decide(call, board, NOW_US)) for call in under.calls())

    # `find` raises if it does not.
    find(
        st.tuples(worlds(), circumstances()),
        turns_up,
        settings=settings(max_examples=2000, phases=[Phase.generate], database=None, deadline=None),
    )


# ── promises ─────────────────────────────────────────────────────────────────


def _row(world: World, id_: AllocationId) -> Row:
    [row] = [row for row in world.rows if row.allocation.id == id_]
    return row


@settings(max_examples=400, deadline=None)
@given(worlds())
def test_whatever_is_allocated_connects_as_asked(world: World) -> None:
    board = ListBoard(world)
    for row in world.rows:
        for side in Side:
            if not (is_live(row, NOW_US) and may_call(row, side)):
                continue
            entries = [entry(held.digits) for held in pins(row, side)]
            is_locked_out = row.allocation.is_locked and side is Side.B
            for vn in vns(row, side):
                for caller in listed(row, side):
                    for new in entries if asks_listed(row, side) else [NoEntry()]:
                        answer = decide(_call(caller, new, vn=vn), board, NOW_US)
                        _assert_reaches(answer, row, side, caller, is_locked_out)
                for new in [] if row.allocation.common_pin else entries:
                    for stranger in (OUTSIDER, None):
                        answer = decide(_call(stranger, new, vn=vn), board, NOW_US)
                        _assert_reaches(answer, row, side, stranger, is_locked_out)


def _assert_reaches(answer: Decision, row: Row, side: Side, caller: E164 | None, is_locked_out: bool) -> None:
    expected = [number for number in people(row, opposite(side)) if number != caller]
    if is_locked_out:
        assert answer == Refuse(Reason.LOCKED, row.allocation.id)
    elif expected:
        assert isinstance(answer, Connect)
        assert answer.targets == tuple(expected)
        assert answer.caller_id in vns(row, opposite(side))
    else:
        assert isinstance(answer, Refuse)
        assert answer.reason is Reason.NO_TARGET
    assert not isinstance(answer, AskPin)
    assert answer.allocation_id == row.allocation.id
    if isinstance(answer, Connect):
        assert answer.side is side
        assert answer.policy == row.allocation.policy


@settings(max_examples=600, deadline=None)
@given(st.one_of(worlds(), broken_worlds()), circumstances())
def test_nobody_is_connected_outside_a_live_allocation_that_knows_them_or_whose_pin_they_entered(
    world: World, under: Circumstances
) -> None:
    board = ListBoard(world)
    for call in under.calls():
        answer = decide(call, board, NOW_US)
        if not isinstance(answer, Connect):
            continue
        row, side = _row(world, answer.allocation_id), answer.side
        assert is_live(row, NOW_US)
        assert call.virtual_number in vns(row, side)
        assert (
            call.caller in people(row, side)
            or call.progress.admission == Admission(row.allocation.id, side)
            or (isinstance(call.entry, PinEntry) and call.entry.pin in pins(row, side))
        )
        # Nor does anybody reach A as B of an allocation that guesses have locked.
        is_admitted = call.progress.admission is not None
        assert is_admitted or not (row.allocation.is_locked and asks_listed(row, side) and side is Side.B)
        # A oneway B never reaches A.
        assert may_call(row, side)
        assert call.caller not in answer.targets
        assert set(answer.targets) <= set(people(row, opposite(side)))
        assert answer.targets
        assert answer.caller_id in vns(row, opposite(side))
        assert answer.product is row.allocation.product


@settings(max_examples=400, deadline=None)
@given(broken_worlds(), circumstances(), st.frozensets(st.integers(0, 4).map(allocation_id)))
def test_it_is_total_even_where_the_board_contradicts_itself(
    world: World, under: Circumstances, forgotten: frozenset[AllocationId]
) -> None:
    board = ListBoard(world, forgotten)
    for call in under.calls():
        answer = decide(call, board, NOW_US)
        assert answer == decide(call, board, NOW_US)
        match answer:
            case Connect():
                assert answer.allocation_id not in forgotten
            case AskPin():
                assert 1 <= answer.digits_max <= 9
                assert 1 <= answer.attempts_left <= call.rules.pin_attempts_max
            case Refuse():
                assert answer.outcome is None or answer.reason in {Reason.WRONG_PIN, Reason.NO_TARGET}
            case unmatched:
                assert_never(unmatched)


@settings(max_examples=200, deadline=None)
@given(worlds(), circumstances())
def test_over_the_shared_limit_only_people_of_an_allocation_are_connected(
    world: World, under: Circumstances
) -> None:
    over = Circumstances(under.progress._replace(admission=None), Exceeded(shared=True), under.rules)
    board = ListBoard(world)
    for call in over.calls():
        answer = decide(call, board, NOW_US)
        if isinstance(answer, Connect):
            assert call.caller in people(_row(world, answer.allocation_id), answer.side)


def test_a_oneway_b_never_reaches_a_by_any_number_or_pin() -> None:
    a, b = _party(A_AGENT, pin=A_PIN), _party(B_CUSTOMER, pin=B_PIN)
    world = _world(_allocation(a, b, usage=Usage.ONEWAY))
    for caller in (B_CUSTOMER, OUTSIDER, None):
        for admission in (None, Admission(FIRST, Side.B)):
            answer = _decide(world, caller, entry(B_PIN), progress=Progress(admission=admission))
            assert isinstance(answer, Refuse)


# ── a small stage for the tables ─────────────────────────────────────────────

VN, OTHER_VN, FAR_VN = VNS
NOT_OURS = E164(918000000099)
A_AGENT, B_CUSTOMER, FRIEND, COLLEAGUE = NUMBERS
A_PIN, B_PIN, LONG_PIN = "1", "2", "0042"
FIRST, SECOND, GONE = allocation_id(1), allocation_id(2), allocation_id(9)


def _party(
    *numbers: E164, pin: str | None = None, asks: bool | None = None, on: tuple[E164, ...] = (VN,)
) -> Party:
    held = None if pin is None else Pin.parse(pin)
    return Party(numbers, on, () if held is None else (held,), held is not None if asks is None else asks)


def _allocation(
    a: Party,
    b: Party,
    *,
    id_: AllocationId = FIRST,
    usage: Usage = Usage.TWOWAY,
    expires_at_us: int = NEVER_US,
    common_pin: bool = False,
    product: Product = Product.GREENPIN,
) -> Allocation:
    return Allocation(id_, product, usage, expires_at_us, a, b, common_pin, has_members=False)


def _with_members(allocation: Allocation, *members: Member) -> Row:
    return Row(allocation._replace(has_members=True), members)


def _world(*rows: Allocation | Row) -> World:
    return World(frozenset(VNS), tuple(Row(row) if isinstance(row, Allocation) else row for row in rows))


def _call(
    caller: E164 | None,
    entry: Entry = NoEntry(),  # noqa: B008 - an empty tuple
    *,
    vn: E164 | None = VN,
    progress: Progress = NEW_CALL,
    exceeded: Exceeded = NOT_EXCEEDED,
    rules: CallRules = CallRules(),  # noqa: B008 - a tuple
) -> Call:
    return Call(vn, caller, entry, progress, exceeded, rules)


def _decide(
    world: World,
    caller: E164 | None,
    entry: Entry = NoEntry(),  # noqa: B008 - an empty tuple
    *,
    vn: E164 | None = VN,
    progress: Progress = NEW_CALL,
    exceeded: Exceeded = NOT_EXCEEDED,
    rules: CallRules = CallRules(),  # noqa: B008 - a tuple
) -> Decision:
    call = _call(caller, entry, vn=vn, progress=progress, exceeded=exceeded, rules=rules)
    return decide(call, ListBoard(world), NOW_US)


# The agent is known and asked for nothing; the customer and every stranger need B's PIN.
MIXED = _allocation(_party(A_AGENT), _party(B_CUSTOMER, pin=B_PIN))
# Both sides are asked.
ASKING = _allocation(_party(A_AGENT, pin=A_PIN), _party(B_CUSTOMER, pin=B_PIN))
# The customer has a route, but a forbidden one; the agent needs a PIN.
ONEWAY = _allocation(_party(A_AGENT, pin=A_PIN), _party(B_CUSTOMER, pin=B_PIN), usage=Usage.ONEWAY)
# Everybody is known, nobody has a PIN.
OPEN = _allocation(_party(A_AGENT), _party(B_CUSTOMER))
ELSEWHERE = _allocation(_party(FRIEND, pin="12"), _party(COLLEAGUE, pin="01"), id_=SECOND)

USED_UP = Progress(failures=3)
TWO_EMPTY = Progress(empty_entries=2)
HURDLES = Progress(failures=3, empty_entries=2)
ADMITTED = Admission(FIRST, Side.B)
BOTH_EXCEEDED = Exceeded(caller=True, shared=True)
CALLER_EXCEEDED = Exceeded(caller=True)
SHARED_EXCEEDED = Exceeded(shared=True)
REFUSE_WITHHELD = CallRules(refuse_withheld=True)

B_IS_RIGHT = RightPin(entry(B_PIN).digest, Admission(FIRST, Side.B), is_stranger=False)
STRANGER_IS_RIGHT = B_IS_RIGHT._replace(is_stranger=True)


def _connected(
    side: Side, target: E164, matched: Matched, outcome: RightPin | None = None, id_: AllocationId = FIRST
) -> Connect:
    return Connect(id_, Product.GREENPIN, side, (target,), VN, matched, outcome)


LISTED = _connected(Side.A, B_CUSTOMER, Matched.LISTED)
VERIFIED = _connected(Side.B, A_AGENT, Matched.VERIFIED_BEFORE)
BY_PIN = _connected(Side.B, A_AGENT, Matched.PIN, B_IS_RIGHT)
BY_STRANGERS_PIN = _connected(Side.B, A_AGENT, Matched.PIN, STRANGER_IS_RIGHT)


# ── the order of the rules ───────────────────────────────────────────────────


@dataclass(frozen=True)
class Case:
    sentence: str
    world: World
    call: Call
    expected: Decision


ORDER = [
    # Before all rules.
    Case(
        "what is not a number is no virtual number",
        _world(MIXED),
        _call(A_AGENT, vn=None),
        Refuse(Reason.UNKNOWN_VN),
    ),
    Case(
        "a VN of somebody else is unknown",
        _world(MIXED),
        _call(A_AGENT, vn=NOT_OURS),
        Refuse(Reason.UNKNOWN_VN),
    ),
    Case(
        "an unknown VN is unknown to a withheld caller too, whether or not those are refused",
        _world(MIXED),
        _call(None, vn=NOT_OURS, rules=REFUSE_WITHHELD),
        Refuse(Reason.UNKNOWN_VN),
    ),
    Case(
        "an unknown VN comes before used up attempts and full windows",
        _world(MIXED),
        _call(A_AGENT, entry(B_PIN), vn=NOT_OURS, progress=HURDLES, exceeded=BOTH_EXCEEDED),
        Refuse(Reason.UNKNOWN_VN),
    ),
    Case(
        "a withheld caller is refused where the tenant says so, even with the right PIN",
        _world(MIXED),
        _call(None, entry(B_PIN), rules=REFUSE_WITHHELD),
        Refuse(Reason.WITHHELD),
    ),
    Case(
        "refusing the withheld comes before used up attempts and full windows",
        _world(MIXED),
        _call(None, entry(B_PIN), progress=HURDLES, exceeded=BOTH_EXCEEDED, rules=REFUSE_WITHHELD),
        Refuse(Reason.WITHHELD),
    ),
    Case(
        "refusing the withheld refuses nobody else",
        _world(MIXED),
        _call(A_AGENT, rules=REFUSE_WITHHELD),
        LISTED,
    ),
    # 1 before 2 to 5.
    Case(
        "a recorded success comes before a route that needs no PIN",
        _world(
            _allocation(_party(FRIEND), _party(pin=B_PIN)),
            _allocation(_party(A_AGENT), _party(COLLEAGUE), id_=SECOND),
        ),
        _call(A_AGENT, progress=Progress(admission=ADMITTED)),
        _connected(Side.B, FRIEND, Matched.VERIFIED_BEFORE),
    ),
    Case(
        "a recorded success comes before used up attempts, empty entries and full windows",
        _world(ASKING),
        _call(B_CUSTOMER, progress=HURDLES._replace(admission=ADMITTED), exceeded=BOTH_EXCEEDED),
        VERIFIED,
    ),
    Case(
        "after a recorded success digits are not read, be they wrong",
        _world(ASKING),
        _call(B_CUSTOMER, entry("9"), progress=Progress(admission=ADMITTED)),
        VERIFIED,
    ),
    Case(
        "after a recorded success digits are not read, be they another's PIN",
        _world(ASKING, ELSEWHERE),
        _call(OUTSIDER, entry("12"), progress=Progress(admission=ADMITTED)),
        VERIFIED,
    ),
    Case(
        "a recorded success for a released allocation does not fall back to the caller's own route",
        _world(_allocation(_party(A_AGENT), _party(B_CUSTOMER), id_=SECOND)),
        _call(A_AGENT, progress=Progress(admission=ADMITTED)),
        Refuse(Reason.NO_ALLOCATION),
    ),
    # 2 before 3 to 5.
    Case("a route that needs no PIN connects", _world(MIXED), _call(A_AGENT), LISTED),
    Case(
        "a route that needs no PIN comes before used up attempts and empty entries",
        _world(MIXED),
        _call(A_AGENT, EmptyEntry(), progress=HURDLES),
        LISTED,
    ),
    Case(
        "a route that needs no PIN comes before full windows",
        _world(MIXED),
        _call(A_AGENT, exceeded=BOTH_EXCEEDED),
        LISTED,
    ),
    Case(
        "a route that needs no PIN makes no outcome of wrong digits",
        _world(MIXED),
        _call(A_AGENT, entry("9")),
        LISTED,
    ),
    Case(
        "a route that needs no PIN does not look at another's right PIN",
        _world(MIXED, ELSEWHERE),
        _call(A_AGENT, entry("12")),
        LISTED,
    ),
    # 3 before 4 and 5.
    Case(
        "used up attempts come before the right PIN of the caller's own",
        _world(ASKING),
        _call(B_CUSTOMER, entry(B_PIN), progress=USED_UP),
        Refuse(Reason.WRONG_PIN),
    ),
    Case(
        "used up attempts come before a stranger's right PIN",
        _world(ASKING),
        _call(OUTSIDER, entry(B_PIN), progress=USED_UP),
        Refuse(Reason.WRONG_PIN),
    ),
    Case(
        "used up attempts come before a forbidden route",
        _world(ONEWAY),
        _call(B_CUSTOMER, progress=USED_UP),
        Refuse(Reason.WRONG_PIN),
    ),
    Case(
        "used up attempts come before a VN without PINs",
        _world(OPEN),
        _call(OUTSIDER, progress=USED_UP),
        Refuse(Reason.WRONG_PIN),
    ),
    Case(
        "used up attempts come before empty entries and full windows",
        _world(ASKING),
        _call(OUTSIDER, EmptyEntry(), progress=HURDLES, exceeded=BOTH_EXCEEDED),
        Refuse(Reason.WRONG_PIN),
    ),
    # 4, without a new entry.
    Case(
        "a forbidden route alone is refused for its direction",
        _world(ONEWAY),
        _call(B_CUSTOMER),
        Refuse(Reason.DIRECTION),
    ),
    Case(
        "a forbidden route comes before empty entries and full windows",
        _world(ONEWAY),
        _call(B_CUSTOMER, EmptyEntry(), progress=TWO_EMPTY, exceeded=BOTH_EXCEEDED),
        Refuse(Reason.DIRECTION),
    ),
    Case(
        "a forbidden route beside a permitted one is no reason to refuse",
        _world(ONEWAY, _allocation(_party(B_CUSTOMER, pin="12"), _party(FRIEND), id_=SECOND)),
        _call(B_CUSTOMER),
        AskPin(2, 3, LastEntry.NONE),
    ),
    Case(
        "a forbidden route that needs no PIN does not hide a permitted one that does",
        _world(
            _allocation(_party(A_AGENT), _party(B_CUSTOMER), usage=Usage.ONEWAY),
            _allocation(_party(B_CUSTOMER, pin="12"), _party(FRIEND), id_=SECOND),
        ),
        _call(B_CUSTOMER),
        AskPin(2, 3, LastEntry.NONE),
    ),
    Case(
        "a stranger on a VN without PINs is told of no allocation",
        _world(OPEN),
        _call(OUTSIDER),
        Refuse(Reason.NO_ALLOCATION),
    ),
    Case(
        "no allocation comes before empty entries and full windows",
        _world(OPEN),
        _call(OUTSIDER, EmptyEntry(), progress=TWO_EMPTY, exceeded=BOTH_EXCEEDED),
        Refuse(Reason.NO_ALLOCATION),
    ),
    Case(
        "a PIN of a side that may not call is no PIN to ask for",
        _world(_allocation(_party(A_AGENT), _party(B_CUSTOMER, pin=B_PIN), usage=Usage.ONEWAY)),
        _call(OUTSIDER),
        Refuse(Reason.NO_ALLOCATION),
    ),
    Case(
        "a PIN on another VN is no PIN to ask for",
        _world(_allocation(_party(A_AGENT), _party(B_CUSTOMER, pin=B_PIN, on=(OTHER_VN,)))),
        _call(OUTSIDER),
        Refuse(Reason.NO_ALLOCATION),
    ),
    Case(
        "a PIN of the side opposite to the caller is no PIN to ask for",
        _world(_allocation(_party(A_AGENT, on=(OTHER_VN,)), _party(B_CUSTOMER, pin=B_PIN))),
        _call(A_AGENT),
        Refuse(Reason.NO_ALLOCATION),
    ),
    Case(
        "a PIN of the side opposite to a member is no PIN to ask for",
        _world(
            _with_members(
                _allocation(_party(pin=A_PIN, on=(OTHER_VN,)), _party(B_CUSTOMER, pin=B_PIN)),
                Member(FRIEND, Side.A, 1, (OTHER_VN,)),
            )
        ),
        _call(FRIEND),
        Refuse(Reason.NO_ALLOCATION),
    ),
    Case(
        "a stranger is asked where there is a PIN",
        _world(MIXED),
        _call(OUTSIDER),
        AskPin(1, 3, LastEntry.NONE),
    ),
    Case("a withheld caller is asked for a PIN", _world(MIXED), _call(None), AskPin(1, 3, LastEntry.NONE)),
    Case(
        "a listed caller who needs a PIN is asked",
        _world(ASKING),
        _call(A_AGENT),
        AskPin(1, 3, LastEntry.NONE),
    ),
    Case(
        "a full window of the caller's own comes before empty entries",
        _world(MIXED),
        _call(OUTSIDER, progress=TWO_EMPTY, exceeded=CALLER_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "a full shared window comes before empty entries",
        _world(MIXED),
        _call(OUTSIDER, progress=TWO_EMPTY, exceeded=SHARED_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "a prompt says what the last entry was",
        _world(MIXED),
        _call(OUTSIDER, progress=Progress(failures=1, last_entry=LastEntry.WRONG)),
        AskPin(1, 2, LastEntry.WRONG),
    ),
    Case(
        "an empty entry is what a prompt says, whatever came before it",
        _world(MIXED),
        _call(OUTSIDER, EmptyEntry(), progress=Progress(failures=1, last_entry=LastEntry.WRONG)),
        AskPin(1, 2, LastEntry.EMPTY),
    ),
    # 5, with a new entry.
    Case(
        "the PIN of the caller's own side connects", _world(ASKING), _call(B_CUSTOMER, entry(B_PIN)), BY_PIN
    ),
    Case(
        "a stranger with the PIN connects and joins",
        _world(ASKING),
        _call(OUTSIDER, entry(B_PIN)),
        BY_STRANGERS_PIN,
    ),
    Case(
        "a withheld caller with the PIN connects",
        _world(ASKING),
        _call(None, entry(B_PIN)),
        BY_STRANGERS_PIN,
    ),
    Case(
        "a full window of the caller's own comes before the right PIN of the caller's own",
        _world(ASKING),
        _call(B_CUSTOMER, entry(B_PIN), exceeded=CALLER_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "a full shared window lets a caller with a route enter that route's PIN",
        _world(ASKING),
        _call(B_CUSTOMER, entry(B_PIN), exceeded=SHARED_EXCEEDED),
        BY_PIN,
    ),
    Case(
        "a full shared window still asks a caller with a route",
        _world(ASKING),
        _call(B_CUSTOMER, exceeded=SHARED_EXCEEDED),
        AskPin(1, 3, LastEntry.NONE),
    ),
    Case(
        "a full shared window looks nobody else's PIN up for a caller with a route",
        _world(ASKING, ELSEWHERE),
        _call(B_CUSTOMER, entry("12"), exceeded=SHARED_EXCEEDED),
        AskPin(2, 2, LastEntry.WRONG, WrongPin(entry("12").digest)),
    ),
    Case(
        "a full shared window stops strangers with the right PIN",
        _world(ASKING),
        _call(OUTSIDER, entry(B_PIN), exceeded=SHARED_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "a full shared window stops the withheld with the right PIN",
        _world(ASKING),
        _call(None, entry(B_PIN), exceeded=SHARED_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "a throttled wrong PIN makes no outcome",
        _world(ASKING),
        _call(OUTSIDER, entry("9"), exceeded=CALLER_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "throttled comes before two empty entries",
        _world(ASKING),
        _call(OUTSIDER, entry(B_PIN), progress=TWO_EMPTY, exceeded=CALLER_EXCEEDED),
        Refuse(Reason.THROTTLED),
    ),
    Case(
        "two empty entries come before the right PIN",
        _world(ASKING),
        _call(B_CUSTOMER, entry(B_PIN), progress=TWO_EMPTY),
        Refuse(Reason.NO_INPUT),
    ),
    Case(
        "two empty entries come before a forbidden match",
        _world(ONEWAY),
        _call(OUTSIDER, entry(B_PIN), progress=TWO_EMPTY),
        Refuse(Reason.NO_INPUT),
    ),
    Case(
        "a caller with a route may enter another's PIN",
        _world(ASKING, ELSEWHERE),
        _call(A_AGENT, entry("12")),
        _connected(
            Side.A,
            COLLEAGUE,
            Matched.PIN,
            RightPin(entry("12").digest, Admission(SECOND, Side.A), is_stranger=True),
            SECOND,
        ),
    ),
    Case(
        "a match with a side that may not call burns no attempt and makes no outcome",
        _world(ONEWAY),
        _call(OUTSIDER, entry(B_PIN)),
        Refuse(Reason.DIRECTION),
    ),
    Case(
        "a match with a side that may not call burns not even the last attempt",
        _world(ONEWAY),
        _call(OUTSIDER, entry(B_PIN), progress=Progress(failures=2)),
        Refuse(Reason.DIRECTION),
    ),
    Case(
        "a listed caller's own PIN of a side that may not call burns no attempt",
        _world(ONEWAY),
        _call(B_CUSTOMER, entry(B_PIN)),
        Refuse(Reason.DIRECTION),
    ),
    Case(
        "the PIN of the opposite side never matches",
        _world(ASKING),
        _call(A_AGENT, entry(B_PIN)),
        AskPin(1, 2, LastEntry.WRONG, WrongPin(entry(B_PIN).digest)),
    ),
    Case(
        "the PIN of the opposite side is wrong even where that side may not call",
        _world(ONEWAY),
        _call(A_AGENT, entry(B_PIN)),
        AskPin(1, 2, LastEntry.WRONG, WrongPin(entry(B_PIN).digest)),
    ),
    Case(
        "the PIN of the opposite side never matches a member",
        _world(_with_members(ASKING, Member(FRIEND, Side.A, 1, (VN,)))),
        _call(FRIEND, entry(B_PIN)),
        AskPin(1, 2, LastEntry.WRONG, WrongPin(entry(B_PIN).digest)),
    ),
    Case(
        "digits that no PIN could be are a wrong PIN",
        _world(ASKING),
        _call(OUTSIDER, entry("1234567890")),
        AskPin(1, 2, LastEntry.WRONG, WrongPin(entry("1234567890").digest)),
    ),
    Case(
        "leading zeros count",
        _world(ASKING),
        _call(OUTSIDER, entry("02")),
        AskPin(1, 2, LastEntry.WRONG, WrongPin(entry("02").digest)),
    ),
    Case(
        "a wrong PIN on a VN without PINs is asked for again like every other",
        _world(OPEN),
        _call(OUTSIDER, entry("9")),
        AskPin(DIGITS_WITHOUT_PINS, 2, LastEntry.WRONG, WrongPin(entry("9").digest)),
    ),
    Case(
        "the PIN of a dead allocation is wrong",
        _world(ASKING._replace(expires_at_us=NOW_US)),
        _call(OUTSIDER, entry(B_PIN)),
        AskPin(DIGITS_WITHOUT_PINS, 2, LastEntry.WRONG, WrongPin(entry(B_PIN).digest)),
    ),
    Case(
        "a dead allocation does not stand before a live one with the same people and PIN",
        _world(MIXED._replace(expires_at_us=NOW_US), ASKING._replace(id=SECOND)),
        _call(OUTSIDER, entry(B_PIN)),
        _connected(
            Side.B,
            A_AGENT,
            Matched.PIN,
            RightPin(entry(B_PIN).digest, Admission(SECOND, Side.B), is_stranger=True),
            SECOND,
        ),
    ),
    # Nobody to ring.
    Case(
        "a side without anybody yet is no target for a listed caller",
        _world(_allocation(_party(A_AGENT), _party(pin=B_PIN))),
        _call(A_AGENT),
        Refuse(Reason.NO_TARGET, FIRST),
    ),
    Case(
        "a right PIN is recorded though there is nobody to ring yet",
        _world(_allocation(_party(pin=A_PIN), _party(pin=B_PIN))),
        _call(OUTSIDER, entry(B_PIN)),
        Refuse(Reason.NO_TARGET, FIRST, STRANGER_IS_RIGHT),
    ),
]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.sentence) for case in ORDER])
def test_the_rules_come_in_order(case: Case) -> None:
    assert decide(case.call, ListBoard(case.world), NOW_US) == case.expected
    assert naive_decision(case.call, case.world, NOW_US) == case.expected


# ── readmission ──────────────────────────────────────────────────────────────

READMISSIONS = [
    ("to the same side as before", ASKING, OUTSIDER, VERIFIED),
    ("of a withheld caller", ASKING, None, VERIFIED),
    (
        "though the PIN has changed since",
        ASKING._replace(b=_party(B_CUSTOMER, pin="12")),
        OUTSIDER,
        VERIFIED,
    ),
    ("though the PIN is gone since", MIXED._replace(b=_party(B_CUSTOMER)), OUTSIDER, VERIFIED),
    (
        "to the new people of the other side",
        ASKING._replace(a=_party(FRIEND, pin=A_PIN)),
        OUTSIDER,
        _connected(Side.B, FRIEND, Matched.VERIFIED_BEFORE),
    ),
    (
        "to nobody, when the other side has become empty",
        ASKING._replace(a=_party(pin=A_PIN)),
        OUTSIDER,
        Refuse(Reason.NO_TARGET, FIRST),
    ),
    ("not after release", ASKING._replace(id=GONE), OUTSIDER, Refuse(Reason.NO_ALLOCATION)),
    (
        "not from the instant of expiry",
        ASKING._replace(expires_at_us=NOW_US),
        OUTSIDER,
        Refuse(Reason.NO_ALLOCATION),
    ),
    ("until the instant of expiry", ASKING._replace(expires_at_us=NOW_US + 1), OUTSIDER, VERIFIED),
    (
        "not when the side has lost the VN",
        ASKING._replace(b=_party(B_CUSTOMER, pin=B_PIN, on=(OTHER_VN,))),
        OUTSIDER,
        Refuse(Reason.NO_ALLOCATION),
    ),
    (
        "not when the direction has changed",
        ASKING._replace(usage=Usage.ONEWAY),
        OUTSIDER,
        Refuse(Reason.DIRECTION, FIRST),
    ),
    (
        "not when the caller has been listed on the other side",
        ASKING._replace(a=_party(A_AGENT, OUTSIDER, pin=A_PIN)),
        OUTSIDER,
        Refuse(Reason.NO_ALLOCATION),
    ),
]


@pytest.mark.parametrize(
    ("allocation", "caller", "expected"),
    [pytest.param(*rest, id=sentence) for sentence, *rest in READMISSIONS],
)
def test_a_recorded_success_readmits(allocation: Allocation, caller: E164 | None, expected: Decision) -> None:
    answer = _decide(_world(allocation), caller, progress=Progress(admission=ADMITTED))
    assert answer == expected


def test_a_recorded_success_does_not_readmit_a_member_of_the_other_side() -> None:
    world = _world(_with_members(ASKING, Member(FRIEND, Side.A, 1, (VN,))))
    answer = _decide(world, FRIEND, progress=Progress(admission=ADMITTED))
    assert answer == Refuse(Reason.NO_ALLOCATION)


# ── the lock of an allocation that is alone on its VN ────────────────────────

ALONE = _allocation(_party(A_AGENT), _party(B_CUSTOMER, pin=B_PIN))._replace(is_exclusive=True)
LOCKED = ALONE._replace(is_locked=True)
IS_LOCKED = Refuse(Reason.LOCKED, FIRST)


@pytest.mark.parametrize("caller", [B_CUSTOMER, OUTSIDER, None])
@pytest.mark.parametrize("new", [NoEntry(), EmptyEntry(), entry(B_PIN), entry("9"), entry("1234567890")])
def test_nobody_speaks_for_b_while_it_is_locked(caller: E164 | None, new: Entry) -> None:
    assert _decide(_world(LOCKED), caller, new) == IS_LOCKED


def test_who_is_listed_in_from_connects_though_it_is_locked() -> None:
    assert _decide(_world(LOCKED), A_AGENT, entry("9")) == _connected(Side.A, B_CUSTOMER, Matched.LISTED)


def test_a_call_that_was_verified_goes_on_though_it_is_locked() -> None:
    answer = _decide(_world(LOCKED), B_CUSTOMER, progress=Progress(admission=Admission(FIRST, Side.B)))
    assert answer == _connected(Side.B, A_AGENT, Matched.VERIFIED_BEFORE)


@pytest.mark.parametrize(("caller", "counts_against"), [(B_CUSTOMER, FIRST), (None, FIRST), (OUTSIDER, None)])
def test_guesses_of_strangers_do_not_lock_out_those_whom_the_pin_is_for(
    caller: E164 | None, counts_against: AllocationId | None
) -> None:
    answer = _decide(_world(ALONE), caller, entry("9"))
    assert answer == AskPin(1, 2, LastEntry.WRONG, WrongPin(entry("9").digest, counts_against))


def test_nothing_is_counted_where_others_stand_on_the_vn() -> None:
    answer = _decide(_world(ASKING), B_CUSTOMER, entry("9"))
    assert answer == AskPin(1, 2, LastEntry.WRONG, WrongPin(entry("9").digest))


def test_a_right_pin_begins_the_count_anew() -> None:
    answer = _decide(_world(ALONE), B_CUSTOMER, entry(B_PIN))
    assert answer.outcome == B_IS_RIGHT._replace(resets_lock=True)


def test_the_policy_of_an_allocation_goes_with_its_calls() -> None:
    policy = CallPolicy(record=True, custom_field="order 7")
    answer = _decide(_world(OPEN._replace(policy=policy)), A_AGENT)
    assert isinstance(answer, Connect)
    assert answer.policy == policy


# ── limits: at, below, above ─────────────────────────────────────────────────


@pytest.mark.parametrize("attempts_max", [1, 2, 3, 5])
@pytest.mark.parametrize("below", [1, 0, -1])
def test_attempts_are_used_up_at_the_limit_and_not_before(attempts_max: int, below: int) -> None:
    failures = attempts_max - below
    answer = _decide(
        _world(ASKING),
        OUTSIDER,
        progress=Progress(failures=failures),
        rules=CallRules(pin_attempts_max=attempts_max),
    )
    assert answer == (AskPin(1, 1, LastEntry.NONE) if below == 1 else Refuse(Reason.WRONG_PIN))


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        (0, AskPin(1, 2, LastEntry.WRONG, WrongPin(entry("9").digest))),
        (1, AskPin(1, 1, LastEntry.WRONG, WrongPin(entry("9").digest))),
        (2, Refuse(Reason.WRONG_PIN, outcome=WrongPin(entry("9").digest))),
        (3, Refuse(Reason.WRONG_PIN)),
        (4, Refuse(Reason.WRONG_PIN)),
    ],
)
def test_the_third_wrong_pin_is_the_last_and_the_last_that_is_recorded(
    failures: int, expected: Decision
) -> None:
    assert _decide(_world(ASKING), OUTSIDER, entry("9"), progress=Progress(failures=failures)) == expected


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_the_right_pin_connects_on_every_attempt_that_is_left(failures: int) -> None:
    answer = _decide(_world(ASKING), B_CUSTOMER, entry(B_PIN), progress=Progress(failures=failures))
    assert answer == BY_PIN


@pytest.mark.parametrize(
    ("empty_entries", "new", "expected"),
    [
        (0, NoEntry(), AskPin(1, 3, LastEntry.NONE)),
        (0, EmptyEntry(), AskPin(1, 3, LastEntry.EMPTY)),
        (1, NoEntry(), AskPin(1, 3, LastEntry.NONE)),
        (1, EmptyEntry(), Refuse(Reason.NO_INPUT)),
        (1, entry(B_PIN), BY_STRANGERS_PIN),
        (2, NoEntry(), Refuse(Reason.NO_INPUT)),
        (2, EmptyEntry(), Refuse(Reason.NO_INPUT)),
        (2, entry(B_PIN), Refuse(Reason.NO_INPUT)),
        (3, NoEntry(), Refuse(Reason.NO_INPUT)),
        (3, entry(B_PIN), Refuse(Reason.NO_INPUT)),
    ],
)
def test_the_second_empty_entry_is_the_last(empty_entries: int, new: Entry, expected: Decision) -> None:
    assert EMPTY_ENTRIES_MAX == 2
    progress = Progress(empty_entries=empty_entries)
    assert _decide(_world(ASKING), OUTSIDER, new, progress=progress) == expected


@pytest.mark.parametrize("expires_at_us", EXPIRIES_US)
def test_an_allocation_lives_until_the_instant_it_expires_and_not_at_it(expires_at_us: int) -> None:
    answer = _decide(_world(MIXED._replace(expires_at_us=expires_at_us)), A_AGENT)
    assert answer == (LISTED if expires_at_us > NOW_US else Refuse(Reason.NO_ALLOCATION))


# ── targets and caller id ────────────────────────────────────────────────────


def test_the_listed_are_rung_in_the_order_given_and_then_members_latest_first() -> None:
    row = _with_members(
        _allocation(_party(A_AGENT), _party(E164(3000), E164(1000), E164(2000), pin=B_PIN)),
        Member(FRIEND, Side.B, 1, (VN,)),
        Member(COLLEAGUE, Side.B, 2, (VN,)),
    )
    answer = _decide(_world(row), A_AGENT)
    assert isinstance(answer, Connect)
    assert answer.targets == (E164(3000), E164(1000), E164(2000), COLLEAGUE, FRIEND)


def test_members_of_one_instant_have_an_order_too() -> None:
    assert latest_first([(1, FRIEND), (2, A_AGENT), (1, COLLEAGUE)]) == (A_AGENT, COLLEAGUE, FRIEND)


def test_members_of_the_callers_own_side_are_not_rung() -> None:
    row = _with_members(ASKING, Member(FRIEND, Side.A, 1, (VN,)), Member(COLLEAGUE, Side.B, 1, (VN,)))
    answer = _decide(_world(row), FRIEND, entry(A_PIN))
    assert isinstance(answer, Connect)
    assert answer.targets == (B_CUSTOMER, COLLEAGUE)


def test_a_member_of_a_greenvn_connects_without_a_pin() -> None:
    allocation = _allocation(
        _party(A_AGENT), _party(B_CUSTOMER, pin=B_PIN, asks=False), product=Product.GREENVN
    )
    answer = _decide(_world(_with_members(allocation, Member(FRIEND, Side.B, 1, (VN,)))), FRIEND)
    assert answer == Connect(FIRST, Product.GREENVN, Side.B, (A_AGENT,), VN, Matched.MEMBER)


def test_a_member_of_a_greenpin_is_asked_like_the_listed() -> None:
    world = _world(_with_members(ASKING, Member(FRIEND, Side.B, 1, (VN,))))
    assert _decide(world, FRIEND) == AskPin(1, 3, LastEntry.NONE)
    # It has joined before: nobody is told of it again.
    assert _decide(world, FRIEND, entry(B_PIN)) == BY_PIN


def test_a_member_who_has_no_route_on_the_vn_dialled_is_no_stranger_by_the_pin() -> None:
    both = _allocation(_party(A_AGENT), _party(pin=B_PIN, on=(VN, OTHER_VN)))
    world = _world(_with_members(both, Member(FRIEND, Side.B, 1, (OTHER_VN,))))
    assert _decide(world, FRIEND, entry(B_PIN)) == BY_PIN


@pytest.mark.parametrize(
    ("theirs", "shown"),
    [((VN,), VN), ((OTHER_VN, VN), VN), ((OTHER_VN,), OTHER_VN), ((FAR_VN, OTHER_VN), FAR_VN)],
)
def test_the_called_see_the_vn_dialled_if_it_is_theirs_or_else_their_first(
    theirs: tuple[E164, ...], shown: E164
) -> None:
    answer = _decide(_world(_allocation(_party(A_AGENT), _party(B_CUSTOMER, on=theirs))), A_AGENT)
    assert isinstance(answer, Connect)
    assert answer.caller_id == shown


def test_an_agent_with_twenty_allocations_on_one_vn_is_told_apart_by_the_pin() -> None:
    rows = [
        _allocation(_party(A_AGENT, pin=f"{n:02d}"), _party(E164(919800001000 + n)), id_=allocation_id(n))
        for n in range(20)
    ]
    for n in range(20):
        answer = _decide(_world(*rows), A_AGENT, entry(f"{n:02d}"))
        assert isinstance(answer, Connect)
        assert answer.targets == (E164(919800001000 + n),)
        assert answer.outcome is not None
        assert not answer.outcome.is_stranger


# ── digits to expect ─────────────────────────────────────────────────────────

LONG = _allocation(_party(FRIEND, pin=LONG_PIN), _party(COLLEAGUE), id_=SECOND)


@pytest.mark.parametrize(
    ("other", "digits_max"),
    [
        pytest.param(LONG, 4, id="of another allocation"),
        pytest.param(LONG._replace(expires_at_us=NOW_US), 1, id="not of a dead one"),
        pytest.param(
            _allocation(_party(FRIEND), _party(COLLEAGUE, pin=LONG_PIN), id_=SECOND, usage=Usage.ONEWAY),
            1,
            id="not of a side that may not call",
        ),
        pytest.param(
            LONG._replace(a=_party(FRIEND, pin=LONG_PIN, on=(OTHER_VN,))), 1, id="not of another VN"
        ),
    ],
)
@pytest.mark.parametrize("new", [NoEntry(), EmptyEntry(), entry("9")])
@pytest.mark.parametrize("caller", [B_CUSTOMER, OUTSIDER, None])
def test_the_digits_to_expect_are_the_longest_usable_pin_on_the_vn(
    other: Allocation, digits_max: int, new: Entry, caller: E164 | None
) -> None:
    answer = _decide(_world(ASKING, other), caller, new)
    assert isinstance(answer, AskPin)
    assert answer.digits_max == digits_max


def test_the_digits_to_expect_count_a_pin_that_this_caller_could_not_enter() -> None:
    """`over all allocations`: a shorter number of digits would tell who is on which side."""
    opposite_is_long = _allocation(
        _party(FRIEND, on=(OTHER_VN,)), _party(COLLEAGUE, pin=LONG_PIN), id_=SECOND
    )
    answer = _decide(_world(ASKING, opposite_is_long), FRIEND)
    assert answer == AskPin(4, 3, LastEntry.NONE)


# ── one common PIN ───────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("a_numbers", "b_numbers", "a_on", "b_on", "usage", "side"),
    [
        pytest.param((), (B_CUSTOMER,), VN, VN, Usage.TWOWAY, Side.A, id="A is empty"),
        pytest.param((A_AGENT,), (), VN, VN, Usage.TWOWAY, Side.B, id="B is empty"),
        pytest.param((A_AGENT,), (B_CUSTOMER,), VN, VN, Usage.TWOWAY, Side.A, id="neither is empty"),
        pytest.param((), (), VN, VN, Usage.TWOWAY, Side.A, id="both are empty"),
        pytest.param((A_AGENT,), (B_CUSTOMER,), OTHER_VN, VN, Usage.TWOWAY, Side.B, id="only B has the VN"),
        pytest.param(
            (), (B_CUSTOMER,), OTHER_VN, VN, Usage.TWOWAY, Side.B, id="A is empty, only B has the VN"
        ),
        pytest.param((A_AGENT,), (), VN, OTHER_VN, Usage.TWOWAY, Side.A, id="B is empty, only A has the VN"),
        pytest.param((A_AGENT,), (B_CUSTOMER,), VN, VN, Usage.ONEWAY, Side.A, id="B may not call"),
        pytest.param((A_AGENT,), (), VN, VN, Usage.ONEWAY, Side.A, id="B is empty but may not call"),
    ],
)
@pytest.mark.parametrize("stranger", [OUTSIDER, None])
def test_a_stranger_with_a_common_pin_joins_the_side(
    a_numbers: tuple[E164, ...],
    b_numbers: tuple[E164, ...],
    a_on: E164,
    b_on: E164,
    usage: Usage,
    side: Side,
    stranger: E164 | None,
) -> None:
    a, b = _party(*a_numbers, pin="7", on=(a_on,)), _party(*b_numbers, pin="7", on=(b_on,))
    answer = _decide(_world(_allocation(a, b, usage=usage, common_pin=True)), stranger, entry("7"))
    assert not isinstance(answer, AskPin)
    assert answer.outcome == RightPin(entry("7").digest, Admission(FIRST, side), is_stranger=True)


def test_a_listed_caller_with_a_common_pin_stays_on_their_side() -> None:
    common = _allocation(_party(A_AGENT, pin="7"), _party(B_CUSTOMER, pin="7"), common_pin=True)
    for caller, side in ((A_AGENT, Side.A), (B_CUSTOMER, Side.B)):
        answer = _decide(_world(common), caller, entry("7"))
        assert isinstance(answer, Connect)
        assert (answer.side, answer.matched) == (side, Matched.PIN)
        assert answer.outcome == RightPin(entry("7").digest, Admission(FIRST, side), is_stranger=False)


def test_a_common_pin_on_a_vn_of_the_forbidden_side_alone_is_refused_for_its_direction() -> None:
    a, b = _party(A_AGENT, pin="7", on=(OTHER_VN,)), _party(B_CUSTOMER, pin="7")
    world = _world(_allocation(a, b, usage=Usage.ONEWAY, common_pin=True))
    assert _decide(world, OUTSIDER) == Refuse(Reason.NO_ALLOCATION)
    assert _decide(world, OUTSIDER, entry("7")) == Refuse(Reason.DIRECTION)


def test_a_common_pin_dialled_on_the_vn_of_the_other_side_never_matches() -> None:
    a, b = _party(A_AGENT, pin="7", on=(OTHER_VN,)), _party(B_CUSTOMER, pin="7")
    answer = _decide(_world(_allocation(a, b, common_pin=True)), A_AGENT, entry("7"))
    assert answer == AskPin(1, 2, LastEntry.WRONG, WrongPin(entry("7").digest))


def test_with_the_pins_of_the_sides_off_a_common_pin_is_for_strangers() -> None:
    a, b = _party(A_AGENT, pin="7", asks=False), _party(B_CUSTOMER, pin="7", asks=False)
    world = _world(_allocation(a, b, common_pin=True))
    assert _decide(world, A_AGENT) == LISTED
    assert _decide(world, B_CUSTOMER) == _connected(Side.B, A_AGENT, Matched.LISTED)
    assert _decide(world, OUTSIDER) == AskPin(1, 3, LastEntry.NONE)


# ── where the board is not as it should be ───────────────────────────────────


def test_two_routes_that_need_no_pin_connect_nobody() -> None:
    """The database allows no such thing; guessing between them would connect a stranger."""
    world = _world(OPEN, _allocation(_party(A_AGENT), _party(FRIEND), id_=SECOND))
    assert _decide(world, A_AGENT) == Refuse(Reason.NO_ALLOCATION)


def test_a_oneway_b_who_is_admitted_as_a_calls_as_a() -> None:
    answer = _decide(_world(ONEWAY), OUTSIDER, progress=Progress(admission=Admission(FIRST, Side.A)))
    assert answer == _connected(Side.A, B_CUSTOMER, Matched.VERIFIED_BEFORE)


# ── findings: routing.md says otherwise ──────────────────────────────────────


def test_a_leftover_of_a_dead_allocation_does_not_make_a_vn_known() -> None:
    """`nothing waits for a sweep`: the answer is the same before and after it."""
    dead = OPEN._replace(expires_at_us=NOW_US)
    for new in (NoEntry(), entry("9")):
        call = _call(A_AGENT, new, vn=VN)
        swept = World(frozenset([OTHER_VN]), ())
        unswept = World(frozenset([OTHER_VN]), (Row(dead),))
        assert decide(call, ListBoard(swept), NOW_US) == Refuse(Reason.UNKNOWN_VN)
        assert decide(call, ListBoard(unswept), NOW_US) == Refuse(Reason.UNKNOWN_VN)


def test_a_caller_whose_only_route_is_forbidden_is_no_stranger_when_the_vn_is_throttled() -> None:
    """`strangers get Refuse throttled; a caller with a route may still enter that route's PIN`, and a
    stranger is `a caller with no route on the VN dialled`; a forbidden route is a route."""
    answer = _decide(_world(ONEWAY), B_CUSTOMER, entry(B_PIN), exceeded=SHARED_EXCEEDED)
    assert answer == Refuse(Reason.DIRECTION)


def test_a_side_without_virtual_numbers_raises_nothing() -> None:
    """`total (never raises)`: an allocation that is broken connects nobody."""
    world = _world(_allocation(_party(A_AGENT), _party(B_CUSTOMER, on=())))
    assert isinstance(_decide(world, A_AGENT), Refuse)
