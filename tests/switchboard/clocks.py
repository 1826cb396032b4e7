"""A clock that a test sets."""

from __future__ import annotations

from cordboard.clock import SECOND_US
from tests.storage.office import NOW_US


class SetClock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self._now_us = NOW_US

    def now_us(self) -> int:
        return self._now_us

    def move(self, seconds: float) -> None:
        """Forward, or back."""
        self._now_us += round(seconds * SECOND_US)
