"""What the sliding windows of wrong PINs are restored from, and what an operator lifted."""

from __future__ import annotations

from functools import partial
from typing import Final, NamedTuple

from cordboard.clock import to_datetime, to_instant_us
from cordboard.routing.changes import PinFailed, ThrottleCleared
from cordboard.routing.model import ThrottleScope
from cordboard.routing.numbers import E164
from cordboard.storage import feed, outcomes, provisioning
from cordboard.storage.database import Connection, Database
from cordboard.storage.feed import Position
from cordboard.storage.queries import ALL_CELLS, load

_SQL: Final = load("throttles")

_ALL: Final = "all"
_NO_NUMBER: Final = 0


class OnRecord(NamedTuple):
    """Read in one snapshot: what the feed tells up to these heads is among the failures and the lifted."""

    heads: dict[int, int]
    failures: list[PinFailed]
    cleared: list[ThrottleCleared]


async def on_record(connection: Connection, since_us: int) -> OnRecord:
    """Inside a repeatable-read transaction."""
    heads = {cell: n for cell, (n, _) in (await feed.heads(connection)).items()}
    failures = await outcomes.recent_failures(connection, since_us)
    cleared = [
        ThrottleCleared(
            row["tenant_id"],
            None if row["scope"] == _ALL else ThrottleScope(row["scope"]),
            E164(row["number"]) if row["number"] != _NO_NUMBER else None,
            to_instant_us(row["at"]),
        )
        for row in await connection.fetch(_SQL["cleared"])
    ]
    return OnRecord(heads, failures, cleared)


def scope_of(caller: E164 | None, virtual_number: E164 | None, *, is_all: bool) -> ThrottleScope | None:
    """What an operator means who names at most one of these; the tenant's own window, if none."""
    if is_all:
        return None
    if caller is not None:
        return ThrottleScope.CALLER
    return ThrottleScope.TENANT if virtual_number is None else ThrottleScope.VN


async def lift(
    database: Database, tenant_id: str, scope: ThrottleScope | None, number: E164 | None, now_us: int
) -> Position:
    """Lift windows of a tenant. Raises NoSuchTenant."""
    tenant = await provisioning.get_tenant(database, tenant_id)
    cleared = ThrottleCleared(tenant_id, scope, number, now_us)
    return await database.write(partial(clear, cell=tenant.cell, cleared=cleared, now_us=now_us))


async def clear(connection: Connection, cell: int, cleared: ThrottleCleared, now_us: int) -> Position:
    """Lift windows on every node, and after every restart."""
    await connection.execute(
        _SQL["clear"],
        cell,
        cleared.tenant_id,
        _ALL if cleared.scope is None else cleared.scope.value,
        cleared.number or _NO_NUMBER,
        to_datetime(cleared.at_us),
    )
    return await feed.append(connection, cell, [cleared], now_us)


async def forget_cleared(connection: Connection, older_than_us: int) -> None:
    """What was lifted before any window begins."""
    await connection.execute(_SQL["forget_cleared"], ALL_CELLS, to_datetime(older_than_us))
