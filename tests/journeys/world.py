"""What a journey needs: a tenant of its own, made-up people, and a telephony platform to speak as.

Every test has its own tenant, virtual numbers, people and event subscriber on an engine that many tests
share, so that no test can hear of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import aiohttp

from cordboard.clock import SystemClock
from cordboard.simulator.client import Answer, Client, Credentials
from cordboard.simulator.platform import (
    Applet,
    Flow,
    KeyPlace,
    Platform,
    Shape,
    SimulatedCaller,
    Traits,
    Transcript,
    applet_url,
    random_call_sid,
)
from cordboard.simulator.receiver import WAIT_S, Event, EventKind, Receiver, is_event
from cordboard.simulator.wire import (
    CallFacts,
    Leg,
    LegEnd,
    NumberStyle,
    after_dial,
    aimed,
    before_dial,
    written,
)

ADMIN_TOKEN = "made-up-admin-token"

REFUSAL = "This call cannot be connected."
WELCOME = "One moment please."
PROMPT = "Key in your PIN."
PROMPT_AGAIN = "Once more, your PIN."

# The A side needs no PIN, the B side does: what most journeys start from.
SETTINGS: Mapping[str, Any] = {
    "aparty_pin_enabled": "false",
    "prompt_pin": PROMPT,
    "prompt_pin_again": PROMPT_AGAIN,
    "greeting_connect": WELCOME,
    "greeting_refused": REFUSAL,
}

ENDPOINTS = {
    EventKind.CALL_COMPLETED: "greenpin_call_complete_event_endpoint",
    EventKind.VERIFIED: "verified_caller_event_endpoint",
    EventKind.VERIFICATION_FAILED: "failed_verification_event_endpoint",
    EventKind.DEALLOCATED: "deallocation_callback_event_endpoint",
}

PIN = "4821"
WRONG_PINS = ("1111", "2222", "3333", "5555")

_people = count(1)
_lines = count(1)
_tenants = count(1)


def a_person() -> str:
    """A number that nobody else in these tests has."""
    return f"+9198{next(_people):08d}"


def a_line() -> str:
    """A number to become a virtual number."""
    return f"+9180{next(_lines):08d}"


def a_tenant_id() -> str:
    return f"tenant{next(_tenants)}"


def national(number: str) -> str:
    return written(number, NumberStyle.NATIONAL)


@dataclass(frozen=True)
class Call:
    """One call seen from the platform, hop by hop; `place` walks whole flows instead."""

    tenant: Tenant
    caller: str | None
    virtual_number: str
    call_sid: str

    async def hop(
        self,
        applet: Applet,
        digits: str | None = None,
        *,
        own_query: str = "",
        key_in: KeyPlace = KeyPlace.QUERY,
        method: str = "GET",
        is_programmable: bool = True,
        **changed: Any,
    ) -> Answer:
        """One request before the dial. `changed` parameters stand in place of the platform's; None: none."""
        query = dict(before_dial(self._facts(), SystemClock().now_us(), digits=digits)) | changed
        sent = tuple((key, value) for key, value in query.items() if value is not None)
        answer = await self.tenant.fetch(
            applet, sent, own_query=own_query, key_in=key_in, method=method, is_programmable=is_programmable
        )
        if digits and self.tenant.settles:
            # What follows from a PIN is told behind the answer, and a request of the API waits for it.
            await self.tenant.api("GET", "/verifications?limit=1")
        return answer

    async def passthru(self, digits: str | None = None, **changed: Any) -> Answer:
        return await self.hop(Applet.PASSTHRU, digits, **changed)

    async def select(self, digits: str | None = None, **changed: Any) -> str:
        """What a Passthru says: `connect`, `pin` or `reject`."""
        answer = await self.hop(Applet.PASSTHRU, digits, own_query="switch=1", **changed)
        assert answer.status == 200
        said = answer.body["select"]
        assert isinstance(said, str)
        return said

    async def gather(self, digits: str | None = None, **changed: Any) -> Answer:
        return await self.hop(Applet.GATHER, digits, **changed)

    async def connect(self, digits: str | None = None, **changed: Any) -> Answer:
        return await self.hop(Applet.CONNECT, digits, **changed)

    async def greeting(self, **changed: Any) -> Answer:
        return await self.hop(Applet.GREETING, **changed)

    async def enter(self, digits: str) -> str:
        """A prompt, what is keyed in, and the decision about it."""
        await self.gather()
        return await self.select(digits)

    async def targets(self, digits: str | None = None) -> list[str]:
        answer = await self.connect(digits)
        assert answer.status == 200
        numbers = answer.body["destination"]["numbers"]
        assert isinstance(numbers, list)
        return numbers

    async def end(self, legs: Sequence[Leg] = (), *, is_recorded: bool = False, **changed: Any) -> Answer:
        """The Passthru after the dial."""
        query = (
            dict(after_dial(self._facts(), SystemClock().now_us(), legs, is_recorded=is_recorded)) | changed
        )
        sent = tuple((key, value) for key, value in query.items() if value is not None)
        return await self.tenant.fetch(Applet.PASSTHRU, sent)

    async def talk(self, with_: str, caller_id: str, talk_s: int = 17) -> Answer:
        return await self.end([Leg(national(with_), national(caller_id), LegEnd.TALKED, 4, talk_s)])

    def _facts(self) -> CallFacts:
        return CallFacts(
            call_sid=self.call_sid,
            caller=written(self.caller, NumberStyle.NATIONAL, "anonymous"),
            virtual_number=national(self.virtual_number),
            started_us=SystemClock().now_us(),
        )


