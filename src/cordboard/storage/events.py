"""The outbox: events are written in the transaction of what they tell, and told afterwards.

Promised: an event is kept if and only if what it tells was committed; the events of one subject (an
allocation, else a CallSid) are numbered 1, 2, 3, … and told in that order, each at least once.

A claim is a lease, so that no transaction waits for a subscriber. A sender that is slower than its lease
finds `attempts` counted on by whoever took over, and its word no longer counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, assert_never
from uuid import UUID, uuid4

from cordboard.clock import to_datetime, to_instant_us
from cordboard.routing.model import Product
from cordboard.storage.database import Connection
from cordboard.storage.facts import EventKind, Facts
from cordboard.storage.queries import load
from cordboard.storage.resting import at_rest, masked_facts
from cordboard.storage.sealing import NO_KEYS, DataKeys
from cordboard.storage.subjects import lock_subjects

_SQL: Final = load("events")

# Some 0.4 s on a table of four times as many. Of a longer backlog it is known that it is too long, and how
# old these are: mostly the oldest, for they lie in the table in the order of their writing.
PENDING_COUNTED_MAX: Final = 100_000
# Some 20 ms of an index; an operator with 10,000 dead events has one problem, not 10,000.
DEAD_COUNTED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    tenant_id: str
    subject: str
    product: Product
    facts: Facts
    # What is told under this key, whichever its subject, is told to the tenant once only.
    once_key: str | None = None
    # Of what brought it about; None where no request did.
    request_id: str | None = None


def endpoint_key(product: Product, kind: EventKind) -> str:
    """The tenant's setting that names the subscriber (exotel.md 8.7)."""
    match kind:
        case EventKind.CALL_COMPLETED:
            match product:
                case Product.GREENPIN:
                    return "greenpin_call_complete_event_endpoint"
                case Product.GREENVN:
                    return "greencall_complete_event_endpoint"
                case unmatched_product:
                    assert_never(unmatched_product)
        case EventKind.DEALLOCATED:
            return "deallocation_callback_event_endpoint"
        case EventKind.VERIFIED:
            return "verified_caller_event_endpoint"
        case EventKind.VERIFICATION_FAILED:
            return "failed_verification_event_endpoint"
        case unmatched:
            assert_never(unmatched)


def tells_release(product: Product, *, is_automatic: bool) -> bool:
    """Whether a release is told of: a GreenVN's only if its policy ended it (exotel.md 11.18)."""
    match product:
        case Product.GREENPIN:
            return True
        case Product.GREENVN:
            return is_automatic
        case unmatched:
            assert_never(unmatched)


async def add_events(connection: Connection, cell: int, events: Sequence[NewEvent], now_us: int) -> None:
    """Write the events that somebody wants to be told, inside the transaction of what they tell.

    Takes four statements however many events there are, and locks their subjects until the commit.
    """
    wanted = await _with_endpoints(connection, cell, events)
    told = await _for_the_first_time(connection, cell, wanted, now_us)
    if not told:
        return
    seqs = await _next_seqs(connection, cell, [event for event, _ in told])
    await connection.execute(
        _SQL["insert"],
        cell,
        [uuid4() for _ in told],
        [event.tenant_id for event, _ in told],
        [event.subject for event, _ in told],
        seqs,
        [event.product.value for event, _ in told],
        [event.facts.kind.value for event, _ in told],
        [endpoint_key(event.product, event.facts.kind) for event, _ in told],
        [endpoint for _, endpoint in told],
        [event.facts.to_json() for event, _ in told],
        to_datetime(now_us),
        [event.request_id for event, _ in told],
    )


async def _with_endpoints(
    connection: Connection, cell: int, events: Sequence[NewEvent]
) -> list[tuple[NewEvent, str]]:
    asked = sorted({(event.tenant_id, endpoint_key(event.product, event.facts.kind)) for event in events})
    if not asked:
        return []
    tenant_ids, keys = zip(*asked, strict=True)
    rows = await connection.fetch(_SQL["endpoints"], cell, tenant_ids, keys)
    endpoints = {(row["tenant_id"], row["endpoint_key"]): row["endpoint"] for row in rows}
    return [
        (event, endpoint)
        for event in events
        if (endpoint := endpoints.get((event.tenant_id, endpoint_key(event.product, event.facts.kind))))
    ]


