"""The way to PostgreSQL: one pool, transactions that are retried where that is safe, migrations.

While `watch` runs, a database that is away is asked by nobody else: reads and writes fail at once until it
answers again, so that no call spends its time on finding out what is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import asyncpg
import orjson
import structlog

from cordboard.storage.queries import sql_directory
from cordboard.tracing import Tracing

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# The batches of some cells, the feed, expiry, the sender and the API's reads at the same time; the
# embedded server allows 50 in all, and several nodes may share one.
POOL_SIZE_MAX: Final = 12
# A statement that takes longer is stuck, not slow: the longest one writes a batch of some 10 ms.
COMMAND_TIMEOUT_S: Final = 10.0
# A connection of the pool, or a new one: some 10 ms of a busy server, and three seconds on a lost packet.
CONNECT_TIMEOUT_S: Final = 3.0
# How often a database that is silent is asked whether it is there, and how long it may think about that.
# After the second failure, some 3 s, whoever waits for it is told that it is away.
HEARTBEAT_S: Final = 1.0
PROBE_TIMEOUT_S: Final = 1.0
# Between attempts to reach it again: a restart takes 0.3 s, a failover minutes.
BACKOFF_MIN_S: Final = 0.1
BACKOFF_MAX_S: Final = 2.0
# A lost race is over within some ms; after this many something else is wrong.
RETRIES_MAX: Final = 5

# Two engines that start together must not both migrate; PostgreSQL-wide, any number will do.
MIGRATION_LOCK: Final = 0x0C04DB0A

Result = TypeVar("Result")
Work: TypeAlias = Callable[[Connection], Awaitable[Result]]

_DICE: Final = SystemRandom()
_log = structlog.get_logger(__name__)


# How a connection ends under us; `InternalClientError` is asyncpg's for a server killed in mid-answer.
_LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
AWAY: Final = (
    *_LOST,
    # It stops, starts, crashed, or was told to drop us.
    asyncpg.OperatorInterventionError,
    # Too many connections; no memory or disk left.
    asyncpg.InsufficientResourcesError,
)


class DatabaseAway(Exception):
    """PostgreSQL cannot be reached, or went away before anything was committed."""


class CommitUnknown(Exception):
    """The connection was lost while a commit was under way: it may have happened or not."""


class Database:
    """A pool of connections to one database. `connect` first, `close` last; both may be repeated."""

    def __init__(
        self,
        dsn: str | None = None,
        *,
        connections_max: int = POOL_SIZE_MAX,
        tracing: Tracing | None = None,
        **connect_kwargs: Any,
    ) -> None:
        self._dsn = dsn
        self.connections_max = connections_max
        self._tracing = tracing
        self._connect_kwargs = connect_kwargs
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._in_use: set[Connection] = set()
        # While nobody watches, nobody would ever find out that it is back.
        self._watchers = 0
        self._up = asyncio.Event()
        self._up.set()
        self._suspected = asyncio.Event()
        # Told how many seconds each COMMIT took that was answered.
        self.on_commit: Callable[[float], None] | None = None

    @property
    def connections_in_use(self) -> int:
        """Of the pool, at most POOL_SIZE_MAX."""
        return len(self._in_use)

    @property
    def is_up(self) -> bool:
        """Whether it answered when it was last asked."""
        return self._up.is_set()

    async def wait_until_up(self) -> None:
        await self._up.wait()

    def suspect(self) -> None:
        """It did not answer somebody in time, or a connection was lost: have it looked at now.

        Until that is done nobody else waits for it; if it is well, that is a millisecond.
        """
        if self._watchers:
            self._up.clear()
            self._suspected.set()

    async def watch(self) -> None:
        """Find out when it goes away, and when it is back; a task of the owner."""
        self._watchers += 1
        try:
            while True:
                try:
                    await self._watch_while_up()
                except (DatabaseAway, TimeoutError):
                    self._up.clear()
                await self._come_back()
        finally:
            self._watchers -= 1
            self._up.set()

    async def _watch_while_up(self) -> None:
        """Return when somebody suspects it. Raises DatabaseAway, TimeoutError."""
        connection = await self._probe_connection()
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._suspected.wait()
                        return
                with _translated():
                    async with asyncio.timeout(PROBE_TIMEOUT_S):
                        await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    async def _come_back(self) -> None:
        backoff_s = BACKOFF_MIN_S
        failures = 0
        while True:
            self._suspected.clear()
            try:
                connection = await self._probe_connection()
            except (DatabaseAway, TimeoutError) as away:
                failures += 1
                if failures == 1:
                    _log.warning("database.away", error=type(away.__cause__ or away).__name__)
                # Whoever still waits for an answer gets none: what hangs is cut, not waited for.
                for in_use in list(self._in_use):
                    _cut(in_use)
                # Nodes that lost it at the same moment do not come back at the same moment.
                await asyncio.sleep(backoff_s * (0.5 + _DICE.random()))
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
            else:
                connection.terminate()
                break
        if failures:
            _log.info("database.back", attempts=failures + 1)
            if self._pool is not None:
                # Those that were idle may lead to a machine that is gone.
                await self._pool.expire_connections()
        self._up.set()

    async def _probe_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """A new connection that has answered. Raises DatabaseAway, TimeoutError."""
        with _translated():
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
                    self._dsn, **self._connect_kwargs
                )
                try:
                    await connection.execute("SELECT 1")
                except BaseException:
                    connection.terminate()
                    raise
        return connection

    @property
    def connect_kwargs(self) -> dict[str, Any]:
        """For another pool on the same database."""
        return {"dsn": self._dsn, **self._connect_kwargs}

    async def connect(self, connections_min: int = 2) -> None:
        """Raises DatabaseAway; not with a minimum of 0, where the first that needs one finds out."""
        if self._pool is not None:
            return
        with _translated():
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=connections_min,
                max_size=self.connections_max,
                command_timeout=COMMAND_TIMEOUT_S,
                timeout=CONNECT_TIMEOUT_S,
                init=_prepare_connection,
                reset=_leave_clean,
                **self._connect_kwargs,
            )

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), COMMAND_TIMEOUT_S)
            except TimeoutError:
                pool.terminate()

    async def dedicated_connection(self) -> asyncpg.Connection[asyncpg.Record]:
        """A connection outside the pool, for LISTEN and NOTIFY. Raises DatabaseAway."""
        with _translated():
            return await asyncpg.connect(
                self._dsn,
                command_timeout=COMMAND_TIMEOUT_S,
                timeout=CONNECT_TIMEOUT_S,
                **self._connect_kwargs,
            )

    async def read(self, work: Work[Result]) -> Result:
        """Run `work`, which only reads, on one connection. Raises DatabaseAway."""
        with _translated():
            async with self._acquired() as connection:
                return await work(connection)

    async def read_snapshot(self, work: Work[Result]) -> Result:
        """Run `work` in one read-only transaction that sees one instant. Raises DatabaseAway."""
        with _translated():
            async with (
                self._acquired() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await work(connection)

    async def write(self, work: Work[Result]) -> Result:
        """Run `work` in a transaction; run it again if it lost a race.

        Raises DatabaseAway when nothing was committed, CommitUnknown when that cannot be known, and
        whatever `work` raises, rolled back.
        """
        return await self._committed(self._write_once, work)

    async def write_in_one_statement(self, work: Work[Result]) -> Result:
        """Run `work`, whose only statement that writes commits itself: one way there and back, not three.

        It is run again if it lost a race. Raises DatabaseAway when nothing was committed, CommitUnknown when
        that cannot be known, and whatever `work` raises.
        """
        return await self._committed(self._write_by_itself, work)

    async def _committed(
        self, write: Callable[[Work[Result]], Awaitable[Result]], work: Work[Result]
    ) -> Result:
        for retries_left in reversed(range(RETRIES_MAX)):
            try:
                with _translated():
                    if self._tracing is None:
                        return await write(work)
                    with self._tracing.span("commit"):
                        return await write(work)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if not retries_left:
                    raise
        raise AssertionError("the last retry raises or returns")

    async def _write_by_itself(self, work: Work[Result]) -> Result:
        async with self._acquired() as connection:
            with self._committing(connection):
                return await work(connection)

    async def _write_once(self, work: Work[Result]) -> Result:
        async with self._acquired() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                result = await work(connection)
            except (*AWAY, asyncio.CancelledError):
                # A rollback would wait for a server that may hang; it does one itself when we are gone.
                raise
            except BaseException:
                if not connection.is_closed():
                    await transaction.rollback()
                raise
            with self._committing(connection):
                await transaction.commit()
            return result

    @contextmanager
    def _committing(self, connection: Connection) -> Iterator[None]:
        """What is lost inside may have been committed or not. Raises CommitUnknown."""
        started_s = time.perf_counter()
        try:
            yield
        except AWAY as lost:
            self._lose(connection)
            raise CommitUnknown("the connection was lost during a commit") from lost
        if self.on_commit is not None:
            self.on_commit(time.perf_counter() - started_s)

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        """A connection of the pool. One that was lost, or whose work was given up, is cut: it may hang."""
        # The database may be closed while the connection is out.
        pool = self._pool
        if pool is None:
            raise DatabaseAway("not connected")
        if not self.is_up:
            raise DatabaseAway("known to be away")
        try:
            connection = await pool.acquire(timeout=CONNECT_TIMEOUT_S)
        except AWAY:
            self.suspect()
            raise
        self._in_use.add(connection)
        try:
            yield connection
        except AWAY:
            self._lose(connection)
            raise
        except asyncio.CancelledError:
            _cut(connection)
            raise
        finally:
            self._in_use.discard(connection)
            await pool.release(connection, timeout=CONNECT_TIMEOUT_S)

    def _lose(self, connection: Connection) -> None:
        _cut(connection)
        self.suspect()

    async def migrate(self) -> int:
        """Bring the schema to this version, once however many engines start. Returns the version."""

        async def run(connection: Connection) -> int:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_migration"
                " (version integer NOT NULL PRIMARY KEY, applied_at timestamptz NOT NULL)"
            )
            done = await connection.fetchval("SELECT coalesce(max(version), 0) FROM schema_migration")
            for version, text in _migrations().items():
                if version > done:
                    await connection.execute(text)
                    await connection.execute(
                        "INSERT INTO schema_migration (version, applied_at)"
                        " VALUES ($1, statement_timestamp())",
                        version,
                    )
            return newest_migration()

        return await self.write(run)


def _cut(connection: Connection) -> None:
    """Close it without a word to the server."""
    with suppress(asyncpg.InterfaceError):  # It was cut before, and has left the pool.
        connection.terminate()


@contextmanager
def _translated() -> Iterator[None]:
    """Tell a database that is away from one that refuses what we said."""
    try:
        yield
    except AWAY as away:
        # The class alone: messages of the driver may quote arguments.
        raise DatabaseAway(type(away).__name__) from away


def newest_migration() -> int:
    """The schema that this version works with."""
    return max(_migrations())


def _migrations() -> Mapping[int, str]:
    scripts = sorted(
        (entry for entry in (sql_directory() / "migrations").iterdir() if entry.name.endswith(".sql")),
        key=lambda entry: entry.name,
    )
    return {int(entry.name.split("_")[0]): entry.read_text(encoding="utf-8") for entry in scripts}


async def _prepare_connection(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + orjson.dumps(value),
        decoder=lambda value: orjson.loads(value[1:]),
        format="binary",
    )


async def _leave_clean(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Before a connection goes back to the pool. We keep no session state, so that asyncpg's own way,
    a round trip of `RESET ALL` and more after every use, would only double what a short read takes."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
