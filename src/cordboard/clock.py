"""The one place where the time is read, and where instants become dates and back."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from cordboard.routing.model import NEVER_US

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND_US: Final = 1_000_000


class Clock(Protocol):
    def now_us(self) -> int:
        """Microseconds since 1970 UTC, by the wall clock."""
        ...


class SystemClock:
    def now_us(self) -> int:
        return time.time_ns() // 1000


def to_datetime(instant_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=instant_us)


def to_datetime_or_none(instant_us: int) -> datetime | None:
    """NULL stands for never."""
    return None if instant_us == NEVER_US else to_datetime(instant_us)


def to_instant_us(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def to_instant_us_or_none(moment: datetime | None) -> int | None:
    return None if moment is None else to_instant_us(moment)


def to_instant_us_or_never(moment: datetime | None) -> int:
    return NEVER_US if moment is None else to_instant_us(moment)
