"""The words of routing.md as types: allocations, calls, and what is decided about them.

Instants are integers, microseconds since 1970 UTC: what PostgreSQL's timestamptz holds, exactly.
The types that every call creates are NamedTuples, which cost a third of a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import Final, NamedTuple, NewType, Protocol

from cordboard.routing.numbers import E164, Pin

TenantId = NewType("TenantId", str)

AllocationId = NewType("AllocationId", bytes)
"""The 16 bytes of a UUID; text only on the wire."""

AllocationRef = NewType("AllocationRef", bytes)
"""How a board calls an allocation among its own rows; it means nothing to anybody else."""

NEVER_US: Final = 2**63 - 1
"""`expires_at_us` of an allocation without end; it fits a signed 64-bit column."""


class Side(IntEnum):
    A = 0
    B = 1

    @property
    def other(self) -> Side:
        return _OTHER_SIDE[self]


# Python 3.11 takes 0.1 µs for each `Side.A`; decisions are made of these, so they are named once.
SIDE_A: Final = Side.A
SIDE_B: Final = Side.B
# And a loop over `Side` begins with 0.7 µs.
SIDES: Final = (Side.A, Side.B)
_OTHER_SIDE: Final = (Side.B, Side.A)


class Usage(Enum):
    ONEWAY = "oneway"
    TWOWAY = "twoway"


_TWOWAY: Final = Usage.TWOWAY


class Product(Enum):
    GREENVN = "greenvn"
    GREENPIN = "greenpin"


class State(Enum):
    ACTIVE = "active"
    VAULT = "vault"


class Party(NamedTuple):
    """One side of an allocation, without its members."""

    numbers: tuple[E164, ...]
    virtual_numbers: tuple[E164, ...]
    # GreenPin knows one at most, GreenVN several.
    pins: tuple[Pin, ...]
    listed_need_pin: bool

    @property
    def pin(self) -> Pin | None:
        """The PIN of a side that has one at most."""
        return self.pins[0] if self.pins else None


class CallPolicy(NamedTuple):
    """What the platform is told of a connected call beside its targets."""

    record: bool = False
    custom_field: str | None = None


PLAIN_CALLS: Final = CallPolicy()


class Allocation(NamedTuple):
    """A live allocation."""

    id: AllocationId
    product: Product
    usage: Usage
    expires_at_us: int
    a: Party
    b: Party
    # Both sides answer to one PIN (tenant setting `common_pin_enabled` when it was made).
    common_pin: bool
    # Spares the lookup of members for the many allocations that have none.
    has_members: bool
    # Its VN bears no other allocation (second generation).
    is_exclusive: bool = False
    # Too many wrong PINs: nobody speaks for B until it is updated.
    is_locked: bool = False
    policy: CallPolicy = PLAIN_CALLS

    def party(self, side: Side) -> Party:
        return self.a if side is SIDE_A else self.b

    def numbers(self, side: Side) -> tuple[E164, ...]:
        """The listed numbers of a side."""
        return self.party(side).numbers

    def virtual_numbers(self, side: Side) -> tuple[E164, ...]:
        return self.party(side).virtual_numbers

    def permits(self, side: Side) -> bool:
        """Whether `side` may call the other (routing.md, Direction)."""
        return side is SIDE_A or self.usage is _TWOWAY

    def is_live(self, now_us: int) -> bool:
        return now_us < self.expires_at_us


class AllocationOnBoard(Protocol):
    """What a decision reads of an allocation; a board need not unpack more than that."""

    @property
    def id(self) -> AllocationId: ...
    @property
    def product(self) -> Product: ...
    @property
    def expires_at_us(self) -> int: ...
    @property
    def has_members(self) -> bool: ...
    @property
    def is_exclusive(self) -> bool: ...
    @property
    def is_locked(self) -> bool: ...
    @property
    def policy(self) -> CallPolicy: ...

    def numbers(self, side: Side) -> tuple[E164, ...]: ...
    # Plain numbers, because they are looked through more often than any of them is shown.
    def virtual_numbers(self, side: Side) -> tuple[int, ...]: ...
    def party(self, side: Side) -> Party: ...
    def permits(self, side: Side) -> bool: ...
    def is_live(self, now_us: int) -> bool: ...


Route = tuple[AllocationRef, Side, bool, bool]
"""This caller, dialling this VN, belongs to that side: (ref, side, needs_pin, is_member).

