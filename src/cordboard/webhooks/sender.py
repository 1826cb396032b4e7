"""Tells subscribers what happened: at least once, in order for each subject, nobody waiting for another.

Any number of processes may each run a Sender over one database: the outbox hands every event to one of
them at a time. Between a subscriber's 2xx and the outbox hearing of it the process may die; the event is
then sent again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from random import SystemRandom
from typing import Final, NamedTuple, Protocol, assert_never

import aiohttp
import asyncpg
import orjson
import structlog
import structlog.typing
from yarl import URL

from cordboard.clock import SECOND_US, Clock
from cordboard.storage import events
from cordboard.storage.database import CommitUnknown, Connection, Database, DatabaseAway
from cordboard.storage.events import Claim, End, Lane
from cordboard.storage.facts import EventKind, facts_of
from cordboard.storage.sealing import NO_KEYS, DataKeys
from cordboard.webhooks.payloads import body_of

log = structlog.get_logger(__name__)

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

# Results written at the same time: 1 ms each, so 2,000 a second; the other connections of the pool are
# for those who are waited for.
RECORDING_MAX: Final = 2
# A result that is not kept is an event sent twice. With up to 0.2, 0.4, 0.8 and 1.6 s in between, a
# connection that broke is back; that and five times the 10 s of a command may outlast the lease, which
# does no harm.
RECORDING_TRIES_MAX: Final = 5
RECORDING_PAUSE_S: Final = 0.2

# The sum of the first eight is 3.7 h, and five more bring it to 23.7 h: some 14 attempts in all.
RETRY_AFTER_S: Final = (1, 5, 30, 2 * 60, 10 * 60, 30 * 60, 3_600, 2 * 3_600, 4 * 3_600)
# Each wait is 80 to 120 % of that, so that what failed together does not come back together.
JITTER: Final = 0.2
DEAD_AFTER_S: Final = 24 * 3_600

# How late an event of another process is seen at worst, and how often a database that is away is asked.
POLL_S: Final = 1.0
# An answer is only read to use its connection again; a longer one costs its sender the connection.
ANSWER_BYTES_MAX: Final = 64 * 1024

_DICE: Final = SystemRandom()

_CANNOT_WRITE: Final = (DatabaseAway, CommitUnknown, asyncpg.PostgresError)


class AttemptResult(Enum):
    """How an attempt ended, for metrics."""

    DELIVERED = "delivered"
    # An answer other than 2xx.
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    # What the tenant set is no http or https address.
    BAD_ENDPOINT = "bad_endpoint"
    # Facts of another version of the engine, or of an event that has no body yet.
    NOT_WORDED = "not_worded"


class OnAttempt(Protocol):
    def __call__(self, kind: EventKind, result: AttemptResult, seconds: float, /) -> None: ...


class Attempt(NamedTuple):
    result: AttemptResult
    # For the outbox and the log: nothing of what was sent or answered, and no address.
    detail: str


class Endpoint(NamedTuple):
    """Where to send to, without the userinfo that its address may have had."""

    url: URL
    authorization: str | None
    # Host and port: what answers, or does not, as one.
    host: str


_NO_HOST: Final = "(none)"


def parse_endpoint(text: str) -> Endpoint | None:
    """`https://user:secret@example.com/events` as address and Basic authorization; None for no address."""
    try:
        url = URL(text.strip())
        if url.scheme not in ("http", "https") or not url.host:
            return None
        authorization = None
        if url.user is not None or url.password is not None:
            authorization = aiohttp.encode_basic_auth(url.user or "", url.password or "", "utf-8")
        return Endpoint(url.with_user(None).with_fragment(None), authorization, f"{url.host}:{url.port}")
    except ValueError:
        return None


def next_attempt_us(created_us: int, attempts: int, now_us: int, dice: Callable[[], float]) -> int | None:
    """When to try again after `attempts` failed ones; None if that is too late for the event."""
    assert attempts > 0
    wait_s = RETRY_AFTER_S[min(attempts, len(RETRY_AFTER_S)) - 1]
    jittered = wait_s * (1 + JITTER * (2 * dice() - 1))
    due_us = now_us + int(jittered * SECOND_US)
    return due_us if due_us < created_us + DEAD_AFTER_S * SECOND_US else None


class Sender:
    """`run` in a task of the owner; `stop` lets it return when the attempts in flight have ended."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        attempt_budget_s: float = ATTEMPT_BUDGET_S,
        poll_s: float = POLL_S,
        dice: Callable[[], float] = _DICE.random,
        on_attempt: OnAttempt | None = None,
        keys: DataKeys = NO_KEYS,
    ) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._attempt_budget_s = attempt_budget_s
        self._lease_us = int((attempt_budget_s + LEASE_AFTER_BUDGET_S) * SECOND_US)
        self._poll_s = poll_s
        self._dice = dice
        self._on_attempt = on_attempt
        self._in_flight: Counter[str] = Counter()
        self._silent_hosts: set[str] = set()
        self._recording = asyncio.Semaphore(RECORDING_MAX)
        self._woken = asyncio.Event()
        self._stopped = asyncio.Event()

    def wake(self) -> None:
        """Events may have been committed: look now and not at the next poll."""
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    async def run(self) -> None:
        async with (
            aiohttp.ClientSession(
                # The slots are counted here, by host; and a subscriber's cookies are not for us.
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                # The budget is one for everything, in _post.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                # Unpacking would let 64 KiB become much more.
                auto_decompress=False,
                trust_env=False,
                headers={"User-Agent": "Cordboard"},
            ) as session,
            asyncio.TaskGroup() as attempts,
        ):
            database_is_away = False
            while not self._stopped.is_set():
                self._woken.clear()
                try:
                    wait_s = await self._send_due(session, attempts)
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

    async def _send_due(self, session: aiohttp.ClientSession, attempts: asyncio.TaskGroup) -> float:
        """Begin an attempt for every due event that there is room for; return how long to wait for more."""
        if self._in_flight.total() >= IN_FLIGHT_MAX:
            return self._poll_s
        now_us = self._clock.now_us()
        wait_us = int(self._poll_s * SECOND_US)
        due: defaultdict[tuple[int, str], list[Lane]] = defaultdict(list)
        for lane in await self._database.read(events.pending_lanes):
            if lane.due_at_us <= now_us:
                due[lane.cell, _host_of(parse_endpoint(lane.endpoint))].append(lane)
            else:
                wait_us = min(wait_us, lane.due_at_us - now_us)
        # Hosts with the least in flight come first, so that a few busy ones cannot keep all the slots.
        for (_, host), lanes in sorted(due.items(), key=lambda group: self._in_flight[group[0][1]]):
            room = self._room(host)
            if room > 0 and not self._stopped.is_set():
                for claim in await self._claim(lanes, now_us, room):
                    endpoint = parse_endpoint(claim.endpoint)
                    self._in_flight[_host_of(endpoint)] += 1
                    attempts.create_task(self._attempt(session, claim, endpoint))
        return wait_us / SECOND_US

    def _room(self, host: str) -> int:
        limit = IN_FLIGHT_PER_SILENT_HOST_MAX if host in self._silent_hosts else IN_FLIGHT_PER_HOST_MAX
        return min(limit - self._in_flight[host], IN_FLIGHT_MAX - self._in_flight.total())

    async def _claim(self, lanes: Sequence[Lane], now_us: int, limit: int) -> list[Claim]:
        return await self._database.write(
            lambda connection: events.claim(connection, lanes, now_us, self._lease_us, limit)
        )

    # ── an attempt ───────────────────────────────────────────────────────────

    async def _attempt(self, session: aiohttp.ClientSession, claim: Claim, endpoint: Endpoint | None) -> None:
        host = _host_of(endpoint)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            attempt = await self._tell(session, claim, endpoint)
            self._remember_silence(host, attempt.result)
            if self._on_attempt is not None:
                self._on_attempt(claim.kind, attempt.result, loop.time() - began)
            await self._record(claim, host, attempt)
        finally:
            self._in_flight[host] -= 1
            if not self._in_flight[host]:
                del self._in_flight[host]
            self._woken.set()

    async def _tell(self, session: aiohttp.ClientSession, claim: Claim, endpoint: Endpoint | None) -> Attempt:
        if endpoint is None:
            return Attempt(AttemptResult.BAD_ENDPOINT, "not an http or https address")
        try:
            facts = facts_of(claim.kind, self._keys.facts_of(claim.id, claim.facts))
            body = orjson.dumps(body_of(claim.product, facts))
        except Exception as error:  # Whatever is wrong with facts once kept, the other events go on.
            return Attempt(AttemptResult.NOT_WORDED, f"facts: {type(error).__name__}")
        headers = {
            "Content-Type": "application/json",
            "webhook-id": str(claim.id),
            "cordboard-sequence": str(claim.seq),
        }
        if endpoint.authorization is not None:
            headers["Authorization"] = endpoint.authorization
        return await self._post(session, endpoint.url, headers, body)

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], body: bytes
    ) -> Attempt:
        status: int | None = None
        try:
            async with (
                asyncio.timeout(self._attempt_budget_s),
                session.post(url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                status = response.status
                await _read_answer(response)
        except TimeoutError:
            if status is None:
                return Attempt(AttemptResult.TIMED_OUT, "no answer in time")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if status is None:
                return Attempt(AttemptResult.UNREACHABLE, type(error).__name__)
        # The head of the answer is the answer, however its body went on.
        assert status is not None
        result = AttemptResult.DELIVERED if 200 <= status < 300 else AttemptResult.REFUSED
        return Attempt(result, f"status {status}")

    def _remember_silence(self, host: str, result: AttemptResult) -> None:
        match result:
            case AttemptResult.TIMED_OUT | AttemptResult.UNREACHABLE:
                self._silent_hosts.add(host)
            case AttemptResult.DELIVERED | AttemptResult.REFUSED:
                self._silent_hosts.discard(host)
            case AttemptResult.BAD_ENDPOINT | AttemptResult.NOT_WORDED:
                pass  # Nobody was asked.
            case unmatched:
                assert_never(unmatched)

    async def _record(self, claim: Claim, host: str, attempt: Attempt) -> None:
        now_us = self._clock.now_us()
        detail = attempt.detail
        due_us: int | None = None
        if attempt.result is not AttemptResult.DELIVERED:
            due_us = next_attempt_us(claim.created_at_us, claim.attempts, now_us, self._dice)

        async def write(connection: Connection) -> bool:
            if attempt.result is AttemptResult.DELIVERED:
                return await events.finish(connection, claim, End.DELIVERED, detail, now_us, self._keys)
            if due_us is None:
                return await events.finish(connection, claim, End.DEAD, detail, now_us, self._keys)
            return await events.retry(connection, claim, due_us, detail)

        event_log = log.bind(
            event_id=str(claim.id), kind=claim.kind.value, host=host, attempts=claim.attempts, result=detail
        )
        ours = await self._write_patiently(write, event_log)
        if ours is None:
            return
        if not ours:
            event_log.warning("event_lease_was_lost")
        elif attempt.result is AttemptResult.DELIVERED:
            event_log.debug("event_delivered")
        elif due_us is None:
            event_log.error("event_dead")
        else:
            event_log.info("event_retried_later", wait_s=round((due_us - now_us) / SECOND_US, 1))

    async def _write_patiently(
        self, write: Callable[[Connection], Awaitable[bool]], event_log: structlog.typing.FilteringBoundLogger
    ) -> bool | None:
        """What `write` returned; None if nothing helps: then the lease ends, and the event is sent again."""
        for tries in range(RECORDING_TRIES_MAX):
            if tries:
                await asyncio.sleep(RECORDING_PAUSE_S * 2 ** (tries - 1) * self._dice())
            try:
                async with self._recording:
                    return await self._database.write(write)
            except _CANNOT_WRITE as error:
                event_log.debug("event_result_waits", error=type(error).__name__)
        event_log.warning("event_result_not_kept")
        return None


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
