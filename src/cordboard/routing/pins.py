"""Where the PINs of an allocation may be entered: what the database claims and the board indexes."""

from __future__ import annotations

from collections.abc import Iterator

from cordboard.routing.model import SIDES, Allocation, Side
from cordboard.routing.numbers import E164, Pin


def pins_on(allocation: Allocation) -> Iterator[tuple[E164, Pin, Side | None]]:
    """Each PIN of the allocation on each VN where it may be entered; side None for a common PIN."""
    if allocation.common_pin:
        both = dict.fromkeys((*allocation.a.virtual_numbers, *allocation.b.virtual_numbers))
        for pin in allocation.a.pins:
            yield from ((virtual_number, pin, None) for virtual_number in both)
        return
    for side in SIDES:
        party = allocation.party(side)
        for pin in party.pins:
            yield from ((virtual_number, pin, side) for virtual_number in party.virtual_numbers)
