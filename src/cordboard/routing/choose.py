"""Which VN a GreenVN allocation gets: the one that meets the most preferences, and of equals the one that
the tenant's settings call for.

Pure, and it never looks at all VNs: they come region by region and type by type, the best ones first and
of those the least loaded first, so that nearly always the first one looked at is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import merge
from itertools import chain
from typing import NamedTuple, Protocol

from cordboard.routing.allocate import Pool
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import VnChoice

Kind = tuple[str | None, str | None]
"""The region and the type of a VN."""


class VirtualNumberOnBoard(Protocol):
    """A VN of the tenant's pool."""

    @property
    def region(self) -> str | None: ...
    @property
    def type(self) -> str | None: ...
    @property
    def is_drained(self) -> bool: ...
    @property
    def exclusive(self) -> int:
        """How many allocations stand on it that bear no other."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the engine may pick it without being told its name."""
        ...


class NumberPool(Pool, Protocol):
    """The tenant's VNs, and where numbers and PINs stand. A `line` is how the board calls a VN."""

    @property
    def avoided(self) -> AbstractSet[E164]:
        """VNs that were lost in earlier tries of this request."""
        ...

    @property
    def last_of_pair(self) -> E164 | None:
        """The VN that this pair had before, as far as somebody looked."""
        ...

    def virtual_number(self, virtual_number: E164) -> VirtualNumberOnBoard | None: ...

    def line(self, virtual_number: E164) -> bytes | None: ...

    def open_kinds(self) -> Iterable[Kind]: ...

    def open_numbers(self, kind: Kind, blocked: AbstractSet[bytes]) -> Iterable[tuple[int, bytes, E164]]:
        """(load, line, VN) of those that may be picked, the least loaded first, without blocked lines."""
        ...

    def occupied_by(self, number: E164) -> AbstractSet[bytes]:
        """The lines where a number has a route; ended allocations and requests under way count."""
        ...

    def holding(self, pin: Pin) -> AbstractSet[bytes]:
        """The lines where a PIN is taken; ended allocations and requests under way count."""
        ...

    def occupied_for_sure_by(self, number: E164) -> AbstractSet[bytes]:
        """As `occupied_by`, by live allocations alone; it takes several times as long."""
        ...

    def surely_holding(self, pin: Pin) -> AbstractSet[bytes]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a VN is chosen by. `present` is where the allocation stands, and wants to leave."""

    numbers: tuple[E164, ...]
    pins: tuple[Pin, ...]
    named: E164 | None = None
    region: str | None = None
    type: str | None = None
    is_strict: bool = False
    # Of VNs that meet as many preferences the one there; nobody can insist on it.
    default_region: str | None = None
    choice: VnChoice = VnChoice.LEAST_LOADED
    present: E164 | None = None

    @property
    def preferences(self) -> int:
        return (self.named is not None) + (self.region is not None) + (self.type is not None)


class _Rank(NamedTuple):
    """How good a VN is before load and stickiness are asked; the larger the better."""

    preferences_met: int
    is_named: bool
    is_in_default_region: bool


def choose(wanted: Wanted, pool: NumberPool) -> E164 | None:
    """The VN to take, or None if there is none."""
    blocked = _all_of(map(pool.occupied_by, wanted.numbers), map(pool.holding, wanted.pins))
    found = _best(wanted, pool, blocked)
    if found is None and blocked:
        # What ended a moment ago must not be in the way, nor a request that may yet fail; but to look at
        # each allocation is worth its time only where there would be no VN at all.
        blocked = _all_of(
            map(pool.occupied_for_sure_by, wanted.numbers), map(pool.surely_holding, wanted.pins)
        )
        found = _best(wanted, pool, blocked)
    return found


def _all_of(*lines: Iterable[AbstractSet[bytes]]) -> AbstractSet[bytes]:
    return set().union(*chain(*lines))


def _best(wanted: Wanted, pool: NumberPool, blocked: AbstractSet[bytes]) -> E164 | None:
    needed = wanted.preferences if wanted.is_strict else 0
    named_rank = _rank_of_named(wanted, pool, blocked)
    kinds: dict[_Rank, list[Kind]] = {}
    for kind in pool.open_kinds():
        kinds.setdefault(_rank(wanted, kind, is_named=False), []).append(kind)
    for rank in sorted(kinds, reverse=True):
        if rank.preferences_met < needed or (named_rank is not None and named_rank > rank):
            break
        found = _pick(kinds[rank], wanted, pool, blocked)
        if found is not None:
            return found
    return wanted.named if named_rank is not None and named_rank.preferences_met >= needed else None


def _rank(wanted: Wanted, kind: Kind, *, is_named: bool) -> _Rank:
    region, type = kind
    met = (
        (wanted.region is not None and wanted.region == region)
        + (wanted.type is not None and wanted.type == type)
        + is_named
    )
    is_in_default_region = wanted.default_region is not None and wanted.default_region == region
    return _Rank(met, is_named, is_in_default_region)


def _rank_of_named(wanted: Wanted, pool: NumberPool, blocked: AbstractSet[bytes]) -> _Rank | None:
    """None if the VN asked for by name cannot be had."""
    if wanted.named is None or (state := pool.virtual_number(wanted.named)) is None:
        return None
    # Where the allocation stands already, nothing but itself is in the way.
    if wanted.named != wanted.present and (
        state.is_drained
        or state.exclusive
        or wanted.named in pool.avoided
        or pool.line(wanted.named) in blocked
    ):
        return None
    return _rank(wanted, (state.region, state.type), is_named=True)


def _pick(kinds: list[Kind], wanted: Wanted, pool: NumberPool, blocked: AbstractSet[bytes]) -> E164 | None:
    """Of VNs that are as good as each other."""
    avoided = pool.avoided
    last = None if wanted.choice is VnChoice.LEAST_LOADED else pool.last_of_pair
    if wanted.choice is VnChoice.PREFER_STICKY and last is not None and last != wanted.present:
        state = pool.virtual_number(last)
        if (
            state is not None
            and state.is_open
            and (state.region, state.type) in kinds
            and last not in avoided
            and pool.line(last) not in blocked
        ):
            return last
    the_last_if_need_be = None
    for _, _, number in merge(*(pool.open_numbers(kind, blocked) for kind in kinds)):
        if number in avoided or number == wanted.present:
            continue
        if number != last or wanted.choice is not VnChoice.AVOID_STICKY:
            return number
        the_last_if_need_be = number
    return the_last_if_need_be
