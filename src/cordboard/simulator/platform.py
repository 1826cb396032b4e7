"""Plays the telephony platform: walks a flow against an engine's applet URLs, as exotel.md describes it.

What the people in a call do is data (`SimulatedCaller`, `Callee`), and so is what platforms are known to
get wrong (`Traits`). The engine cannot tell this from the real thing: requests are made by wire.py, replies
are read by replies.py, no redirect is followed, and every fetch has five seconds. Nothing is printed, no
time passes but that of the fetches: ringing and talking are added to the clock that the requests show.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never
from urllib.parse import quote, urlsplit, urlunsplit

import aiohttp
from yarl import URL

from cordboard.clock import SECOND_US, Clock
from cordboard.simulator import wire
from cordboard.simulator.replies import (
    TEXT_TYPE,
    Destinations,
    NoReply,
    Prompt,
    Reply,
    Speech,
    Unusable,
    read_plain,
    read_programmable,
    read_prompt,
    read_select,
    read_speech,
)
from cordboard.simulator.wire import CallFacts, Leg, LegEnd, NumberStyle, Query

FETCH_BUDGET_S: Final = 5.0
# Only greetings, prompts and ten numbers are read: a larger reply is a fault worth seeing as one.
REPLY_BYTES_MAX: Final = 65_536

# A flow that goes in circles is a fault of the engine: it gives three attempts and two silences.
SWITCH_PROMPTS_MAX: Final = 10
# exotel.md 5.2 and 5.3.2.
PLAIN_FETCHES_MAX: Final = 5
PROGRAMMABLE_FETCHES_MAX: Final = 10

# After these nobody else is rung.
_LAST_ENDS: Final = frozenset({LegEnd.TALKED, LegEnd.CALLER_GAVE_UP})

# What listening to a prompt and keying something in adds to the time that the next request shows.
PROMPT_S: Final = 6


class Applet(Enum):
    PASSTHRU = "passthru"
    GATHER = "gather"
    CONNECT = "connect"
    GREETING = "greeting"


class Shape(Enum):
    """How a flow finds out what to do next (issue 2, Applets)."""

    # Passthru: 200 → Connect, anything else → the next Gather, or after the last one the refusal.
    BRANCHES = "branches"
    # Passthru?switch=1 → SwitchCase connect | pin | reject; pin → Gather → Passthru again.
    SWITCH = "switch"


class KeyPlace(Enum):
    """Where the applet key travels."""

    QUERY = "query"
    PATH = "path"
    BASIC = "basic"


@dataclass(frozen=True, slots=True)
class Flow:
    """The URLs that an operator wires into the applets of a flow."""

    shape: Shape
    passthru: str
    gather: str
    connect: str
    greeting: str
    # After the dial. The engine tells the hop from the request, so it is the same URL.
    passthru_after: str
    is_connect_programmable: bool = True
    connect_fallback: str | None = None
    gather_fallback: str | None = None
    # A Greeting before Connect, which says that the caller is being connected.
    greets_first: bool = False
    # In a flow of branches each prompt is a Gather and a Passthru of their own.
    prompts_max: int = 3

    @classmethod
    def wired(
        cls,
        base_url: str,
        tenant_id: str,
        applet_key: str,
        shape: Shape,
        *,
        key_in: KeyPlace = KeyPlace.QUERY,
        is_connect_programmable: bool = True,
        greets_first: bool = False,
    ) -> Flow:
        """The flow of a tenant, as its operator wires it. With BASIC, `applet_key` is the API token."""

        def url(applet: Applet, own_query: str = "") -> str:
            return applet_url(base_url, tenant_id, applet_key, applet, key_in, own_query)

        return cls(
            shape=shape,
            passthru=url(Applet.PASSTHRU, "switch=1" if shape is Shape.SWITCH else ""),
            gather=url(Applet.GATHER),
            connect=url(Applet.CONNECT),
            greeting=url(Applet.GREETING),
            passthru_after=url(Applet.PASSTHRU),
            is_connect_programmable=is_connect_programmable,
            greets_first=greets_first,
        )


def applet_url(
    base_url: str, tenant_id: str, applet_key: str, applet: Applet, key_in: KeyPlace, own_query: str = ""
) -> str:
    parts = urlsplit(base_url)
    key = quote(applet_key, safe="")
    path = f"{parts.path.rstrip('/')}/v1/tenants/{tenant_id}/exotel"
    match key_in:
        case KeyPlace.QUERY:
            query = f"key={key}&{own_query}" if own_query else f"key={key}"
            return urlunsplit((parts.scheme, parts.netloc, f"{path}/{applet.value}", query, ""))
        case KeyPlace.PATH:
            return urlunsplit((parts.scheme, parts.netloc, f"{path}/k/{key}/{applet.value}", own_query, ""))
        case KeyPlace.BASIC:
            host = f"{tenant_id}:{key}@{parts.netloc}"
            return urlunsplit((parts.scheme, host, f"{path}/{applet.value}", own_query, ""))
        case unmatched:
            assert_never(unmatched)


# ── People ───────────────────────────────────────────────────────────────────


class HangUp(Enum):
    """What a caller does at a prompt in place of keying something in."""

    HANG_UP = "hang up"


HANG_UP: Final = HangUp.HANG_UP


@dataclass(frozen=True, slots=True)
class Callee:
    """What somebody who is dialled does."""

    end: LegEnd = LegEnd.TALKED
    ring_s: int = 4
    talk_s: int = 17


@dataclass(frozen=True, slots=True)
class SimulatedCaller:
    """Who calls, whom, and what they do on the way; numbers in E.164 with the plus."""

    number: str | None  # None is withheld
    dials: str
    # What is keyed in at each prompt; nothing where the list has ended.
    keys: Sequence[str | HangUp] = ()
    # What those dialled do, in the order in which they are dialled; the last goes for all after it.
    callees: Sequence[Callee] = (Callee(),)


@dataclass(frozen=True, slots=True)
class Traits:
    """What platforms do differently, and get wrong (exotel.md 1.5, 11.8, 11.9, 11.13)."""

    numbers: NumberStyle = NumberStyle.NATIONAL
    withheld_as: str = "anonymous"
    # The last digits stay in every later request, until others take their place.
    keeps_digits: bool = True
    # A Gather URL that loses the query that was configured with it.
    gather_loses_query: bool = False
    # Every request is made so many times; the last reply counts.
    times_each: int = 1


# ── What is told of a call ───────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Hop:
    """One fetch. `request_line` has no key in it; a PIN that was keyed in is there as `digits`."""

    applet: Applet
    request_line: str
    parameters: Mapping[str, str]
    status: int | None  # None where nothing came back
    reply: str
    elapsed_ms: float
    # What the engine calls it, in its log and records.
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Connected:
    """Somebody was dialled: `numbers` in their order, shown `caller_id`; `answered_by` may be nobody."""

    numbers: tuple[str, ...]
    caller_id: str
    answered_by: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The caller heard `sentence`, and the line went dead."""

    sentence: str


