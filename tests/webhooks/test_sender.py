"""The sender, the outbox on a real server, and subscribers on loopback that answer, refuse, stall and lie."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any
from uuid import UUID

import pytest
from aiohttp import ClientConnectionResetError, web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from cordboard.clock import SECOND_US, SystemClock, to_datetime
from cordboard.storage import event_records
from cordboard.storage.database import Connection, Database
from cordboard.storage.event_records import NoSuchEvent, StillPending, replay_event, replay_events
from cordboard.storage.events import EventState, claim, pending_lanes
from cordboard.storage.facts import EventKind
from cordboard.storage.listing import Span
from cordboard.storage.provisioning import retire_webhook_secret
from cordboard.storage.sealing import DataKeys
from cordboard.storage.subjects import lock_subjects
from cordboard.webhooks.breaker import FAILURES_MAX
from cordboard.webhooks.destinations import Destinations, parse_endpoint
from cordboard.webhooks.lookups import Lookup, addresses_of
from cordboard.webhooks.schedule import ASKED_WAIT_S_MAX, DEAD_AFTER_S, WAITS_S
from cordboard.webhooks.sender import (
    ANSWER_BYTES_MAX,
    BURIED_AT_A_TIME,
    IN_FLIGHT_PER_HOST_MAX,
    IN_FLIGHT_PER_SILENT_HOST_MAX,
    LEASE_AFTER_BUDGET_S,
    AttemptResult,
    Sender,
)
from tests.storage.office import CountingRepeats, until_somebody_is_blocked

from .outbox import (
    ALLOCATION,
    ENDPOINT_KEYS,
    GIVE_UP_S,
    NOW_US,
    Received,
    SetClock,
    Subscriber,
    a_nameserver,
    add_secret,
    attempts_of,
    deallocated,
    emptied,
    ids_of,
    kept,
    new_event,
    set_subscriber,
    set_tenant,
    subscribed,
    tell,
    verification_failed,
    verified,
    with_status,
)

# The subscribers of these tests are on loopback.
HERE = Destinations.of(["127.0.0.0/8", "::1"])
# What is delivered stays sealed, and can be told again.
KEYS = DataKeys([bytes(range(32))])
# Long enough that no machine is slow enough to use it up.
NO_HURRY_S = 300.0


class Attempts:
    """What the sender says of its attempts."""

    def __init__(self) -> None:
        self.results: list[tuple[EventKind, AttemptResult]] = []
        self._changed = asyncio.Condition()
        self._done = asyncio.Event()
        self._wanted = 0

    def __call__(self, kind: EventKind, result: AttemptResult, seconds: float) -> None:
        assert seconds >= 0
        self.results.append((kind, result))
        if len(self.results) >= self._wanted:
            self._done.set()

    async def until(self, count: int) -> None:
        self._wanted = count
        if len(self.results) < count:
            self._done.clear()
            async with asyncio.timeout(GIVE_UP_S):
                await self._done.wait()


@asynccontextmanager
async def sending(
    database: Database,
    clock: Any = None,
    attempts: Attempts | None = None,
    budget_s: float = NO_HURRY_S,
    destinations: Destinations = HERE,
    lookup: Lookup = addresses_of,
) -> AsyncIterator[Sender]:
    """A sender at work. It is stopped at the end, when what it began has ended and is on record."""
    sender = Sender(
        database,
        clock or SetClock(),
        destinations,
        attempt_budget_s=budget_s,
        dice=lambda: 0.5,
        on_attempt=attempts,
        keys=KEYS,
        lookup=lookup,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run())
        try:
            yield sender
        finally:
            sender.stop()


async def states(database: Database) -> list[tuple[str, int, str, str | None]]:
    return [(row["subject"], row["seq"], row["state"], row["last_result"]) for row in await kept(database)]


# ── one attempt ──────────────────────────────────────────────────────────────


async def test_an_event_is_posted_as_the_page_shows_it(database: Database, subscriber: Subscriber) -> None:
    await set_subscriber(database, "acme", subscriber.url + "?key=own")
    await tell(database, new_event())
    attempts = Attempts()
    async with sending(database, attempts=attempts):
        (received,) = await subscriber.until(1)

    assert received.path == "/events?key=own"
    assert received.headers["Content-Type"] == "application/json"
    assert received.seq == 1
    assert len(received.id) == 36
    assert "Authorization" not in received.headers
    assert received.body == {
        "caller": "+917987686144",
        "greenpin_id": str(ALLOCATION),
        "vn": "+916292134464",
        "transaction_id": "order-id",
        "pin": "0713",
        "call_sid": "ec44cfd684850a68decc4cebc4e2143u",
    }
    assert await states(database) == [("subject", 1, "delivered", "status 200")]
    assert attempts.results == [(EventKind.VERIFIED, AttemptResult.DELIVERED)]


async def test_userinfo_becomes_basic_authorization(database: Database, subscriber: Subscriber) -> None:
    url = subscriber.url.replace("http://", "http://%C3%A5ke:p%40ss@")
    await set_subscriber(database, "acme", url)
    await tell(database, new_event())
    async with sending(database):
        (received,) = await subscriber.until(1)

    assert received.headers["Authorization"] == "Basic " + b64encode("åke:p@ss".encode()).decode()
    assert received.headers["Host"] == f"127.0.0.1:{subscriber.port}"
    assert received.path == "/events"


@pytest.mark.parametrize(
    ("text", "url", "host"),
    [
        ("https://example.com/a?b=c#d", "https://example.com/a?b=c", "example.com:443"),
        (" http://Example.com ", "http://example.com", "example.com:80"),
        ("http://user@example.com:8080/", "http://example.com:8080/", "example.com:8080"),
        ("http://[::1]:9/x", "http://[::1]:9/x", "::1:9"),
    ],
)
def test_an_endpoint_is_an_address_without_secrets(text: str, url: str, host: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint is not None
    assert (str(endpoint.url), endpoint.host) == (url, host)


@pytest.mark.parametrize(
    "text", ["", "nowhere", "ftp://example.com/", "http://", "http://[::1", "http://a:b/"]
)
def test_other_texts_are_no_endpoint(text: str) -> None:
    assert parse_endpoint(text) is None


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_any_2xx_is_a_success(database: Database, subscriber: Subscriber, status: int) -> None:
    subscriber.answer = with_status(status)
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    async with sending(database):
        await subscriber.until(1)
    assert await states(database) == [("subject", 1, "delivered", f"status {status}")]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 500, 503])
async def test_any_other_answer_is_a_failure_and_redirects_are_not_followed(
    database: Database, subscriber: Subscriber, status: int
) -> None:
    subscriber.answer = with_status(status, Location="/elsewhere")
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    attempts = Attempts()
    async with sending(database, attempts=attempts):
        await attempts.until(1)

    assert [received.path for received in subscriber.received] == ["/events"]
    assert await states(database) == [("subject", 1, "pending", f"status {status}")]
    assert attempts.results == [(EventKind.VERIFIED, AttemptResult.REFUSED)]


async def test_a_slow_subscriber_is_a_failed_attempt_and_others_go_on_meanwhile(
    database: Database, subscriber: Subscriber
) -> None:
    async def never(_request: web.Request, _received: Received) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    attempts = Attempts()
    async with subscribed() as slow:
        slow.answer = never
        await set_subscriber(database, "slow", slow.url)
        await set_subscriber(database, "acme", subscriber.url)
        async with sending(database, attempts=attempts, budget_s=0.3) as sender:
            await tell(database, *(new_event(f"{place}", tenant_id="slow") for place in range(3)))
            sender.wake()
            await slow.until(3)
            await tell(database, *(new_event(f"{place}") for place in range(3)))
            sender.wake()
            await subscriber.until(3)
            await attempts.until(6)

    assert [row["state"] for row in await kept(database) if row["tenant_id"] == "acme"] == ["delivered"] * 3
    assert [row["last_result"] for row in await kept(database) if row["tenant_id"] == "slow"] == [
        "no answer in time"
    ] * 3
    assert Counter(result for _, result in attempts.results) == {
        AttemptResult.DELIVERED: 3,
        AttemptResult.TIMED_OUT: 3,
    }


async def test_hosts_whose_lookup_hangs_delay_nobody(database: Database, subscriber: Subscriber) -> None:
    # More than a default executor has threads on any machine.
    hanging = [f"hangs{place}" for place in range(40)]
    for tenant_id in (*hanging, "acme"):
        await set_subscriber(database, tenant_id, subscriber.url.replace("127.0.0.1", f"{tenant_id}.example"))
    await tell(
        database, *(new_event(f"{place}", tenant_id=tenant_id) for tenant_id in hanging for place in range(3))
    )
    async with a_nameserver() as nameserver, sending(database, lookup=nameserver) as sender:
        await nameserver.until(len(hanging))
        await tell(database, *(new_event(f"{place}") for place in range(3)))
        sender.wake()
        received = await subscriber.until(3)
        assert {one.headers["Host"].partition(":")[0] for one in received} == {"acme.example"}
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, lambda: "nobody else waits either")
        assert await loop.getaddrinfo("localhost", 80)
        nameserver.let_go.set()
        await subscriber.until(3 + 3 * len(hanging))
    assert set(Counter(nameserver.asked).values()) == {1}, "whoever wants to know waits for the same one"


async def test_an_answer_without_end_is_cut(database: Database, subscriber: Subscriber) -> None:
    hung_up = asyncio.Event()

    async def forever(request: web.Request, _received: Received) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * ANSWER_BYTES_MAX)
        except (ClientConnectionResetError, asyncio.CancelledError):
            hung_up.set()
            raise

    subscriber.answer = forever
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    async with sending(database), asyncio.timeout(GIVE_UP_S):
        await hung_up.wait()
    assert await states(database) == [("subject", 1, "delivered", "status 200")]


async def test_an_answer_whose_body_stalls_is_an_answer(database: Database, subscriber: Subscriber) -> None:
    async def stall(request: web.Request, _received: Received) -> web.StreamResponse:
        response = web.StreamResponse(status=202)
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    subscriber.answer = stall
    attempts = Attempts()
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    async with sending(database, attempts=attempts, budget_s=0.3):
        await attempts.until(1)
    assert await states(database) == [("subject", 1, "delivered", "status 202")]


async def test_a_subscriber_that_is_not_there_is_a_failed_attempt(database: Database) -> None:
    async with subscribed() as gone:
        url = gone.url
    attempts = Attempts()
    await set_subscriber(database, "acme", url)
    await tell(database, new_event())
    async with sending(database, attempts=attempts):
        await attempts.until(1)
    assert attempts.results == [(EventKind.VERIFIED, AttemptResult.UNREACHABLE)]
    assert await states(database) == [("subject", 1, "pending", "ClientConnectorError")]


async def test_what_cannot_be_sent_waits_without_holding_others_back(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "lost", "mailto:somebody")
    await set_subscriber(database, "acme", subscriber.url)
    attempts = Attempts()
    async with sending(database, attempts=attempts) as sender:
        await tell(
            database,
            new_event("1", tenant_id="lost"),
            # As another version may have kept it.
            new_event("2", verification_failed(timezone="CET")),
            new_event("3"),
        )
        sender.wake()
        await attempts.until(3)
    assert await states(database) == [
        ("2", 1, "pending", "facts: KeyError"),
        ("3", 1, "delivered", "status 200"),
        ("1", 1, "pending", "not an http or https address"),
    ]
    assert {result for _, result in attempts.results} == {
        AttemptResult.NOT_WORDED,
        AttemptResult.DELIVERED,
        AttemptResult.BAD_ENDPOINT,
    }


# ── again, and when to give up ───────────────────────────────────────────────


async def one_round(database: Database, clock: SetClock, expected: int) -> list[AttemptResult]:
    """All attempts that are due by the clock, on record."""
    attempts = Attempts()
    async with sending(database, clock, attempts):
        await attempts.until(expected)
    assert len(attempts.results) == expected
    return [result for _, result in attempts.results]


async def test_a_refused_event_is_sent_again_when_it_is_due(
    database: Database, subscriber: Subscriber
) -> None:
    clock = SetClock()
    subscriber.answer = with_status(500)
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event("a", verified("first")), new_event("a", deallocated("second")))
    assert await one_round(database, clock, 1) == [AttemptResult.REFUSED]

    clock.advance(0.9)
    await set_subscriber(database, "globex", subscriber.url)
    await tell(database, new_event("b", tenant_id="globex"))
    assert await one_round(database, clock, 1) == [AttemptResult.REFUSED], "only globex was due"

    clock.advance(0.1)
    subscriber.answer = with_status(200)
    assert await one_round(database, clock, 2) == [AttemptResult.DELIVERED] * 2
    of_a = [received for received in subscriber.received if received.transaction_id != "order-id"]
    assert [received.transaction_id for received in of_a] == ["first", "first", "second"]
    assert of_a[0].id == of_a[1].id, "the same event has the same id"
    assert of_a[1].id != of_a[2].id
    assert [row["attempts"] for row in await kept(database) if row["subject"] == "a"] == [2, 1]


@pytest.mark.parametrize(
    ("status", "retry_after", "wait_s"),
    [
        # With the jitter of these tests: a tenth.
        (429, "120", 132),
        (503, "Tue, 09 Nov 2021 04:41:15 GMT", 132),
        (503, "99999999", ASKED_WAIT_S_MAX * 1.1),
        # The schedule is later.
        (503, "0", 1),
        (429, "soon", 1),
        # Nothing to do with it.
        (500, "120", 1),
    ],
)
async def test_a_receiver_may_say_when_to_come_back(
    database: Database, subscriber: Subscriber, status: int, retry_after: str, wait_s: float
) -> None:
    subscriber.answer = with_status(status, **{"Retry-After": retry_after})
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    assert await one_round(database, SetClock(), 1) == [AttemptResult.REFUSED]
    [row] = await kept(database)
    assert (row["due_at"] - to_datetime(NOW_US)).total_seconds() == pytest.approx(wait_s)


async def test_an_event_that_nobody_takes_for_a_day_is_dead_and_lets_the_next_pass(
    database: Database, subscriber: Subscriber
) -> None:
    async def refuse_the_first(_request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=500 if received.seq == 1 else 200)

    clock = SetClock()
    subscriber.answer = refuse_the_first
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event(), new_event())
    for wait_s in [*WAITS_S[:-1], *[WAITS_S[-1]] * 5]:
        assert await one_round(database, clock, 1) == [AttemptResult.REFUSED]
        clock.advance(wait_s)
    assert await one_round(database, clock, 2) == [AttemptResult.REFUSED, AttemptResult.DELIVERED]

    assert await states(database) == [
        ("subject", 1, "dead", "status 500"),
        ("subject", 2, "delivered", "status 200"),
    ]
    assert [received.seq for received in subscriber.received] == [1] * 14 + [2]


async def test_an_event_is_sent_again_if_the_sender_died_before_it_was_on_record(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())

    def die(_kind: EventKind, result: AttemptResult, _seconds: float) -> None:
        assert result is AttemptResult.DELIVERED
        running.cancel()

    clock = SetClock()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Sender(database, clock, HERE, attempt_budget_s=5, on_attempt=die).run())
    assert await states(database) == [("subject", 1, "pending", None)]

    clock.advance(5 + LEASE_AFTER_BUDGET_S)
    assert await one_round(database, clock, 1) == [AttemptResult.DELIVERED]
    first, again = subscriber.received
    assert first.id == again.id
    assert first.body == again.body
    assert await states(database) == [("subject", 1, "delivered", "status 200")]


# ── many ─────────────────────────────────────────────────────────────────────


class HastyClock:
    """Every look at it is a minute later, so that the first retries are due at once."""

    def __init__(self) -> None:
        self._now_us = NOW_US

    def now_us(self) -> int:
        self._now_us += 60 * SECOND_US
        return self._now_us


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    subjects=st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=25),
    failures=st.lists(st.integers(0, 3), min_size=25, max_size=25),
    seed=st.integers(0, 2**32),
    senders=st.integers(1, 3),
)
async def test_the_events_of_a_subject_arrive_in_order_whatever_fails(
    outbox: Database,
    subscriber: Subscriber,
    subjects: list[str],
    failures: list[int],
    seed: int,
    senders: int,
) -> None:
    # Not hypothesis's own dice: subscribers throw them in an order that differs from run to run.
    dice = Random(seed)
    database = await emptied(outbox)
    subscriber.received.clear()
    failures_left = {f"{place}": count for place, count in enumerate(failures)}
    in_hand: Counter[str] = Counter()
    all_taken = asyncio.Event()
    taken: list[str] = []

    async def answer(_request: web.Request, received: Received) -> web.StreamResponse:
        subject = subjects[int(received.transaction_id)]
        in_hand[subject] += 1
        assert in_hand[subject] == 1, "one of a subject at a time"
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
        in_hand[subject] -= 1
        if failures_left[received.transaction_id]:
            failures_left[received.transaction_id] -= 1
            return web.Response(status=503)
        taken.append(received.transaction_id)
        if len(taken) == len(subjects):
            all_taken.set()
        return web.Response()

    subscriber.answer = answer
    await set_subscriber(database, "acme", subscriber.url)
    # Its clock goes fast, so the leases must be long: a lost lease would be a repetition.
    hasty = HastyClock()
    running = [Sender(database, hasty, HERE, attempt_budget_s=1e6, poll_s=0.01) for _ in range(senders)]
    async with asyncio.TaskGroup() as tasks:
        for sender in running:
            tasks.create_task(sender.run())
        for place, subject in enumerate(subjects):
            facts = dice.choice((verified(f"{place}"), deallocated(f"{place}")))
            await tell(database, new_event(subject, facts))
            dice.choice(running).wake()
        async with asyncio.timeout(GIVE_UP_S):
            await all_taken.wait()
        for sender in running:
            sender.stop()

    first_seen: defaultdict[str, list[str]] = defaultdict(list)
    seqs: defaultdict[str, list[int]] = defaultdict(list)
    for received in subscriber.received:
        subject = subjects[int(received.transaction_id)]
        if received.transaction_id not in first_seen[subject]:
            first_seen[subject].append(received.transaction_id)
            seqs[subject].append(received.seq)
    for subject in set(subjects):
        told = [f"{place}" for place, name in enumerate(subjects) if name == subject]
        assert first_seen[subject] == told
        assert [transaction_id for transaction_id in taken if transaction_id in told] == told
        assert seqs[subject] == list(range(1, len(told) + 1))
    assert len(subscriber.received) == len(subjects) + sum(failures[: len(subjects)])
    assert {state for _, _, state, _ in await states(database)} == {"delivered"}


async def test_a_failing_subject_does_not_hold_back_the_others(
    database: Database, subscriber: Subscriber
) -> None:
    async def refuse_a(_request: web.Request, received: Received) -> web.StreamResponse:
        return web.Response(status=500 if received.transaction_id == "a" else 200)

    subscriber.answer = refuse_a
    await set_subscriber(database, "acme", subscriber.url)
    events = [new_event(subject, verified(subject)) for subject in "ab" for _ in range(20)]
    await tell(database, *events)
    attempts = Attempts()
    async with sending(database, attempts=attempts):
        await attempts.until(21)
    assert Counter(state for _, _, state, _ in await states(database)) == {"pending": 20, "delivered": 20}


async def test_a_host_gets_so_many_at_a_time_and_no_more(database: Database, subscriber: Subscriber) -> None:
    let_go = asyncio.Event()

    async def hold(_request: web.Request, _received: Received) -> web.StreamResponse:
        await let_go.wait()
        return web.Response()

    count = IN_FLIGHT_PER_HOST_MAX + 5
    attempts = Attempts()
    async with subscribed() as busy:
        busy.answer = hold
        # Two endpoints, one host.
        await set_tenant(
            database,
            "busy",
            {key: f"{busy.url}/{place}" for place, key in enumerate(ENDPOINT_KEYS)},
        )
        await set_subscriber(database, "acme", subscriber.url)
        await tell(
            database,
            *(
                new_event(f"{place}", kind(f"{place}"), tenant_id="busy")
                for place in range(count)
                for kind in (verified, deallocated)
            ),
        )
        async with sending(database, attempts=attempts) as sender:
            await busy.until(IN_FLIGHT_PER_HOST_MAX)
            await tell(database, new_event())
            sender.wake()
            await subscriber.until(1)
            await attempts.until(1)
            assert len(busy.received) == IN_FLIGHT_PER_HOST_MAX
            let_go.set()
            await attempts.until(1 + 2 * count)


async def test_a_host_that_does_not_answer_gets_one_at_a_time(
    database: Database, subscriber: Subscriber
) -> None:
    attempts = Attempts()
    in_flight: list[int] = []

    async def never(_request: web.Request, _received: Received) -> web.StreamResponse:
        in_flight.append(len(subscriber.received) - len(attempts.results))
        await asyncio.Event().wait()
        raise AssertionError

    subscriber.answer = never
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, *(new_event(f"{place}") for place in range(IN_FLIGHT_PER_HOST_MAX + 4)))
    async with sending(database, attempts=attempts, budget_s=0.2):
        await attempts.until(IN_FLIGHT_PER_HOST_MAX + 4)
    assert max(in_flight[IN_FLIGHT_PER_HOST_MAX:], default=1) <= IN_FLIGHT_PER_SILENT_HOST_MAX

    # An answer opens the door again.
    subscriber.answer = with_status(200)
    clock = SetClock()
    clock.advance(WAITS_S[0])
    assert await one_round(database, clock, IN_FLIGHT_PER_HOST_MAX + 4) == [AttemptResult.DELIVERED] * (
        IN_FLIGHT_PER_HOST_MAX + 4
    )


# ── signatures ───────────────────────────────────────────────────────────────


async def one_signed(database: Database, subscriber: Subscriber) -> Received:
    """An event sent now: who verifies compares its time with the real one."""
    now_us = SystemClock().now_us()
    await tell(database, new_event(), now_us=now_us)
    async with sending(database, SystemClock()):
        return (await subscriber.until(len(subscriber.received) + 1))[-1]


async def test_an_event_is_signed_by_the_scheme_and_nothing_else_verifies(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    secret = await add_secret(database, "acme")
    received = await one_signed(database, subscriber)
    assert Webhook(secret.secret).verify(received.raw, received.headers) == received.body
    other = await add_secret(database, "acme")
    for raw, key in ((received.raw + b" ", secret), (received.raw, other)):
        with pytest.raises(WebhookVerificationError):
            Webhook(key.secret).verify(raw, received.headers)
    assert secret.secret not in repr(secret)


async def test_while_secrets_are_rotated_both_sign(database: Database, subscriber: Subscriber) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    old, new = await add_secret(database, "acme"), await add_secret(database, "acme")
    received = await one_signed(database, subscriber)
    assert len(received.headers["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret.secret).verify(received.raw, received.headers)
    await retire_webhook_secret(database, "acme", old.id, NOW_US)
    received = await one_signed(database, subscriber)
    Webhook(new.secret).verify(received.raw, received.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old.secret).verify(received.raw, received.headers)


async def test_a_tenant_without_a_secret_sends_unsigned(database: Database, subscriber: Subscriber) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    received = await one_signed(database, subscriber)
    assert "webhook-signature" not in received.headers
    assert abs(int(received.headers["webhook-timestamp"]) - SystemClock().now_us() / SECOND_US) < GIVE_UP_S


async def test_secrets_are_in_no_repr_and_no_log(database: Database, subscriber: Subscriber) -> None:
    subscriber.answer = with_status(500)
    await set_subscriber(database, "acme", subscriber.url)
    secret = await add_secret(database, "acme")
    await tell(database, new_event())
    lanes = await database.read(pending_lanes)
    claims = await database.write(lambda connection: claim(connection, lanes, NOW_US, 1, 1))
    assert claims[0].secrets == (secret.secret,)
    assert secret.secret not in repr(claims)
    clock = SetClock()
    clock.advance(1)
    with capture_logs() as logs:
        assert await one_round(database, clock, 1) == [AttemptResult.REFUSED]
    assert logs
    assert secret.secret.removeprefix("whsec_") not in str(logs)


# ── where events may go ──────────────────────────────────────────────────────


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f000001", "[::ffff:127.0.0.1]"])
async def test_what_leads_inside_is_not_dialled(
    database: Database, subscriber: Subscriber, host: str
) -> None:
    # As it may have been set before there was a rule, or lead elsewhere by now.
    await set_subscriber(database, "acme", subscriber.url.replace("127.0.0.1", host))
    await tell(database, new_event())
    attempts = Attempts()
    open_ports = Destinations(ports=frozenset((subscriber.port,)))
    async with sending(database, attempts=attempts, destinations=open_ports):
        await attempts.until(1)
    assert [result for _, result in attempts.results] == [AttemptResult.FORBIDDEN]
    assert not subscriber.received
    assert await attempts_of(database) == [("subject", 1, 1, None, "forbidden")]


async def test_a_host_that_is_opened_by_its_name_may_be_anywhere(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "acme", subscriber.url.replace("127.0.0.1", "localhost"))
    await tell(database, new_event())
    async with sending(database, destinations=Destinations.of(["localhost"])):
        await subscriber.until(1)


async def test_no_proxy_and_no_cookie_is_used(
    database: Database, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with subscribed() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        subscriber.answer = with_status(200, **{"Set-Cookie": "a=b"})
        await set_subscriber(database, "acme", subscriber.url)
        await tell(database, new_event(), new_event())
        async with sending(database):
            await subscriber.until(2)
        assert not proxy.received
    assert all("Cookie" not in received.headers for received in subscriber.received)


# ── what is on record, and told again ────────────────────────────────────────


async def test_every_attempt_is_on_record(database: Database, subscriber: Subscriber) -> None:
    clock = SetClock()
    subscriber.answer = with_status(503)
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    await one_round(database, clock, 1)
    async with subscribed() as gone:
        url = gone.url
    await set_subscriber(database, "acme", url)
    clock.advance(1)
    await one_round(database, clock, 1)
    await set_subscriber(database, "acme", "mailto:somebody")
    clock.advance(5)
    await one_round(database, clock, 1)
    subscriber.answer = with_status(204)
    await set_subscriber(database, "acme", subscriber.url)
    clock.advance(30)
    await one_round(database, clock, 1)
    assert await attempts_of(database) == [
        ("subject", 1, 1, 503, "refused"),
        ("subject", 1, 2, None, "unreachable"),
        ("subject", 1, 3, None, "bad_endpoint"),
        ("subject", 1, 4, 204, None),
    ]


async def replay(database: Database, id: UUID, now_us: int = NOW_US) -> None:
    await database.write(lambda connection: replay_event(connection, 0, "acme", id, now_us))


async def test_a_replayed_event_is_told_again_under_its_id_before_what_is_pending(
    database: Database, subscriber: Subscriber
) -> None:
    clock = SetClock()
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, *(new_event("a", verified(f"{n}")) for n in range(1, 4)))
    assert len(await one_round(database, clock, 3)) == 3
    await tell(database, new_event("a", verified("4")))
    ids = await ids_of(database)
    # The later one first: their numbers decide.
    await replay(database, ids["a", 3])
    await replay(database, ids["a", 2])
    assert len(await one_round(database, clock, 3)) == 3
    assert [received.seq for received in subscriber.received] == [1, 2, 3, 2, 3, 4]
    assert subscriber.received[1].id == subscriber.received[3].id
    with pytest.raises(NoSuchEvent):
        await replay(database, UUID(int=7))


async def test_a_replayed_dead_event_has_a_fresh_schedule(database: Database, subscriber: Subscriber) -> None:
    clock = SetClock()
    subscriber.answer = with_status(500)
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    clock.advance(DEAD_AFTER_S)
    assert await one_round(database, clock, 1) == [AttemptResult.REFUSED]
    assert await states(database) == [("subject", 1, "dead", "status 500")]

    await replay(database, (await ids_of(database))["subject", 1], clock.now_us())
    with pytest.raises(StillPending):
        await replay(database, (await ids_of(database))["subject", 1], clock.now_us())
    for wait_s in WAITS_S[:3]:
        assert await one_round(database, clock, 1) == [AttemptResult.REFUSED]
        assert await states(database) == [("subject", 1, "pending", "status 500")]
        clock.advance(wait_s)
    assert [attempt for _, _, attempt, _, _ in await attempts_of(database)] == [1, 2, 3, 4]


async def test_an_event_under_way_is_not_overtaken_by_a_replay(
    database: Database, subscriber: Subscriber
) -> None:
    let_go = asyncio.Event()

    async def hold_the_second(_request: web.Request, received: Received) -> web.StreamResponse:
        if received.seq == 2:
            await let_go.wait()
            return web.Response(status=500)
        return web.Response()

    clock = SetClock()
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    await one_round(database, clock, 1)
    await tell(database, new_event())
    subscriber.answer = hold_the_second
    attempts = Attempts()
    async with sending(database, clock, attempts) as sender:
        await subscriber.until(2)
        await replay(database, (await ids_of(database))["subject", 1])
        sender.wake()
        rows = await kept(database)
        assert rows[0]["due_at"] == rows[1]["leased_until"], "it waits for as long as that may take"
        let_go.set()
        await attempts.until(1)
    clock.advance(NO_HURRY_S + LEASE_AFTER_BUDGET_S)
    subscriber.answer = with_status(200)
    assert await one_round(database, clock, 2) == [AttemptResult.DELIVERED] * 2
    assert [received.seq for received in subscriber.received] == [1, 2, 1, 2]


async def test_a_range_is_replayed_in_the_order_of_each_subject(
    database: Database, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_records, "REPLAY_BATCH", 2)
    clock = SetClock()
    await set_subscriber(database, "acme", subscriber.url)
    for number in range(12):
        await tell(database, new_event("ab"[number % 2]), now_us=NOW_US + number * SECOND_US)
    clock.advance(20)
    assert len(await one_round(database, clock, 12)) == 12
    subscriber.received.clear()
    span = Span(NOW_US + 2 * SECOND_US, NOW_US + 10 * SECOND_US)
    now_us = clock.now_us()
    for state, count in ((EventState.DEAD, 0), (EventState.DELIVERED, 8), (EventState.DELIVERED, 0)):
        assert await replay_events(database, 0, "acme", state, span, now_us) == count
    assert len(await one_round(database, clock, 8)) == 8
    ids = {id: place for place, id in (await ids_of(database)).items()}
    told = [ids[UUID(received.id)] for received in subscriber.received]
    for subject in "ab":
        assert [seq for name, seq in told if name == subject] == [2, 3, 4, 5]


# ── breakers ─────────────────────────────────────────────────────────────────


async def test_a_breaker_opens_keeps_attempts_and_closes(database: Database, subscriber: Subscriber) -> None:
    clock = SetClock()
    attempts = Attempts()
    subscriber.answer = with_status(503)
    await set_subscriber(database, "acme", subscriber.url)
    count = FAILURES_MAX + 10
    await tell(database, *(new_event(f"{place:02}") for place in range(count)))
    async with sending(database, clock, attempts) as sender:
        await attempts.until(FAILURES_MAX)
        # Another tenant of the same host is not held back, and when it is served nothing else was tried.
        await set_subscriber(database, "globex", subscriber.url)
        await tell(database, new_event("mark", tenant_id="globex"))
        sender.wake()
        await attempts.until(len(attempts.results) + 1)
        begun = sum(row["attempts"] for row in await kept(database) if row["tenant_id"] == "acme")
        assert FAILURES_MAX <= begun < FAILURES_MAX + IN_FLIGHT_PER_HOST_MAX
        assert len(attempts.results) == begun + 1

        clock.advance(2)
        sender.wake()
        await attempts.until(begun + 2 + 1)
        subscriber.answer = with_status(200)
        clock.advance(4)
        sender.wake()
        async with asyncio.timeout(GIVE_UP_S):
            while {row["state"] for row in await kept(database) if row["tenant_id"] == "acme"} != {
                "delivered"
            }:
                clock.advance(1)
                sender.wake()
                await asyncio.sleep(0.01)


async def test_a_dead_subscriber_delays_nobody_elses_events(
    database: Database, subscriber: Subscriber
) -> None:
    async def never(_request: web.Request, _received: Received) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with subscribed() as dead:
        dead.answer = never
        await set_subscriber(database, "dead", dead.url)
        await set_subscriber(database, "acme", subscriber.url)
        await tell(database, *(new_event(f"{place}", tenant_id="dead") for place in range(300)))
        sender = Sender(database, SetClock(), HERE, attempt_budget_s=NO_HURRY_S, dice=lambda: 0.5)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(sender.run())
            await dead.until(IN_FLIGHT_PER_HOST_MAX)
            # While all that the dead one may have in hand hangs, for minutes.
            await tell(database, *(new_event(f"{place}") for place in range(300)))
            sender.wake()
            await subscriber.until(300)
            assert len(dead.received) == IN_FLIGHT_PER_HOST_MAX
            running.cancel()


async def test_what_grows_too_old_while_its_endpoint_is_down_is_buried(
    database: Database, subscriber: Subscriber
) -> None:
    clock = SetClock()
    attempts = Attempts()
    subscriber.answer = with_status(503)
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, *(new_event(f"{place:03}") for place in range(BURIED_AT_A_TIME + 50)))
    async with sending(database, clock, attempts) as sender:
        await attempts.until(FAILURES_MAX)
        clock.advance(DEAD_AFTER_S)
        sender.wake()
        async with asyncio.timeout(GIVE_UP_S):
            while {row["state"] for row in await kept(database)} != {"dead"}:
                clock.advance(60)
                sender.wake()
                await asyncio.sleep(0.01)
    assert len(attempts.results) < BURIED_AT_A_TIME, "most were never tried"
    assert "expired" in {error for *_, error in await attempts_of(database)}


async def test_burying_and_a_replay_wait_for_each_other_and_not_in_a_circle(
    database: Database, subscriber: Subscriber
) -> None:
    clock, attempts, counting = SetClock(), Attempts(), CountingRepeats(database)
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event("a"))
    assert await one_round(database, clock, 1) == [AttemptResult.DELIVERED]
    told = (await ids_of(database))["a", 1]
    subscriber.answer = with_status(503)
    await tell(database, *(new_event(f"{place}") for place in range(1, FAILURES_MAX)))
    async with sending(counting, clock, attempts) as sender:
        await attempts.until(FAILURES_MAX - 1)
        # The last, so that the endpoint is probed with another one.
        clock.advance(0.5)
        await tell(database, new_event("a"), now_us=clock.now_us())
        sender.wake()
        await attempts.until(FAILURES_MAX)
        async with asyncio.timeout(GIVE_UP_S):
            while any(row["leased_until"] for row in await kept(database)):
                pass

        async def replay(connection: Connection) -> None:
            # As far as a replay has come when the other one begins.
            await lock_subjects(connection, 0, [("acme", "a")])
            clock.advance(DEAD_AFTER_S + 1)
            sender.wake()
            await until_somebody_is_blocked(database)
            await replay_event(connection, 0, "acme", told, clock.now_us())

        async with asyncio.timeout(GIVE_UP_S):
            await counting.write(replay)
            while (await states(database))[-1][2] != "dead":
                pass
    assert counting.repeats == 0, "nobody was thrown out of a deadlock"


# ── its life ─────────────────────────────────────────────────────────────────


async def test_stop_lets_what_was_begun_end_and_begins_nothing_new(
    database: Database, subscriber: Subscriber
) -> None:
    let_go = asyncio.Event()

    async def hold(_request: web.Request, _received: Received) -> web.StreamResponse:
        await let_go.wait()
        return web.Response()

    subscriber.answer = hold
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event(), new_event())
    sender = Sender(database, SetClock(), HERE, attempt_budget_s=NO_HURRY_S)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sender.run())
        await subscriber.until(1)
        sender.stop()
        sender.stop()
        let_go.set()
    assert await states(database) == [
        ("subject", 1, "delivered", "status 200"),
        ("subject", 2, "pending", None),
    ]


async def test_a_sender_stopped_before_it_runs_does_nothing(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    sender = Sender(database, SetClock(), HERE)
    sender.stop()
    await sender.run()
    assert await states(database) == [("subject", 1, "pending", None)]


async def test_events_of_other_processes_are_seen_without_being_woken(
    database: Database, subscriber: Subscriber
) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    async with sending(database):
        for count in range(1, 4):
            await tell(database, new_event())
            await subscriber.until(count)


async def test_a_database_that_is_away_is_waited_for(database: Database, subscriber: Subscriber) -> None:
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    await database.close()
    with capture_logs() as logs:
        async with sending(database):
            async with asyncio.timeout(GIVE_UP_S):
                while not logs:  # noqa: ASYNC110 - a log has no event to wait for.
                    await asyncio.sleep(0)
            await database.connect()
            await subscriber.until(1)
    # The test engine sends events of its own meanwhile, and says so in the same log.
    assert [entry["event"] for entry in logs if entry["event"].startswith("events_")] == [
        "events_wait_for_the_database",
        "events_go_on",
    ]
    assert await states(database) == [("subject", 1, "delivered", "status 200")]


async def test_a_result_waits_for_a_database_that_is_away_for_a_moment(
    database: Database, subscriber: Subscriber
) -> None:
    async def lose_the_database(_request: web.Request, _received: Received) -> web.StreamResponse:
        await database.close()
        return web.Response()

    subscriber.answer = lose_the_database
    await set_subscriber(database, "acme", subscriber.url)
    await tell(database, new_event())
    with capture_logs() as logs:
        async with sending(database):
            async with asyncio.timeout(GIVE_UP_S):
                # A log has no event to wait for.
                while not any(entry["event"] == "event_result_waits" for entry in logs):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await database.connect()
    assert await states(database) == [("subject", 1, "delivered", "status 200")]
    assert len(subscriber.received) == 1


@pytest.mark.parametrize("answer", [with_status(200), with_status(500)])
async def test_logs_name_the_host_and_nothing_that_was_sent(
    database: Database, subscriber: Subscriber, answer: Callable[..., Any]
) -> None:
    subscriber.answer = answer
    url = subscriber.url.replace("http://", "http://user:secret@") + "?key=secret"
    await set_subscriber(database, "acme", url)
    await tell(database, new_event())
    attempts = Attempts()
    with capture_logs() as logs:
        async with sending(database, attempts=attempts):
            await attempts.until(1)
    # Other lines are of an engine that other tests share.
    text = str([line for line in logs if line.get("host") == f"127.0.0.1:{subscriber.port}"])
    assert f"127.0.0.1:{subscriber.port}" in text
    for secret in ("secret", "user", "/events", "7987686144", "6292134464", "0713"):
        assert secret not in text
