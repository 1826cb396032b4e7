"""What the telephony platform sends: parameter sets, their order, dates, numbers and URLs.

Pure, and to the letter of exotel.md 1.3 to 1.5 and 2: some customers log or hash the raw query, so an
engine that is tried against this must meet the keys in the order of production.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from enum import Enum
from typing import Final, assert_never
from urllib.parse import parse_qsl, quote_plus, unquote, urlsplit, urlunsplit

from cordboard.clock import SECOND_US, to_datetime

Query = tuple[tuple[str, str], ...]

# The account's zone; the platform writes it nowhere.
IST: Final = timezone(timedelta(hours=5, minutes=30))

# Epoch zero in IST: the platform does not know the end of a call yet, and says it like this.
END_TIME: Final = "1970-01-01 05:30:00"

# The platform's word for a value that it does not have. Some fields are empty instead, some are left out.
NULL: Final = "null"

RECORDING_DELAY_US: Final = 5 * 60 * SECOND_US

SECRET_PARAMETERS: Final = frozenset({"key"})
HIDDEN: Final = "…"


class NumberStyle(Enum):
    """How a platform writes Indian numbers (exotel.md 1.3 and 11.13). Others are always `+…`."""

    NATIONAL = "0…"
    PLUS = "+91…"
    BARE = "91…"
    # A plus that nobody encoded is a blank when it arrives.
    LOST_PLUS = " 91…"


def written(number: str | None, style: NumberStyle, withheld_as: str = "") -> str:
    """`number`, E.164 with its plus, as the platform writes it."""
    if number is None:
        return withheld_as
    match style:
        case NumberStyle.NATIONAL:
            return "0" + number[3:] if number.startswith("+91") else number
        case NumberStyle.PLUS:
            return number
        case NumberStyle.BARE:
            return number[1:]
        case NumberStyle.LOST_PLUS:
            return " " + number[1:]
        case unmatched:
            assert_never(unmatched)


def as_start_time(instant_us: int) -> str:
    """`2026-02-23 12:31:58`, account-local and without a zone."""
    return f"{_local(instant_us):%Y-%m-%d %H:%M:%S}"


def as_created(instant_us: int) -> str:
    """`Mon, 23 Feb 2026 12:31:59`: RFC 1123 without its zone."""
    return format_datetime(_local(instant_us)).removesuffix(" +0530")


def _local(instant_us: int) -> datetime:
    return to_datetime(instant_us).astimezone(IST)


class CallType(Enum):
    """exotel.md 2.1."""

    CALL_ATTEMPT = "call-attempt"
    COMPLETED = "completed"
    CLIENT_HANGUP = "client-hangup"
    INCOMPLETE = "incomplete"
    VOICEMAIL = "voicemail"


class LegEnd(Enum):
    """How the call to one destination ended."""

    TALKED = "completed"
    NO_ANSWER = "no-answer"
    BUSY = "busy"
    FAILED = "failed"
    CALLER_GAVE_UP = "canceled"


_CAUSES: Final = {
    LegEnd.TALKED: ("NORMAL_CLEARING", "16"),
    LegEnd.NO_ANSWER: ("NO_ANSWER", "19"),
    LegEnd.BUSY: ("USER_BUSY", "17"),
    LegEnd.FAILED: ("UNALLOCATED_NUMBER", "1"),
    LegEnd.CALLER_GAVE_UP: ("ORIGINATOR_CANCEL", "487"),
}

_CALL_TYPES: Final = {
    LegEnd.TALKED: CallType.COMPLETED,
    LegEnd.NO_ANSWER: CallType.INCOMPLETE,
    LegEnd.BUSY: CallType.INCOMPLETE,
    LegEnd.FAILED: CallType.INCOMPLETE,
    LegEnd.CALLER_GAVE_UP: CallType.CLIENT_HANGUP,
}


@dataclass(frozen=True, slots=True)
class Leg:
    """One destination that was dialled; its numbers are as the platform writes them."""

    number: str
    caller_id: str
    end: LegEnd
    ring_s: int
    talk_s: int

    def __post_init__(self) -> None:
        assert (self.end is LegEnd.TALKED) == (self.talk_s > 0), "only who answered can talk"


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What stays the same in every request of a call; numbers as the platform writes them."""

    call_sid: str | None
    caller: str
    virtual_number: str
    started_us: int
    flow_id: str = "40021"
    tenant_id: str = "9107"
    direction: str | None = "incoming"


def before_dial(
    facts: CallFacts, now_us: int, *, digits: str | None = None, call_status: str | None = None
) -> Query:
    """What Passthru, Gather and Connect send before anybody is dialled (exotel.md 2.3).

    `digits` are wrapped in literal quotes here; `call_status` is sent by Gather and Connect alone.
    """
    return _present(
        ("CallSid", facts.call_sid),
        ("CallFrom", facts.caller),
        ("CallTo", facts.virtual_number),
        ("Direction", facts.direction),
        ("Created", as_created(facts.started_us)),
        ("DialCallDuration", "0"),
        ("StartTime", as_start_time(facts.started_us)),
        ("EndTime", END_TIME),
        ("CallType", CallType.CALL_ATTEMPT.value),
        ("DialWhomNumber", ""),
        ("flow_id", facts.flow_id),
        ("tenant_id", facts.tenant_id),
        ("From", facts.caller),
        ("To", facts.virtual_number),
        ("CurrentTime", as_start_time(now_us)),
        # Where production puts it is not known.
        ("CallStatus", call_status),
        ("digits", None if digits is None else f'"{digits}"'),
    )


