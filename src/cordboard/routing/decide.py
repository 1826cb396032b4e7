"""The decision: who may be connected to whom. Pure and total; routing.md is its specification."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final, NamedTuple, assert_never

from cordboard.routing.board import Board
from cordboard.routing.model import (
    SIDE_A,
    SIDE_B,
    Admission,
    AllocationOnBoard,
    AskPin,
    Call,
    Connect,
    Decision,
    EmptyEntry,
    LastEntry,
    Matched,
    NoEntry,
    PinEntry,
    Reason,
    Refuse,
    RightPin,
    Side,
    UsablePin,
    WrongPin,
)
from cordboard.routing.numbers import E164

EMPTY_ENTRIES_MAX: Final = 2

# A wrong entry on a VN without any PIN is prompted for again like every other, so that nobody
# learns that there is nothing to guess; the prompt then asks for the default PIN length.
DIGITS_WITHOUT_PINS: Final = 4

# A NamedTuple's own constructor is a call of a Python function; every call that is answered makes one.
_new_connect: Final = tuple.__new__

# Named once: in Python 3.11 `Matched.LISTED` costs as much as a lookup on the board.
_LISTED: Final = Matched.LISTED
_MEMBER: Final = Matched.MEMBER
_BY_PIN: Final = Matched.PIN

_UNKNOWN_VN: Final = Refuse(Reason.UNKNOWN_VN)


class _OwnRoute(NamedTuple):
    """A live route of the caller's, where it is not the end of the matter."""

    allocation: AllocationOnBoard
    side: Side
    needs_pin: bool
    is_member: bool


def decide(call: Call, board: Board, now_us: int) -> Decision:
    """The one answer to `call`, by the rules of routing.md in their order.

    `board` is the tenant's; `now_us` is the instant by which allocations are live. Never raises.
    """
    virtual_number = call.virtual_number
    if virtual_number is None:
        return _UNKNOWN_VN
    caller = call.caller
    if caller is None:
        if not board.has_virtual_number(virtual_number):
            return _UNKNOWN_VN
        if call.rules.refuse_withheld:
            return Refuse(Reason.WITHHELD)

    if call.progress.admission is not None:
        return _readmit(call.progress.admission, virtual_number, caller, board, now_us)

    permitted: list[_OwnRoute] = []
    forbidden: list[_OwnRoute] = []
    if caller is not None:
        routes = board.routes(virtual_number, caller)
        for ref, side, needs_pin, is_member in routes:
            allocation = board.allocation(ref)
            if allocation is None or now_us >= allocation.expires_at_us:
                continue
            if is_member and virtual_number not in allocation.virtual_numbers(side):
                # The routes of members follow an update of their allocation in changes of their own.
                continue
            if side is not SIDE_A and not allocation.permits(side):
                forbidden.append(_OwnRoute(allocation, side, needs_pin, is_member))
            elif not needs_pin and len(routes) == 1:
                # What nearly every call comes to; the lines behind the loop say the same of leftovers.
                matched = _MEMBER if is_member else _LISTED
                return _connect(allocation, side, virtual_number, caller, board, matched, None)
            else:
                permitted.append(_OwnRoute(allocation, side, needs_pin, is_member))
        if len(permitted) == 1 and not permitted[0].needs_pin:
            [(allocation, side, _, is_member)] = permitted
            matched = _MEMBER if is_member else _LISTED
            return _connect(allocation, side, virtual_number, caller, board, matched, None)
        # Nearly every call ends above, and a route proves that the VN is the tenant's.
        if not permitted and not forbidden and not board.has_virtual_number(virtual_number):
            return _UNKNOWN_VN

    if call.progress.failures >= call.rules.pin_attempts_max:
        return Refuse(Reason.WRONG_PIN)

    entry = call.entry
    match entry:
        case NoEntry() | EmptyEntry():
            usable_pins = iter(board.usable_pins(virtual_number, now_us))
            longest = next(usable_pins, None)
            holder = None if longest is None else board.allocation(longest.ref)
            alone = _alone_on_its_vn(holder)
            if alone is not None and alone.is_locked:
                return Refuse(Reason.LOCKED, alone.id)
            if call.progress.last_entry is not LastEntry.NONE:
                # Asked before in this call: the answer is repeated, whatever has become of the PINs.
                return _ask_again(call, longest, has_route=bool(permitted or forbidden))
            if forbidden and not permitted:
                return Refuse(Reason.DIRECTION)
            return _ask(call, virtual_number, longest, holder, usable_pins, board, has_route=bool(permitted))
        case PinEntry():
            return _try_pin(call, entry, virtual_number, permitted, forbidden, board, now_us)
        case unmatched:
            assert_never(unmatched)


