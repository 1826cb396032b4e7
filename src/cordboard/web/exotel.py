"""The applets that a platform's call flow asks: text into types, decisions into the platform's words.

exotel.md 2 to 7 is the contract. Every reply fails closed: a fault of ours connects nobody.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, NamedTuple, assert_never, cast
from urllib.parse import parse_qsl, unquote_plus

import orjson
import structlog
from aiohttp import web

from cordboard.logs import HopLine, HopLog
from cordboard.routing.model import AskPin, Connect, Decision, LastEntry, Reason, Refuse
from cordboard.routing.numbers import parse_number
from cordboard.routing.progress import Hop, clean_digits
from cordboard.storage.calls import CallType
from cordboard.storage.facts import Insights
from cordboard.storage.spool import SpoolFull, SpoolUnusable
from cordboard.switchboard.answering import UNDECIDED, Caller, EndReport, Keyed, Undecided
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantView
from cordboard.telemetry import Fault
from cordboard.tracing import Tracing
from cordboard.web.auth import TENANT_ID, basic_credentials
from cordboard.web.documents import AppletQuery, ConnectReply, GatherReply, PassthruQuery
from cordboard.web.fast_lane import PlainHop
from cordboard.web.openapi import APPLETS, JSON, OPEN, TEXT, Header, Operation, Route, Said
from cordboard.web.query import is_storable
from cordboard.web.reply import Reply
from cordboard.web.request_ids import given_request_id, new_request_id, request_id_of

# A CallSid has 32 of them (exotel.md 1.2); LMDB's keys end at 511 bytes, and not every character can be kept.
# What is none counts as missing, so that nobody who has to enter a PIN gets anywhere with it.
_CALL_SID: Final = re.compile(r"[!-~]{1,128}", re.ASCII)
# What a platform says of a call is kept as it is up to here: addresses of recordings have some 200.
TEXT_CHARACTERS_MAX: Final = 2_048
# No record takes these; nobody keys them in, or calls a recording so.
_UNPRINTABLE: Final = re.compile(r"[^ -~]", re.ASCII)
# The longest input that a Gather may ask for (exotel.md 6).
DIGITS_MAX: Final = 255
# Between keys and before the first one; production uses 5 to 15, and some saw 10 refused (exotel.md 6).
INPUT_TIMEOUT_S: Final = 6
DURATION_S_MAX: Final = 2**31 - 1
SECONDS_DIGITS_MAX: Final = 100
# A flow with a wrong key shows in the log at once; whoever knocks at random gets 25 MB a day of it at most.
STRANGERS_TOLD_PER_MINUTE: Final = 60

# Of the 15 to 40 parameters of a request; one search for those that every hop is decided by takes half as
# long as splitting them all, as long as it begins with a character to look for. The others are looked for by
# whom they matter to.
_PARAMETER: Final = re.compile(r"&(Call(?:Sid|From|To|Type)|Direction|digits|key|switch)=([^&]*)")
_FURTHER_PARAMETER: Final = re.compile(
    r"&(Dial(?:CallStatus|WhomNumber|CallDuration)|From|To|StartTime|RecordingUrl)=([^&]*)"
)
_IGNORES_DIGITS: Final = "digits=ignore"

# `CALL_COMPLETED`, `no-answer`: not all are known, but the longest one known has 20 characters.
_INSIGHT_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _.-]{0,63}", re.ASCII)
# `4.39`: nine digits of seconds are more than any call has.
_INSIGHT_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)
_NO_INSIGHTS: Final = Insights()

_CHALLENGE: Final = 'WWW-Authenticate: Basic realm="cordboard"\r\n'

_SELECT: Final = {word: orjson.dumps({"select": word}) for word in ("connect", "pin", "reject", "ended")}

_log = structlog.get_logger(__name__)

Query = dict[str, str]


class Applet(StrEnum):
    """A text, because Python takes long for the `value` and the hash of any other member."""

    PASSTHRU = "passthru"
    GATHER = "gather"
    CONNECT = "connect"
    GREETING = "greeting"


class Exotel:
    """The applet handlers of one engine."""

    def __init__(
        self, switchboard: Switchboard, hops: HopLog | None = None, tracing: Tracing | None = None
    ) -> None:
        """`hops` is told of every hop, if somebody wants to know; so is `tracing`."""
        self._switchboard = switchboard
        self._answering = switchboard.answering
        self._request_seconds = switchboard.metrics.request_seconds
        self._timeout_s = switchboard.settings.answer_timeout_s
        self._hops = hops
        self._tracing = tracing
        # Lines about hops of nobody's, and until when they are counted.
        self._strangers = 0
        self._strangers_until_s = 0.0

    def routes(self) -> list[Route]:
        routes: list[Route] = []
        for applet in Applet:
            handler = self._handler(applet)
            allow_head = applet is Applet.GREETING
            path = f"/v1/tenants/{{tenant}}/exotel/{applet.value}"
            # A platform may lose the query of a configured URL, and with it the key (exotel.md 11.9).
            path_with_key = f"/v1/tenants/{{tenant}}/exotel/k/{{key}}/{applet.value}"
            operation = _OPERATIONS[applet]
            with_key = replace(operation, summary=f"{operation.summary} (key in the path)")
            routes.append(Route("GET", path, handler, APPLETS, operation, allow_head=allow_head))
            routes.append(Route("GET", path_with_key, handler, OPEN, with_key, allow_head=allow_head))
        return routes

    def _handler(self, applet: Applet) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            started_s = time.perf_counter()
            request_id = request_id_of(request)
            raw_query = request.rel_url.raw_query_string
            query = read_query(raw_query)
            tenant = self._authenticate(request, query)
            if tenant is None:
                if self._may_tell_of_stranger():
                    seconds = time.perf_counter() - started_s
                    self._tell(_Said("unauthorized"), applet, request_id, None, None, seconds)
                return _sent(Reply(b"Unauthorized", TEXT, 401, _CHALLENGE))
            names_version = "Exotel-Version" in request.headers
            asked = _Asked(applet, tenant, query, raw_query, names_version, request_id, started_s)
            caller: Caller | None = None
            reply: Reply | Undecided
            try:
                caller = self._caller(tenant, query, raw_query)
                reply = self._at_once(asked, caller)
            except Exception as error:  # A bug of ours must end in a refusal, not in the platform's guess.
                reply = self._finished(asked, caller, *self._bug(asked, error))
            if isinstance(reply, Undecided):
                assert caller is not None, "who calls is read before anything is waited for"
                reply = await self._later(asked, caller, reply)
            return _sent(reply)

        return handle if self._tracing is None else self._tracing.traced_async("hop", handle)

    def answer_plain(self, plain: PlainHop) -> bytes | Coroutine[Any, Any, bytes] | None:
        """The whole reply, or what has to be waited for until it is there; None if `routes` must answer."""
        try:
            return self._answer_plain(plain)
        except Exception as error:
            # Raised here it would end the connection; there, what fails again is refused and counted.
            _log.exception("applet.fault", applet=plain.applet, error=type(error).__name__)
            return None

    def _answer_plain(self, plain: PlainHop) -> bytes | Coroutine[Any, Any, bytes] | None:
        started_s = time.perf_counter()
        tenant_id, applet, raw_query, names_version, given_id = plain
        query = read_query(raw_query)
        tenant = self._switchboard.tenants.get(tenant_id)
        if tenant is None or not tenant.accepts_applet_key(_text(query, "key")):
            return None
        request_id = (given_id and given_request_id(given_id)) or new_request_id()
        asked = _Asked(_APPLETS[applet], tenant, query, raw_query, names_version, request_id, started_s)
        caller = self._caller(tenant, query, raw_query)
        reply = self._at_once(asked, caller)
        if isinstance(reply, Undecided):
            return self._wire_later(asked, caller, reply)
        return reply.wire(request_id)

    async def _wire_later(self, asked: _Asked, caller: Caller, undecided: Undecided) -> bytes:
        return (await self._later(asked, caller, undecided)).wire(asked.request_id)

    def _at_once(self, asked: _Asked, caller: Caller) -> Reply | Undecided:
        """The reply to a hop that needs nothing but the board; of any other, what `_later` goes on with."""
        applet, tenant, query, _, _, request_id, _ = asked
        if applet is _PASSTHRU and query.get("CallType", "") in _ENDS:
            return UNDECIDED
        decision: Decision | Undecided
        if query.get("Direction", "incoming") not in _INCOMING:
            decision = Refuse(Reason.DIRECTION)
        else:
            decision = self._answering.answer_at_once(
                tenant,
                caller,
                is_recorded=applet is not _GREETING,
                applet=applet,
                request_id=request_id,
            )
            if isinstance(decision, Undecided):
                return decision
        return self._finished(asked, caller, _render(asked, decision), _said(decision))

    async def _later(self, asked: _Asked, caller: Caller, undecided: Undecided) -> Reply:
        """The reply to a hop that has to wait for what is recorded of its call."""
        try:
            async with asyncio.timeout(self._timeout_s):
                reply, said = await self._respond(asked, caller, undecided)
        except (SpoolFull, SpoolUnusable, TimeoutError) as away:
            reply, said = self._fault(asked, _fault_of(away))
        except Exception as error:  # As above: it must end in a refusal.
            reply, said = self._bug(asked, error)
        return self._finished(asked, caller, reply, said)

    def _finished(self, asked: _Asked, caller: Caller | None, reply: Reply, said: _Said) -> Reply:
        """Count the hop and have the log tell of it."""
        applet, tenant, _, _, _, request_id, started_s = asked
        seconds = time.perf_counter() - started_s
        self._request_seconds.observe(applet, seconds)
        if self._hops is not None or self._tracing is not None:
            self._tell(said, applet, request_id, tenant, caller, seconds)
        return reply

    def _may_tell_of_stranger(self) -> bool:
        now_s = time.monotonic()
        if now_s >= self._strangers_until_s:
            self._strangers, self._strangers_until_s = 0, now_s + 60
        self._strangers += 1
        return self._strangers <= STRANGERS_TOLD_PER_MINUTE

    def _authenticate(self, request: web.Request, query: Query) -> TenantView | None:
        tenant_id = request.match_info["tenant"]
        # Looked up only if it could be one: the board's keys have a length.
        tenant = self._switchboard.tenants.get(tenant_id) if TENANT_ID.fullmatch(tenant_id) else None
        if tenant is None:
            return None
        key = request.match_info.get("key") or _text(query, "key")
        if key:
            return tenant if tenant.accepts_applet_key(key) else None
        credentials = basic_credentials(request.headers.get("Authorization", ""))
        if credentials is None or credentials[0] != tenant.id:
            return None
        secret = credentials[1]
        return tenant if tenant.accepts_applet_key(secret) or tenant.accepts_api_token(secret) else None

    async def _respond(self, asked: _Asked, caller: Caller, undecided: Undecided) -> tuple[Reply, _Said]:
        applet, tenant, query, raw_query, _, request_id, _ = asked
        if applet is _PASSTHRU and (call_type := _ENDS.get(query.get("CallType", ""))) is not None:
            await self._record_end(tenant, query, caller, call_type, raw_query, request_id)
            return Reply(_SELECT["ended"], TEXT), _Said("ended", call_type.value)
        decision = await self._answering.answer(
            tenant,
            caller,
            _keyed(applet, query, raw_query),
            undecided,
            is_recorded=applet is not _GREETING,
            applet=applet,
            request_id=request_id,
        )
        return _render(asked, decision), _said(decision)

    def _tell(
        self,
        said: _Said,
        applet: Applet,
        request_id: str,
        tenant: TenantView | None,
        caller: Caller | None,
        seconds: float,
    ) -> None:
        """A line of the log, and what its span says.

        `caller` is None where nobody got as far as reading who it is.
        """
        call_sid, virtual_number, number = caller or _NOBODY
        tenant_id = None if tenant is None else tenant.id
        decision, reason = said
        if self._tracing is not None:
            self._tracing.describe(
                {
                    "request_id": request_id,
                    "tenant": tenant_id,
                    "call_sid": call_sid,
                    "applet": applet,
                    "decision": decision,
                    "reason": reason,
                }
            )
        if self._hops is None:
            return
        self._hops.put(
            HopLine(
                request_id,
                tenant_id,
                call_sid,
                applet,
                decision,
                reason,
                virtual_number,
                number,
                seconds,
            )
        )

    def _caller(self, tenant: TenantView, query: Query, raw_query: str) -> Caller:
        country = tenant.settings.country
        call_sid: str | None = _text(query, "CallSid")
        if not call_sid or not _CALL_SID.fullmatch(call_sid):
            call_sid = None
        called, calling = _text(query, "CallTo"), _text(query, "CallFrom")
        if called:
            return Caller(call_sid, parse_number(called, country), parse_number(calling, country))
        if call_sid and (way_in := self._answering.way_in(tenant, call_sid)) is not None:
            return Caller(call_sid, *way_in)
        further = _further(raw_query)
        calling = calling or _text(further, "From")
        return Caller(call_sid, parse_number(_text(further, "To"), country), parse_number(calling, country))

    async def _record_end(
        self,
        tenant: TenantView,
        query: Query,
        caller: Caller,
        call_type: CallType,
        raw_query: str,
        request_id: str,
    ) -> None:
        if caller.call_sid is None or query.get("Direction", "incoming") not in _INCOMING:
            return
        further, parameters = _further(raw_query), parse_qsl(raw_query)
        await self._answering.end(
            tenant,
            EndReport(
                call_sid=caller.call_sid,
                virtual_number=caller.virtual_number,
                caller=caller.number,
                call_type=call_type,
                dial_call_status=_text_or_none(further, "DialCallStatus"),
                dialled=parse_number(_text(further, "DialWhomNumber"), tenant.settings.country),
                dial_call_duration_s=_seconds(_text(further, "DialCallDuration")),
                on_call_duration_s=_conversation_s(parameters),
                recording_url=_text_or_none(further, "RecordingUrl"),
                start_time=_text_or_none(further, "StartTime"),
                insights=_insights(parameters),
                request_id=request_id,
            ),
        )

    def _bug(self, asked: _Asked, error: Exception) -> tuple[Reply, _Said]:
        _log.exception(
            "applet.fault",
            applet=asked.applet,
            error=type(error).__name__,
            request_id=asked.request_id,
        )
        return self._fault(asked, Fault.BUG)

    def _fault(self, asked: _Asked, fault: Fault) -> tuple[Reply, _Said]:
        """Our fault: nobody is connected, and the platform takes its fallback where it has one."""
        self._switchboard.metrics.faults.labels(fault.value).inc()
        said = _Said("fault", fault.value)
        match asked.applet:
            case Applet.PASSTHRU | Applet.GREETING:
                return _render(asked, Refuse(Reason.NO_ALLOCATION)), said
            case Applet.CONNECT | Applet.GATHER:
                return Reply(b"Service Unavailable", TEXT, 503, "Retry-After: 1\r\n"), said
            case unmatched:
                assert_never(unmatched)


class _Asked(NamedTuple):
    """One request of a platform that has proved whose it is."""

    applet: Applet
    tenant: TenantView
    query: Query
    raw_query: str
    # Whoever names a version of the programmable applets reads JSON (exotel.md 1.5).
    names_version: bool
    request_id: str
    started_s: float


def _fault_of(away: SpoolFull | SpoolUnusable | TimeoutError) -> Fault:
    match away:
        case SpoolFull():
            return Fault.SPOOL_FULL
        case SpoolUnusable():
            return Fault.SPOOL_UNUSABLE
        case TimeoutError():
            return Fault.TIMEOUT
        case unmatched:
            assert_never(unmatched)


class _Said(NamedTuple):
    """What the log says of a hop."""

    decision: str
    reason: str | None = None


def _said(decision: Decision) -> _Said:
    match decision:
        case Connect(matched=matched):
            return _Said("connect", matched._value_)
        case AskPin(last_entry=last_entry):
            return _Said("ask_pin", last_entry._value_)
        case Refuse(reason=reason):
            return _Said("refuse", reason._value_)
        case unmatched:
            assert_never(unmatched)


_NOBODY: Final = Caller(None, None, None)


# Named once: Python 3.11 takes longer for `Applet.GREETING` than for a comparison.
_GREETING: Final = Applet.GREETING
_PASSTHRU: Final = Applet.PASSTHRU
_APPLETS: Final = {applet.value: applet for applet in Applet}
_INCOMING: Final = frozenset({"incoming", ""})
_ENDS: Final = {call_type.value: call_type for call_type in CallType}

_HOPS: Final = {
    Applet.PASSTHRU: Hop.DECISION,
    Applet.CONNECT: Hop.DECISION,
    Applet.GATHER: Hop.PROMPT,
    Applet.GREETING: Hop.DEAF,
}

_UNAUTHORIZED: Final = Said("Not this tenant's key.", {TEXT: None}, ("WWW-Authenticate",))
_UNAVAILABLE: Final = Said("Our fault: the platform takes its fallback URL.", {TEXT: None}, ("Retry-After",))
_OPERATIONS: Final = {
    Applet.PASSTHRU: Operation(
        "Passthru: decide, or record how the call ended",
        query=PassthruQuery,
        answers={
            200: Said("Connect; with `switch` the word for a SwitchCase to read.", {TEXT: None}),
            302: Said("Anything else; there is nowhere to be redirected to.", {TEXT: None}),
            401: _UNAUTHORIZED,
        },
    ),
    Applet.GATHER: Operation(
        "Gather: what to say, and how many digits to wait for",
        query=AppletQuery,
        answers={200: Said("For a Gather.", {JSON: GatherReply}), 401: _UNAUTHORIZED, 503: _UNAVAILABLE},
    ),
    Applet.CONNECT: Operation(
        "Connect: whom to dial",
        query=AppletQuery,
        headers=(Header("Exotel-Version", "Any: the answer is JSON."),),
        answers={
            200: Said("The numbers, separated by commas, or JSON.", {TEXT: None, JSON: ConnectReply}),
            401: _UNAUTHORIZED,
            503: _UNAVAILABLE,
        },
    ),
    Applet.GREETING: Operation(
        "Greeting: what to say to somebody who is not connected",
        query=AppletQuery,
        answers={200: Said("A sentence.", {TEXT: None}), 401: _UNAUTHORIZED},
    ),
}


# ── reading ──────────────────────────────────────────────────────────────────


def read_query(raw_query: str) -> Query:
    """The last value of each parameter that every hop is decided by, still encoded.

    The platform appends its own parameters to a configured URL, so its `digits` would hide a
    configured `digits=ignore`; that pair is kept under a name of its own.
    """
    query: Query = dict(_PARAMETER.findall("&" + raw_query))
    if raw_query.startswith(_IGNORES_DIGITS) or f"&{_IGNORES_DIGITS}" in raw_query:
        query[_IGNORES_DIGITS] = ""
    return query


def _further(raw_query: str) -> Query:
    """Likewise of the other parameters that mean anything here."""
    return dict(_FURTHER_PARAMETER.findall("&" + raw_query))


def _text(query: Query, name: str) -> str:
    value = query.get(name, "")
    return unquote_plus(value) if "%" in value or "+" in value else value


def _text_or_none(query: Query, name: str) -> str | None:
    """A value that platforms leave out, send empty, or send as the text `null`, or that no record takes."""
    value = _text(query, name)
    if value in ("", "null") or len(value) > TEXT_CHARACTERS_MAX or not is_storable(value):
        return None
    return value


def _keyed(applet: Applet, query: Query, raw_query: str) -> Keyed:
    hop = Hop.DEAF if _IGNORES_DIGITS in query else _HOPS[applet]
    digits = clean_digits(_UNPRINTABLE.sub("", _text(query, "digits")))[:DIGITS_MAX]
    # Only the record of an entry has it.
    return Keyed(hop, digits, _text_or_none(_further(raw_query), "StartTime") if digits else None)


def _seconds(text: str) -> int:
    digits = text.partition(".")[0]
    if not (digits.isascii() and digits.isdigit()):
        return 0
    # Python itself refuses to read a number of some thousand digits.
    return min(int(digits), DURATION_S_MAX) if len(digits) <= SECONDS_DIGITS_MAX else DURATION_S_MAX


def _conversation_s(parameters: Sequence[tuple[str, str]]) -> int:
    """Talk time over all legs; unanswered ones have none (exotel.md 2.2)."""
    return min(
        sum(
            _seconds(value)
            for name, value in parameters
            if name.startswith("Legs[") and name.endswith("][OnCallDuration]")
        ),
        DURATION_S_MAX,
    )


def _insights(parameters: Sequence[tuple[str, str]]) -> Insights | None:
    """What the platform says of the call as a whole, for those who subscribe to that (exotel.md 10.4).

    Each key may be missing, and a value that is neither a word nor a number is as good as missing.
    """
    said = dict(parameters)

    def matching(form: re.Pattern[str], key: str) -> str | None:
        value = said.get(f"Insights[{key}]", "")
        return value if form.fullmatch(value) and value != "null" else None

    insights = Insights(
        disconnected_by=matching(_INSIGHT_WORDS, "DisconnectedBy"),
        status=matching(_INSIGHT_WORDS, "Status"),
        detailed_status=matching(_INSIGHT_WORDS, "DetailedStatus"),
        ringing_duration=matching(_INSIGHT_SECONDS, "RingingDuration"),
    )
    return None if insights == _NO_INSIGHTS else insights


def _sent(reply: Reply) -> web.StreamResponse:
    """As aiohttp's types have it; what it calls is in web/reply.py."""
    return cast("web.StreamResponse", reply)


