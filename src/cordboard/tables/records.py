"""The bytes of the board: fixed-width big-endian keys, so that LMDB's order is ours.

Every key begins with the cell. Tenants are kept apart by what the board numbers itself: a `line` stands
for one tenant's use of one VN, a `ref` for one allocation. Both are short, because a decision spends a
third of its time waiting for pages that are not in the processor's cache; neither is ever used again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple, NewType

from cordboard.routing.changes import FeedRow
from cordboard.routing.model import (
    PLAIN_CALLS,
    SIDE_A,
    Allocation,
    AllocationId,
    AllocationRef,
    CallPolicy,
    Party,
    PinHolder,
    Product,
    Route,
    Side,
    Usage,
)
from cordboard.routing.numbers import E164, PIN_DIGITS_MAX, Pin
from cordboard.routing.regions import REGIONS

# Raised whenever a key or record changes its form: boards of another version are rebuilt.
BOARD_VERSION: Final = 3

Line = NewType("Line", bytes)
"""One tenant's use of one VN, 4 bytes: the cell, and which of the cell's lines (16 million)."""

LINE_OF_KEY: Final = slice(-4, None)
"""Where a key that ends with a line has it; loops over a thousand keys cannot afford a call."""

# E.164 has at most 15 digits, which fit 50 bits.
_NUMBER_BYTES: Final = 7
CELL_SHIFT: Final = 8 * _NUMBER_BYTES
_SERIAL_OF_LINE_BYTES: Final = 3
# 2^40 allocations of one cell: 34 years at 1,000 a second.
_SERIAL_OF_REF_BYTES: Final = 5

_TENANT = Struct(">BI")
# A route, a holder of a PIN.
_REF_BEHIND_BYTE = Struct(">B6s")
_PIN_CODE = Struct(">I")
_USABLE = Struct(">4sBQ6sB")
_MEMBERSHIP = Struct(">6sQ")
_MEMBER = Struct(">6sBQQ")
_NUMBER = Struct(">Q")
_POSITION = Struct(">Qq")
# version, expires_at_us, flags, A's numbers, VNs and PINs, B's, id
_HEAD = Struct(">IqH6B16s")
# At most 10 numbers and 50 VNs a side (routing/allocate.py).
_NUMBER_LISTS = tuple(Struct(f">{count}Q") for count in range(121))
# At most 10 PINs a side.
_PIN_LISTS = tuple(Struct(f">{count}I") for count in range(21))

# What a decision reads of a head: neither the version nor how many PINs there are.
_READ_HEAD: Final = Struct(">4xqHBBxBBx16s").unpack_from
_HEAD_BYTES: Final = _HEAD.size
_READ_NUMBERS: Final[tuple[Callable[[bytes, int], tuple[int, ...]], ...]] = tuple(
    numbers.unpack_from for numbers in _NUMBER_LISTS
)

_VERSION_BYTES: Final = 4
_TWOWAY_USAGE: Final = Usage.TWOWAY

_BOTH_SIDES = 2
# By their byte: `Side(byte)` costs as much as a lookup on the board.
_HOLDERS: Final = (Side.A, Side.B, None)
_SIDES: Final = (Side.A, Side.B)
_LATEST = 2**64 - 1

_ROUTE_NEEDS_PIN, _ROUTE_IS_MEMBER, _ROUTE_SIDE_B = 4, 2, 1
_TWOWAY, _GREENVN, _COMMON_PIN, _A_NEEDS_PIN, _B_NEEDS_PIN, _HAS_MEMBERS = 1, 2, 4, 8, 16, 32
_EXCLUSIVE, _LOCKED, _RECORD, _CUSTOM_FIELD = 64, 128, 256, 512

pack_caller_key = Struct(">Q4s").pack
"""Of a route: a cell's byte and a number's seven, which are packed as one number of eight, and a line."""

number_key = _NUMBER.pack
window_row_key = _NUMBER.pack
tenant_prefix = _TENANT.pack


def cell_key(cell: int) -> bytes:
    return bytes((cell,))


def position_record(n: int, tag: int) -> bytes:
    return _POSITION.pack(n, tag)


def position_of(record: bytes) -> tuple[int, int]:
    n, tag = _POSITION.unpack(record)
    return n, tag


# ── what the board numbers itself ─────────────────────────────────────────────


def serial_record(serial: int) -> bytes:
    return _NUMBER.pack(serial)


def serial_of(record: bytes | None) -> int:
    return 0 if record is None else int.from_bytes(record, "big")


def line_of(cell: int, serial: int) -> Line:
    return Line(bytes((cell,)) + serial.to_bytes(_SERIAL_OF_LINE_BYTES, "big"))


def ref_of(cell: int, serial: int) -> AllocationRef:
    return AllocationRef(bytes((cell,)) + serial.to_bytes(_SERIAL_OF_REF_BYTES, "big"))


def line_key(cell: int, tenant_no: int, virtual_number: E164) -> bytes:
    return _TENANT.pack(cell, tenant_no) + _NUMBER.pack(virtual_number)


def id_key(cell: int, tenant_no: int, allocation_id: AllocationId) -> bytes:
    return _TENANT.pack(cell, tenant_no) + allocation_id


# ── VNs ───────────────────────────────────────────────────────────────────────


class VirtualNumberState(NamedTuple):
    """A VN of a tenant: what choosing one needs, and how much room it has left."""

    number: E164
    tenant_no: int
    in_pool: bool = False
    # Given by name only, or not at all any more.
    is_reserved: bool = False
    is_drained: bool = False
    region: str | None = None
    # `mobile` or `landline`.
    type: str | None = None
    # Allocations that stand on it, and those of them that bear no other.
    load: int = 0
    exclusive: int = 0
    # Numbers that have a route on it, and PINs that are taken, by length - 1.
    callers: int = 0
    pins: tuple[int, ...] = (0,) * PIN_DIGITS_MAX

    @property
    def is_open(self) -> bool:
        """Whether the engine may pick it."""
        return self.in_pool and not (self.is_reserved or self.is_drained or self.exclusive)

    @property
    def word(self) -> str:
        """What keeps the engine from picking it, the strongest reason first; else `open`."""
        if self.is_drained:
            return "drained"
        if self.exclusive:
            return "exclusive"
        return "reserved" if self.is_reserved else "open"

    def free_pins(self, length: int) -> int:
        """PINs of that length which nobody has; those that still cool are counted as free."""
        return int(10**length) - self.pins[length - 1]

    @property
    def guess_probability(self) -> float:
        """Chance that a random entry hits a live PIN, for that length for which it is the greatest."""
        return max(taken / float(10**length) for length, taken in enumerate(self.pins, start=1))

    @property
    def is_idle(self) -> bool:
        """Whether the engine may pick it and nothing stands on it."""
        return self.is_open and not self.load


_VN_STATE = Struct(f">QIBBBIHI{PIN_DIGITS_MAX}I")
_IN_POOL, _RESERVED, _DRAINED = 1, 2, 4
_REGIONS: Final = (None, *REGIONS)
_TYPES: Final = (None, "mobile", "landline")
_REGION_BYTE: Final = {region: bytes((place,)) for place, region in enumerate(_REGIONS)}
_TYPE_BYTE: Final = {type: bytes((place,)) for place, type in enumerate(_TYPES)}


def vn_state_record(state: VirtualNumberState) -> bytes:
    flags = _IN_POOL * state.in_pool | _RESERVED * state.is_reserved | _DRAINED * state.is_drained
    region, type = _REGION_BYTE[state.region][0], _TYPE_BYTE[state.type][0]
    return _VN_STATE.pack(
        state.number,
        state.tenant_no,
        flags,
        region,
        type,
        state.load,
        state.exclusive,
        state.callers,
        *state.pins,
    )


def vn_state_of(record: bytes) -> VirtualNumberState:
    number, tenant_no, flags, region, type, load, exclusive, callers, *pins = _VN_STATE.unpack(record)
    return VirtualNumberState(
        E164(number),
        tenant_no,
        bool(flags & _IN_POOL),
        bool(flags & _RESERVED),
        bool(flags & _DRAINED),
        _REGIONS[region],
        _TYPES[type],
        load,
        exclusive,
        callers,
        tuple(pins),
    )


def open_key(cell: int, state: VirtualNumberState, line: Line) -> bytes:
    """Of a region and a type the least loaded comes first; of equals, which one comes first is chance."""
    kind = open_prefix(cell, state.tenant_no, state.region, state.type)
    return kind + state.load.to_bytes(4, "big") + line


def open_prefix(cell: int, tenant_no: int, region: str | None, type: str | None) -> bytes:
    return _TENANT.pack(cell, tenant_no) + _REGION_BYTE[region] + _TYPE_BYTE[type]


def open_kind_of(key: bytes) -> tuple[str | None, str | None]:
    """(region, type) of a key."""
    return _REGIONS[key[_TENANT.size]], _TYPES[key[_TENANT.size + 1]]


def open_load_of(key: bytes) -> int:
    return int.from_bytes(key[-8:-4], "big")


# ── routes: sorted duplicates under (cell, caller, line); those without PIN sort first ──


def caller_prefix(cell: int, caller: E164) -> bytes:
    return bytes((cell,)) + caller.to_bytes(_NUMBER_BYTES, "big")


def caller_key(cell: int, caller: E164, line: Line) -> bytes:
    return pack_caller_key(cell << CELL_SHIFT | caller, line)


def line_of_caller_key(key: bytes) -> Line:
    return Line(key[LINE_OF_KEY])


def route_record(ref: AllocationRef, side: Side, *, needs_pin: bool, is_member: bool) -> bytes:
    flags = _ROUTE_NEEDS_PIN * needs_pin | _ROUTE_IS_MEMBER * is_member | _ROUTE_SIDE_B * (side is not SIDE_A)
    return bytes((flags,)) + ref


def _route_flags(flags: int) -> tuple[Side, bool, bool]:
    return (
        Side.B if flags & _ROUTE_SIDE_B else Side.A,
        bool(flags & _ROUTE_NEEDS_PIN),
        bool(flags & _ROUTE_IS_MEMBER),
    )


_ROUTE_FLAGS = tuple(_route_flags(flags) for flags in range(8))


def route_of(record: bytes) -> Route:
    flags, ref = _REF_BEHIND_BYTE.unpack(record)
    side, needs_pin, is_member = _ROUTE_FLAGS[flags]
    return ref, side, needs_pin, is_member


# ── PINs ──────────────────────────────────────────────────────────────────────


def _pin_code(pin: Pin) -> int:
    """A 1 before the digits keeps leading zeros apart; nine digits then stay under 2^31."""
    return int("1" + pin.digits)


# Most PINs have four digits, so a few thousand serve all calls; 150 bytes each.
@lru_cache(maxsize=16_384)
def _pin_of(code: int) -> Pin:
    return Pin(int.__repr__(code)[1:])


def pin_prefix(cell: int, pin: Pin) -> bytes:
    return bytes((cell,)) + _PIN_CODE.pack(_pin_code(pin))


def pin_key(cell: int, pin: Pin, line: Line) -> bytes:
    return pin_prefix(cell, pin) + line


def pin_holder_record(ref: AllocationRef, side: Side | None) -> bytes:
    return bytes((_BOTH_SIDES if side is None else side,)) + ref


def pin_holder_of(record: bytes) -> PinHolder:
    holder, ref = _REF_BEHIND_BYTE.unpack(record)
    return PinHolder(ref, _HOLDERS[holder])


def usable_pin_key(
    line: Line, length: int, expires_at_us: int, ref: AllocationRef, side: Side | None
) -> bytes:
    """Longest first, then by expiry, so that the first live one of a length is a seek away."""
    return _USABLE.pack(
        line, PIN_DIGITS_MAX - length, expires_at_us, ref, _BOTH_SIDES if side is None else side
    )


def usable_pin_seek(line: Line, length: int, live_at_us: int) -> bytes:
    """The place of the first PIN of `length` that expires after `live_at_us`."""
    return line + bytes((PIN_DIGITS_MAX - length,)) + _NUMBER.pack(live_at_us + 1)


def usable_pin_of(key: bytes) -> tuple[int, int, AllocationRef, Side | None]:
    """(length, expires_at_us, allocation, side) of a key."""
    _, shortness, expires_at_us, ref, holder = _USABLE.unpack(key)
    return PIN_DIGITS_MAX - shortness, expires_at_us, ref, _HOLDERS[holder]


# ── members ───────────────────────────────────────────────────────────────────


def member_key(ref: AllocationRef, side: Side, joined_at_us: int, number: int) -> bytes:
    """In the order in which members are dialled: latest first, then the larger number."""
    return _MEMBER.pack(ref, side, _LATEST - joined_at_us, _LATEST - number)


def member_prefix(ref: AllocationRef, side: Side) -> bytes:
    return ref + bytes((side,))


def member_number_of(key: bytes) -> E164:
    return E164(_LATEST - int.from_bytes(key[-8:], "big"))


def membership_key(ref: AllocationRef, number: E164) -> bytes:
    return _MEMBERSHIP.pack(ref, number)


def membership_number_of(key: bytes) -> E164:
    return E164(int.from_bytes(key[-8:], "big"))


def membership_record(
    side: Side, needs_pin: bool, joined_at_us: int, virtual_numbers: tuple[E164, ...]
) -> bytes:
    numbers = _NUMBER_LISTS[len(virtual_numbers) + 1].pack(joined_at_us, *virtual_numbers)
    return bytes((side, needs_pin)) + numbers


def membership_side_of(record: bytes) -> Side:
    return _SIDES[record[0]]


def membership_of(record: bytes) -> tuple[Side, bool, int, tuple[E164, ...]]:
    """(side, needs_pin, joined_at_us, VNs with a route)."""
    joined_at_us, *numbers = _NUMBER_LISTS[(len(record) - 2) // 8].unpack_from(record, 2)
    return _SIDES[record[0]], bool(record[1]), joined_at_us, tuple(map(E164, numbers))


# ── allocations ───────────────────────────────────────────────────────────────


def allocation_record(allocation: Allocation, version: int) -> bytes:
    a, b, policy = allocation.a, allocation.b, allocation.policy
    flags = (
        _TWOWAY * (allocation.usage is Usage.TWOWAY)
        | _GREENVN * (allocation.product is Product.GREENVN)
        | _COMMON_PIN * allocation.common_pin
        | _A_NEEDS_PIN * a.listed_need_pin
        | _B_NEEDS_PIN * b.listed_need_pin
        | _HAS_MEMBERS * allocation.has_members
        | _EXCLUSIVE * allocation.is_exclusive
        | _LOCKED * allocation.is_locked
        | _RECORD * policy.record
        | _CUSTOM_FIELD * (policy.custom_field is not None)
    )
    head = _HEAD.pack(
        version,
        allocation.expires_at_us,
        flags,
        len(a.numbers),
        len(a.virtual_numbers),
        len(a.pins),
        len(b.numbers),
        len(b.virtual_numbers),
        len(b.pins),
        allocation.id,
    )
    numbers = (*a.numbers, *a.virtual_numbers, *b.numbers, *b.virtual_numbers)
    pins = [_pin_code(pin) for pin in (*a.pins, *b.pins)]
    custom_field = (policy.custom_field or "").encode()
    return (
        head + _NUMBER_LISTS[len(numbers)].pack(*numbers) + _PIN_LISTS[len(pins)].pack(*pins) + custom_field
    )


def allocation_version_of(record: bytes) -> int:
    return int.from_bytes(record[:_VERSION_BYTES], "big")


class _Flags(NamedTuple):
    product: Product
    usage: Usage
    needs_pin: tuple[bool, bool]
    common_pin: bool
    has_members: bool
    is_exclusive: bool
    is_locked: bool
    # Without its custom field, if it has one.
    policy: CallPolicy


_RECORDED: Final = CallPolicy(record=True)


def _allocation_flags(flags: int) -> _Flags:
    return _Flags(
        Product.GREENVN if flags & _GREENVN else Product.GREENPIN,
        Usage.TWOWAY if flags & _TWOWAY else Usage.ONEWAY,
        (bool(flags & _A_NEEDS_PIN), bool(flags & _B_NEEDS_PIN)),
        bool(flags & _COMMON_PIN),
        bool(flags & _HAS_MEMBERS),
        bool(flags & _EXCLUSIVE),
        bool(flags & _LOCKED),
        _RECORDED if flags & _RECORD else PLAIN_CALLS,
    )


_ALLOCATION_FLAGS: Final = tuple(_allocation_flags(flags) for flags in range(1024))
# What a decision reads of them, as plain tuples: those are taken apart in half the time.
_READ_FLAGS: Final = tuple(
    (said.product, said.usage, said.has_members, said.is_exclusive, said.is_locked, said.policy)
    for said in _ALLOCATION_FLAGS
)


class StoredAllocation:
    """An allocation that unpacks what is asked for: a decision reads one side of it, and seldom a PIN.

    `routing.model.AllocationOnBoard`; half the time of `allocation_of`, which unpacks everything.
    """

    __slots__ = (
        "_a_numbers",
        "_a_vns",
        "_b_numbers",
        "_b_vns",
        "_record",
        "expires_at_us",
        "has_members",
        "id",
        "is_exclusive",
        "is_locked",
        "policy",
        "product",
        "ref",
        "usage",
    )

    _a_numbers: int
    _a_vns: int
    _b_numbers: int
    _b_vns: int
    id: AllocationId
    expires_at_us: int
    product: Product
    usage: Usage
    has_members: bool
    is_exclusive: bool
    is_locked: bool
    policy: CallPolicy

    def __init__(self, ref: AllocationRef, record: bytes) -> None:
        self.ref = ref
        self._record = record
        (
            self.expires_at_us,
            flags,
            self._a_numbers,
            self._a_vns,
            self._b_numbers,
            self._b_vns,
            self.id,
        ) = _READ_HEAD(record)
        (
            self.product,
            self.usage,
            self.has_members,
            self.is_exclusive,
            self.is_locked,
            self.policy,
        ) = _READ_FLAGS[flags]
        if flags & _CUSTOM_FIELD:
            self.policy = _policy_with_field(record)

    def numbers(self, side: Side) -> tuple[E164, ...]:
        if side is SIDE_A:
            read, start = _READ_NUMBERS[self._a_numbers], _HEAD_BYTES
        else:
            read = _READ_NUMBERS[self._b_numbers]
            start = _HEAD_BYTES + (self._a_numbers + self._a_vns) * 8
        numbers = read(self._record, start)
        # Nearly every side has one or two, and those take a quarter less when they are written out.
        match numbers:
            case (one,):
                return (E164(one),)
            case (one, two):
                return (E164(one), E164(two))
            case _:
                return tuple(map(E164, numbers))

    def virtual_numbers(self, side: Side) -> tuple[int, ...]:
        if side is SIDE_A:
            return _READ_NUMBERS[self._a_vns](self._record, _HEAD_BYTES + self._a_numbers * 8)
        start = _HEAD_BYTES + (self._a_numbers + self._a_vns + self._b_numbers) * 8
        return _READ_NUMBERS[self._b_vns](self._record, start)

    def party(self, side: Side) -> Party:
        return allocation_of(self._record).party(side)

    def permits(self, side: Side) -> bool:
        return side is SIDE_A or self.usage is _TWOWAY_USAGE

    def is_live(self, now_us: int) -> bool:
        return now_us < self.expires_at_us


def _policy_with_field(record: bytes) -> CallPolicy:
    _, _, flags, *counts, _ = _HEAD.unpack_from(record)
    start = _HEAD_BYTES + 8 * (counts[0] + counts[1] + counts[3] + counts[4]) + 4 * (counts[2] + counts[5])
    return CallPolicy(bool(flags & _RECORD), record[start:].decode())


def allocation_of(record: bytes) -> Allocation:
    _, expires_at_us, flags, a_numbers, a_vns, a_pins, b_numbers, b_vns, b_pins, id = _HEAD.unpack_from(
        record
    )
    a_end = a_numbers + a_vns
    b_start = a_end + b_numbers
    count = b_start + b_vns
    numbers = tuple(map(E164, _NUMBER_LISTS[count].unpack_from(record, _HEAD.size)))
    pins = tuple(map(_pin_of, _PIN_LISTS[a_pins + b_pins].unpack_from(record, _HEAD.size + 8 * count)))
    said = _ALLOCATION_FLAGS[flags]
    a_needs_pin, b_needs_pin = said.needs_pin
    return Allocation(
        AllocationId(id),
        said.product,
        said.usage,
        expires_at_us,
        Party(numbers[:a_numbers], numbers[a_numbers:a_end], pins[:a_pins], a_needs_pin),
        Party(numbers[a_end:b_start], numbers[b_start:], pins[a_pins:], b_needs_pin),
        said.common_pin,
        said.has_members,
        said.is_exclusive,
        said.is_locked,
        _policy_with_field(record) if flags & _CUSTOM_FIELD else said.policy,
    )


def window_serial_of(key: bytes) -> int:
    """0 for the key that a cursor over nothing stands at."""
    return int.from_bytes(key, "big")


def feed_row_record(row: FeedRow) -> bytes:
    return json.dumps(row, separators=(",", ":")).encode()


def feed_row_of(record: bytes) -> FeedRow:
    return FeedRow(*json.loads(record))


# ── many at a time: the same bytes by name, for tables/loading.py ─────────────

ALLOCATION_HEAD: Final = (
    ("version", ">u4"),
    ("expires_at_us", ">i8"),
    ("flags", ">u2"),
    # A's numbers, VNs and PINs, B's.
    ("counts", "u1", (6,)),
    ("id", "V16"),
)
"""The fields of `_HEAD`."""
ALLOCATION_FLAGS: Final = {
    "is_twoway": _TWOWAY,
    "is_greenvn": _GREENVN,
    "common_pin": _COMMON_PIN,
    "a_listed_need_pin": _A_NEEDS_PIN,
    "b_listed_need_pin": _B_NEEDS_PIN,
    "has_members": _HAS_MEMBERS,
    "is_exclusive": _EXCLUSIVE,
    "is_locked": _LOCKED,
    "record": _RECORD,
    "has_custom_field": _CUSTOM_FIELD,
}
ROUTE_NEEDS_PIN: Final = _ROUTE_NEEDS_PIN
ROUTE_IS_MEMBER: Final = _ROUTE_IS_MEMBER
ROUTE_SIDE_B: Final = _ROUTE_SIDE_B
PIN_OF_BOTH_SIDES: Final = _BOTH_SIDES
