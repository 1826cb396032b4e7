"""The bytes of the board: fixed-width big-endian keys, so that LMDB's order is ours.

Every key of a tenant's rows begins with the cell and the tenant's number.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

from cordboard.routing.model import (
    SIDE_A,
    Allocation,
    AllocationId,
    Party,
    Product,
    Route,
    Side,
    Usage,
)
from cordboard.routing.numbers import E164, PIN_DIGITS_MAX, Pin

# Raised whenever a key or record changes its form: boards of another version are rebuilt.
BOARD_VERSION: Final = 1

_CALLER = Struct(">BIQQ")
_ALLOCATION = Struct(">BI16s")
_PIN = Struct(f">BIQ{PIN_DIGITS_MAX}s")
_VN = Struct(">BIQ")
_USABLE = Struct(">BIQBQ16sB")
_MEMBERSHIP = Struct(">BI16sQ")
_MEMBER = Struct(">BI16sBQQ")
_MEMBER_PREFIX = Struct(">BI16sB")

_ROUTE = Struct(">B16s")
_PIN_HOLDER = Struct(">B16s")
_NUMBER = Struct(">Q")
_TENANT_NO = Struct(">I")
_POSITION = Struct(">Qq")
# version, expires_at_us, flags, a numbers, a VNs, b numbers, b VNs, a PIN, b PIN
_HEAD = Struct(f">QqBBBBB{PIN_DIGITS_MAX}s{PIN_DIGITS_MAX}s")
# At most 10 numbers and 50 VNs a side (routing/allocate.py).
_NUMBER_LISTS = tuple(Struct(f">{count}Q") for count in range(121))

# Places in the head: version, end, flags, counts of A's and B's numbers and VNs, PINs of A and B.
_VERSION_BYTES: Final = 8
_LIFE = Struct(">qB")
_FLAGS_AT: Final = _VERSION_BYTES + 8
_A_AT: Final = _FLAGS_AT + 1
_B_AT: Final = _A_AT + 2
_A_PIN_AT: Final = _B_AT + 2
_B_PIN_AT: Final = _A_PIN_AT + PIN_DIGITS_MAX
_TWOWAY_USAGE: Final = Usage.TWOWAY

_BOTH_SIDES = 2
_LATEST = 2**64 - 1

_ROUTE_NEEDS_PIN, _ROUTE_IS_MEMBER, _ROUTE_SIDE_B = 4, 2, 1
_TWOWAY, _GREENVN, _COMMON_PIN, _A_NEEDS_PIN, _B_NEEDS_PIN, _HAS_MEMBERS = 1, 2, 4, 8, 16, 32

caller_key = _CALLER.pack
allocation_key = _ALLOCATION.pack
vn_prefix = _VN.pack
membership_key = _MEMBERSHIP.pack
number_key = _NUMBER.pack
tenant_no_record = _TENANT_NO.pack


def cell_key(cell: int) -> bytes:
    return bytes((cell,))


def position_record(n: int, tag: int) -> bytes:
    return _POSITION.pack(n, tag)


def position_of(record: bytes) -> tuple[int, int]:
    n, tag = _POSITION.unpack(record)
    return n, tag


def tenant_no_of(record: bytes) -> int:
    return int.from_bytes(record, "big")


# ── routes: sorted duplicates under (cell, tenant, VN, caller); those without PIN sort first ──


def route_record(route: Route) -> bytes:
    flags = (
        _ROUTE_NEEDS_PIN * route.needs_pin
        | _ROUTE_IS_MEMBER * route.is_member
        | _ROUTE_SIDE_B * (route.side is Side.B)
    )
    return _ROUTE.pack(flags, route.allocation_id)


def _route_flags(flags: int) -> tuple[Side, bool, bool]:
    return (
        Side.B if flags & _ROUTE_SIDE_B else Side.A,
        bool(flags & _ROUTE_NEEDS_PIN),
        bool(flags & _ROUTE_IS_MEMBER),
    )


_ROUTE_FLAGS = tuple(_route_flags(flags) for flags in range(8))

# What a NamedTuple's own constructor does, without the call of a Python function: every call that is
# answered makes four of these, and half of their cost was that (2.7 to 1.5 µs for an allocation).
_new_tuple: Final = tuple.__new__


def route_of(record: bytes) -> Route:
    return _new_tuple(Route, (record[1:],) + _ROUTE_FLAGS[record[0]])


# ── PINs ──────────────────────────────────────────────────────────────────────


def pin_key(cell: int, tenant_no: int, virtual_number: int, pin: Pin) -> bytes:
    return _PIN.pack(cell, tenant_no, virtual_number, pin.digits.encode())


def pin_holder_record(allocation_id: AllocationId, side: Side | None) -> bytes:
    return _PIN_HOLDER.pack(_BOTH_SIDES if side is None else side, allocation_id)


def pin_holder_of(record: bytes) -> tuple[AllocationId, Side | None]:
    side = record[0]
    return AllocationId(record[1:]), None if side == _BOTH_SIDES else Side(side)


def usable_pin_key(
    cell: int,
    tenant_no: int,
    virtual_number: int,
    length: int,
    expires_at_us: int,
    allocation_id: AllocationId,
    side: Side | None,
) -> bytes:
    """Longest first, then by expiry, so that the first live one of a length is a seek away."""
    return _USABLE.pack(
        cell,
        tenant_no,
        virtual_number,
        PIN_DIGITS_MAX - length,
        expires_at_us,
        allocation_id,
        _BOTH_SIDES if side is None else side,
    )


def usable_pin_seek(prefix: bytes, length: int, live_at_us: int) -> bytes:
    """The place of the first PIN of `length` that expires after `live_at_us`."""
    return prefix + bytes((PIN_DIGITS_MAX - length,)) + _NUMBER.pack(live_at_us + 1)


def usable_pin_of(key: bytes) -> tuple[int, int, AllocationId, Side | None]:
    """(length, expires_at_us, allocation, side) of a key."""
    _, _, _, shortness, expires_at_us, allocation_id, side = _USABLE.unpack(key)
    return (
        PIN_DIGITS_MAX - shortness,
        expires_at_us,
        AllocationId(allocation_id),
        None if side == _BOTH_SIDES else Side(side),
    )


# ── members ───────────────────────────────────────────────────────────────────


def member_key(
    cell: int, tenant_no: int, allocation_id: AllocationId, side: Side, joined_at_us: int, number: int
) -> bytes:
    """In the order in which members are dialled: latest first, then the larger number."""
    return _MEMBER.pack(cell, tenant_no, allocation_id, side, _LATEST - joined_at_us, _LATEST - number)


def member_prefix(cell: int, tenant_no: int, allocation_id: AllocationId, side: Side) -> bytes:
    return _MEMBER_PREFIX.pack(cell, tenant_no, allocation_id, side)


def member_number_of(key: bytes) -> E164:
    return E164(_LATEST - int.from_bytes(key[-8:], "big"))


def membership_number_of(key: bytes) -> E164:
    return E164(int.from_bytes(key[-8:], "big"))


def membership_record(
    side: Side, needs_pin: bool, joined_at_us: int, virtual_numbers: tuple[E164, ...]
) -> bytes:
    numbers = _NUMBER_LISTS[len(virtual_numbers) + 1].pack(joined_at_us, *virtual_numbers)
    return bytes((side, needs_pin)) + numbers


def membership_side_of(record: bytes) -> Side:
    return Side(record[0])


def membership_of(record: bytes) -> tuple[Side, bool, int, tuple[E164, ...]]:
    """(side, needs_pin, joined_at_us, VNs with a route)."""
    joined_at_us, *numbers = _NUMBER_LISTS[(len(record) - 2) // 8].unpack_from(record, 2)
    return Side(record[0]), bool(record[1]), joined_at_us, tuple(map(E164, numbers))


# ── allocations ───────────────────────────────────────────────────────────────


def allocation_record(allocation: Allocation, version: int) -> bytes:
    a, b = allocation.a, allocation.b
    flags = (
        _TWOWAY * (allocation.usage is Usage.TWOWAY)
        | _GREENVN * (allocation.product is Product.GREENVN)
        | _COMMON_PIN * allocation.common_pin
        | _A_NEEDS_PIN * a.listed_need_pin
        | _B_NEEDS_PIN * b.listed_need_pin
        | _HAS_MEMBERS * allocation.has_members
    )
    head = _HEAD.pack(
        version,
        allocation.expires_at_us,
        flags,
        len(a.numbers),
        len(a.virtual_numbers),
        len(b.numbers),
        len(b.virtual_numbers),
        _pin_bytes(a.pin),
        _pin_bytes(b.pin),
    )
    numbers = (*a.numbers, *a.virtual_numbers, *b.numbers, *b.virtual_numbers)
    return head + _NUMBER_LISTS[len(numbers)].pack(*numbers)


def allocation_version_of(record: bytes) -> int:
    return int.from_bytes(record[:8], "big")


def _allocation_flags(flags: int) -> tuple[Product, Usage, bool, bool, bool, bool]:
    return (
        Product.GREENVN if flags & _GREENVN else Product.GREENPIN,
        Usage.TWOWAY if flags & _TWOWAY else Usage.ONEWAY,
        bool(flags & _A_NEEDS_PIN),
        bool(flags & _B_NEEDS_PIN),
        bool(flags & _COMMON_PIN),
        bool(flags & _HAS_MEMBERS),
    )


_ALLOCATION_FLAGS: Final = tuple(_allocation_flags(flags) for flags in range(64))


class StoredAllocation:
    """An allocation that unpacks what is asked for: a decision reads one side of it, and seldom a PIN.

    `routing.model.AllocationOnBoard`; half the time of `allocation_of`, which unpacks everything.
    """

    __slots__ = ("_flags", "_record", "expires_at_us", "has_members", "id")

    def __init__(self, allocation_id: AllocationId, record: bytes) -> None:
        self.id = allocation_id
        self._record = record
        self.expires_at_us: int
        self.expires_at_us, flags = _LIFE.unpack_from(record, _VERSION_BYTES)
        said: tuple[Product, Usage, bool, bool, bool, bool] = _ALLOCATION_FLAGS[flags]
        self._flags = said
        self.has_members = said[5]

    @property
    def product(self) -> Product:
        return self._flags[0]

    @property
    def usage(self) -> Usage:
        return self._flags[1]

    def party(self, side: Side) -> Party:
        record = self._record
        if side:
            numbers, vns, needs_pin, pin_at = record[_B_AT], record[_B_AT + 1], self._flags[3], _B_PIN_AT
            start = _HEAD.size + (record[_A_AT] + record[_A_AT + 1]) * _NUMBER.size
        else:
            numbers, vns, needs_pin, pin_at = record[_A_AT], record[_A_AT + 1], self._flags[2], _A_PIN_AT
            start = _HEAD.size
        listed = tuple(map(E164, _NUMBER_LISTS[numbers + vns].unpack_from(record, start)))
        pin = _pin_of(record[pin_at : pin_at + PIN_DIGITS_MAX])
        return _new_tuple(Party, (listed[:numbers], listed[numbers:], pin, needs_pin))

    def permits(self, side: Side) -> bool:
        return side is SIDE_A or self._flags[1] is _TWOWAY_USAGE

    def is_live(self, now_us: int) -> bool:
        return now_us < self.expires_at_us


def allocation_of(allocation_id: AllocationId, record: bytes) -> Allocation:
    (_, expires_at_us, flags, a_numbers, a_vns, b_numbers, b_vns, a_pin, b_pin) = _HEAD.unpack_from(record)
    a_end = a_numbers + a_vns
    b_start = a_end + b_numbers
    numbers = tuple(map(E164, _NUMBER_LISTS[b_start + b_vns].unpack_from(record, _HEAD.size)))
    product, usage, a_needs_pin, b_needs_pin, common_pin, has_members = _ALLOCATION_FLAGS[flags]
    a = _new_tuple(Party, (numbers[:a_numbers], numbers[a_numbers:a_end], _pin_of(a_pin), a_needs_pin))
    b = _new_tuple(Party, (numbers[a_end:b_start], numbers[b_start:], _pin_of(b_pin), b_needs_pin))
    return _new_tuple(
        Allocation, (allocation_id, product, usage, expires_at_us, a, b, common_pin, has_members)
    )


def _pin_bytes(pin: Pin | None) -> bytes:
    return b"" if pin is None else pin.digits.encode()


# Most PINs have four digits, so a few thousand serve all calls; 150 bytes each.
@lru_cache(maxsize=16_384)
def _pin_of(field: bytes) -> Pin | None:
    return Pin(field.rstrip(b"\0").decode()) if field[0] else None
