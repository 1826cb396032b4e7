"""What a decision may look up. One board answers for one tenant, as of one instant of the feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from cordboard.routing.model import (
    AllocationId,
    AllocationOnBoard,
    AllocationRef,
    PinHolder,
    Route,
    Side,
    UsablePin,
)
from cordboard.routing.numbers import E164, Pin


class Board(Protocol):
    """All answers come from one consistent snapshot. Rows of allocations past their end may still
    be present (no sweep is waited for), so the one who asks checks that what it got is live."""

    def has_virtual_number(self, virtual_number: E164) -> bool:
        """Whether the number is in this tenant's pool."""
        ...

    def routes(self, virtual_number: E164, caller: E164) -> Sequence[Route]: ...

    def pin_holders(self, virtual_number: E164, pin: Pin) -> Sequence[PinHolder]: ...

    def usable_pins(self, virtual_number: E164, now_us: int) -> Iterable[UsablePin]:
        """The live PINs on the VN whose side may call; the longest come first."""
        ...

    def allocation(self, ref: AllocationRef) -> AllocationOnBoard | None:
        """What `ref` stands for, while it is on the board."""
        ...

    def allocation_by_id(self, allocation_id: AllocationId) -> AllocationOnBoard | None: ...

    def member_side(self, allocation: AllocationOnBoard, number: E164) -> Side | None: ...

    def members(self, allocation: AllocationOnBoard, side: Side) -> tuple[E164, ...]:
        """Latest first."""
        ...
