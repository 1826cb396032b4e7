"""Instants as an account reads and writes them: in its `timezone` setting."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final

from cordboard.clock import SECOND_US, to_datetime, to_instant_us

# India has no summer time.
ZONES: Final[dict[str, tzinfo]] = {"IST": timezone(timedelta(hours=5, minutes=30)), "UTC": UTC}

_DAY_US: Final = 86_400 * SECOND_US
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PLAIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", re.ASCII)
# A blank is the plus of the offset, which queries lose.
_ISO = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?(?:Z|([+\- ])(\d\d):?(\d\d))", re.ASCII)


def plain_text(instant_us: int, zone: str) -> str:
    """`2020-03-27 12:17:09`, as `deallocation_time` is written (exotel.md 1.4)."""
    return _local(instant_us, zone).replace(tzinfo=None).isoformat(" ", "seconds")


def iso_text(instant_us: int, zone: str = "UTC") -> str:
    """`2020-03-27T12:17:09+05:30`."""
    return _local(instant_us, zone).isoformat(timespec="seconds")


def _local(instant_us: int, zone: str) -> datetime:
    return to_datetime(instant_us).astimezone(ZONES[zone])


def parse_instants(text: str, zone: str) -> range | None:
    """The instants, in microseconds since 1970 UTC, that `text` names; None if it names none.

    >>> parse_instants("1970-01-02", "UTC")  # a day of the account
    range(86400000000, 172800000000)
    >>> parse_instants("1970-01-01 05:30:01", "IST")  # a second of the account
    range(1000000, 2000000)
    >>> parse_instants("1970-01-01T05:30:01.5+05:30", "UTC")  # with an offset: wherever the account is
    range(1500000, 1500001)
    """
    try:
        if _DAY.fullmatch(text):
            moment, length_us = datetime.fromisoformat(text).replace(tzinfo=ZONES[zone]), _DAY_US
        elif _PLAIN.fullmatch(text):
            moment, length_us = datetime.fromisoformat(text).replace(tzinfo=ZONES[zone]), SECOND_US
        elif (match := _ISO.fullmatch(text)) is not None:
            local, fraction, sign, hours, minutes = match.groups()
            offset = "+00:00" if sign is None else f"{sign.replace(' ', '+')}{hours}:{minutes}"
            moment = datetime.fromisoformat(f"{local}.{(fraction or '')[1:]:0<6}{offset}")
            length_us = 1 if fraction else SECOND_US
        else:
            return None
    except ValueError:  # The thirtieth of February.
        return None
    start_us = to_instant_us(moment)
    return range(start_us, start_us + length_us)
