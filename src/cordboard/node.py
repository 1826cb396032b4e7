"""One node: its processes, their order of start, and their order of stop."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from cordboard.clock import Clock, SystemClock
from cordboard.logs import HopLog, hop_log
from cordboard.postal_table import load_postal_regions
from cordboard.settings import Settings, admin_token, make_private_directory
from cordboard.storage.bell import Bell
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.embedded import EmbeddedPostgres, EngineAlreadyRunning, PostgresUnavailable
from cordboard.storage.facts import EventKind
from cordboard.storage.feed import Written
from cordboard.storage.sealing import DataKeys, check_keys
from cordboard.storage.spool import Spool
from cordboard.switchboard.allocating import Allocating
from cordboard.switchboard.answering import CallAnswering
from cordboard.switchboard.expiry import Expiry
from cordboard.switchboard.follower import BoardFollower
from cordboard.switchboard.keeper import BoardKeeper
from cordboard.switchboard.recording import Recording
from cordboard.switchboard.records import CallRecords
from cordboard.switchboard.retention import Retention
from cordboard.switchboard.salvage import Salvage
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.source import BoardSource
from cordboard.switchboard.telling import Telling
from cordboard.switchboard.tenants import TenantDirectory
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.progress import ProgressTables
from cordboard.tables.steps import OnLoad
from cordboard.telemetry import Metrics
from cordboard.tracing import Tracing, tracing_of
from cordboard.web.app import serving
from cordboard.webhooks.destinations import Destinations
from cordboard.webhooks.sender import AttemptResult, OnAttempt, Sender

# Requests under way have their own limit of 1 s; a bulk update of 100 items needs some more.
SHUTDOWN_S: Final = 10.0
# The database's connections, the board, deliveries under way, the log.
DESCRIPTORS_BESIDE: Final = 256
RESTART_PAUSE_S: Final = 1.0
# Nobody applies the feed meanwhile.
BOARD_HELD_POLL_S: Final = 0.005
# 5,000 new objects are some 500 calls, and 0.4 ms to walk over; older ones are after 5,000,000 new ones.
COLLECTOR_THRESHOLDS: Final = (5_000, 1_000, 10)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """Where a node answers, of however many processes it is."""

    url: str
    admin_token: str
    # Where the token is kept, if it was made by us.
    admin_token_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node(Announced):
    """A node of one process that answers."""

    switchboard: Switchboard


@asynccontextmanager
async def running_node(
    settings: Settings, clock: Clock | None = None, on_load: OnLoad = lambda _: None
) -> AsyncIterator[Node]:
    """A node from its database to its HTTP server, stopped in the reverse order; `on_load` hears how far the
    loading of its board is.

    Raises EngineAlreadyRunning, PostgresUnavailable, DatabaseAway, DataKeyMissing, BadPostalTable,
    TracingUnavailable, CannotListen, OSError (the postal table cannot be read).
    """
    clock = clock or SystemClock()
    # Others may pass, for a database that root has to run as somebody else; what lies inside is private.
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    with held(settings.data_dir):
        async with (
            tracing_of(settings) as tracing,
            running_database(settings, tracing) as (database, postgres),
            running_switchboard(settings, database, postgres, clock, tracing, on_load) as switchboard,
        ):
            token, token_file = admin_token(settings)
            async with (
                logging_hops(settings, clock) as hops,
                serving(switchboard, token, SHUTDOWN_S, hops=hops, tracing=tracing) as server,
            ):
                yield Node(
                    url=server.url,
                    admin_token=token,
                    admin_token_file=token_file,
                    switchboard=switchboard,
                )


@asynccontextmanager
async def logging_hops(settings: Settings, clock: Clock) -> AsyncIterator[HopLog | None]:
    hops = hop_log(settings, clock.now_us)
    if hops is None:
        yield None
        return
    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(hops.run())
        try:
            yield hops
        finally:
            # It writes what it still has.
            writing.cancel()


@asynccontextmanager
async def running_database(
    settings: Settings, tracing: Tracing | None = None
) -> AsyncIterator[tuple[Database, EmbeddedPostgres | None]]:
    """The database, migrated; with the embedded server around it unless another one is named."""
    if settings.database_url is not None:
        database = Database(settings.database_url.get_secret_value(), tracing=tracing)
        async with _connected(database):
            yield database, None
        return
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    postgres = EmbeddedPostgres(settings.postgres_dir)
    await postgres.start()
    try:
        database = Database(**postgres.connect_kwargs, tracing=tracing)
        async with _connected(database):
            yield database, postgres
    finally:
        await postgres.stop()


async def serve(
    settings: Settings, announce: Callable[[Announced], None], on_load: OnLoad = lambda _: None
) -> None:
    """Run a node until SIGINT or SIGTERM; `announce` is called when it answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # One process cannot take its own place, and must not end where several would be replaced.
    loop.add_signal_handler(signal.SIGHUP, _log.warning, "node.not_replaced")
    allow_connections(settings.connections_max)
    async with running_node(settings, on_load=on_load) as node:
        tame_collector()
        announce(node)
        _log.info("node.answering", url=node.url)
        await stop.wait()
        _log.info("node.stopping")
    _log.info("node.stopped")