# ── writing ──────────────────────────────────────────────────────────────────


def _render(asked: _Asked, decision: Decision) -> Reply:
    match asked.applet:
        case Applet.PASSTHRU:
            return _render_passthru(decision, is_switch="switch" in asked.query)
        case Applet.CONNECT:
            return _render_connect(decision, is_programmable=asked.names_version)
        case Applet.GATHER:
            return _render_gather(decision, asked.tenant)
        case Applet.GREETING:
            return _render_greeting(decision, asked.tenant)
        case unmatched:
            assert_never(unmatched)


def _render_passthru(decision: Decision, *, is_switch: bool) -> Reply:
    match decision:
        case Connect():
            return Reply(_SELECT["connect"], TEXT)
        case AskPin():
            word = "pin"
        case Refuse():
            word = "reject"
        case unmatched:
            assert_never(unmatched)
    return Reply(_SELECT[word], TEXT, 200 if is_switch else 302)


def _render_gather(decision: Decision, tenant: TenantView) -> Reply:
    settings = tenant.settings
    match decision:
        case AskPin(digits_max=digits_max, last_entry=last_entry):
            again = {"text": settings.prompt_pin_again}
            first = {"text": settings.prompt_pin} if last_entry is LastEntry.NONE else again
            return _json(
                {
                    "gather_prompt": first,
                    "max_input_digits": digits_max,
                    "finish_on_key": "#",
                    "input_timeout": INPUT_TIMEOUT_S,
                    "repeat_menu": 1,
                    "repeat_gather_prompt": again,
                }
            )
        case Connect():
            sentence = settings.greeting_connect
        case Refuse():
            sentence = settings.greeting_refused
        case unmatched:
            assert_never(unmatched)
    # Gather has no way to ask for nothing: one digit within one second comes closest.
    return _json(
        {
            "gather_prompt": {"text": sentence},
            "max_input_digits": 1,
            "finish_on_key": "#",
            "input_timeout": 1,
            "repeat_menu": 0,
        }
    )


def _render_connect(decision: Decision, *, is_programmable: bool) -> Reply:
    numbers = [number.plus for number in decision.targets] if isinstance(decision, Connect) else []
    if not is_programmable:
        return Reply(",".join(numbers).encode(), TEXT)
    reply: dict[str, Any] = {"fetch_after_attempt": False, "destination": {"numbers": numbers}}
    if isinstance(decision, Connect):
        reply["outgoing_phone_number"] = decision.caller_id.plus
        reply["record"] = decision.policy.record
        if decision.policy.custom_field is not None:
            reply["custom_field"] = decision.policy.custom_field
    return _json(reply)


def _render_greeting(decision: Decision, tenant: TenantView) -> Reply:
    settings = tenant.settings
    match decision:
        case Connect():
            sentence = settings.greeting_connect
        case AskPin(last_entry=LastEntry.NONE):
            sentence = settings.prompt_pin
        case AskPin():
            sentence = settings.prompt_pin_again
        case Refuse():
            sentence = settings.greeting_refused
        case unmatched:
            assert_never(unmatched)
    return Reply(sentence.encode(), TEXT)


def _json(reply: dict[str, Any]) -> Reply:
    return Reply(orjson.dumps(reply), JSON)
