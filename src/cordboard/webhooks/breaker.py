"""Leaves an endpoint alone that is down: after many failures in a row nothing is sent for a while, then one
event to see, and everything again once that was taken. What waits meanwhile uses up no attempts.

Pure: time and dice are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cordboard.clock import SECOND_US

# A receiver that is started anew may drop all the 16 that it has in hand; four more, one after the other, say
# that it did not come back.
FAILURES_MAX: Final = 20
# Doubled with each probe that fails: 1, 2, 4, … 60 s. One that was down for long gets 1,400 probes a day, and
# is found again within a minute.
PAUSE_MIN_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
# Of a pause, so that endpoints that failed together are not probed together.
JITTER: Final = 0.2


class Breaker:
    """Of one endpoint. Closed until it opens; then `is_open` until a probe succeeds."""

    def __init__(self) -> None:
        self.is_open = False
        # When the next probe may be sent, while open.
        self.probe_at_us = 0
        self._failures = 0
        self._pause_s = 0.0
        self._is_probing = False

    def begin_probe(self) -> None:
        assert self.is_open
        self._is_probing = True

    def failed(self, now_us: int, dice: Callable[[], float]) -> None:
        """An attempt failed. Of those that were under way when it opened nothing more is learned."""
        self._failures += 1
        if self.is_open and not self._is_probing:
            return
        if not self.is_open and self._failures < FAILURES_MAX:
            return
        self._pause_s = min(2 * self._pause_s, PAUSE_MAX_S) if self.is_open else PAUSE_MIN_S
        self.is_open, self._is_probing = True, False
        self.probe_at_us = now_us + int(self._pause_s * (1 + JITTER * (2 * dice() - 1)) * SECOND_US)

    def gave_up_probing(self) -> None:
        """The probe ended without anybody being asked."""
        self._is_probing = False