@dataclass(frozen=True, slots=True)
class HungUp:
    """The caller gave up, at a prompt or while it rang."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The flow could not go on as it was wired."""

    why: str


CallResult = Connected | Refused | HungUp | Failed


@dataclass(frozen=True, slots=True)
class Transcript:
    call_sid: str
    hops: tuple[Hop, ...]
    result: CallResult


def random_call_sid() -> str:
    """32 characters, and not always hexadecimal ones (exotel.md 1.2)."""
    return secrets.token_hex(15) + "1a8p"[secrets.randbelow(4)] + "m"


class _Next(Enum):
    CONNECT = "connect"
    PIN = "pin"
    REJECT = "reject"


@dataclass(slots=True)
class _Call:
    """One call on its way through the flow."""

    caller: SimulatedCaller
    flow: Flow
    facts: CallFacts
    now_us: int
    keys: list[str | HangUp]
    callees: list[Callee]
    digits: str | None = None
    # Somebody heard a prompt, so the first leg is up.
    is_answered: bool = False
    hops: list[Hop] = field(default_factory=list)

    @property
    def status(self) -> str:
        return "in-progress" if self.is_answered else "ringing"

    def next_callee(self) -> Callee:
        return self.callees.pop(0) if len(self.callees) > 1 else self.callees[0]


