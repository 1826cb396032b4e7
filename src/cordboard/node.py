"""One node: its processes, their order of start, and their order of stop."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cordboard.clock import Clock, SystemClock
from cordboard.logs import HopLog, hop_log
from cordboard.postal_table import load_postal_regions
from cordboard.settings import Settings, admin_token, make_private_directory
from cordboard.storage.bell import Bell
from cordboard.storage.database import CommitUnknown, Database, DatabaseAway
from cordboard.storage.embedded import EmbeddedPostgres, EngineAlreadyRunning, PostgresUnavailable
from cordboard.storage.facts import EventKind
from cordboard.storage.sealing import DataKeys, check_keys
from cordboard.storage.spool import Spool
from cordboard.switchboard.allocating import Allocating
from cordboard.switchboard.answering import CallAnswering
from cordboard.switchboard.expiry import Expiry
from cordboard.switchboard.keeper import BoardKeeper, OnLoad
from cordboard.switchboard.recording import Recording
from cordboard.switchboard.records import CallRecords
from cordboard.switchboard.retention import Retention
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.tenants import TenantDirectory
from cordboard.switchboard.throttle import Throttle
from cordboard.tables.progress import ProgressTables
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
# 50,000 objects are some 5,000 calls, and some 3 ms to walk over.
COLLECTOR_THRESHOLDS: Final = (50_000, 20, 100)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A node that answers."""

    url: str
    switchboard: Switchboard
    admin_token: str
    # Where the token is kept, if it was made by us.
    admin_token_file: Path | None


@asynccontextmanager
async def running_node(
    settings: Settings, clock: Clock | None = None, on_load: OnLoad = lambda _: None
) -> AsyncIterator[Node]:
    """A node from its database to its HTTP server, stopped in the reverse order; `on_load` hears how far the
    loading of its board is.

    Raises EngineAlreadyRunning, PostgresUnavailable, DatabaseAway, DataKeyMissing, BadPostalTable,
    TracingUnavailable, OSError (the port is taken, or the postal table cannot be read).
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
                _logging_hops(settings, clock) as hops,
                serving(switchboard, token, SHUTDOWN_S, hops, tracing) as url,
            ):
                yield Node(url, switchboard, token, token_file)


@asynccontextmanager
async def _logging_hops(settings: Settings, clock: Clock) -> AsyncIterator[HopLog | None]:
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
    settings: Settings, announce: Callable[[Node], None], on_load: OnLoad = lambda _: None
) -> None:
    """Run a node until SIGINT or SIGTERM; `announce` is called when it answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    _allow_connections(settings.connections_max)
    async with running_node(settings, on_load=on_load) as node:
        _tame_collector()
        announce(node)
        _log.info("node.answering", url=node.url)
        await stop.wait()
        _log.info("node.stopping")
    _log.info("node.stopped")


def _allow_connections(connections_max: int) -> None:
    """Have as many descriptors as the connections need; systems begin with 1,024 of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections_max + DESCRIPTORS_BESIDE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            _log.warning("node.few_descriptors", allowed=allowed, wanted=wanted)


def _tame_collector() -> None:
    """Let the garbage collector find what is garbage, and leave calls alone.

    What is there now stays, so it need not be walked over again. A call leaves some ten objects that live
    until they are written, none of them in a cycle; at the default threshold of 700 every 70th call paid
    for a collection, and some for one of everything.
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


@asynccontextmanager
async def running_switchboard(
    settings: Settings,
    database: Database,
    postgres: EmbeddedPostgres | None,
    clock: Clock,
    tracing: Tracing | None = None,
    on_load: OnLoad = lambda _: None,
) -> AsyncIterator[Switchboard]:
    """Everything but HTTP, over a migrated database. Raises DatabaseAway, DataKeyMissing, BadPostalTable."""
    keys = DataKeys(settings.data_keys())
    await database.read(lambda connection: check_keys(connection, keys))
    postal_regions = load_postal_regions(settings.postal_regions)
    metrics = Metrics()
    bell = Bell(database)
    directory = settings.node_dir()
    make_private_directory(directory)
    throttle = Throttle()
    keeper = BoardKeeper(database, bell, throttle, directory, clock, on_load)
    progress = ProgressTables(directory / "progress")
    records = CallRecords(database, metrics)
    sender = Sender(
        database,
        clock,
        Destinations.of_settings(settings),
        dead_after_s=settings.webhook_give_up_after_s,
        attempt_budget_s=settings.webhook_timeout_s,
        on_attempt=_count_attempts(metrics),
        keys=keys,
        tracing=tracing,
    )
    spool = Spool(settings.spool_dir, settings.spool_bytes_max)
    recording = Recording(database, spool, metrics, clock, settings.answer_timeout_s, sender.wake, bell.ring)
    answering = CallAnswering(
        database, keeper, progress, records, recording, throttle, metrics, clock, bell.ring, tracing
    )
    allocating = Allocating(
        database, keeper, metrics, clock, settings.propagation_timeout_s, sender.wake, bell.ring, keys
    )
    retention = Retention(database, clock, keys, settings.dead_letter_days)
    expiry = Expiry(database, progress, throttle, metrics, clock, sender.wake, bell.ring)
    switchboard = Switchboard(
        settings=settings,
        clock=clock,
        metrics=metrics,
        database=database,
        bell=bell,
        keeper=keeper,
        tenants=TenantDirectory(lambda: keeper.tables),
        records=records,
        recording=recording,
        throttle=throttle,
        answering=answering,
        allocating=allocating,
        postal_regions=postal_regions,
        keys=keys,
        wake_sender=sender.wake,
    )
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    spool.open()
    await keeper.open()
    try:
        # What is on record of a call that goes on is on record before its next hop.
        await recording.drain_at_start()
        async with asyncio.TaskGroup() as background:
            tasks = [
                background.create_task(switchboard.run()),
                background.create_task(expiry.run()),
                background.create_task(retention.run()),
            ]
            if postgres is not None:
                tasks.append(background.create_task(_keep_alive(postgres)))
            sending = background.create_task(sender.run())
            try:
                yield switchboard
            finally:
                sender.stop()
                await asyncio.wait([sending], timeout=SHUTDOWN_S)
                # Answered calls are on record before the database goes.
                with suppress(DatabaseAway, CommitUnknown):
                    await records.flush()
                for task in (*tasks, sending):
                    task.cancel()
    finally:
        spool.close()
        progress.close()
        keeper.close()


async def _keep_alive(postgres: EmbeddedPostgres) -> None:
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


def _count_attempts(metrics: Metrics) -> OnAttempt:
    def count(kind: EventKind, result: AttemptResult, seconds: float) -> None:
        metrics.webhook_attempts.labels(kind.value, result.value).inc()
        metrics.webhook_seconds.observe(seconds)

    return count
