"""A slow and plain second opinion on every decision, and the dice for the worlds it is asked about.

`naive_decision` is routing.md read aloud over a flat list of allocations: no index, no short cut, and
nothing shared with decide.py but the words of model.py. The worlds use very few numbers and PINs, so
that people collide in nearly every one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import NamedTuple

from hypothesis import strategies as st

from cordboard.routing.model import (
    NEVER_US,
    PLAIN_CALLS,
    Admission,
    Allocation,
    AllocationId,
    AllocationOnBoard,
    AllocationRef,
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
    PinHolder,
    Product,
    Progress,
    Reason,
    Refuse,
    RightPin,
    Route,
    Side,
    UsablePin,
    Usage,
    WrongPin,
    latest_first,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of

VNS = tuple(E164(918000000010 + n) for n in range(3))
NUMBERS = tuple(E164(919800000020 + n) for n in range(4))
OUTSIDER = E164(919800000099)  # on nobody's list, in no world
PINS = (Pin("1"), Pin("2"), Pin("01"), Pin("12"))
NOW_US = 1_000
# Dead since long, dead since this very instant, alive for one more microsecond, alive for ever.
EXPIRIES_US = (NOW_US - 1, NOW_US, NOW_US + 1, NEVER_US)


class Member(NamedTuple):
    number: E164
    side: Side
    joined_at_us: int
    # Where it has a route. A join is not stored where it would make something ambiguous.
    virtual_numbers: tuple[E164, ...]


class Row(NamedTuple):
    """One allocation with everybody who joined it."""

    allocation: Allocation
    members: tuple[Member, ...] = ()


class World(NamedTuple):
    pool: frozenset[E164]
    rows: tuple[Row, ...]


def allocation_id(n: int) -> AllocationId:
    return AllocationId(bytes(15) + bytes([n]))


# ── the naive model ──────────────────────────────────────────────────────────


def listed(row: Row, side: Side) -> tuple[E164, ...]:
    return (row.allocation.a if side == Side.A else row.allocation.b).numbers


def vns(row: Row, side: Side) -> tuple[E164, ...]:
    return (row.allocation.a if side == Side.A else row.allocation.b).virtual_numbers


def pins(row: Row, side: Side) -> tuple[Pin, ...]:
    return (row.allocation.a if side == Side.A else row.allocation.b).pins


def asks_listed(row: Row, side: Side) -> bool:
    return (row.allocation.a if side == Side.A else row.allocation.b).listed_need_pin


def opposite(side: Side) -> Side:
    return Side.B if side == Side.A else Side.A


def people(row: Row, side: Side) -> tuple[E164, ...]:
    """Everybody on a side, in the order in which they are rung."""
    joined = [(member.joined_at_us, member.number) for member in row.members if member.side == side]
    return listed(row, side) + latest_first(joined)


def is_live(row: Row, now_us: int) -> bool:
    return now_us < row.allocation.expires_at_us


def may_call(row: Row, side: Side) -> bool:
    return row.allocation.usage == Usage.TWOWAY or side == Side.A


def has_route(row: Row, side: Side, vn: E164, number: E164) -> bool:
    joined = (member for member in row.members if member.number == number and member.side == side)
    is_joined_here = any(vn in member.virtual_numbers for member in joined)
    return vn in vns(row, side) and (number in listed(row, side) or is_joined_here)


def naive_decision(call: Call, world: World, now_us: int) -> Decision:
    vn, caller, entry, progress = call.virtual_number, call.caller, call.entry, call.progress
    attempts_left = call.rules.pin_attempts_max - progress.failures

    if vn is None or vn not in world.pool:
        return Refuse(Reason.UNKNOWN_VN)
    if caller is None and call.rules.refuse_withheld:
        return Refuse(Reason.WITHHELD)

    live = [row for row in world.rows if is_live(row, now_us)]

    # 1. A recorded success of this call governs its later hops.
    if progress.admission is not None:
        id_, side = progress.admission
        for row in live:
            if (
                row.allocation.id == id_
                and vn in vns(row, side)
                and caller not in people(row, opposite(side))
            ):
                if not may_call(row, side):
                    return Refuse(Reason.DIRECTION, id_)
                return _reach(row, side, call, Matched.VERIFIED_BEFORE)
        return Refuse(Reason.NO_ALLOCATION)

    here = [(row, side) for row in live for side in Side if vn in vns(row, side)]
    routes = [(row, side) for row, side in here if caller is not None and has_route(row, side, vn, caller)]
    permitted = [(row, side) for row, side in routes if may_call(row, side)]

    # 2. One permitted route that needs no PIN.
    if len(permitted) == 1 and not asks_listed(*permitted[0]):
        [(row, side)] = permitted
        return _reach(row, side, call, Matched.LISTED if caller in listed(row, side) else Matched.MEMBER)

    # 3. Attempts used up.
    if attempts_left <= 0:
        return Refuse(Reason.WRONG_PIN)

    usable = [(row, side) for row, side in here if may_call(row, side) and pins(row, side)]
    digits_max = max((len(held) for row, side in usable for held in pins(row, side)), default=4)
    # Who is alone on a VN counts the guesses of its own people, and locks them out.
    alone = [row for row, _ in usable if row.allocation.is_exclusive]
    locked = [row for row in alone if row.allocation.is_locked]
    is_throttled = call.exceeded.caller or (call.exceeded.shared and not routes)

    # 4. No new entry.
    if not isinstance(entry, PinEntry):
        if locked:
            return Refuse(Reason.LOCKED, locked[0].allocation.id)
        # Without a new prompt the last answer is repeated, so who was asked once is asked again.
        if progress.last_entry is LastEntry.NONE:
            if routes and not permitted:
                return Refuse(Reason.DIRECTION)
            if not any(caller not in people(row, opposite(side)) for row, side in usable):
                return Refuse(Reason.NO_ALLOCATION)
        if is_throttled:
            return Refuse(Reason.THROTTLED)
        is_empty = isinstance(entry, EmptyEntry)
        if progress.empty_entries + int(is_empty) >= 2:
            return Refuse(Reason.NO_INPUT)
        return AskPin(digits_max, attempts_left, LastEntry.EMPTY if is_empty else progress.last_entry)

    # 5. A new entry.
    if is_throttled:
        return Refuse(Reason.THROTTLED)
    if progress.empty_entries >= 2:
        return Refuse(Reason.NO_INPUT)
    matches = []
    if entry.pin is not None:
        matches = [(row, side) for row, side in permitted if entry.pin in pins(row, side)]
        if not matches and call.exceeded.shared:
            matches = [(row, side) for row, side in routes if entry.pin in pins(row, side)]
        elif not matches:
            matches = [
                (row, side)
                for row, side in here
                if entry.pin in pins(row, side) and caller not in people(row, opposite(side))
            ]
    if locked:
        return Refuse(Reason.LOCKED, locked[0].allocation.id)
    if not matches:
        counted = [row for row in alone if caller is None or caller in listed(row, Side.B)]
        outcome = WrongPin(entry.digest, counted[0].allocation.id if counted else None)
        if attempts_left == 1:
            return Refuse(Reason.WRONG_PIN, outcome=outcome)
        return AskPin(digits_max, attempts_left - 1, LastEntry.WRONG, outcome)
    # More than one match is one common PIN: of the sides that may call, the one without
    # listed numbers, else A, else B.
    row, side = min(matches, key=lambda match: (not may_call(*match), len(listed(*match)) > 0, match[1]))
    if not may_call(row, side):
        return Refuse(Reason.DIRECTION)
    is_stranger = caller is None or caller not in people(row, side)
    admission = Admission(row.allocation.id, side)
    right = RightPin(entry.digest, admission, is_stranger, row.allocation.is_exclusive)
    return _reach(row, side, call, Matched.PIN, right)


def _reach(
    row: Row, side: Side, call: Call, matched: Matched, outcome: RightPin | None = None
) -> Connect | Refuse:
    allocation = row.allocation
    targets = tuple(number for number in people(row, opposite(side)) if number != call.caller)
    if not targets:
        return Refuse(Reason.NO_TARGET, allocation.id, outcome)
    theirs = vns(row, opposite(side))
    shown = next((vn for vn in theirs if vn == call.virtual_number), theirs[0])
    return Connect(
        allocation.id, allocation.product, side, targets, shown, matched, outcome, allocation.policy
    )


# ── the board as a list ──────────────────────────────────────────────────────


class ListBoard:
    """`routing.board.Board` by scanning. The rows `forgotten` are in the indexes only."""

    def __init__(self, world: World, forgotten: frozenset[AllocationId] = frozenset()) -> None:
        self._world = world
        self._forgotten = forgotten

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return virtual_number in self._world.pool

    def routes(self, virtual_number: E164, caller: E164) -> Sequence[Route]:
        return [
            (_ref(row.allocation.id), side, asks_listed(row, side), caller not in listed(row, side))
            for row in self._world.rows
            for side in Side
            if has_route(row, side, virtual_number, caller)
        ]

    def pin_holders(self, virtual_number: E164, pin: Pin) -> Sequence[PinHolder]:
        holders = (
            PinHolder(_ref(id_), side)
            for row, id_, side, held in self._pins(virtual_number)
            if held.digits == pin.digits
        )
        return list(dict.fromkeys(holders))

    def usable_pins(self, virtual_number: E164, now_us: int) -> Sequence[UsablePin]:
        """Live, of a side that may call, the longest first."""
        usable = (
            UsablePin(len(held), _ref(id_), holder)
            for row, id_, holder, held in self._pins(virtual_number)
            if is_live(row, now_us)
            and any(
                may_call(row, side) and virtual_number in vns(row, side)
                for side in Side
                if holder is None or holder == side
            )
        )
        return sorted(dict.fromkeys(usable), key=lambda usable: -usable.length)

    def allocation(self, ref: AllocationRef) -> Allocation | None:
        return self.allocation_by_id(AllocationId(ref))

    def allocation_by_id(self, allocation_id: AllocationId) -> Allocation | None:
        if allocation_id in self._forgotten:
            return None
        return next((row.allocation for row in self._world.rows if row.allocation.id == allocation_id), None)

    def member_side(self, allocation: AllocationOnBoard, number: E164) -> Side | None:
        sides = (
            member.side
            for row in self._world.rows
            if row.allocation.id == allocation.id
            for member in row.members
            if member.number == number
        )
        return next(sides, None)

    def members(self, allocation: AllocationOnBoard, side: Side) -> tuple[E164, ...]:
        return tuple(
            number
            for row in self._world.rows
            if row.allocation.id == allocation.id
            for number in people(row, side)[len(listed(row, side)) :]
        )

    def _pins(self, virtual_number: E164) -> Iterator[tuple[Row, AllocationId, Side | None, Pin]]:
        for row in self._world.rows:
            for side in Side:
                if virtual_number in vns(row, side):
                    for held in pins(row, side):
                        yield row, row.allocation.id, None if row.allocation.common_pin else side, held


def _ref(id_: AllocationId) -> AllocationRef:
    """This board calls allocations by their ids."""
    return AllocationRef(id_)


# ── what must never be ambiguous ─────────────────────────────────────────────


def breaks_a_rule(rows: Sequence[Row], now_us: int) -> bool:
    """Whether the live ones of `rows` break a rule of routing.md, "What must never be ambiguous"."""
    live = [row for row in rows if is_live(row, now_us)]
    for vn in VNS:
        here = [(row, side) for row in live for side in Side if vn in vns(row, side)]
        standing = {row.allocation.id for row, _ in here}
        if len(standing) > 1 and any(row.allocation.is_exclusive for row, _ in here):
            return True
        for digits in PINS:
            holders = [(row, side) for row, side in here if digits in pins(row, side)]
            ids = {row.allocation.id for row, _ in holders}
            if len(ids) > 1 or (len(holders) > 1 and not holders[0][0].allocation.common_pin):
                return True
        for number in NUMBERS:
            routes = [match for match in here if has_route(*match, vn, number)]
            if len(routes) > 1 and not all(asks_listed(*match) for match in routes):
                return True
    return any(set(people(row, Side.A)) & set(people(row, Side.B)) for row in live)


def could_be_made(allocation: Allocation) -> bool:
    """Whether a request for it alone would be accepted (routing.md, "Refused when made or updated")."""
    a, b = allocation.a, allocation.b
    if any(not party.numbers and not party.pins for party in (a, b)):
        return False
    if set(a.numbers) & set(b.numbers):
        return False
    return bool(b.numbers) or allocation.usage == Usage.TWOWAY


# ── dice ─────────────────────────────────────────────────────────────────────

# Lists of one are the most common, and so that people collide; lists of none have only members.
_number_lists = st.sampled_from(
    [*permutations(NUMBERS, 1), *permutations(NUMBERS, 1), *permutations(NUMBERS, 2), (), (), ()]
)
_vn_lists = st.sampled_from([chosen for count in (1, 2) for chosen in permutations(VNS, count)])
_pins = st.sampled_from(PINS)
_one_pin = _pins.map(lambda held: (held,))
_one_pin_or_none = st.sampled_from([*((held,) for held in PINS), ()])
_several_pins = st.lists(_pins, max_size=2, unique=True).map(tuple)
_policies = st.sampled_from([PLAIN_CALLS, CallPolicy(record=True), CallPolicy(custom_field="order 7")])
_usages = st.sampled_from([Usage.TWOWAY, Usage.TWOWAY, Usage.ONEWAY])
# Mostly alive: the dead must be seen through, but they are dull company.
_expiries = st.sampled_from([NEVER_US, NOW_US + 1, *EXPIRIES_US])
_kinds = st.sampled_from(["greenpin", "greenvn", "common pin", "second generation"])


@st.composite
def _allocations(draw: st.DrawFn, n: int) -> Allocation:
    """An allocation as one of the products makes it, though perhaps with too little in it."""
    kind = draw(_kinds)
    a_numbers = draw(_number_lists)
    b_numbers = tuple(number for number in draw(_number_lists) if number not in a_numbers)
    a_vns, b_vns = draw(_vn_lists), draw(_vn_lists)
    usage, made_as = draw(_usages), Product.GREENPIN
    is_exclusive, is_locked, policy = False, False, PLAIN_CALLS
    if kind == "greenvn":
        made_as = Product.GREENVN
        vn = a_vns[:1]
        a = Party(a_numbers, vn, draw(_several_pins), listed_need_pin=False)
        b = Party(b_numbers, vn, draw(_several_pins), listed_need_pin=False)
    elif kind == "common pin":
        shared = draw(_one_pin)
        a = Party(a_numbers, a_vns, shared, draw(st.booleans()))
        b = Party(b_numbers, b_vns, shared, draw(st.booleans()))
    elif kind == "second generation":
        usage, vn = Usage.TWOWAY, a_vns[:1]
        is_exclusive = draw(st.booleans())
        is_locked = is_exclusive and draw(st.booleans())
        policy = draw(_policies)
        a = Party(a_numbers, vn, (), listed_need_pin=False)
        b = Party(b_numbers, vn, draw(_one_pin), listed_need_pin=True)
    else:
        a_pins, b_pins = draw(_one_pin_or_none), draw(_one_pin_or_none)
        a = Party(a_numbers, a_vns, a_pins, bool(a_pins))
        b = Party(b_numbers, b_vns, b_pins, bool(b_pins))
    return Allocation(
        allocation_id(n),
        made_as,
        usage,
        draw(_expiries),
        a,
        b,
        common_pin=kind == "common pin",
        has_members=False,
        is_exclusive=is_exclusive,
        is_locked=is_locked,
        policy=policy,
    )


def _joined(row: Row, number: E164, side: Side, joined_at_us: int, where: tuple[E164, ...]) -> Row:
    member = Member(number, side, joined_at_us, where)
    return Row(row.allocation._replace(has_members=True), (*row.members, member))


_joins = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(Side), st.sampled_from(NUMBERS), st.integers(1, 2)),
    min_size=1,
    max_size=6,
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Worlds as the database allows them at `NOW_US`: what would break a rule never happened."""
    rows: list[Row] = []
    for n in range(draw(st.integers(2, 8))):
        row = Row(draw(_allocations(n)))
        if could_be_made(row.allocation) and not breaks_a_rule([*rows, row], NOW_US):
            rows.append(row)
    for n, side, number, joined_at_us in draw(_joins):
        if n >= len(rows) or not pins(rows[n], side):
            continue
        row = rows[n]
        if number in people(row, side) or number in people(row, opposite(side)):
            continue
        where: tuple[E164, ...] = ()
        for vn in vns(row, side):
            row_with_route = _joined(row, number, side, joined_at_us, (*where, vn))
            if not breaks_a_rule([*rows[:n], row_with_route, *rows[n + 1 :]], NOW_US):
                where = (*where, vn)
        if where:
            rows[n] = _joined(row, number, side, joined_at_us, where)
    return World(frozenset(VNS), tuple(rows))


