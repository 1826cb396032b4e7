"""The bodies of the documented events (exotel.md 8.10): every key, type and order as on the pages.

Where a page's table and its sample disagree, the sample is followed, but for slips of the pages: a key
`transation_id`, a released allocation that calls itself `active`, and an offset of `+50:30` (exotel.md
11.36, 11.19 and 11.14). What a tenant's settings and the second generation add comes after those keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final, assert_never

from cordboard.clock import EPOCH, to_datetime
from cordboard.routing.allocate import Generation, id_text
from cordboard.routing.model import Product
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import CallbackTimeFormat, CallbackTo, MissingRecording
from cordboard.storage.facts import (
    CallCompletedFacts,
    DeallocatedFacts,
    Facts,
    Insights,
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

_DIRECTION: Final = "incoming"
_SOURCE: Final = "exotel"
_STATE: Final = "vault"


def body_of(product: Product, facts: Facts) -> dict[str, Any]:
    """What the subscriber gets."""
    match product:
        case Product.GREENPIN:
            return _greenpin_body(facts)
        case Product.GREENVN:
            return _greenvn_body(facts)
        case unmatched:
            assert_never(unmatched)


# What in the bodies is a party's number, a PIN, or an address that opens a recording.
_NUMBERS: Final = frozenset(("from", "to", "caller", "aparty_numbers", "bparty_numbers"))
_PINS: Final = frozenset(("pin", "aparty_pins", "bparty_pins"))
_HIDDEN: Final = "…"


def masked(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body for those who may not see numbers and PINs whole. Virtual numbers are no secret."""
    return {key: _masked_value(key, value) for key, value in body.items()}


def _masked_value(key: str, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, list):
        return [_masked_value(key, item) for item in value]
    if key in _NUMBERS:
        return str(E164(value)) if value else value
    if key in _PINS:
        # What was keyed need not look like a PIN, and GreenVN's are numbers.
        return str(Pin(str(value)))
    if key == "recording_url" and value != "null":
        return _HIDDEN
    return value


# ── GreenPin ─────────────────────────────────────────────────────────────────


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
        "greenpin_id": id_text(facts.allocation_id, Product.GREENPIN, facts.generation),
        "from": _plus_or_null(facts.caller),
        "to": _called(facts),
        "call_type": facts.call_type,
        "start_time": _start_time(facts),
        "current_time": _current_time(facts),
        "dial_call_duration": facts.dial_call_duration_s,
        "on_call_duration": facts.on_call_duration_s,
        "direction": _DIRECTION,
        "recording_url": _recording_url(facts),
        "dial_call_status": facts.dial_call_status,
        "source": _SOURCE,
        **_tags(facts),
        **_of_second_generation(facts),
    }


def _greenpin_deallocation(facts: DeallocatedFacts) -> dict[str, Any]:
    return {
        "transaction_id": facts.transaction_id,
        "aparty_numbers": _pluses(facts.a.numbers),
        "bparty_numbers": _pluses(facts.b.numbers),
        "aparty_vns": _pluses(facts.a.virtual_numbers),
        "bparty_vns": _pluses(facts.b.virtual_numbers),
        "aparty_pins": _pin_texts(facts.a.pins),
        "bparty_pins": _pin_texts(facts.b.pins),
        "usage": facts.usage.value,
        "greenpin_id": id_text(facts.allocation_id, Product.GREENPIN, facts.generation),
        "state": _STATE,
        **_of_second_generation(facts),
    }


def _greenpin_verified(facts: VerifiedFacts) -> dict[str, Any]:
    return {
        "caller": _plus_or_null(facts.caller),
        "greenpin_id": id_text(facts.allocation_id, Product.GREENPIN, facts.generation),
        "vn": facts.virtual_number.plus,
        "transaction_id": facts.transaction_id,
        "pin": facts.pin.digits,
        "call_sid": facts.call_sid,
        **_of_second_generation(facts),
    }


def _greenpin_verification_failed(facts: VerificationFailedFacts) -> dict[str, Any]:
    return {
        "start_time": _start_time(facts),
        "caller": _plus_or_null(facts.caller),
        "vn": facts.virtual_number.plus,
        "call_sid": facts.call_sid,
        "pin": facts.pin.digits,
    }


# ── GreenVN ──────────────────────────────────────────────────────────────────


def _greenvn_body(facts: Facts) -> dict[str, Any]:
    match facts:
        case CallCompletedFacts():
            return _greenvn_call(facts)
        case DeallocatedFacts():
            return _greenvn_deallocation(facts)
        case VerifiedFacts():
            return _greenvn_verified(facts)
        case VerificationFailedFacts():
            return _greenvn_verification_failed(facts)
        case unmatched:
            assert_never(unmatched)


