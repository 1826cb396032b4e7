"""When an event that was not taken is sent again: by the schedule, or later where its receiver asks for that.

Pure: time and dice are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from cordboard.clock import SECOND_US, to_instant_us

# The sum of the first eight is 3.7 h, and five more bring it to 23.7 h: some 14 attempts in all.
WAITS_S: Final = (1, 5, 30, 2 * 60, 10 * 60, 30 * 60, 3_600, 2 * 3_600, 4 * 3_600)
# Each wait is 80 to 120 % of that, so that what failed together does not come back together.
JITTER: Final = 0.2
DEAD_AFTER_S: Final = 24 * 3_600
# For so long a receiver may put an event off, each time: as the schedule does after the seventh attempt.
ASKED_WAIT_S_MAX: Final = 3_600


def next_attempt_us(
    begun_us: int,
    attempts: int,
    now_us: int,
    dice: Callable[[], float],
    dead_after_s: float = DEAD_AFTER_S,
    asked_wait_us: int = 0,
) -> int | None:
    """When to try again after `attempts` failed ones; None if that is too late for the event.

    A wait that its receiver asked for is kept, up to its bounds: an hour, and the end of the event, right
    before which it is tried once more.
    """
    assert attempts > 0
    assert asked_wait_us >= 0
    end_us = begun_us + int(dead_after_s * SECOND_US)
    roll = dice()
    wait_s = WAITS_S[min(attempts, len(WAITS_S)) - 1]
    due_us = now_us + int(wait_s * (1 + JITTER * (2 * roll - 1)) * SECOND_US)
    if due_us >= end_us:
        return None
    # Its jitter goes one way: sooner was not asked for.
    asked_us = int(min(asked_wait_us, ASKED_WAIT_S_MAX * SECOND_US) * (1 + JITTER * roll))
    return max(due_us, min(now_us + asked_us, end_us - 1))


def asked_wait_us(retry_after: str | None, now_us: int) -> int:
    """For how long a `Retry-After` (RFC 9110, 10.2.3) asks to be left alone; 0 if it says no time.

    >>> asked_wait_us("120", 0)
    120000000
    >>> asked_wait_us("Thu, 01 Jan 1970 00:01:00 GMT", 0)
    60000000
    """
    if retry_after is None:
        return 0
    text = retry_after.strip()
    try:
        if text.isascii() and text.isdigit():
            return int(text) * SECOND_US
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        # Thousands of digits, or no date.
        return 0
    # `-0000`, and the oldest form of a date, name no zone. Dates of HTTP are in UTC.
    in_utc = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return max(to_instant_us(in_utc) - now_us, 0)