def _readmit(
    admission: Admission, virtual_number: E164, caller: E164 | None, board: Board, now_us: int
) -> Decision:
    """Rule 1: a success recorded earlier in this call stands, as far as its allocation still does."""
    allocation = board.allocation_by_id(admission.allocation_id)
    side = admission.side
    if (
        allocation is None
        or not allocation.is_live(now_us)
        or virtual_number not in allocation.virtual_numbers(side)
        or _is_on(side.other, caller, allocation, board)
    ):
        return Refuse(Reason.NO_ALLOCATION)
    if not allocation.permits(side):
        return Refuse(Reason.DIRECTION, allocation.id)
    return _connect(allocation, side, virtual_number, caller, board, Matched.VERIFIED_BEFORE, None)


def _alone_on_its_vn(allocation: AllocationOnBoard | None) -> AllocationOnBoard | None:
    """The allocation of a PIN, if its VN bears no other: the only kind that locks itself."""
    return allocation if allocation is not None and allocation.is_exclusive else None


def _ask(
    call: Call,
    virtual_number: E164,
    longest: UsablePin | None,
    holder: AllocationOnBoard | None,
    others: Iterator[UsablePin],
    board: Board,
    *,
    has_route: bool,
) -> AskPin | Refuse:
    """Rule 4: ask, if there is a PIN that this caller could enter: the longest, which is `holder`'s, or
    one of the `others`."""
    if longest is None:
        return Refuse(Reason.NO_ALLOCATION)
    rest = ((usable, board.allocation(usable.ref)) for usable in others)
    for usable, allocation in chain([(longest, holder)], rest):
        sides = (Side.A, Side.B) if usable.side is None else (usable.side,)
        for side in sides:
            if allocation is not None and _may_join(side, virtual_number, call.caller, allocation, board):
                return _ask_again(call, longest, has_route=has_route)
    return Refuse(Reason.NO_ALLOCATION)


def _ask_again(call: Call, longest: UsablePin | None, *, has_route: bool) -> AskPin | Refuse:
    if _is_throttled(call, has_route=has_route):
        return Refuse(Reason.THROTTLED)
    was_empty = isinstance(call.entry, EmptyEntry)
    if call.progress.empty_entries + was_empty >= EMPTY_ENTRIES_MAX:
        return Refuse(Reason.NO_INPUT)
    return AskPin(
        digits_max=_digits_max(longest),
        attempts_left=call.rules.pin_attempts_max - call.progress.failures,
        last_entry=LastEntry.EMPTY if was_empty else call.progress.last_entry,
    )


def _digits_max(longest: UsablePin | None) -> int:
    return DIGITS_WITHOUT_PINS if longest is None else longest.length


def _try_pin(
    call: Call,
    entry: PinEntry,
    virtual_number: E164,
    permitted: list[_OwnRoute],
    forbidden: list[_OwnRoute],
    board: Board,
    now_us: int,
) -> Decision:
    """Rule 5: the caller's own routes first, then everybody's PINs on the VN."""
    if _is_throttled(call, has_route=bool(permitted or forbidden)):
        return Refuse(Reason.THROTTLED)
    if call.progress.empty_entries >= EMPTY_ENTRIES_MAX:
        return Refuse(Reason.NO_INPUT)
    if entry.pin is None:
        return _wrong(call, entry, virtual_number, board, now_us)

    for allocation, side, _, _ in permitted:
        if entry.pin in allocation.party(side).pins:
            if allocation.is_locked:
                return Refuse(Reason.LOCKED, allocation.id)
            admission = Admission(allocation.id, side)
            right = RightPin(entry.digest, admission, False, allocation.is_exclusive)
            return _connect(allocation, side, virtual_number, call.caller, board, _BY_PIN, right)

    if call.exceeded.shared:
        # Somebody is guessing on this VN or tenant: only a caller's own PIN is looked at.
        if any(entry.pin in allocation.party(side).pins for allocation, side, _, _ in forbidden):
            return Refuse(Reason.DIRECTION)
        return _wrong(call, entry, virtual_number, board, now_us)

    is_forbidden_match = False
    for holder in board.pin_holders(virtual_number, entry.pin):
        held = board.allocation(holder.ref)
        if held is None or not held.is_live(now_us):
            continue
        sides = _sides_to_join(held) if holder.side is None else (holder.side,)
        for side in sides:
            if _may_join(side, virtual_number, call.caller, held, board):
                if held.is_locked:
                    return Refuse(Reason.LOCKED, held.id)
                is_stranger = not _is_on(side, call.caller, held, board)
                right = RightPin(entry.digest, Admission(held.id, side), is_stranger, held.is_exclusive)
                return _connect(held, side, virtual_number, call.caller, board, _BY_PIN, right)
            is_forbidden_match |= belongs(side, virtual_number, call.caller, held, board)
    if is_forbidden_match:
        return Refuse(Reason.DIRECTION)
    return _wrong(call, entry, virtual_number, board, now_us)


