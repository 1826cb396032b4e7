"""Instants as an account reads them: in its `timezone` setting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

from cordboard.clock import to_datetime

# India has no summer time.
ZONES: Final[dict[str, tzinfo]] = {"IST": timezone(timedelta(hours=5, minutes=30)), "UTC": UTC}


def plain_text(instant_us: int, zone: str) -> str:
    """`2020-03-27 12:17:09`, as `deallocation_time` is written (exotel.md 1.4)."""
    return _local(instant_us, zone).strftime("%Y-%m-%d %H:%M:%S")


def iso_text(instant_us: int, zone: str = "UTC") -> str:
    """`2020-03-27T12:17:09+05:30`."""
    return _local(instant_us, zone).isoformat(timespec="seconds")


def _local(instant_us: int, zone: str) -> datetime:
    return to_datetime(instant_us).astimezone(ZONES[zone])
