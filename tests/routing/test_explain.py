"""An explanation tells of the decision that `decide` takes, and of everybody it could have been about."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordboard.routing.decide import decide
from cordboard.routing.explain import RULES, Explanation, Relation, Verdict, explain
from cordboard.routing.model import (
    NEVER_US,
    NEW_CALL,
    NOT_EXCEEDED,
    Allocation,
    AskPin,
    Call,
    CallRules,
    Connect,
    Entry,
    NoEntry,
    Party,
    Product,
    Reason,
    Refuse,
    Side,
    Usage,
)
from cordboard.routing.numbers import E164, Pin

from .naive_model import (
    NOW_US,
    NUMBERS,
    OUTSIDER,
    VNS,
    Circumstances,
    ListBoard,
    Row,
    World,
    allocation_id,
    broken_worlds,
    circumstances,
    entry,
    is_live,
    may_call,
    worlds,
)

VN, OTHER_VN, _ = VNS
AGENT, CUSTOMER, FRIEND, _ = NUMBERS
FIRST, SECOND = allocation_id(1), allocation_id(2)


@settings(max_examples=150, deadline=None)
@given(st.one_of(worlds(), broken_worlds()), circumstances())
def test_it_says_what_is_decided_and_who_won(world: World, under: Circumstances) -> None:
    board = ListBoard(world)
    rows = {row.allocation.id: row for row in world.rows}
    for call in under.calls():
        decision, candidates = explain(call, board, NOW_US)
        assert decision == decide(call, board, NOW_US)
        won = [one for one in candidates if one.verdict is Verdict.CONNECTED]
        if isinstance(decision, Connect) and call.progress.admission is None:
            assert [(one.allocation_id, one.side) for one in won] == [(decision.allocation_id, decision.side)]
        elif not isinstance(decision, Connect):
            assert won == []
        if isinstance(decision, AskPin) and decision.last_entry.value == "none":
            assert candidates, "somebody's PIN is what is asked for"
        for one in candidates:
            row = rows[one.allocation_id]
            assert (one.verdict is Verdict.ENDED) <= (not is_live(row, NOW_US))
            assert (one.verdict is Verdict.DIRECTION) <= (not may_call(row, one.side))


@settings(max_examples=60, deadline=None)
@given(worlds(), circumstances())
def test_each_side_is_told_of_once(world: World, under: Circumstances) -> None:
    board = ListBoard(world)
    for call in under.calls():
        _, candidates = explain(call, board, NOW_US)
        sides = [(one.allocation_id, one.side) for one in candidates]
        assert len(sides) == len(set(sides))


def test_every_verdict_names_its_rule() -> None:
    assert set(RULES) == set(Verdict)


def _allocation(a: Party, b: Party) -> Allocation:
    return Allocation(FIRST, Product.GREENPIN, Usage.TWOWAY, NEVER_US, a, b, False, False)


def _explained(
    allocation: Allocation,
    caller: E164 | None,
    new: Entry = NoEntry(),  # noqa: B008 - an empty tuple
    *more: Allocation,
) -> Explanation:
    world = World(frozenset(VNS), tuple(Row(one) for one in (allocation, *more)))
    return explain(Call(VN, caller, new, NEW_CALL, NOT_EXCEEDED, CallRules()), ListBoard(world), NOW_US)


A = Party((AGENT,), (VN,), (), listed_need_pin=False)
B = Party((CUSTOMER,), (VN,), (Pin("22"),), listed_need_pin=True)
MIXED = _allocation(A, B)
NOBODY_THERE = _allocation(A, B._replace(numbers=()))


@pytest.mark.parametrize(
    ("allocation", "caller", "new", "side", "relation", "verdict"),
    [
        (MIXED, AGENT, NoEntry(), Side.A, Relation.LISTED, Verdict.CONNECTED),
        (MIXED, CUSTOMER, NoEntry(), Side.B, Relation.LISTED, Verdict.PIN_NEEDED),
        (MIXED, CUSTOMER, entry("9"), Side.B, Relation.LISTED, Verdict.PIN_DIFFERS),
        (MIXED, CUSTOMER, entry("22"), Side.B, Relation.LISTED, Verdict.CONNECTED),
        (MIXED, OUTSIDER, NoEntry(), Side.B, Relation.OFFERED, Verdict.PIN_NEEDED),
        (MIXED, OUTSIDER, entry("22"), Side.B, Relation.PIN, Verdict.CONNECTED),
        (MIXED._replace(expires_at_us=NOW_US), AGENT, NoEntry(), Side.A, Relation.LISTED, Verdict.ENDED),
        (MIXED._replace(usage=Usage.ONEWAY), CUSTOMER, NoEntry(), Side.B, Relation.LISTED, Verdict.DIRECTION),
        (
            MIXED._replace(b=B._replace(numbers=())),
            AGENT,
            NoEntry(),
            Side.A,
            Relation.LISTED,
            Verdict.NO_TARGET,
        ),
        (
            MIXED._replace(is_exclusive=True, is_locked=True),
            CUSTOMER,
            entry("22"),
            Side.B,
            Relation.LISTED,
            Verdict.LOCKED,
        ),
        (
            MIXED._replace(a=A._replace(listed_need_pin=True, pins=(Pin("11"),))),
            CUSTOMER,
            entry("11"),
            Side.A,
            Relation.PIN,
            Verdict.OPPOSITE_SIDE,
        ),
    ],
)
def test_the_rule_that_settled_it(
    allocation: Allocation, caller: E164, new: Entry, side: Side, relation: Relation, verdict: Verdict
) -> None:
    told = {(one.side, one.relation): one.verdict for one in _explained(allocation, caller, new).candidates}
    assert told[side, relation] is verdict


def test_a_refusal_without_candidates_says_that_nobody_was_meant() -> None:
    explained = _explained(MIXED._replace(b=B._replace(pins=())), FRIEND)
    assert explained == Explanation(Refuse(Reason.NO_ALLOCATION), ())


def test_of_two_agents_routes_the_pin_tells_which_one_won() -> None:
    asks = A._replace(pins=(Pin("11"),), listed_need_pin=True)
    other = _allocation(asks._replace(pins=(Pin("12"),)), B._replace(numbers=(FRIEND,), pins=()))
    other = other._replace(id=SECOND)
    told = _explained(_allocation(asks, B), AGENT, entry("12"), other).candidates
    assert {one.allocation_id: one.verdict for one in told} == {
        FIRST: Verdict.NOT_REACHED,
        SECOND: Verdict.CONNECTED,
    }