Plain, because every call makes one and takes it apart at once: by names it costs 0.2 µs more.
"""


class PinHolder(NamedTuple):
    """Who a PIN on a VN belongs to; `side` is None for a common PIN."""

    ref: AllocationRef
    side: Side | None


class UsablePin(NamedTuple):
    """A PIN of a side that may call, without its digits: enough to know that one exists."""

    length: int
    ref: AllocationRef
    side: Side | None


# ── What is asked ────────────────────────────────────────────────────────────


class NoEntry(NamedTuple):
    """Nothing new was keyed in."""


class EmptyEntry(NamedTuple):
    """The caller was prompted again and keyed in nothing, or only what was refused before."""


class PinEntry(NamedTuple):
    """Digits that have no outcome in this call yet; `pin` is None if no PIN could look like that."""

    pin: Pin | None
    digest: bytes


Entry = NoEntry | EmptyEntry | PinEntry


class LastEntry(Enum):
    """What a prompt should say of the entry before it."""

    NONE = "none"
    WRONG = "wrong"
    EMPTY = "empty"


class Admission(NamedTuple):
    """A recorded success: this call speaks for that side."""

    allocation_id: AllocationId
    side: Side


class Progress(NamedTuple):
    """What happened in this call so far (routing.md, The progress of a call)."""

    failures: int = 0
    empty_entries: int = 0
    # A prompt was given that no decision hop has answered yet.
    prompt_open: bool = False
    last_entry: LastEntry = LastEntry.NONE
    # Digests of all digits that have an outcome.
    tried: frozenset[bytes] = frozenset()
    admission: Admission | None = None


NEW_CALL: Final = Progress()


class ThrottleScope(Enum):
    """What a sliding window of wrong PINs is about; withheld callers are one caller for each VN."""

    CALLER = "caller"
    VN = "vn"
    TENANT = "tenant"


class Exceeded(NamedTuple):
    """Which sliding windows of wrong PINs are full (routing.md, Wrong PINs)."""

    caller: bool = False
    shared: bool = False  # the VN's or the tenant's


NOT_EXCEEDED: Final = Exceeded()


class CallRules(NamedTuple):
    """The tenant's settings that a decision reads."""

    pin_attempts_max: int = 3
    refuse_withheld: bool = False


class Call(NamedTuple):
    """One decision hop. A `caller` of None is withheld, a `virtual_number` of None was no number."""

    virtual_number: E164 | None
    caller: E164 | None
    entry: Entry
    progress: Progress
    exceeded: Exceeded
    rules: CallRules


# ── What is answered ─────────────────────────────────────────────────────────


class Matched(Enum):
    LISTED = "listed"
    MEMBER = "member"
    PIN = "pin"
    VERIFIED_BEFORE = "verified_before"


class Reason(Enum):
    UNKNOWN_VN = "unknown_vn"
    NO_ALLOCATION = "no_allocation"
    WRONG_PIN = "wrong_pin"
    NO_INPUT = "no_input"
    DIRECTION = "direction"
    LOCKED = "locked"
    THROTTLED = "throttled"
    NO_TARGET = "no_target"
    WITHHELD = "withheld"


class RightPin(NamedTuple):
    """To be recorded: the entry admits the caller to a side."""

    digest: bytes
    admission: Admission
    # The caller was neither listed nor a member: it joins (unless withheld) and is told of.
    is_stranger: bool
    # The allocation counts the wrong PINs of its own people, and begins anew.
    resets_lock: bool = False


class WrongPin(NamedTuple):
    """To be recorded: the entry fits nothing that this caller may enter."""

    digest: bytes
    # The allocation that locks itself after too many of these.
    counts_against: AllocationId | None = None


Outcome = RightPin | WrongPin


class Connect(NamedTuple):
    allocation_id: AllocationId
    product: Product
    side: Side
    targets: tuple[E164, ...]
    caller_id: E164
    matched: Matched
    outcome: RightPin | None = None
    policy: CallPolicy = PLAIN_CALLS


class AskPin(NamedTuple):
    digits_max: int
    attempts_left: int
    last_entry: LastEntry
    outcome: WrongPin | None = None


class Refuse(NamedTuple):
    """`allocation_id` is known only where the caller was matched to one."""

    reason: Reason
    allocation_id: AllocationId | None = None
    outcome: Outcome | None = None


Decision = Connect | AskPin | Refuse


def latest_first(members: Sequence[tuple[int, E164]]) -> tuple[E164, ...]:
    """Members by the instant they joined, latest first; of the same instant, the larger number first."""
    return tuple(number for _, number in sorted(members, reverse=True))