def _sides_to_join(allocation: AllocationOnBoard) -> tuple[Side, Side]:
    """With a common PIN a stranger joins the side without listed numbers, else A, else B."""
    if allocation.numbers(SIDE_A) and not allocation.numbers(SIDE_B):
        return (Side.B, Side.A)
    return (Side.A, Side.B)


def _may_join(
    side: Side, virtual_number: E164, caller: E164 | None, allocation: AllocationOnBoard, board: Board
) -> bool:
    return allocation.permits(side) and belongs(side, virtual_number, caller, allocation, board)


def belongs(
    side: Side, virtual_number: E164, caller: E164 | None, allocation: AllocationOnBoard, board: Board
) -> bool:
    """Whether somebody who dials this VN can be of that side: never one of the opposite side."""
    return virtual_number in allocation.virtual_numbers(side) and not _is_on(
        side.other, caller, allocation, board
    )


def _is_on(side: Side, caller: E164 | None, allocation: AllocationOnBoard, board: Board) -> bool:
    """Whether the caller is listed on, or a member of, that side."""
    if caller is None:
        return False
    if caller in allocation.numbers(side):
        return True
    return allocation.has_members and board.member_side(allocation, caller) is side


def _is_throttled(call: Call, *, has_route: bool) -> bool:
    """A full window of the caller's own stops everybody; of the VN's or tenant's, only strangers."""
    return call.exceeded.caller or (call.exceeded.shared and not has_route)


def _wrong(call: Call, entry: PinEntry, virtual_number: E164, board: Board, now_us: int) -> AskPin | Refuse:
    # The longest PIN that may be used on the VN now, over all allocations.
    longest = next(iter(board.usable_pins(virtual_number, now_us)), None)
    alone = _alone_on_its_vn(None if longest is None else board.allocation(longest.ref))
    if alone is not None and alone.is_locked:
        return Refuse(Reason.LOCKED, alone.id)
    # A stranger's guesses are limited by windows; they shall not lock out those whom the PIN is for.
    is_counted = alone is not None and (call.caller is None or call.caller in alone.numbers(SIDE_B))
    outcome = WrongPin(entry.digest, alone.id if alone is not None and is_counted else None)
    attempts_left = call.rules.pin_attempts_max - call.progress.failures - 1
    if attempts_left <= 0:
        return Refuse(Reason.WRONG_PIN, outcome=outcome)
    return AskPin(_digits_max(longest), attempts_left, LastEntry.WRONG, outcome)


def _connect(
    allocation: AllocationOnBoard,
    side: Side,
    virtual_number: E164,
    caller: E164 | None,
    board: Board,
    matched: Matched,
    outcome: RightPin | None,
) -> Connect | Refuse:
    """Whom the caller reaches, and the VN that they are shown (routing.md, Targets and Caller id)."""
    other = SIDE_B if side is SIDE_A else SIDE_A
    targets = allocation.numbers(other)
    if allocation.has_members:
        targets += board.members(allocation, other)
    if caller in targets:
        targets = tuple(number for number in targets if number != caller)
    shown = allocation.virtual_numbers(other)
    if not targets or not shown:
        return Refuse(Reason.NO_TARGET, allocation.id, outcome)
    # A call back must work, so the called side sees a VN of its own.
    caller_id = virtual_number if virtual_number in shown else E164(shown[0])
    return _new_connect(
        Connect,
        (allocation.id, allocation.product, side, targets, caller_id, matched, outcome, allocation.policy),
    )