async def _for_the_first_time(
    connection: Connection, cell: int, wanted: Sequence[tuple[NewEvent, str]], now_us: int
) -> list[tuple[NewEvent, str]]:
    """Without those whose once key is taken. Asked before they are numbered, or there would be gaps."""
    once = sorted({(event.tenant_id, event.once_key) for event, _ in wanted if event.once_key is not None})
    if not once:
        return list(wanted)
    tenant_ids, keys = zip(*once, strict=True)
    rows = await connection.fetch(_SQL["take_once_keys"], cell, tenant_ids, keys, to_datetime(now_us))
    ours = {(row["tenant_id"], row["once_key"]) for row in rows}
    told = []
    for event, endpoint in wanted:
        if event.once_key is not None:
            key = (event.tenant_id, event.once_key)
            if key not in ours:
                continue
            ours.discard(key)  # The same key again in this batch is already told.
        told.append((event, endpoint))
    return told


async def _next_seqs(connection: Connection, cell: int, events: Sequence[NewEvent]) -> list[int]:
    """One number for each event: those of a subject follow one another in the order given."""
    counts = sorted(Counter((event.tenant_id, event.subject) for event in events).items())
    rows = await connection.fetch(
        _SQL["advance_subjects"],
        cell,
        [tenant_id for (tenant_id, _), _ in counts],
        [subject for (_, subject), _ in counts],
        [count for _, count in counts],
    )
    last = {(row["tenant_id"], row["subject"]): row["seq"] for row in rows}
    before = {subject: last[subject] - count for subject, count in counts}
    seqs = []
    for event in events:
        before[event.tenant_id, event.subject] += 1
        seqs.append(before[event.tenant_id, event.subject])
    return seqs


# ── telling ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Lane:
    """One endpoint of one tenant, with pending events."""

    cell: int
    tenant_id: str
    endpoint_key: str
    # Of the event that has been due the longest, or will be due the soonest.
    due_at_us: int
    # An address may carry a password.
    endpoint: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """An event in the hands of one sender, until its lease ends."""

    cell: int
    id: UUID
    tenant_id: str
    subject: str
    seq: int
    product: Product
    kind: EventKind
    # Those begun, this one included.
    attempts: int
    # The same of those since it was last replayed, or ever; and since when it is to be told.
    attempts_of_schedule: int
    begun_at_us: int
    # Of what brought the event about; None where no request did.
    request_id: str | None
    # Where the tenant wants to be told now; where it wanted to when the event was written, if nowhere now.
    endpoint: str = field(repr=False)
    # As kept, perhaps sealed (a replayed event's); `DataKeys.facts_of` opens them, `facts_of` reads them.
    facts: Mapping[str, Any] = field(repr=False)
    # `whsec_…`, the oldest first: each signs. None: it goes unsigned.
    secrets: tuple[str, ...] = field(default=(), repr=False)