def _greenvn_call(facts: CallCompletedFacts) -> dict[str, Any]:
    conversation = {
        "recording_url": _recording_url(facts),
        "on_call_duration": facts.on_call_duration_s,
    }
    insights: dict[str, Any] = {}
    if facts.insights is not None:
        insights = {"insights": _insights(facts.insights)}
        # The page's sample with insights has these two the other way round.
        conversation = dict(reversed(conversation.items()))
    return {
        "start_time": _start_time(facts),
        **insights,
        "direction": _DIRECTION,
        "source": _SOURCE,
        "dial_call_duration": str(facts.dial_call_duration_s),
        "connection_id": facts.transaction_id,
        "dial_call_status": facts.dial_call_status,
        "greenvn": facts.virtual_number.plus,
        **conversation,
        "greenvn_id": id_text(facts.allocation_id, Product.GREENVN, facts.generation),
        "call_type": facts.call_type,
        "call_sid": facts.call_sid,
        "to": _called(facts),
        "current_time": _current_time(facts),
        "from": _plus_or_null(facts.caller),
        **_tags(facts),
        **_of_second_generation(facts),
    }


def _greenvn_deallocation(facts: DeallocatedFacts) -> dict[str, Any]:
    # One VN serves both sides.
    virtual_number = facts.a.virtual_numbers[0]
    return {
        "connection_id": facts.transaction_id,
        "aparty_numbers": _pluses(facts.a.numbers),
        "bparty_numbers": _pluses(facts.b.numbers),
        "aparty_pins": _pin_integers(facts.a.pins),
        "bparty_pins": _pin_integers(facts.b.pins),
        "usage": facts.usage.value,
        "state": _STATE,
        "greenvn": virtual_number.plus,
        "greenvn_id": id_text(facts.allocation_id, Product.GREENVN, facts.generation),
        **_of_second_generation(facts),
    }


def _greenvn_verified(facts: VerifiedFacts) -> dict[str, Any]:
    return {
        "caller": _plus_or_null(facts.caller),
        "greenvn_id": id_text(facts.allocation_id, Product.GREENVN, facts.generation),
        "greenvn": facts.virtual_number.plus,
        "connection_id": facts.transaction_id,
        "pin": facts.pin.digits,
        **_of_second_generation(facts),
    }


def _greenvn_verification_failed(facts: VerificationFailedFacts) -> dict[str, Any]:
    return {
        "start_time": _start_time(facts),
        "caller": _plus_or_null(facts.caller),
        "greenvn": facts.virtual_number.plus,
        "call_sid": facts.call_sid,
        "pin": facts.pin.digits,
    }


def _insights(insights: Insights) -> dict[str, Any]:
    """All four keys, so that a subscriber finds each; null where the platform did not say."""
    return {
        "DisconnectedBy": insights.disconnected_by,
        "Status": insights.status,
        "DetailedStatus": insights.detailed_status,
        "RingingDuration": insights.ringing_duration,
    }


# ── what both have ───────────────────────────────────────────────────────────


def _of_second_generation(facts: CallCompletedFacts | DeallocatedFacts | VerifiedFacts) -> dict[str, Any]:
    match facts.generation:
        case Generation.FIRST:
            return {}
        case Generation.SECOND:
            return {"custom_field": facts.custom_field, "record": facts.record}
        case unmatched:
            assert_never(unmatched)


def _tags(facts: CallCompletedFacts) -> dict[str, Any]:
    tags = {"aparty_tag": facts.a_tag, "bparty_tag": facts.b_tag}
    return {key: tag for key, tag in tags.items() if tag is not None}


def _called(facts: CallCompletedFacts) -> str | None:
    if facts.called is None:
        return None
    match facts.callback_to:
        case CallbackTo.REAL:
            return facts.called.plus
        case CallbackTo.MASKED:
            return facts.virtual_number.plus
        case unmatched:
            assert_never(unmatched)


def _recording_url(facts: CallCompletedFacts) -> str | None:
    if facts.recording_url:
        return facts.recording_url
    match facts.missing_recording:
        case MissingRecording.TEXT:
            return "null"
        case MissingRecording.NULL:
            return None
        case unmatched:
            assert_never(unmatched)


def _plus_or_null(number: E164 | None) -> str | None:
    return None if number is None else number.plus


def _pluses(numbers: Iterable[E164]) -> list[str]:
    return [number.plus for number in numbers]


def _pin_texts(pins: Iterable[Pin]) -> list[str]:
    return [pin.digits for pin in pins]


def _pin_integers(pins: Iterable[Pin]) -> list[int | None]:
    """As GreenVN's wire shows PINs: without leading zeros, and a null where there is none."""
    return [int(pin.digits) for pin in pins] or [None]


def _current_time(facts: CallCompletedFacts | VerificationFailedFacts) -> str:
    moment = to_datetime(facts.at_us).astimezone(ACCOUNT_TIMEZONES[facts.timezone])
    return _time_text(moment, facts.time_format)


def _start_time(facts: CallCompletedFacts | VerificationFailedFacts) -> str:
    """What the platform wrote, in the account's zone; when we heard of it, where that is no time."""
    zone = ACCOUNT_TIMEZONES[facts.timezone]
    if facts.start_time is not None and (start := _parse_time(facts.start_time.strip(), zone)) is not None:
        return _time_text(start, facts.time_format)
    return _current_time(facts)


def _time_text(moment: datetime, time_format: CallbackTimeFormat) -> str:
    match time_format:
        case CallbackTimeFormat.ISO:
            return moment.isoformat(timespec="seconds")
        case CallbackTimeFormat.PLAIN:
            return moment.replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
        case unmatched:
            assert_never(unmatched)


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
