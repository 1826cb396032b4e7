"""VNs that requests of this node have picked and that the board does not show yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from cordboard.routing.model import Allocation
from cordboard.routing.numbers import E164, Pin


class Picks:
    """Requests for the same number choose one after the other, but each is on the board only when its
    commit is. Without these marks a hundred of them would all pick the same VN, and ninety-nine lose.

    Only a courtesy: the database decides, and other nodes know nothing of it.
    """

    def __init__(self) -> None:
        # By tenant and by number or PIN: a PIN is text and a number is none, so the two never collide.
        self._under_way: dict[tuple[str, E164 | Pin], Counter[E164]] = {}

    def of(self, tenant_id: str, what: E164 | Pin) -> tuple[E164, ...]:
        """The VNs where this number or PIN is about to stand."""
        return tuple(self._under_way.get((tenant_id, what), ()))

    @contextmanager
    def noted(self, tenant_id: str, allocation: Allocation) -> Iterator[None]:
        """For as long as the request for `allocation` is under way."""
        a, b = allocation.a, allocation.b
        people: tuple[E164 | Pin, ...] = (*a.numbers, *b.numbers, *a.pins, *b.pins)
        marks = [
            ((tenant_id, what), virtual_number) for what in people for virtual_number in a.virtual_numbers
        ]
        for key, virtual_number in marks:
            self._under_way.setdefault(key, Counter())[virtual_number] += 1
        try:
            yield
        finally:
            for key, virtual_number in marks:
                counted = self._under_way[key]
                counted[virtual_number] -= 1
                if not counted[virtual_number]:
                    del counted[virtual_number]
                if not counted:
                    del self._under_way[key]
