"""Tells subscribers what happened: at least once, in order for each subject, nobody waiting for another.

Any number of processes may each run a Sender over one database: the outbox hands every event to one of
them at a time. What is down is left alone by a breaker (webhooks/breaker.py), for each tenant by itself, so
that nobody can have another's events held back. Between a subscriber's 2xx and the outbox hearing of it the
process may die; the event is then sent again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from random import SystemRandom
from typing import Final, NamedTuple, Protocol, TypeVar, assert_never

import aiohttp
import asyncpg
import orjson
import structlog
import structlog.typing
from yarl import URL

from cordboard.clock import SECOND_US, Clock, to_datetime
from cordboard.storage import events
from cordboard.storage.commits import CommitBatcher
from cordboard.storage.database import CommitUnknown, Connection, Database, DatabaseAway
from cordboard.storage.events import AttemptError, Claim, EventState, Lane, Outcome
from cordboard.storage.facts import EventKind, facts_of
from cordboard.storage.sealing import NO_KEYS, DataKeys
from cordboard.tracing import Tracing
from cordboard.webhooks.breaker import Breaker
from cordboard.webhooks.destinations import Destinations, Endpoint, ForbiddenAddress, parse_endpoint
from cordboard.webhooks.lookups import Lookup, Lookups, addresses_of
from cordboard.webhooks.payloads import body_of
from cordboard.webhooks.schedule import DEAD_AFTER_S, asked_wait_us, next_attempt_us
from cordboard.webhooks.signing import sign

log = structlog.get_logger(__name__)

Key = TypeVar("Key")

# From the first byte to the last of the answer's head, name lookup and connecting included (exotel.md 8.10).
ATTEMPT_BUDGET_S: Final = 5.0
# An attempt's result is written within a command's 10 s, twice over for a retried transaction, and some
# seconds for a busy loop. Whoever takes longer is taken for dead.
LEASE_AFTER_BUDGET_S: Final = 25.0

# 16 at a time to one host: with its answers in 50 ms, 320 events a second.
IN_FLIGHT_PER_HOST_MAX: Final = 16
# A host that did not answer gets one at a time, until it answers: a dead one costs one slot.
IN_FLIGHT_PER_SILENT_HOST_MAX: Final = 1
# 8 busy hosts, or 128 dead ones; each is one socket and some 50 kB.
IN_FLIGHT_MAX: Final = 128

# Commits of results at the same time, each of all that came in during the one before; the other connections
# of the pool are for those who are waited for.
COMMITS_MAX: Final = 2
# Results that may wait for a commit, some 5 kB each, before nothing more is sent: two full batches.
RECORDING_MAX: Final = 200
# Events that grew too old behind an open breaker, buried at a time.
BURIED_AT_A_TIME: Final = 100
# A result that is not kept is an event sent twice. With up to 0.2, 0.4, 0.8 and 1.6 s in between, a
# connection that broke is back; that and five times the 10 s of a command may outlast the lease, which
# does no harm.
RECORDING_TRIES_MAX: Final = 5
RECORDING_PAUSE_S: Final = 0.2

# How late an event of another process is seen at worst, and how often a database that is away is asked.
POLL_S: Final = 1.0
# An answer is only read to use its connection again; a longer one costs its sender the connection.
ANSWER_BYTES_MAX: Final = 64 * 1024

# Too many requests, and out of service: the two that come with a time to come back at.
_STATUSES_THAT_ASK: Final = frozenset((429, 503))

_DICE: Final = SystemRandom()

_CANNOT_WRITE: Final = (DatabaseAway, CommitUnknown, asyncpg.PostgresError)


class AttemptResult(Enum):
    """How an attempt ended, for metrics: delivered, or for the reason that is on record."""

    DELIVERED = "delivered"
    REFUSED = AttemptError.REFUSED.value
    TIMED_OUT = AttemptError.TIMED_OUT.value
    UNREACHABLE = AttemptError.UNREACHABLE.value
    FORBIDDEN = AttemptError.FORBIDDEN.value
    BAD_ENDPOINT = AttemptError.BAD_ENDPOINT.value
    NOT_WORDED = AttemptError.NOT_WORDED.value


class OnAttempt(Protocol):
    def __call__(self, kind: EventKind, result: AttemptResult, seconds: float, /) -> None: ...


class Attempt(NamedTuple):
    result: AttemptResult
    # For the outbox and the log: nothing of what was sent or answered, and no address.
    detail: str
    # Of the answer, if there was one.
    status: int | None = None
    # For how long the receiver asked to be left alone with it.
    asked_wait_us: int = 0


class Timed(NamedTuple):
    """An attempt, when it was begun and how long it took."""

    attempt: Attempt
    at_us: int
    ms: int


class _Sessions(NamedTuple):
    trusted: aiohttp.ClientSession
    guarded: aiohttp.ClientSession


class _Group(NamedTuple):
    """Lanes that are claimed together: those to one host, or that of a tenant whose breaker is probed."""

    cell: int
    host: str
    probing: str | None


_NO_HOST: Final = "(none)"


class Sender:
    """`run` in a task of the owner; `stop` lets it return when the attempts in flight have ended."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        destinations: Destinations,
        *,
        dead_after_s: float = DEAD_AFTER_S,
        attempt_budget_s: float = ATTEMPT_BUDGET_S,
        poll_s: float = POLL_S,
        dice: Callable[[], float] = _DICE.random,
        on_attempt: OnAttempt | None = None,
        keys: DataKeys = NO_KEYS,
        lookup: Lookup = addresses_of,
        tracing: Tracing | None = None,
    ) -> None:
        self._database = database
        self._lookup = lookup
        self._keys = keys
        self._clock = clock
        self._destinations = destinations
        self._dead_after_s = dead_after_s
        self._attempt_budget_s = attempt_budget_s
        self._lease_us = int((attempt_budget_s + LEASE_AFTER_BUDGET_S) * SECOND_US)
        self._poll_s = poll_s
        self._dice = dice
        self._on_attempt = on_attempt
        self._tracing = tracing
        # By host, and by tenant and host.
        self._in_flight: Counter[str] = Counter()
        self._in_flight_of: Counter[tuple[str, str]] = Counter()
        self._silent_hosts: set[str] = set()
        # Results on their way to the database.
        self._recording = 0
        # Of those whose last attempt failed; the others are closed.
        self._breakers: dict[tuple[str, str], Breaker] = {}
        # Where events may have grown too old while nobody was asked.
        self._to_bury: set[tuple[str, str]] = set()
        self._outcomes: CommitBatcher[Outcome, bool] = CommitBatcher(
            database.write, self._commit_outcomes, COMMITS_MAX
        )
        self._woken = asyncio.Event()
        self._stopped = asyncio.Event()

    def wake(self) -> None:
        """Events may have been committed: look now and not at the next poll."""
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    async def run(self) -> None:
        connector = partial(aiohttp.TCPConnector, limit=0, resolver=Lookups(self._lookup))
        async with (
            # Whom the operator trusts by name may resolve to anything.
            self._session(connector) as trusted,
            self._session(partial(connector, socket_factory=self._destinations.socket_for)) as guarded,
            asyncio.TaskGroup() as committing,
        ):
            commits = committing.create_task(self._outcomes.serve())
            try:
                async with asyncio.TaskGroup() as attempts:
                    await self._send(_Sessions(trusted, guarded), attempts)
            finally:
                commits.cancel()

    def _session(self, connector: Callable[[], aiohttp.TCPConnector]) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # The slots are counted here, by host; and a subscriber's cookies are not for us.
            connector=connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            # The budget is one for everything, in _post.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            # Unpacking would let 64 KiB become much more.
            auto_decompress=False,
            # A proxy would connect where we may not.
            trust_env=False,
            headers={"User-Agent": "Cordboard"},
        )

    async def _send(self, sessions: _Sessions, attempts: asyncio.TaskGroup) -> None:
        database_is_away = False
        while not self._stopped.is_set():
            self._woken.clear()
            try:
                wait_s = await self._send_due(sessions, attempts)
            except _CANNOT_WRITE as error:
                if not database_is_away:
                    log.warning("events_wait_for_the_database", error=type(error).__name__)
                database_is_away = True
                await _wait_for(self._stopped, self._poll_s)
                continue
            if database_is_away:
                log.info("events_go_on")
            database_is_away = False
            await _wait_for(self._woken, wait_s)

    # ── claiming ─────────────────────────────────────────────────────────────

    async def _send_due(self, sessions: _Sessions, attempts: asyncio.TaskGroup) -> float:
        """Begin an attempt for every due event that there is room for; return how long to wait for more."""
        if self._in_flight.total() >= IN_FLIGHT_MAX or self._recording >= RECORDING_MAX:
            return self._poll_s
        now_us = self._clock.now_us()
        wait_us = int(self._poll_s * SECOND_US)
        due: defaultdict[_Group, list[Lane]] = defaultdict(list)
        for lane in await self._database.read(events.pending_lanes):
            host = _host_of(parse_endpoint(lane.endpoint))
            breaker = self._breakers.get((lane.tenant_id, host))
            if lane.due_at_us > now_us:
                wait_us = min(wait_us, lane.due_at_us - now_us)
            elif breaker is None or not breaker.is_open:
                due[_Group(lane.cell, host, None)].append(lane)
            elif (lane.tenant_id, host) in self._to_bury:
                wait_us = 0
                await self._bury(lane, host, now_us)
            elif now_us < breaker.probe_at_us:
                wait_us = min(wait_us, breaker.probe_at_us - now_us)
            elif not self._in_flight_of[lane.tenant_id, host]:
                due[_Group(lane.cell, host, lane.tenant_id)].append(lane)
        # Hosts with the least in flight come first, so that a few busy ones cannot keep all the slots.
        for group, lanes in sorted(due.items(), key=lambda item: self._in_flight[item[0].host]):
            room = self._room(group)
            if room > 0 and not self._stopped.is_set():
                for claim in await self._claim(lanes, now_us, room):
                    self._begin(sessions, attempts, claim, group)
        return wait_us / SECOND_US

    def _begin(self, sessions: _Sessions, attempts: asyncio.TaskGroup, claim: Claim, group: _Group) -> None:
        endpoint = parse_endpoint(claim.endpoint)
        host = _host_of(endpoint)
        breaker = self._breakers.get((claim.tenant_id, host))
        if group.probing is not None and breaker is not None and breaker.is_open:
            breaker.begin_probe()
        self._in_flight[host] += 1
        self._in_flight_of[claim.tenant_id, host] += 1
        attempts.create_task(self._attempt(sessions, claim, endpoint))

    def _room(self, group: _Group) -> int:
        if group.probing is not None:
            limit = 1 + self._in_flight[group.host]
        elif group.host in self._silent_hosts:
            limit = IN_FLIGHT_PER_SILENT_HOST_MAX
        else:
            limit = IN_FLIGHT_PER_HOST_MAX
        limit = min(limit, IN_FLIGHT_PER_HOST_MAX)
        return min(limit - self._in_flight[group.host], IN_FLIGHT_MAX - self._in_flight.total())

    async def _claim(
        self, lanes: Sequence[Lane], now_us: int, limit: int, begun_before_us: int | None = None
    ) -> list[Claim]:
        return await self._database.write(
            lambda connection: events.claim(connection, lanes, now_us, self._lease_us, limit, begun_before_us)
        )

    async def _bury(self, lane: Lane, host: str, now_us: int) -> None:
        """Give up what grew too old while the endpoint was down; a backlog would otherwise wait for as many
        probes as it has events."""

        oldest_us = now_us - int(self._dead_after_s * SECOND_US)
        claims = await self._claim([lane], now_us, BURIED_AT_A_TIME, oldest_us)
        outcomes = [
            Outcome(
                claim=claim,
                state=EventState.DEAD,
                result="too old: the endpoint was down",
                at_us=now_us,
                error=AttemptError.EXPIRED,
            )
            for claim in claims
        ]
        if outcomes:
            # Not in the transaction of the claim: who holds events waits for no subject.
            await self._database.write(
                lambda connection: events.record(connection, lane.cell, outcomes, now_us, self._keys)
            )
            log.error("events_dead", host=host, count=len(outcomes), result=AttemptError.EXPIRED.value)
        if len(outcomes) < BURIED_AT_A_TIME:
            self._to_bury.discard((lane.tenant_id, host))

    # ── an attempt ───────────────────────────────────────────────────────────

    async def _attempt(self, sessions: _Sessions, claim: Claim, endpoint: Endpoint | None) -> None:
        host = _host_of(endpoint)
        loop = asyncio.get_running_loop()
        began, began_us = loop.time(), self._clock.now_us()
        try:
            attempt = await self._told(sessions, claim, endpoint, began_us)
            self._learn(claim.tenant_id, host, attempt)
        finally:
            # While the result is written, somebody else may have the slot.
            _count_down(self._in_flight, host)
            _count_down(self._in_flight_of, (claim.tenant_id, host))
            self._woken.set()
        seconds = loop.time() - began
        if self._on_attempt is not None:
            self._on_attempt(claim.kind, attempt.result, seconds)
        self._recording += 1
        try:
            await self._record(claim, host, Timed(attempt, began_us, round(seconds * 1_000)))
        finally:
            self._recording -= 1
            # The next event of the subject is due.
            self._woken.set()

    async def _told(
        self, sessions: _Sessions, claim: Claim, endpoint: Endpoint | None, now_us: int
    ) -> Attempt:
        """`_tell`, with a span around it where there are traces."""
        if self._tracing is None:
            return await self._tell(sessions, claim, endpoint, now_us)
        attributes = {
            "tenant": claim.tenant_id,
            "event_id": str(claim.id),
            "event_kind": claim.kind.value,
            "attempt": claim.attempts,
            "request_id": claim.request_id,
        }
        with self._tracing.span("webhook attempt", attributes):
            attempt = await self._tell(sessions, claim, endpoint, now_us)
            self._tracing.describe({"result": attempt.result.value, "status": attempt.status})
            return attempt

    async def _tell(
        self, sessions: _Sessions, claim: Claim, endpoint: Endpoint | None, now_us: int
    ) -> Attempt:
        if endpoint is None:
            return Attempt(AttemptResult.BAD_ENDPOINT, "not an http or https address")
        try:
            facts = facts_of(claim.kind, self._keys.facts_of(claim.id, claim.facts))
            body = orjson.dumps(body_of(claim.product, facts))
        except Exception as error:  # Whatever is wrong with facts once kept, the other events go on.
            return Attempt(AttemptResult.NOT_WORDED, f"facts: {type(error).__name__}")
        headers = {
            "Content-Type": "application/json",
            "cordboard-sequence": str(claim.seq),
            **sign(claim.secrets, claim.id, to_datetime(now_us), body),
        }
        if claim.request_id is not None:
            headers["cordboard-request-id"] = claim.request_id
        if endpoint.authorization is not None:
            headers["Authorization"] = endpoint.authorization
        is_trusted = self._destinations.trusts(endpoint.url)
        session = sessions.trusted if is_trusted else sessions.guarded
        return await self._post(session, endpoint.url, headers, body)

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], body: bytes
    ) -> Attempt:
        status: int | None = None
        wait_us = 0
        try:
            async with (
                asyncio.timeout(self._attempt_budget_s),
                session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
                if status in _STATUSES_THAT_ASK:
                    wait_us = asked_wait_us(response.headers.get("Retry-After"), self._clock.now_us())
                await _read_answer(response)
        except TimeoutError:
            if status is None:
                return Attempt(AttemptResult.TIMED_OUT, "no answer in time")
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, ForbiddenAddress):
                return Attempt(AttemptResult.FORBIDDEN, "an address that events may not go to")
            return Attempt(AttemptResult.UNREACHABLE, type(error).__name__)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if status is None:
                return Attempt(AttemptResult.UNREACHABLE, type(error).__name__)
        # The head of the answer is the answer, however its body went on.
        assert status is not None
        result = AttemptResult.DELIVERED if 200 <= status < 300 else AttemptResult.REFUSED
        return Attempt(result, f"status {status}", status, wait_us)

    def _learn(self, tenant_id: str, host: str, attempt: Attempt) -> None:
        """What an attempt says of the endpoint."""
        match attempt.result:
            case AttemptResult.TIMED_OUT | AttemptResult.UNREACHABLE:
                self._silent_hosts.add(host)
                self._count_failure(tenant_id, host)
            case AttemptResult.FORBIDDEN:
                self._count_failure(tenant_id, host)
            case AttemptResult.REFUSED if attempt.status is not None and _is_down(attempt.status):
                self._silent_hosts.discard(host)
                self._count_failure(tenant_id, host)
            case AttemptResult.DELIVERED | AttemptResult.REFUSED:
                # A refusal that is about the event comes from somebody who is there.
                self._silent_hosts.discard(host)
                if self._breakers.pop((tenant_id, host), Breaker()).is_open:
                    self._to_bury.discard((tenant_id, host))
                    log.info("endpoint_is_back", host=host)
            case AttemptResult.BAD_ENDPOINT | AttemptResult.NOT_WORDED:
                # Nobody was asked.
                if (breaker := self._breakers.get((tenant_id, host))) is not None:
                    breaker.gave_up_probing()
            case unmatched:
                assert_never(unmatched)

    def _count_failure(self, tenant_id: str, host: str) -> None:
        breaker = self._breakers.setdefault((tenant_id, host), Breaker())
        was_open = breaker.is_open
        breaker.failed(self._clock.now_us(), self._dice)
        if breaker.is_open:
            self._to_bury.add((tenant_id, host))
            if not was_open:
                log.warning("endpoint_is_down", host=host)

    async def _record(self, claim: Claim, host: str, timed: Timed) -> None:
        now_us = self._clock.now_us()
        attempt, due_us = timed.attempt, None
        if attempt.result is AttemptResult.DELIVERED:
            state = EventState.DELIVERED
        else:
            due_us = next_attempt_us(
                claim.begun_at_us,
                claim.attempts_of_schedule,
                now_us,
                self._dice,
                self._dead_after_s,
                attempt.asked_wait_us,
            )
            state = EventState.DEAD if due_us is None else EventState.PENDING
        outcome = Outcome(
            claim=claim,
            state=state,
            due_at_us=due_us,
            result=attempt.detail,
            at_us=timed.at_us,
            ms=timed.ms,
            status=attempt.status,
            error=None if state is EventState.DELIVERED else AttemptError(attempt.result.value),
        )
        event_log = log.bind(
            event_id=str(claim.id),
            request_id=claim.request_id,
            kind=claim.kind.value,
            host=host,
            attempts=claim.attempts,
            result=attempt.detail,
        )
        is_ours = await self._write_patiently(outcome, event_log)
        if is_ours is None:
            return
        if not is_ours:
            event_log.warning("event_lease_was_lost")
            return
        match state:
            case EventState.DELIVERED:
                event_log.debug("event_delivered")
            case EventState.DEAD:
                event_log.error("event_dead")
            case EventState.PENDING:
                assert due_us is not None
                event_log.info("event_retried_later", wait_s=round((due_us - now_us) / SECOND_US, 1))
            case unmatched:
                assert_never(unmatched)

    async def _write_patiently(
        self, outcome: Outcome, event_log: structlog.typing.FilteringBoundLogger
    ) -> bool | None:
        """Whether the lease was ours; None if nothing helps: then it ends, and the event is sent again."""
        for tries in range(RECORDING_TRIES_MAX):
            if tries:
                await asyncio.sleep(RECORDING_PAUSE_S * 2 ** (tries - 1) * self._dice())
            try:
                return await self._outcomes.submit(outcome.claim.cell, outcome)
            except _CANNOT_WRITE as error:
                event_log.debug("event_result_waits", error=type(error).__name__)
        event_log.warning("event_result_not_kept")
        return None

    async def _commit_outcomes(
        self, connection: Connection, cell: int, outcomes: Sequence[Outcome]
    ) -> list[bool]:
        return await events.record(connection, cell, outcomes, self._clock.now_us(), self._keys)


def _is_down(status: int) -> bool:
    """Whether an answer says that nobody could be asked now: too many requests, or a fault of the server."""
    return status == 429 or status >= 500


def _count_down(counter: Counter[Key], key: Key) -> None:
    """Without leaving a zero behind for everybody who was ever counted."""
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _host_of(endpoint: Endpoint | None) -> str:
    return _NO_HOST if endpoint is None else endpoint.host


async def _read_answer(response: aiohttp.ClientResponse) -> None:
    """Read the answer to its end, for the sake of the connection; hang up on one that goes on and on."""
    bytes_read = 0
    while chunk := await response.content.read(ANSWER_BYTES_MAX - bytes_read):
        bytes_read += len(chunk)
        if bytes_read >= ANSWER_BYTES_MAX:
            response.close()
            return


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
