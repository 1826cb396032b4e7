"""Why a call is decided as it is: everybody who could have been meant, and the rule that settled it.

`decide` decides; this only looks at the same rows once more and says what became of each. Pure, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from cordboard.routing.board import Board
from cordboard.routing.decide import belongs, decide
from cordboard.routing.model import (
    AllocationId,
    AllocationOnBoard,
    AskPin,
    Call,
    Connect,
    Decision,
    PinEntry,
    Product,
    Reason,
    Refuse,
    Side,
)
from cordboard.routing.numbers import E164, Pin


class Relation(Enum):
    """How a side came to be considered."""

    LISTED = "listed"
    MEMBER = "member"
    PIN = "pin"  # The PIN entered is this side's.
    OFFERED = "offered"  # There is a PIN of this side, which the caller could enter.


class Verdict(Enum):
    """What became of a side that was considered, and the rule of routing.md that says so."""

    CONNECTED = "connected"
    NO_TARGET = "no_target"
    ENDED = "ended"
    NOT_ON_THIS_VN = "not_on_this_vn"
    DIRECTION = "direction"
    OPPOSITE_SIDE = "opposite_side"
    LOCKED = "locked"
    PIN_NEEDED = "pin_needed"
    PIN_DIFFERS = "pin_differs"
    SEVERAL_ROUTES = "several_routes"
    # Somebody else was connected, or the call refused, before it came to this side.
    NOT_REACHED = "not_reached"


RULES: dict[Verdict, str] = {
    Verdict.CONNECTED: "One permitted route without PIN, or the right PIN: connect.",
    Verdict.NO_TARGET: "The other side has no number yet.",
    Verdict.ENDED: "The allocation is past its end.",
    Verdict.NOT_ON_THIS_VN: "The side no longer has this virtual number.",
    Verdict.DIRECTION: "The usage is oneway, and this is side B.",
    Verdict.OPPOSITE_SIDE: "The caller is of the opposite side of this allocation.",
    Verdict.LOCKED: "Too many wrong PINs locked the allocation for side B; an update unlocks it.",
    Verdict.PIN_NEEDED: "The side's callers must enter its PIN.",
    Verdict.PIN_DIFFERS: "The PIN entered is not this side's.",
    Verdict.SEVERAL_ROUTES: "A route without PIN does not count beside others.",
    Verdict.NOT_REACHED: "The call was decided before it came to this side.",
}


class Candidate(NamedTuple):
    allocation_id: AllocationId
    product: Product
    side: Side
    relation: Relation
    expires_at_us: int
    numbers: tuple[E164, ...]
    pins: tuple[Pin, ...]
    verdict: Verdict


class Explanation(NamedTuple):
    decision: Decision
    candidates: tuple[Candidate, ...]


def explain(call: Call, board: Board, now_us: int) -> Explanation:
    """The decision about `call`, and what became of every side that it could have been about.

    These are the caller's own routes, whoever holds the PIN entered, and the first PIN that the caller
    could enter if it was asked for one: a VN may bear a hundred thousand others, which have no say.
    """
    decision = decide(call, board, now_us)
    virtual_number = call.virtual_number
    if virtual_number is None:
        return Explanation(decision, ())
    candidates = {
        (candidate.allocation_id, candidate.side): candidate
        for found in (
            _offered(call, virtual_number, decision, board, now_us),
            _holders(call, virtual_number, decision, board, now_us),
            _routes(call, virtual_number, decision, board, now_us),
        )
        for candidate in found
    }
    return Explanation(decision, tuple(reversed(candidates.values())))


def _routes(
    call: Call, virtual_number: E164, decision: Decision, board: Board, now_us: int
) -> Iterator[Candidate]:
    if call.caller is None:
        return
    for ref, side, needs_pin, is_member in board.routes(virtual_number, call.caller):
        allocation = board.allocation(ref)
        if allocation is None:
            continue
        relation = Relation.MEMBER if is_member else Relation.LISTED
        if virtual_number not in allocation.virtual_numbers(side):
            verdict = Verdict.NOT_ON_THIS_VN
        else:
            verdict = _verdict(call, allocation, side, decision, now_us, needs_pin=needs_pin)
        yield _candidate(allocation, side, relation, verdict)


def _holders(
    call: Call, virtual_number: E164, decision: Decision, board: Board, now_us: int
) -> Iterator[Candidate]:
    if not isinstance(call.entry, PinEntry) or call.entry.pin is None:
        return
    for holder in board.pin_holders(virtual_number, call.entry.pin):
        allocation = board.allocation(holder.ref)
        if allocation is None:
            continue
        for side in Side if holder.side is None else (holder.side,):
            if virtual_number not in allocation.virtual_numbers(side):
                continue
            if not belongs(side, virtual_number, call.caller, allocation, board):
                verdict = Verdict.OPPOSITE_SIDE
            else:
                verdict = _verdict(call, allocation, side, decision, now_us, needs_pin=True)
            yield _candidate(allocation, side, Relation.PIN, verdict)


def _offered(
    call: Call, virtual_number: E164, decision: Decision, board: Board, now_us: int
) -> Iterator[Candidate]:
    if not isinstance(decision, AskPin):
        return
    for usable in board.usable_pins(virtual_number, now_us):
        allocation = board.allocation(usable.ref)
        if allocation is None:
            continue
        for side in Side if usable.side is None else (usable.side,):
            if allocation.permits(side) and belongs(side, virtual_number, call.caller, allocation, board):
                verdict = _verdict(call, allocation, side, decision, now_us, needs_pin=True)
                yield _candidate(allocation, side, Relation.OFFERED, verdict)
                return


def _candidate(allocation: AllocationOnBoard, side: Side, relation: Relation, verdict: Verdict) -> Candidate:
    party = allocation.party(side)
    return Candidate(
        allocation.id,
        allocation.product,
        side,
        relation,
        allocation.expires_at_us,
        party.numbers,
        party.pins,
        verdict,
    )


def _verdict(
    call: Call,
    allocation: AllocationOnBoard,
    side: Side,
    decision: Decision,
    now_us: int,
    *,
    needs_pin: bool,
) -> Verdict:
    if not allocation.is_live(now_us):
        return Verdict.ENDED
    if not allocation.permits(side):
        return Verdict.DIRECTION
    if isinstance(decision, Connect):
        is_it = decision.allocation_id == allocation.id and decision.side is side
        return Verdict.CONNECTED if is_it else Verdict.NOT_REACHED
    if isinstance(decision, Refuse) and decision.allocation_id == allocation.id:
        if decision.reason is Reason.NO_TARGET:
            return Verdict.NO_TARGET
        if decision.reason is Reason.LOCKED:
            return Verdict.LOCKED
    if not needs_pin:
        return Verdict.SEVERAL_ROUTES
    if not isinstance(call.entry, PinEntry):
        return Verdict.PIN_NEEDED
    if call.entry.pin in allocation.party(side).pins:
        return Verdict.NOT_REACHED
    return Verdict.PIN_DIFFERS
