"""What events tell: the facts as the outbox keeps them, of which webhooks/payloads.py words the bodies.

In memory numbers and PINs hide themselves; `to_json` is where they are written out.

What a tenant's settings say of the wording is a fact too: a later change rewords no event. Facts of an
earlier version wait in the outbox of an upgraded engine, so what was added since has a default.

Of an allocation of the second generation the `transaction_id` is None; `custom_field` and `record` (whether
calls are recorded) are told of that generation only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Self, assert_never
from uuid import UUID

from cordboard.routing.allocate import Generation
from cordboard.routing.model import AllocationId, Party, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import CallbackTimeFormat, CallbackTo, MissingRecording


class EventKind(Enum):
    CALL_COMPLETED = "call_completed"
    DEALLOCATED = "deallocated"
    VERIFIED = "verified"
    VERIFICATION_FAILED = "verification_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Insights:
    """What a subscriber to Call Insights gets to know of a call (exotel.md 10.4), as the platform wrote it;
    None is what it did not say, or not in the form of a word or a number."""

    disconnected_by: str | None = None
    status: str | None = None
    detailed_status: str | None = None
    # Seconds, a decimal number.
    ringing_duration: str | None = None

    def to_json(self) -> dict[str, str | None]:
        return {
            "disconnected_by": self.disconnected_by,
            "status": self.status,
            "detailed_status": self.detailed_status,
            "ringing_duration": self.ringing_duration,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, str | None]) -> Self:
        return cls(
            disconnected_by=kept["disconnected_by"],
            status=kept["status"],
            detailed_status=kept["detailed_status"],
            ringing_duration=kept["ringing_duration"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedFacts:
    """An unlisted caller entered a right PIN. A `caller` of None is withheld."""

    kind: ClassVar = EventKind.VERIFIED

    # The client's id; the second generation has none.
    transaction_id: str | None
    allocation_id: AllocationId
    virtual_number: E164
    caller: E164 | None
    pin: Pin
    call_sid: str
    # The client's own text may say anything.
    custom_field: str | None = field(default=None, repr=False)
    record: bool = False
    generation: Generation = Generation.FIRST

    def to_json(self) -> dict[str, Any]:
        return {
            "transaction_id": self.transaction_id,
            "allocation_id": _id_text(self.allocation_id),
            "virtual_number": int(self.virtual_number),
            "caller": _number_or_none(self.caller),
            "pin": self.pin.digits,
            "call_sid": self.call_sid,
            "custom_field": self.custom_field,
            "record": self.record,
            "generation": self.generation.value,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        return cls(
            transaction_id=kept["transaction_id"],
            allocation_id=_id_of(kept["allocation_id"]),
            virtual_number=E164(kept["virtual_number"]),
            caller=_e164_or_none(kept["caller"]),
            pin=Pin(kept["pin"]),
            call_sid=kept["call_sid"],
            custom_field=kept.get("custom_field"),
            record=bool(kept.get("record")),
            generation=_generation_of(kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationFailedFacts:
    """Somebody entered digits that fit nothing. `pin` is what was keyed, which need not look like a PIN."""

    kind: ClassVar = EventKind.VERIFICATION_FAILED

    # As the platform wrote it, in the account's `timezone` (`IST` or `UTC`); None where it said nothing.
    start_time: str | None
    at_us: int
    timezone: str
    caller: E164 | None
    virtual_number: E164
    call_sid: str
    pin: Pin
    time_format: CallbackTimeFormat = CallbackTimeFormat.ISO

    def to_json(self) -> dict[str, Any]:
        return {
            "start_time": self.start_time,
            "at_us": self.at_us,
            "timezone": self.timezone,
            "caller": _number_or_none(self.caller),
            "virtual_number": int(self.virtual_number),
            "call_sid": self.call_sid,
            "pin": self.pin.digits,
            "time_format": self.time_format.value,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        return cls(
            start_time=kept["start_time"],
            at_us=kept["at_us"],
            timezone=kept["timezone"],
            caller=_e164_or_none(kept["caller"]),
            virtual_number=E164(kept["virtual_number"]),
            call_sid=kept["call_sid"],
            pin=Pin(kept["pin"]),
            time_format=CallbackTimeFormat(kept.get("time_format", "iso")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeallocatedFacts:
    """An allocation was released; `a` and `b` are its sides as they last stood."""

    kind: ClassVar = EventKind.DEALLOCATED

    # The client's id; the second generation has none.
    transaction_id: str | None
    allocation_id: AllocationId
    usage: Usage
    a: Party
    b: Party
    # The client's own text may say anything.
    custom_field: str | None = field(default=None, repr=False)
    record: bool = False
    generation: Generation = Generation.FIRST

    def to_json(self) -> dict[str, Any]:
        return {
            "transaction_id": self.transaction_id,
            "allocation_id": _id_text(self.allocation_id),
            "usage": self.usage.value,
            "a": _party_to_json(self.a),
            "b": _party_to_json(self.b),
            "custom_field": self.custom_field,
            "record": self.record,
            "generation": self.generation.value,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        return cls(
            transaction_id=kept["transaction_id"],
            allocation_id=_id_of(kept["allocation_id"]),
            usage=Usage(kept["usage"]),
            a=_party_of(kept["a"]),
            b=_party_of(kept["b"]),
            custom_field=kept.get("custom_field"),
            record=bool(kept.get("record")),
            generation=_generation_of(kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCompletedFacts:
    """A call of an allocation ended. `called` is the number that was dialled out, None if none was."""

    kind: ClassVar = EventKind.CALL_COMPLETED

    # The client's id; the second generation has none.
    transaction_id: str | None
    allocation_id: AllocationId
    call_sid: str
    virtual_number: E164
    caller: E164 | None
    called: E164 | None
    call_type: str
    # As the platform wrote it, in the account's `timezone` (`IST` or `UTC`); None where it said nothing.
    start_time: str | None
    at_us: int
    timezone: str
    dial_call_duration_s: int
    on_call_duration_s: int
    # Whoever has the address may have the recording.
    recording_url: str | None = field(repr=False)
    dial_call_status: str | None
    insights: Insights | None = None
    # What the tenant calls the sides; None where it does not want that to be told.
    a_tag: str | None = None
    b_tag: str | None = None
    time_format: CallbackTimeFormat = CallbackTimeFormat.ISO
    missing_recording: MissingRecording = MissingRecording.TEXT
    callback_to: CallbackTo = CallbackTo.REAL
    # The client's own text may say anything.
    custom_field: str | None = field(default=None, repr=False)
    record: bool = False
    generation: Generation = Generation.FIRST

    def to_json(self) -> dict[str, Any]:
        return {
            "transaction_id": self.transaction_id,
            "allocation_id": _id_text(self.allocation_id),
            "call_sid": self.call_sid,
            "virtual_number": int(self.virtual_number),
            "caller": _number_or_none(self.caller),
            "called": _number_or_none(self.called),
            "call_type": self.call_type,
            "start_time": self.start_time,
            "at_us": self.at_us,
            "timezone": self.timezone,
            "dial_call_duration_s": self.dial_call_duration_s,
            "on_call_duration_s": self.on_call_duration_s,
            "recording_url": self.recording_url,
            "dial_call_status": self.dial_call_status,
            "insights": None if self.insights is None else self.insights.to_json(),
            "a_tag": self.a_tag,
            "b_tag": self.b_tag,
            "time_format": self.time_format.value,
            "missing_recording": self.missing_recording.value,
            "callback_to": self.callback_to.value,
            "custom_field": self.custom_field,
            "record": self.record,
            "generation": self.generation.value,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self:
        return cls(
            transaction_id=kept["transaction_id"],
            allocation_id=_id_of(kept["allocation_id"]),
            call_sid=kept["call_sid"],
            virtual_number=E164(kept["virtual_number"]),
            caller=_e164_or_none(kept["caller"]),
            called=_e164_or_none(kept["called"]),
            call_type=kept["call_type"],
            start_time=kept["start_time"],
            at_us=kept["at_us"],
            timezone=kept["timezone"],
            dial_call_duration_s=kept["dial_call_duration_s"],
            on_call_duration_s=kept["on_call_duration_s"],
            recording_url=kept["recording_url"],
            dial_call_status=kept["dial_call_status"],
            insights=None if (insights := kept.get("insights")) is None else Insights.from_json(insights),
            a_tag=kept.get("a_tag"),
            b_tag=kept.get("b_tag"),
            time_format=CallbackTimeFormat(kept.get("time_format", "iso")),
            missing_recording=MissingRecording(kept.get("missing_recording", "text")),
            callback_to=CallbackTo(kept.get("callback_to", "real")),
            custom_field=kept.get("custom_field"),
            record=bool(kept.get("record")),
            generation=_generation_of(kept),
        )


Facts = VerifiedFacts | VerificationFailedFacts | DeallocatedFacts | CallCompletedFacts


def facts_of(kind: EventKind, kept: Mapping[str, Any]) -> Facts:
    """The facts that `to_json` wrote. Raises KeyError, TypeError or ValueError if another version did."""
    match kind:
        case EventKind.VERIFIED:
            return VerifiedFacts.from_json(kept)
        case EventKind.VERIFICATION_FAILED:
            return VerificationFailedFacts.from_json(kept)
        case EventKind.DEALLOCATED:
            return DeallocatedFacts.from_json(kept)
        case EventKind.CALL_COMPLETED:
            return CallCompletedFacts.from_json(kept)
        case unmatched:
            assert_never(unmatched)


def _id_text(id: AllocationId) -> str:
    return str(UUID(bytes=id))


def _generation_of(kept: Mapping[str, Any]) -> Generation:
    if "generation" in kept:
        return Generation(kept["generation"])
    # Facts that did not say it said of the second generation alone whether calls are recorded.
    return Generation.FIRST if kept.get("record") is None else Generation.SECOND


def _id_of(text: str) -> AllocationId:
    return AllocationId(UUID(text).bytes)


def _number_or_none(number: E164 | None) -> int | None:
    return None if number is None else int(number)


def _e164_or_none(number: int | None) -> E164 | None:
    return None if number is None else E164(number)


def _party_to_json(party: Party) -> dict[str, Any]:
    return {
        "numbers": [int(number) for number in party.numbers],
        "virtual_numbers": [int(number) for number in party.virtual_numbers],
        "pins": [pin.digits for pin in party.pins],
        "listed_need_pin": party.listed_need_pin,
    }


def _party_of(kept: Mapping[str, Any]) -> Party:
    return Party(
        numbers=tuple(map(E164, kept["numbers"])),
        virtual_numbers=tuple(map(E164, kept["virtual_numbers"])),
        pins=tuple(map(Pin, kept["pins"])),
        listed_need_pin=kept["listed_need_pin"],
    )
