"""The bodies of the documented events (exotel.md 8.10): every key, type and order as on the pages.

Where a page's table and its sample disagree, the sample is followed, but for two slips of the pages:
`transation_id`, and a released allocation that calls itself `active` (exotel.md 11.36 and 11.19).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final, assert_never
from uuid import UUID

from cordboard.clock import EPOCH, to_datetime
from cordboard.routing.model import AllocationId, Product
from cordboard.routing.numbers import E164, Pin
from cordboard.storage.facts import (
    CallCompletedFacts,
    DeallocatedFacts,
    Facts,
    VerificationFailedFacts,
    VerifiedFacts,
)

# The values of the tenant setting `timezone`. India has no summer time.
ACCOUNT_TIMEZONES: Final[dict[str, tzinfo]] = {
    "IST": timezone(timedelta(hours=5, minutes=30)),
    "UTC": UTC,
}

# `Mon, 23 Feb 2026 12:31:59`, which the platform writes beside `2026-02-23 12:31:58` (exotel.md 1.4).
_RFC_1123_WITHOUT_ZONE: Final = "%a, %d %b %Y %H:%M:%S"

# What the pages show where there is no recording: a text, not JSON's null (exotel.md 11.16).
_NO_RECORDING: Final = "null"


class NotWorded(ValueError):
    """No body is written down for this event of this product."""


def body_of(product: Product, facts: Facts) -> dict[str, Any]:
    """What the subscriber gets. Raises NotWorded."""
    match product:
        case Product.GREENPIN:
            return _greenpin_body(facts)
        case Product.GREENVN:
            raise NotWorded(f"{product.value} {facts.kind.value}")
        case unmatched:
            assert_never(unmatched)


def _greenpin_body(facts: Facts) -> dict[str, Any]:
    match facts:
        case CallCompletedFacts():
            return _greenpin_call(facts)
        case DeallocatedFacts():
            return _greenpin_deallocation(facts)
        case VerifiedFacts():
            return _greenpin_verified(facts)
        case VerificationFailedFacts():
            return _greenpin_verification_failed(facts)
        case unmatched:
            assert_never(unmatched)


def _greenpin_call(facts: CallCompletedFacts) -> dict[str, Any]:
    return {
        "transaction_id": facts.transaction_id,
        "call_sid": facts.call_sid,
        "vn": facts.virtual_number.plus,
        "greenpin_id": _id_text(facts.allocation_id),
        "from": _plus_or_null(facts.caller),
        "to": _plus_or_null(facts.called),
        "call_type": facts.call_type,
        "start_time": _start_time(facts.start_time, facts.timezone, facts.at_us),
        "current_time": _time(facts.at_us, facts.timezone),
        "dial_call_duration": facts.dial_call_duration_s,
        "on_call_duration": facts.on_call_duration_s,
        "direction": "incoming",
        "recording_url": facts.recording_url or _NO_RECORDING,
        "dial_call_status": facts.dial_call_status,
        "source": "exotel",
    }


def _greenpin_deallocation(facts: DeallocatedFacts) -> dict[str, Any]:
    return {
        "transaction_id": facts.transaction_id,
        "aparty_numbers": _pluses(facts.a.numbers),
        "bparty_numbers": _pluses(facts.b.numbers),
        "aparty_vns": _pluses(facts.a.virtual_numbers),
        "bparty_vns": _pluses(facts.b.virtual_numbers),
        "aparty_pins": _pins(facts.a.pins),
        "bparty_pins": _pins(facts.b.pins),
        "usage": facts.usage.value,
        "greenpin_id": _id_text(facts.allocation_id),
        "state": "vault",
    }


def _greenpin_verified(facts: VerifiedFacts) -> dict[str, Any]:
    return {
        "caller": _plus_or_null(facts.caller),
        "greenpin_id": _id_text(facts.allocation_id),
        "vn": facts.virtual_number.plus,
        "transaction_id": facts.transaction_id,
        "pin": facts.pin.digits,
        "call_sid": facts.call_sid,
    }


def _greenpin_verification_failed(facts: VerificationFailedFacts) -> dict[str, Any]:
    return {
        "start_time": _start_time(facts.start_time, facts.timezone, facts.at_us),
        "caller": _plus_or_null(facts.caller),
        "vn": facts.virtual_number.plus,
        "call_sid": facts.call_sid,
        "pin": facts.pin.digits,
    }


def _id_text(id: AllocationId) -> str:
    return str(UUID(bytes=id))


def _plus_or_null(number: E164 | None) -> str | None:
    return None if number is None else number.plus


def _pluses(numbers: Iterable[E164]) -> list[str]:
    return [number.plus for number in numbers]


def _pins(pins: Iterable[Pin]) -> list[str]:
    return [pin.digits for pin in pins]


def _time(instant_us: int, account_timezone: str) -> str:
    """`2021-11-09T10:09:15+05:30`."""
    moment = to_datetime(instant_us).astimezone(ACCOUNT_TIMEZONES[account_timezone])
    return moment.isoformat(timespec="seconds")


def _start_time(written: str | None, account_timezone: str, at_us: int) -> str:
    """What the platform wrote, with the account's offset; when we heard of it, where that is no time."""
    zone = ACCOUNT_TIMEZONES[account_timezone]
    if written is not None and (start := _parse_time(written.strip(), zone)) is not None:
        return start.isoformat(timespec="seconds")
    return _time(at_us, account_timezone)


def _parse_time(written: str, zone: tzinfo) -> datetime | None:
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        try:
            moment = datetime.strptime(written, _RFC_1123_WITHOUT_ZONE)  # noqa: DTZ007 - it has none.
        except ValueError:
            return None
    try:
        moment = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment.astimezone(zone)
    except OverflowError:
        return None
    # The platform writes the epoch where it has no time.
    return moment if moment > EPOCH else None