class EventState(Enum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class AttemptError(Enum):
    """Why an attempt was none that counts; the words of the attempts' column."""

    # An answer other than 2xx.
    REFUSED = "refused"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    # An address where events may not go.
    FORBIDDEN = "forbidden"
    # What the tenant set is no http or https address.
    BAD_ENDPOINT = "bad_endpoint"
    # Facts of another version of the engine, or of an event that has no body yet.
    NOT_WORDED = "not_worded"
    # Nobody was asked: the endpoint was down until the event was too old.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an attempt, and becomes of its event: pending is given back, to be due again."""

    claim: Claim
    state: EventState
    due_at_us: int | None = None
    # For people: nothing of what was sent or answered, and no address.
    result: str
    at_us: int
    ms: int = 0
    # Of the answer, if there was one.
    status: int | None = None
    error: AttemptError | None = None

    def __post_init__(self) -> None:
        assert (self.state is EventState.PENDING) == (self.due_at_us is not None)
        assert (self.state is EventState.DELIVERED) == (self.error is None)


async def pending_lanes(connection: Connection) -> list[Lane]:
    """Every endpoint that has pending events. All that are due may be in hand already."""
    lanes = []
    for cell in [row["cell"] for row in await connection.fetch(_SQL["pending_cells"])]:
        for row in await connection.fetch(_SQL["lanes"], cell):
            due_at_us = to_instant_us(row["due_at"])
            lanes.append(Lane(cell, row["tenant_id"], row["endpoint_key"], due_at_us, row["endpoint"]))
    return lanes


async def claim(
    connection: Connection,
    lanes: Sequence[Lane],
    now_us: int,
    lease_us: int,
    limit: int,
    begun_before_us: int | None = None,
) -> list[Claim]:
    """Take at most `limit` due events out of these lanes of one cell; of each lane, the oldest first.

    At most one of a subject, and none whose subject has an earlier event pending. With `begun_before_us`,
    only events that old.
    """
    assert lanes, "a claim names its lanes"
    assert len({lane.cell for lane in lanes}) == 1, "a claim touches one cell"
    assert lease_us > 0
    rows = await connection.fetch(
        _SQL["claim"],
        lanes[0].cell,
        [lane.tenant_id for lane in lanes],
        [lane.endpoint_key for lane in lanes],
        to_datetime(now_us),
        to_datetime(now_us + lease_us),
        limit,
        None if begun_before_us is None else to_datetime(begun_before_us),
    )
    return [
        Claim(
            cell=row["cell"],
            id=row["id"],
            tenant_id=row["tenant_id"],
            subject=row["subject"],
            seq=row["seq"],
            product=Product(row["product"]),
            kind=EventKind(row["kind"]),
            attempts=row["attempts"],
            attempts_of_schedule=row["attempts"] - row["attempts_before_replay"],
            begun_at_us=to_instant_us(row["replayed_at"] or row["created_at"]),
            request_id=row["request_id"],
            endpoint=row["endpoint"],
            facts=row["facts"],
            secrets=tuple(row["secrets"]),
        )
        for row in sorted(rows, key=lambda row: (row["due_at"], row["created_at"]))
    ]


async def record(
    connection: Connection, cell: int, outcomes: Sequence[Outcome], now_us: int, keys: DataKeys = NO_KEYS
) -> list[bool]:
    """Write down what became of attempts; of each, whether its lease was still ours.

    An event that left the outbox makes the next of its subject due. An attempt of a lost lease is logged,
    and changes nothing else. With `keys`, the facts of what left are sealed; without, masked once delivered.
    """
    subjects = ((outcome.claim.tenant_id, outcome.claim.subject) for outcome in outcomes)
    await lock_subjects(connection, cell, subjects)
    rows = await connection.fetch(
        _SQL["settle"],
        cell,
        [outcome.claim.id for outcome in outcomes],
        [outcome.claim.attempts for outcome in outcomes],
        [outcome.state.value for outcome in outcomes],
        [None if outcome.due_at_us is None else to_datetime(outcome.due_at_us) for outcome in outcomes],
        [outcome.result for outcome in outcomes],
        to_datetime(now_us),
        *_columns([_kept_after(outcome, keys) for outcome in outcomes], 4),
    )
    ours = {(row["id"], row["attempts"]) for row in rows}
    await connection.execute(
        _SQL["log_attempts"],
        cell,
        [outcome.claim.id for outcome in outcomes],
        [outcome.claim.attempts for outcome in outcomes],
        [to_datetime(outcome.at_us) for outcome in outcomes],
        [outcome.status for outcome in outcomes],
        [outcome.ms for outcome in outcomes],
        [None if outcome.error is None else outcome.error.value for outcome in outcomes],
    )
    are_ours = [(outcome.claim.id, outcome.claim.attempts) in ours for outcome in outcomes]
    ended = sorted(
        {
            (outcome.claim.tenant_id, outcome.claim.subject)
            for outcome, is_ours in zip(outcomes, are_ours, strict=True)
            if is_ours and outcome.state is not EventState.PENDING
        }
    )
    if ended:
        await connection.execute(_SQL["next_of_subjects"], cell, *_columns(ended, 2), to_datetime(now_us))
    return are_ours


def _kept_after(
    outcome: Outcome, keys: DataKeys
) -> tuple[dict[str, Any] | None, Mapping[str, Any] | None, str | None, str | None]:
    """What is kept of an event that left the outbox: if it is to be masked, and else."""
    claim, is_dead = outcome.claim, outcome.state is EventState.DEAD
    if outcome.state is EventState.PENDING:
        return None, None, None, None
    return masked_facts(claim.facts), *at_rest(claim.id, claim.facts, keys, may_be_told_again=is_dead)


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[column] for row in rows] for column in range(count)]


async def pending_count(connection: Connection) -> int:
    count: int = await connection.fetchval(_SQL["pending_count"])
    return count


class Backlog(NamedTuple):
    """How the outbox stands, of all tenants."""

    # At most PENDING_COUNTED_MAX.
    pending: int
    # Since when the oldest of these waits to be told, or to be told again.
    oldest_at_us: int | None
    # At most DEAD_COUNTED_MAX of each tenant.
    dead: int


async def backlog(connection: Connection) -> Backlog:
    """Bounded, for who asks often: with everything at its limit some 0.4 s."""
    pending = await connection.fetchrow(_SQL["pending"], PENDING_COUNTED_MAX)
    assert pending is not None, "counts have a row"
    oldest_at = pending["oldest_at"]
    dead: int = await connection.fetchval(_SQL["dead_count"], DEAD_COUNTED_MAX)
    return Backlog(pending["events"], None if oldest_at is None else to_instant_us(oldest_at), dead)
