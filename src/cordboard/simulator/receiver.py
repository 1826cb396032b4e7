"""A subscriber for events: takes the engine's webhooks, keeps them, and lets somebody wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiohttp import web

# Deliveries are due at once; a wait this long has found a fault.
WAIT_S: Final = 20.0

BODY_BYTES_MAX: Final = 1_000_000


class EventKind(Enum):
    CALL_COMPLETED = "call completed"
    DEALLOCATED = "deallocated"
    VERIFIED = "verified"
    VERIFICATION_FAILED = "failed verification"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Event:
    """One delivery, as it arrived."""

    kind: EventKind
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


def kind_of(body: Mapping[str, Any]) -> EventKind:
    """Events do not say what they are; their keys do (exotel.md 8.10)."""
    has_allocation = "greenpin_id" in body or "greenvn_id" in body
    match ("call_type" in body, "state" in body, "caller" in body, has_allocation):
        case (True, False, False, True):
            return EventKind.CALL_COMPLETED
        case (False, True, False, True):
            return EventKind.DEALLOCATED
        case (False, False, True, True):
            return EventKind.VERIFIED
        case (False, False, True, False):
            return EventKind.VERIFICATION_FAILED
        case _:
            return EventKind.UNKNOWN


class NeverCame(Exception):
    """The event waited for did not come in time; the message says which events did."""


class Receiver:
    """Listens on a free port of this machine as long as it is entered."""

    def __init__(self) -> None:
        # Accepted ones, in the order of their arrival; and those that were answered with a failure.
        self.events: list[Event] = []
        self.refused: list[Event] = []
        self._failures_left = 0
        self._failure_status = 503
        self._arrival = asyncio.Condition()
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(application, access_log=None)
        self._port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def url(self, path: str = "/events") -> str:
        """Where to send events; `path` tells one subscriber from another."""
        return f"http://127.0.0.1:{self._port}{path}"

    def fail_next(self, times: int, status: int = 503) -> None:
        """Answer the next `times` deliveries with `status`, as a subscriber in trouble."""
        self._failures_left = times
        self._failure_status = status

    def of_kind(self, kind: EventKind, **values: object) -> list[Event]:
        """The accepted events of `kind` whose body has these values."""
        return [event for event in self.events if is_event(kind, **values)(event)]

    async def wait_for(self, predicate: Callable[[Event], bool], within_s: float = WAIT_S) -> Event:
        """The first accepted event that the predicate is true of, now or as soon as it comes."""
        return await self._first(lambda: self.events, predicate, within_s)

    async def wait_for_refused(self, predicate: Callable[[Event], bool], within_s: float = WAIT_S) -> Event:
        """The same for deliveries that `fail_next` turned away."""
        return await self._first(lambda: self.refused, predicate, within_s)

    async def _first(
        self, arrived: Callable[[], list[Event]], predicate: Callable[[Event], bool], within_s: float
    ) -> Event:
        def found() -> Event | None:
            return next((event for event in arrived() if predicate(event)), None)

        async with self._arrival:
            try:
                async with asyncio.timeout(within_s):
                    await self._arrival.wait_for(lambda: found() is not None)
            except TimeoutError as error:
                came = ", ".join(event.kind.value for event in arrived()) or "none"
                raise NeverCame(f"no such event within {within_s:g} s; these came: {came}") from error
        event = found()
        assert event is not None
        return event

    async def _take(self, request: web.Request) -> web.Response:
        try:
            body = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            return web.Response(status=400, text="not a JSON object")
        event = Event(kind_of(body), request.path, dict(request.headers), body)
        async with self._arrival:
            is_refused = self._failures_left > 0
            if is_refused:
                self._failures_left -= 1
            (self.refused if is_refused else self.events).append(event)
            self._arrival.notify_all()
        return web.Response(status=self._failure_status if is_refused else 200)


def is_event(kind: EventKind, **values: object) -> Callable[[Event], bool]:
    """A predicate for `wait_for`: of this kind, and with these values in its body.

    `from_` stands for the key `from`.
    """
    wanted = {key.rstrip("_"): value for key, value in values.items()}

    def matches(event: Event) -> bool:
        return event.kind is kind and all(event.body.get(key) == value for key, value in wanted.items())

    return matches