_any_parties = st.builds(Party, _number_lists, _vn_lists, _several_pins, st.booleans())
_any_members = st.builds(
    Member, st.sampled_from(NUMBERS), st.sampled_from(Side), st.integers(1, 2), _vn_lists | st.just(())
)


@st.composite
def broken_worlds(draw: st.DrawFn) -> World:
    """Worlds that no database would hold: the core must fail closed in them all the same."""
    rows = []
    for n in range(draw(st.integers(1, 5))):
        allocation = Allocation(
            allocation_id(n),
            draw(st.sampled_from(Product)),
            draw(_usages),
            draw(_expiries),
            draw(_any_parties),
            draw(_any_parties),
            common_pin=draw(st.booleans()),
            has_members=draw(st.booleans()),
            is_exclusive=draw(st.booleans()),
            is_locked=draw(st.booleans()),
            policy=draw(_policies),
        )
        if allocation.common_pin:
            allocation = allocation._replace(b=allocation.b._replace(pins=allocation.a.pins))
        rows.append(Row(allocation, tuple(draw(st.lists(_any_members, max_size=2)))))
    return World(draw(st.sets(st.sampled_from(VNS), min_size=1).map(frozenset)), tuple(rows))


def entry(digits: str) -> PinEntry:
    return PinEntry(Pin.parse(digits), digest_of(digits))