class Platform:
    """Places calls over `session`. The clock and the source of CallSids are the caller's to choose."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        clock: Clock,
        call_sids: Callable[[], str] = random_call_sid,
        *,
        traits: Traits = Traits(),
        fetch_budget_s: float = FETCH_BUDGET_S,
    ) -> None:
        self._session = session
        self._clock = clock
        self._call_sids = call_sids
        self._traits = traits
        self._fetch_timeout = aiohttp.ClientTimeout(total=fetch_budget_s)

    async def place(self, caller: SimulatedCaller, flow: Flow) -> Transcript:
        """One whole call, until the line is dead. The engine's faults are results, never exceptions."""
        traits = self._traits
        call_sid = self._call_sids()
        started_us = self._clock.now_us()
        facts = CallFacts(
            call_sid=call_sid,
            caller=wire.written(caller.number, traits.numbers, traits.withheld_as),
            virtual_number=wire.written(caller.dials, traits.numbers),
            started_us=started_us,
        )
        call = _Call(caller, flow, facts, started_us, list(caller.keys), list(caller.callees) or [Callee()])
        result = await self._walk(call)
        return Transcript(call_sid, tuple(call.hops), result)

    # The flow

    async def _walk(self, call: _Call) -> CallResult:
        prompts = 0
        while True:
            match await self._passthru(call, prompts):
                case _Next.CONNECT:
                    return await self._connect(call)
                case _Next.REJECT:
                    return Refused(await self._greeting(call))
                case _Next.PIN if prompts == SWITCH_PROMPTS_MAX:
                    return Failed(f"still asks for a PIN after {prompts} prompts")
                case _Next.PIN:
                    prompts += 1
                    if await self._gather(call) is HANG_UP:
                        return HungUp()
                case Failed() as failed:
                    return failed
                case unmatched:
                    assert_never(unmatched)

    async def _passthru(self, call: _Call, prompts: int) -> _Next | Failed:
        query = wire.before_dial(call.facts, call.now_us, digits=call.digits)
        reply = await self._fetch(call, Applet.PASSTHRU, call.flow.passthru, query)
        is_ok = isinstance(reply, Reply) and reply.status == 200
        match call.flow.shape:
            case Shape.BRANCHES:
                # The body is not looked at, and whatever is not 200 is the other branch.
                if is_ok:
                    return _Next.CONNECT
                return _Next.PIN if prompts < call.flow.prompts_max else _Next.REJECT
            case Shape.SWITCH:
                if not isinstance(reply, Reply) or not is_ok:
                    return _Next.REJECT
                select = read_select(reply)
                try:
                    return _Next(select)
                except ValueError:
                    return Failed(f"the SwitchCase has no case {select!r}")
            case unmatched:
                assert_never(unmatched)

    async def _gather(self, call: _Call) -> HangUp | None:
        flow = call.flow
        query = wire.before_dial(call.facts, call.now_us, digits=call.digits, call_status=call.status)
        prompt = await self._prompt(call, flow.gather, query)
        if isinstance(prompt, Unusable) and flow.gather_fallback is not None:
            prompt = await self._prompt(call, flow.gather_fallback, query)
        if not self._traits.keeps_digits:
            call.digits = None
        if isinstance(prompt, Unusable):
            return None  # Nothing is heard: the "nothing entered" transition.
        call.is_answered = True
        call.now_us += PROMPT_S * SECOND_US
        keys = call.keys.pop(0) if call.keys else ""
        if keys is HANG_UP:
            return HANG_UP
        # Where nothing is keyed in, the digits of an earlier prompt stay.
        call.digits = prompt.keyed(keys) or call.digits
        return None

    async def _prompt(self, call: _Call, url: str, query: Query) -> Prompt | Unusable:
        loses_query = self._traits.gather_loses_query
        reply = await self._fetch(
            call, Applet.GATHER, url, query, is_programmable=True, loses_query=loses_query
        )
        return read_prompt(reply)

    async def _connect(self, call: _Call) -> CallResult:
        flow = call.flow
        if flow.greets_first:
            await self._greeting(call)
            call.is_answered = True
        fetches_max = PROGRAMMABLE_FETCHES_MAX if flow.is_connect_programmable else PLAIN_FETCHES_MAX
        legs: list[Leg] = []
        before: Destinations | None = None
        dialled: tuple[str, ...] = ()
        answered_by: str | None = None
        for _ in range(fetches_max):
            destinations = await self._destinations(call, legs)
            if isinstance(destinations, Unusable):
                if legs:
                    break
                await self._greeting(call)
                return Failed(f"nobody could be dialled: {destinations.why}")
            if not destinations.numbers or destinations == before:
                break
            before = destinations
            dialled += destinations.numbers
            answered_by = self._dial(call, destinations, legs)
            is_over = legs[-1].end in _LAST_ENDS
            if is_over or (flow.is_connect_programmable and not destinations.is_fetched_again):
                break
        if before is None:
            return Refused(await self._greeting(call))
        await self._after(call, legs, is_recorded=before.is_recorded)
        if legs[-1].end is LegEnd.CALLER_GAVE_UP:
            return HungUp()
        return Connected(tuple(dict.fromkeys(dialled)), before.caller_id or call.caller.dials, answered_by)

    async def _destinations(self, call: _Call, legs: Sequence[Leg]) -> Destinations | Unusable:
        facts, flow, now_us = call.facts, call.flow, call.now_us
        if legs:
            query = (*wire.after_dial(facts, now_us, legs), ("CallStatus", call.status))
            if call.digits is not None:
                query = (*query, ("digits", f'"{call.digits}"'))
        else:
            query = wire.before_dial(facts, now_us, digits=call.digits, call_status=call.status)
        read = read_programmable if flow.is_connect_programmable else read_plain
        unusable = Unusable("no URL")
        for url in (flow.connect, flow.connect_fallback):
            if url is None:
                continue
            reply = await self._fetch(
                call, Applet.CONNECT, url, query, is_programmable=flow.is_connect_programmable
            )
            destinations = read(reply)
            if isinstance(destinations, Destinations):
                return destinations
            unusable = destinations
        return unusable

    def _dial(self, call: _Call, destinations: Destinations, legs: list[Leg]) -> str | None:
        """Ring the numbers one after the other, until somebody answers or the caller gives up.

        Returns who answered.
        """
        caller_id = destinations.caller_id or call.caller.dials
        for number in destinations.numbers:
            callee = call.next_callee()
            talks = callee.end is LegEnd.TALKED
            leg = Leg(
                number=wire.written(number, self._traits.numbers),
                caller_id=wire.written(caller_id, self._traits.numbers),
                end=callee.end,
                ring_s=min(callee.ring_s, destinations.ringing_s_max),
                talk_s=min(callee.talk_s, destinations.conversation_s_max) if talks else 0,
            )
            legs.append(leg)
            call.now_us += (leg.ring_s + leg.talk_s) * SECOND_US
            if callee.end in _LAST_ENDS:
                return number if talks else None
        return None

    async def _after(self, call: _Call, legs: Sequence[Leg], *, is_recorded: bool) -> None:
        query = wire.after_dial(call.facts, call.now_us, legs, is_recorded=is_recorded)
        await self._fetch(call, Applet.PASSTHRU, call.flow.passthru_after, query)

    async def _greeting(self, call: _Call) -> str:
        """What the caller hears; nothing where the greeting fails, for a flow goes on without it."""
        query = wire.greeting(call.facts)
        url = call.flow.greeting
        head = await self._fetch(call, Applet.GREETING, url, query, method="HEAD")
        if isinstance(head, NoReply):
            return ""
        if head.status != 405 and (head.status != 200 or head.content_type != TEXT_TYPE):
            return ""
        speech = read_speech(await self._fetch(call, Applet.GREETING, url, query))
        return "" if isinstance(speech, Unusable) else speech.text

    # One request

    async def _fetch(
        self,
        call: _Call,
        applet: Applet,
        url: str,
        query: Query,
        *,
        method: str = "GET",
        is_programmable: bool = False,
        loses_query: bool = False,
    ) -> Reply | NoReply:
        target = wire.aimed(url, query, loses_query=loses_query)
        headers = {"Exotel-Version": "1.0"} if is_programmable else {}
        if target.authorization is not None:
            headers["Authorization"] = target.authorization
        reply: Reply | NoReply = NoReply("not asked")
        for _ in range(self._traits.times_each):
            begun_s = time.perf_counter()
            reply = await self._ask(method, target.url, headers)
            hop = Hop(
                applet=applet,
                request_line=f"{method} {target.line}",
                parameters=dict(query),
                status=reply.status if isinstance(reply, Reply) else None,
                reply=_summary(applet, method, reply, is_programmable=is_programmable),
                elapsed_ms=(time.perf_counter() - begun_s) * 1000,
                request_id=reply.request_id if isinstance(reply, Reply) else None,
            )
            call.hops.append(hop)
        return reply

    async def _ask(self, method: str, url: str, headers: Mapping[str, str]) -> Reply | NoReply:
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                allow_redirects=False,
                timeout=self._fetch_timeout,
            ) as response:
                body = await response.content.read(REPLY_BYTES_MAX + 1)
                while body and not response.content.at_eof() and len(body) <= REPLY_BYTES_MAX:
                    body += await response.content.read(REPLY_BYTES_MAX + 1 - len(body))
                if len(body) > REPLY_BYTES_MAX:
                    return NoReply(f"the reply is larger than {REPLY_BYTES_MAX} bytes")
                request_id = response.headers.get("X-Request-Id")
                return Reply(response.status, response.content_type, body, request_id)
        except TimeoutError:
            return NoReply(f"no reply within {self._fetch_timeout.total:g} s")
        except aiohttp.ClientError as error:
            return NoReply(f"no reply: {type(error).__name__}")