@dataclass(frozen=True)
class Tenant:
    client: Client
    session: aiohttp.ClientSession
    receiver: Receiver
    credentials: Credentials
    virtual_numbers: tuple[str, ...]
    # Whether what a hop brings about is waited for; where the database is away, that may be long.
    settles: bool = True

    @property
    def id(self) -> str:
        return self.credentials.tenant_id

    @property
    def line(self) -> str:
        return self.virtual_numbers[0]

    # As the tenant's software

    async def api(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return await self.client.api(self.credentials, method, path, body, **more)

    async def create(self, body: Mapping[str, Any], **more: Any) -> Answer:
        return await self.api("POST", "/greenpin", body, **more)

    async def allocate(
        self,
        a: Sequence[str] = (),
        b: Sequence[str] = (),
        *,
        pin: str | None = PIN,
        transaction_id: str | None = None,
        duration: str = "2h",
        vns: Sequence[str] | None = None,
        **more: Any,
    ) -> Mapping[str, Any]:
        """A GreenPin of A and B on the tenant's lines, with `pin` for B."""
        body = {
            "transaction_id": transaction_id or f"ORD-{next(_tenants)}",
            "a": {"vns": list(vns or self.virtual_numbers), "numbers": list(a)},
            "b": {"numbers": list(b), **({"pin": pin} if pin else {})},
            "deallocation_policy": {"duration": duration},
            **more,
        }
        return await self.client.allocate(self.credentials, body)

    # As the platform

    def call(self, caller: str | None, virtual_number: str | None = None) -> Call:
        return Call(self, caller, virtual_number or self.line, random_call_sid())

    async def fetch(
        self,
        applet: Applet,
        query: tuple[tuple[str, str], ...],
        *,
        own_query: str = "",
        key_in: KeyPlace = KeyPlace.QUERY,
        method: str = "GET",
        is_programmable: bool = True,
    ) -> Answer:
        is_basic = key_in is KeyPlace.BASIC
        key = self.credentials.api_token if is_basic else self.credentials.applet_key
        configured = applet_url(self.client.base_url, self.id, key, applet, key_in, own_query)
        target = aimed(configured, query)
        headers = {"Authorization": target.authorization} if target.authorization else {}
        if is_programmable and applet in {Applet.CONNECT, Applet.GATHER}:
            headers["Exotel-Version"] = "1.0"
        return await self.client.ask(method, target.url.removeprefix(self.client.base_url), headers=headers)

    async def place(
        self, caller: SimulatedCaller, shape: Shape = Shape.SWITCH, traits: Traits | None = None, **wired: Any
    ) -> Transcript:
        flow = Flow.wired(self.client.base_url, self.id, self.credentials.applet_key, shape, **wired)
        return await Platform(self.session, SystemClock(), traits=traits or Traits()).place(caller, flow)

    # As the subscriber

    async def told(self, kind: EventKind, **values: object) -> Event:
        """The first event of that kind with these values that this tenant's subscriber gets."""
        matches = is_event(kind, **values)
        return await self.receiver.wait_for(lambda event: self._is_ours(event) and matches(event))

    def events(self, kind: EventKind | None = None) -> list[Event]:
        """What was delivered so far."""
        return [
            event for event in self.receiver.events if self._is_ours(event) and kind in (None, event.kind)
        ]

    async def all_events(self, kind: EventKind | None = None) -> list[Event]:
        """What was delivered when nothing waits to be delivered any more."""
        async with asyncio.timeout(WAIT_S):
            while await pending_events(self.client):
                pass
        return self.events(kind)

    def _is_ours(self, event: Event) -> bool:
        return event.path == f"/{self.id}"


async def make_tenant(
    client: Client,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    settings: Mapping[str, Any] | None = None,
    lines: Sequence[str] | None = None,
    *,
    settles: bool = True,
) -> Tenant:
    """A tenant with a line or those given, whose events all go to one subscriber of its own."""
    tenant_id = a_tenant_id()
    endpoints = {key: receiver.url(f"/{tenant_id}") for key in ENDPOINTS.values()}
    credentials = await client.add_tenant(tenant_id, {**SETTINGS, **endpoints, **(settings or {})})
    virtual_numbers = tuple(lines or [a_line()])
    await client.add_virtual_numbers(tenant_id, *virtual_numbers)
    return Tenant(client, session, receiver, credentials, virtual_numbers, settles)


async def raw_exchange(base_url: str, sent: bytes) -> bytes:
    """What comes back for bytes that no HTTP client would send; nothing where the connection is cut."""
    host, port = base_url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def pending_events(client: Client) -> int:
    """How many events wait for their delivery, of all tenants."""
    metrics = await client.ask("GET", "/metrics")
    [line] = [line for line in metrics.body.splitlines() if line.startswith("cordboard_events_pending ")]
    return int(float(line.split()[1]))