class Circumstances(NamedTuple):
    """All of a call but who calls where and what they key in."""

    progress: Progress
    exceeded: Exceeded
    rules: CallRules

    def calls(self) -> Iterator[Call]:
        """Everybody, on every VN, with every entry."""
        for vn, caller, new in product(VNS, (*NUMBERS, OUTSIDER, None), ENTRIES):
            yield Call(vn, caller, new, *self)


ENTRIES: tuple[Entry, ...] = (
    NoEntry(),
    EmptyEntry(),
    *(entry(held.digits) for held in PINS),
    entry("9"),
    entry("1234567890"),
)


def circumstances() -> st.SearchStrategy[Circumstances]:
    """Mostly quiet ones, so that most calls get past the limits to where the PINs are."""
    rarely = st.sampled_from([False] * 5 + [True])
    admission = st.builds(Admission, st.integers(0, 8).map(allocation_id), st.sampled_from(Side))
    progress = st.builds(
        Progress,
        failures=st.sampled_from([0] * 6 + [1, 1, 2, 2, 3, 4]),
        empty_entries=st.sampled_from([0] * 6 + [1, 1, 2, 3]),
        last_entry=st.sampled_from(LastEntry),
        admission=rarely.flatmap(lambda is_admitted: admission if is_admitted else st.none()),
    )
    rules = st.builds(CallRules, st.sampled_from([3, 3, 2, 1]), rarely)
    return st.builds(Circumstances, progress, st.builds(Exceeded, rarely, rarely), rules)
