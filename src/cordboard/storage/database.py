"""The way to PostgreSQL: one pool, transactions that are retried where that is safe, migrations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import asyncpg
import orjson

from cordboard.storage.queries import sql_directory

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
# A lost race is over within some ms; after this many something else is wrong.
RETRIES_MAX: Final = 5

# Two engines that start together must not both migrate; PostgreSQL-wide, any number will do.
MIGRATION_LOCK: Final = 0x0C04DB0A

Result = TypeVar("Result")


# How a connection ends under us; `InternalClientError` is asyncpg's for a server killed in mid-answer.
_LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
)
_AWAY: Final = (
    *_LOST,
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)


class DatabaseAway(Exception):
    """PostgreSQL cannot be reached, or went away before anything was committed."""


class CommitUnknown(Exception):
    """The connection was lost while a commit was under way: it may have happened or not."""


class Database:
    """A pool of connections to one database. `connect` first, `close` last; both may be repeated."""

    def __init__(self, dsn: str | None = None, **connect_kwargs: Any) -> None:
        self._dsn = dsn
        self._connect_kwargs = connect_kwargs
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    @property
    def connect_kwargs(self) -> dict[str, Any]:
        """For another pool on the same database."""
        return {"dsn": self._dsn, **self._connect_kwargs}

    async def connect(self) -> None:
        """Raises DatabaseAway."""
        if self._pool is not None:
            return
        with _translated():
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=2,
                max_size=POOL_SIZE_MAX,
                command_timeout=COMMAND_TIMEOUT_S,
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
            return await asyncpg.connect(self._dsn, command_timeout=COMMAND_TIMEOUT_S, **self._connect_kwargs)

    async def read(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run `work`, which only reads, on one connection. Raises DatabaseAway."""
        with _translated():
            async with self._acquired() as connection:
                return await work(connection)

    async def read_snapshot(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run `work` in one read-only transaction that sees one instant. Raises DatabaseAway."""
        with _translated():
            async with (
                self._acquired() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                return await work(connection)

    async def write(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Run `work` in a transaction; run it again if it lost a race.

        Raises DatabaseAway when nothing was committed, CommitUnknown when that cannot be known, and
        whatever `work` raises, rolled back.
        """
        for retries_left in reversed(range(RETRIES_MAX)):
            try:
                with _translated():
                    return await self._write_once(work)
            except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
                if not retries_left:
                    raise
        raise AssertionError("the last retry raises or returns")

    async def _write_once(self, work: Callable[[Connection], Awaitable[Result]]) -> Result:
        async with self._acquired() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                result = await work(connection)
            except BaseException:
                if not connection.is_closed():
                    await transaction.rollback()
                raise
            try:
                await transaction.commit()
            except _LOST as lost:
                raise CommitUnknown("the connection was lost during a commit") from lost
            return result

    def _acquired(self) -> asyncpg.pool.PoolAcquireContext[asyncpg.Record]:
        if self._pool is None:
            raise DatabaseAway("not connected")
        return self._pool.acquire(timeout=COMMAND_TIMEOUT_S)

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
            return max(_migrations())

        return await self.write(run)


@contextmanager
def _translated() -> Iterator[None]:
    """Tell a database that is away from one that refuses what we said."""
    try:
        yield
    except _AWAY as away:
        # The class alone: messages of the driver may quote arguments.
        raise DatabaseAway(type(away).__name__) from away


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