def _summary(applet: Applet, method: str, reply: Reply | NoReply, *, is_programmable: bool) -> str:
    """A reply in a few words, for the transcript."""
    if isinstance(reply, NoReply):
        return reply.why
    match applet:
        case Applet.PASSTHRU:
            return read_select(reply) or ""
        case Applet.GATHER:
            prompt = read_prompt(reply)
            if isinstance(prompt, Unusable):
                return f"unusable: {prompt.why}"
            return f"“{prompt.text}” ({_counted(prompt.input_digits_max, 'digit')})"
        case Applet.CONNECT:
            destinations = (read_programmable if is_programmable else read_plain)(reply)
            if isinstance(destinations, Unusable):
                return f"unusable: {destinations.why}"
            if not destinations.numbers:
                return "dial nobody"
            shown = f" as {destinations.caller_id}" if destinations.caller_id else ""
            return f"dial {', '.join(destinations.numbers)}{shown}"
        case Applet.GREETING:
            if method == "HEAD":
                return reply.content_type
            match read_speech(reply):
                case Speech(text, playlist):
                    return f"“{text}”" if not playlist else f"play {_counted(len(playlist), 'file')}"
                case Unusable(why):
                    return f"unusable: {why}"
                case unmatched:
                    assert_never(unmatched)
        case unmatched:
            assert_never(unmatched)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