def allow_connections(connections_max: int) -> None:
    """Have as many descriptors as the connections need; systems begin with 1,024 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + DESCRIPTORS_BESIDE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            _log.warning("node.few_descriptors", allowed=allowed, wanted=wanted)


def tame_collector() -> None:
    """Let the garbage collector find what is garbage, and leave calls alone.

    What is there now stays, so it need not be walked over again. A call leaves some ten objects that live
    until they are written, none of them in a cycle. Where PostgreSQL is behind, a hundred thousand calls wait
    for it, and walking over all that they have takes 0.2 s, in which nobody is answered. So only the newest
    objects are looked at often, and what outlives that is nearly never looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@asynccontextmanager
async def _connected(database: Database) -> AsyncIterator[None]:
    await database.connect()
    try:
        await database.migrate()
        yield
    finally:
        await database.close()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every process of a node has for itself."""

    settings: Settings
    database: Database
    clock: Clock
    metrics: Metrics
    keys: DataKeys
    bell: Bell
    throttle: Throttle
    tracing: Tracing | None


def _parts(
    settings: Settings, database: Database, clock: Clock, bell: Bell, tracing: Tracing | None
) -> _Parts:
    make_private_directory(settings.node_dir())
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    metrics = Metrics()
    _watch_database(metrics, database)
    keys = DataKeys(settings.data_keys())
    return _Parts(settings, database, clock, metrics, keys, bell, Throttle(), tracing)


@asynccontextmanager
async def running_switchboard(
    settings: Settings,
    database: Database,
    postgres: EmbeddedPostgres | None,
    clock: Clock,
    tracing: Tracing | None = None,
    on_load: OnLoad = lambda _: None,
) -> AsyncIterator[Switchboard]:
    """Everything but HTTP, over a migrated database, in this process.

    Raises DatabaseAway, DataKeyMissing, BadPostalTable.
    """
    parts = _parts(settings, database, clock, Bell(database), tracing)
    await database.read(lambda connection: check_keys(connection, parts.keys))
    keeper = BoardKeeper(database, parts.bell, parts.throttle, settings.node_dir(), clock, on_load)
    sender = _sender(parts)
    async with AsyncExitStack() as stack:
        stack.callback(keeper.close)
        progress = _progress(parts, stack)
        spool = _spool(parts, settings.spool_dir, stack)
        telling = _telling(parts, keeper, sender.wake)
        recording = _recording(parts, spool, telling, sender.wake)
        switchboard = _switchboard(parts, keeper, progress, recording, sender.wake)
        salvage = _salvage(parts, settings.spool_dir, telling, sender.wake)
        await keeper.open()
        # What is on record of a call that goes on is on record before its next hop.
        await recording.drain_at_start()
        await salvage.drain_at_start()
        background = [*_once_a_node(parts, keeper, progress, salvage, sender), switchboard.run()]
        if postgres is not None:
            background.append(keep_alive(postgres))
        async with _running(background), _sending(sender), _flushed(switchboard):
            yield switchboard


@asynccontextmanager
async def running_board(
    settings: Settings,
    database: Database,
    clock: Clock,
    waiting: Callable[[], None],
    tracing: Tracing | None = None,
    on_load: OnLoad = lambda _: None,
) -> AsyncIterator[None]:
    """What a node does once for all its workers, over a migrated database: applies the feed, lets
    allocations expire, sends events, forgets.

    `waiting` is called before it waits for another process to leave the board to it. Raises DatabaseAway,
    DataKeyMissing.
    """
    parts = _parts(settings, database, clock, Bell(database), tracing)
    await database.read(lambda connection: check_keys(connection, parts.keys))
    sender = _sender(parts)
    parts.bell.on_events(sender.wake)
    async with AsyncExitStack() as stack:
        waiting()
        await stack.enter_async_context(_board_held(settings.node_dir()))
        keeper = BoardKeeper(database, parts.bell, parts.throttle, settings.node_dir(), clock, on_load)
        stack.callback(keeper.close)
        progress = _progress(parts, stack)
        salvage = _salvage(parts, None, _telling(parts, keeper, sender.wake), sender.wake)
        await keeper.open()
        await salvage.drain_at_start()
        async with _running(_once_a_node(parts, keeper, progress, salvage, sender)), _sending(sender):
            yield


@asynccontextmanager
async def running_worker(
    settings: Settings, database: Database, clock: Clock, slot: str, tracing: Tracing | None = None
) -> AsyncIterator[Switchboard]:
    """What answers calls and the API from the board that another process keeps. Raises BadPostalTable.

    The database may be away: calls are decided all the same.
    """
    parts = _parts(settings, database, clock, Bell(database, is_heard=False), tracing)
    follower = BoardFollower(database, parts.throttle, settings.node_dir(), clock)
    async with AsyncExitStack() as stack:
        stack.callback(follower.close)
        progress = _progress(parts, stack)
        wake_sender = parts.bell.ring_for_events
        settings.spool_dir.mkdir(mode=0o700, exist_ok=True)
        spool = _spool(parts, settings.spool_dir / f"{slot}.{os.getpid()}", stack)
        recording = _recording(parts, spool, _telling(parts, follower, wake_sender), wake_sender)
        switchboard = _switchboard(parts, follower, progress, recording, wake_sender)
        await follower.open()
        background = [
            parts.metrics.run(),
            database.watch(),
            parts.bell.run(),
            follower.run(),
            switchboard.run(),
        ]
        async with _running(background), _flushed(switchboard):
            yield switchboard
        if not spool.records:
            spool.clear_away()


def _once_a_node(
    parts: _Parts, keeper: BoardKeeper, progress: ProgressTables, salvage: Salvage, sender: Sender
) -> list[Coroutine[Any, Any, None]]:
    """What one process of a node does, whether it answers as well or others do."""
    return [
        parts.metrics.run(),
        parts.database.watch(),
        parts.bell.run(),
        keeper.run(),
        _expiry(parts, progress, sender.wake).run(),
        Retention(parts.database, parts.clock, parts.keys, parts.settings.dead_letter_days).run(),
        salvage.run(),
    ]


def _progress(parts: _Parts, stack: AsyncExitStack) -> ProgressTables:
    progress = ProgressTables(parts.settings.node_dir() / "progress")
    stack.callback(progress.close)
    return progress


def _spool(parts: _Parts, directory: Path, stack: AsyncExitStack) -> Spool:
    spool = Spool(directory, parts.settings.spool_bytes_max)
    spool.open()
    stack.callback(spool.close)
    _watch_spool(parts.metrics, spool)
    return spool


def _telling(parts: _Parts, board: BoardSource, wake_sender: Callable[[], None]) -> Telling:
    def hand_over(written: Written) -> None:
        board.hand_over(written)
        parts.bell.ring_elsewhere()

    return Telling(parts.database, parts.clock, wake_sender, hand_over)


def _recording(parts: _Parts, spool: Spool, telling: Telling, wake_sender: Callable[[], None]) -> Recording:
    return Recording(
        parts.database,
        spool,
        telling,
        parts.metrics,
        parts.clock,
        parts.settings.answer_timeout_s,
        wake_sender,
        parts.bell.ring,
    )


def _salvage(parts: _Parts, own: Path | None, telling: Telling, wake_sender: Callable[[], None]) -> Salvage:
    def open_spool(directory: Path) -> Spool:
        spool = Spool(directory, parts.settings.spool_bytes_max)
        spool.open()
        return spool

    return Salvage(
        parts.database,
        parts.settings.spool_dir,
        own,
        open_spool,
        lambda spool: _recording(parts, spool, telling, wake_sender),
        telling,
    )


def worker_slot(n: int) -> str:
    return f"worker-{n}"


def _sender(parts: _Parts) -> Sender:
    return Sender(
        parts.database,
        parts.clock,
        Destinations.of_settings(parts.settings),
        dead_after_s=parts.settings.webhook_give_up_after_s,
        attempt_budget_s=parts.settings.webhook_timeout_s,
        on_attempt=_count_attempts(parts.metrics),
        keys=parts.keys,
        tracing=parts.tracing,
    )


def _expiry(parts: _Parts, progress: ProgressTables, wake_sender: Callable[[], None]) -> Expiry:
    return Expiry(
        parts.database, progress, parts.throttle, parts.metrics, parts.clock, wake_sender, parts.bell.ring
    )


def _switchboard(
    parts: _Parts,
    board: BoardSource,
    progress: ProgressTables,
    recording: Recording,
    wake_sender: Callable[[], None],
) -> Switchboard:
    """Raises BadPostalTable."""
    settings, database, metrics, clock = parts.settings, parts.database, parts.metrics, parts.clock
    records = CallRecords(database, metrics)
    return Switchboard(
        settings=settings,
        clock=clock,
        metrics=metrics,
        database=database,
        bell=parts.bell,
        keeper=board,
        tenants=TenantDirectory(lambda: board.tables),
        records=records,
        recording=recording,
        throttle=parts.throttle,
        answering=CallAnswering(
            database,
            board,
            progress,
            records,
            recording,
            parts.throttle,
            metrics,
            clock,
            parts.bell.ring,
            parts.tracing,
        ),
        allocating=Allocating(
            database,
            board,
            metrics,
            clock,
            settings.propagation_timeout_s,
            wake_sender,
            parts.bell,
            parts.keys,
        ),
        postal_regions=load_postal_regions(settings.postal_regions),
        keys=parts.keys,
        wake_sender=wake_sender,
    )


@asynccontextmanager
async def _running(background: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in background]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def _sending(sender: Sender) -> AsyncIterator[None]:
    """Attempts under way are finished when it ends."""
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(sender.run())
        try:
            yield
        finally:
            sender.stop()
            await asyncio.wait([sending], timeout=SHUTDOWN_S)
            sending.cancel()


@asynccontextmanager
async def _flushed(switchboard: Switchboard) -> AsyncIterator[None]:
    """Answered calls are on record, and what follows from them is told, before the database goes."""
    try:
        yield
    finally:
        for flush in (switchboard.records.flush, switchboard.recording.telling.flush):
            with suppress(DatabaseAway, CommitUnknown):
                await flush()


@asynccontextmanager
async def _board_held(directory: Path) -> AsyncIterator[None]:
    """One process applies the feed to a board; the next one stands ready and waits for this to end."""
    descriptor = os.open(directory / "board.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(BOARD_HELD_POLL_S)
        yield
    finally:
        os.close(descriptor)


async def keep_alive(postgres: EmbeddedPostgres) -> None:
    """Start the embedded server again whenever it is gone."""
    while True:
        await postgres.wait_closed()
        _log.warning("postgres.gone")
        try:
            await postgres.start()
        except PostgresUnavailable as unavailable:
            _log.error("postgres.unavailable", error=str(unavailable))
            await asyncio.sleep(RESTART_PAUSE_S)
        else:
            _log.info("postgres.restarted")


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """One engine a directory, whatever its database; the kernel lets go if we are killed.

    Raises EngineAlreadyRunning.
    """
    descriptor = os.open(directory / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EngineAlreadyRunning(directory) from None
        yield
    finally:
        os.close(descriptor)


def _watch_database(metrics: Metrics, database: Database) -> None:
    database.on_commit = metrics.commit_seconds.observe
    metrics.sample(metrics.database_connections_in_use, lambda: database.connections_in_use)
    metrics.sample(metrics.database_connections_max, lambda: database.connections_max)


def _watch_spool(metrics: Metrics, spool: Spool) -> None:
    metrics.sample(metrics.spool_records, lambda: spool.records)
    metrics.sample(metrics.spool_bytes, lambda: spool.size_bytes)
    metrics.sample(metrics.spool_bytes_max, lambda: spool.bytes_max)
    metrics.sample(metrics.spool_set_aside, lambda: spool.damaged)


def _count_attempts(metrics: Metrics) -> OnAttempt:
    for kind in EventKind:
        for result in AttemptResult:
            # An alert on what has never happened needs a zero to compare with.
            metrics.webhook_attempts.labels(kind.value, result.value)

    def count(kind: EventKind, result: AttemptResult, seconds: float) -> None:
        metrics.webhook_attempts.labels(kind.value, result.value).inc()
        metrics.webhook_seconds.observe(seconds)

    return count