def after_dial(
    facts: CallFacts,
    now_us: int,
    legs: Sequence[Leg],
    *,
    is_recorded: bool = False,
    has_insights: bool = False,
) -> Query:
    """What the Passthru after Connect sends, and Connect itself when it asks whom to try next.

    `has_insights` is an account that subscribes to Call Insights (exotel.md 10.4).
    """
    last = legs[-1] if legs else None
    has_recording = is_recorded and last is not None and last.end is LegEnd.TALKED
    call_type = CallType.INCOMPLETE if last is None else _CALL_TYPES[last.end]
    return _present(
        ("CallSid", facts.call_sid),
        ("CallFrom", facts.caller),
        ("CallTo", facts.virtual_number),
        ("Direction", facts.direction),
        ("ForwardedFrom", NULL),
        ("Created", as_created(facts.started_us)),
        ("DialCallDuration", str(sum(leg.ring_s + leg.talk_s for leg in legs))),
        ("RecordingUrl", f"https://recordings.example.net/{facts.call_sid}.mp3" if has_recording else NULL),
        ("StartTime", as_start_time(facts.started_us)),
        ("EndTime", END_TIME),
        ("DialCallStatus", NULL if last is None else last.end.value),
        ("CallType", call_type.value),
        ("DialWhomNumber", "" if last is None else last.number),
        ("ProcessStatus", NULL),
        ("flow_id", facts.flow_id),
        ("tenant_id", facts.tenant_id),
        ("From", facts.caller),
        ("To", facts.virtual_number),
        ("RecordingAvailableBy", as_created(now_us + RECORDING_DELAY_US) if has_recording else NULL),
        ("CurrentTime", as_start_time(now_us)),
        ("OutgoingPhoneNumber", NULL if last is None else last.caller_id),
        *(pair for index, leg in enumerate(legs) for pair in _leg(index, leg, has_insights)),
        # Where production puts them is not known.
        *(() if last is None or not has_insights else _insights("Insights", last)),
    )


def greeting(facts: CallFacts, dialled: str = "") -> Query:
    """What a greeting's URL is asked with (exotel.md 7.1): neither CallFrom nor CallTo."""
    return _present(
        ("CallSid", facts.call_sid),
        ("From", facts.caller),
        ("To", facts.virtual_number),
        ("DialWhomNumber", dialled),
    )


def _leg(index: int, leg: Leg, has_insights: bool) -> Query:
    cause, code = _CAUSES[leg.end]
    return (
        (f"Legs[{index}][Number]", leg.number),
        (f"Legs[{index}][Type]", "single"),
        (f"Legs[{index}][OnCallDuration]", str(leg.talk_s)),
        (f"Legs[{index}][CallerId]", leg.caller_id),
        (f"Legs[{index}][CauseCode]", cause),
        (f"Legs[{index}][Cause]", code),
        *(_insights(f"Legs[{index}][Insights]", leg) if has_insights else ()),
    )


def _insights(prefix: str, leg: Leg) -> Query:
    is_by_caller = leg.end in {LegEnd.TALKED, LegEnd.CALLER_GAVE_UP}
    return (
        (f"{prefix}[Status]", leg.end.value),
        (
            f"{prefix}[DetailedStatus]",
            "CALL_COMPLETED" if leg.end is LegEnd.TALKED else "FAILED_UNKNOWN_ERROR",
        ),
        (f"{prefix}[RingingDuration]", f"{leg.ring_s}.00"),
        (f"{prefix}[DisconnectedBy]", "Caller" if is_by_caller else "NA"),
    )


def _present(*pairs: tuple[str, str | None]) -> Query:
    return tuple((key, value) for key, value in pairs if value is not None)


@dataclass(frozen=True, slots=True)
class Target:
    """A configured URL and one request's parameters, ready to be fetched.

    `line` is the path and query without secrets, for transcripts.
    """

    url: str
    line: str
    authorization: str | None


def aimed(configured: str, query: Query, *, loses_query: bool = False) -> Target:
    """`configured` keeps its own query and the platform's follows, also where a name stands in both: who
    reads the last one, as PHP does, reads the platform's (exotel.md 11.9).

    A user and password in the URL become Basic authentication (exotel.md 1.5).
    `loses_query` is the platform that one integrator met.
    """
    parts = urlsplit(configured)
    own = () if loses_query else tuple(parse_qsl(parts.query, keep_blank_values=True))
    authorization = None
    if parts.username is not None:
        authorization = basic(unquote(parts.username), unquote(parts.password or ""))
    host = parts.netloc.rpartition("@")[2]
    shown = tuple((key, HIDDEN if key in SECRET_PARAMETERS else value) for key, value in own)
    return Target(
        url=urlunsplit((parts.scheme, host, parts.path, encoded(own + query), "")),
        line=urlunsplit(("", "", _without_key(parts.path), encoded(shown + query), "")),
        authorization=authorization,
    )


def basic(user: str, password: str) -> str:
    """The `Authorization` header of HTTP Basic."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def encoded(query: Query) -> str:
    """As PHP writes a query: a blank is `+`, and brackets, colons, commas and quotes are escaped."""
    return "&".join(
        f"{quote_plus(key)}={HIDDEN if value == HIDDEN else quote_plus(value)}" for key, value in query
    )


def _without_key(path: str) -> str:
    """`/exotel/k/{key}/gather` holds the key as a segment."""
    segments = path.split("/")
    for index in range(1, len(segments)):
        if segments[index - 1] == "k":
            segments[index] = HIDDEN
    return "/".join(segments)
