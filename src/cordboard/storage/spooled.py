"""What the spool keeps: an outcome or an end of a call, with all that its transaction will need.

The spool is read by the engine that wrote it or by a later one, so what is added has a default there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, assert_never

import orjson

from cordboard.routing.model import Admission, AllocationId, Outcome, RightPin, Side, WrongPin
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import (
    DEFAULTS,
    CallbackTimeFormat,
    CallbackTo,
    MissingRecording,
    TenantSettings,
)
from cordboard.storage.calls import CallType, KeptRow, NewEnd, row_columns
from cordboard.storage.facts import Insights
from cordboard.storage.outcomes import CallKey, NewOutcome

Item = NewOutcome | NewEnd


class Spooled(NamedTuple):
    cell: int
    item: Item


def to_bytes(spooled: Spooled) -> bytes:
    """With digits and numbers written out."""
    match spooled.item:
        case NewOutcome() as outcome:
            kept = {"kind": "outcome", **outcome_to_json(outcome)}
        case NewEnd() as end:
            kept = {"kind": "end", **_end_to_json(end)}
        case unmatched:
            assert_never(unmatched)
    return orjson.dumps({"cell": spooled.cell, **kept})


def from_bytes(body: bytes) -> Spooled:
    """Raises ValueError, KeyError or TypeError for what no engine of this version wrote."""
    kept: dict[str, Any] = orjson.loads(body)
    match kept["kind"]:
        case "outcome":
            return Spooled(kept["cell"], outcome_of(kept))
        case "end":
            return Spooled(kept["cell"], _end_of(kept))
        case other:
            raise ValueError(f"unknown kind {other!r}")


def outcome_to_json(new: NewOutcome) -> dict[str, object]:
    """With digits and numbers written out."""
    return {
        **_call_to_json(new.call),
        "outcome": _verdict_to_json(new.outcome),
        "digits": new.digits.digits,
        "start_time": new.start_time,
        "at_us": new.at_us,
        "request_id": new.request_id,
        "wording": _wording(new.settings),
    }


def outcome_of(kept: Mapping[str, Any]) -> NewOutcome:
    """Raises ValueError, KeyError or TypeError for what no engine of this version wrote."""
    return NewOutcome(
        call=_call_of(kept),
        outcome=_verdict_of(kept["outcome"]),
        digits=Pin(kept["digits"]),
        start_time=kept["start_time"],
        settings=_settings_of(kept["wording"]),
        at_us=kept["at_us"],
        request_id=kept.get("request_id"),
    )


def _verdict_to_json(outcome: Outcome) -> dict[str, object]:
    match outcome:
        case RightPin(digest, admission, is_stranger, resets_lock):
            return {
                "digest": digest.hex(),
                "allocation_id": admission.allocation_id.hex(),
                "side": int(admission.side),
                "is_stranger": is_stranger,
                "resets_lock": resets_lock,
            }
        case WrongPin(digest, counts_against):
            against = None if counts_against is None else counts_against.hex()
            return {"digest": digest.hex(), "counts_against": against}
        case unmatched:
            assert_never(unmatched)


def _verdict_of(kept: Mapping[str, Any]) -> Outcome:
    digest = bytes.fromhex(kept["digest"])
    if "side" in kept:
        admission = Admission(AllocationId(bytes.fromhex(kept["allocation_id"])), Side(kept["side"]))
        return RightPin(digest, admission, kept["is_stranger"], kept["resets_lock"])
    against = kept["counts_against"]
    return WrongPin(digest, None if against is None else AllocationId(bytes.fromhex(against)))


def _end_to_json(end: NewEnd) -> dict[str, object]:
    return {
        "tenant_id": end.tenant_id,
        "call_sid": end.call_sid,
        "call_type": end.call_type.value,
        "dial_call_status": end.dial_call_status,
        "dialled": None if end.dialled is None else int(end.dialled),
        "dial_call_duration_s": end.dial_call_duration_s,
        "on_call_duration_s": end.on_call_duration_s,
        "recording_url": end.recording_url,
        "start_time": end.start_time,
        "at_us": end.at_us,
        "request_id": end.request_id,
        "insights": None if end.insights is None else end.insights.to_json(),
        "waiting": None if end.waiting is None else row_columns(end.waiting),
        "derived": None if end.derived is None else row_columns(end.derived),
        "wording": _wording(end.settings),
    }


def _end_of(kept: Mapping[str, Any]) -> NewEnd:
    insights = kept["insights"]
    return NewEnd(
        tenant_id=kept["tenant_id"],
        call_sid=kept["call_sid"],
        settings=_settings_of(kept["wording"]),
        call_type=CallType(kept["call_type"]),
        dial_call_status=kept["dial_call_status"],
        dialled=_number_of(kept["dialled"]),
        dial_call_duration_s=kept["dial_call_duration_s"],
        on_call_duration_s=kept["on_call_duration_s"],
        recording_url=kept["recording_url"],
        start_time=kept["start_time"],
        at_us=kept["at_us"],
        insights=None if insights is None else Insights.from_json(insights),
        waiting=_row_of(kept["waiting"]),
        derived=_row_of(kept["derived"]),
        request_id=kept.get("request_id"),
    )


def _row_of(columns: Mapping[str, Any] | None) -> KeptRow | None:
    if columns is None:
        return None
    call = CallKey(
        columns["tenant_id"],
        columns["call_sid"],
        E164(columns["virtual_number"]),
        E164(columns["caller"]) if columns["caller"] else None,
    )
    return KeptRow(call, columns)


def _call_to_json(call: CallKey) -> dict[str, object]:
    return {
        "tenant_id": call.tenant_id,
        "call_sid": call.call_sid,
        "virtual_number": int(call.virtual_number),
        "caller": None if call.caller is None else int(call.caller),
    }


def _call_of(kept: Mapping[str, Any]) -> CallKey:
    return CallKey(
        kept["tenant_id"], kept["call_sid"], E164(kept["virtual_number"]), _number_of(kept["caller"])
    )


def _number_of(number: int | None) -> E164 | None:
    return None if number is None else E164(number)


def _wording(settings: TenantSettings) -> dict[str, object]:
    """What events are worded by, as it was when they happened."""
    return {
        "timezone": settings.timezone,
        "time_format": settings.callback_time_format.value,
        "missing_recording": settings.missing_recording.value,
        "callback_to": settings.callback_to.value,
        "tag_enabled": settings.tag_enabled,
        "a_tag": settings.a_tag,
        "b_tag": settings.b_tag,
    }


def _settings_of(wording: Mapping[str, Any]) -> TenantSettings:
    return replace(
        DEFAULTS,
        timezone=wording["timezone"],
        callback_time_format=CallbackTimeFormat(wording["time_format"]),
        missing_recording=MissingRecording(wording["missing_recording"]),
        callback_to=CallbackTo(wording["callback_to"]),
        tag_enabled=wording["tag_enabled"],
        a_tag=wording["a_tag"],
        b_tag=wording["b_tag"],
    )
