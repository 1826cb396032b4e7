"""The audit log of the console: what operators did, and to what. Never a number or PIN whole.

An act that changes something is recorded by the transaction that changes it; what is only shown is recorded
before it is shown, so that nobody sees a number that the log does not know of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from cordboard.clock import to_datetime, to_instant_us
from cordboard.storage.database import Connection, Database
from cordboard.storage.listing import Page
from cordboard.storage.queries import ALL_CELLS, load
from cordboard.storage.resting import DAY_US, count_of

_SQL: Final = load("audit")

# Thirteen months: whoever looks once a year sees the whole of it. At 1,000 acts a day, 400,000 rows of some
# 250 bytes: 100 MB.
ACTS_KEPT_DAYS: Final = 400
# One transaction: some 20 ms.
ACTS_PER_COMMIT_MAX: Final = 500
OPERATOR_CHARACTERS_MAX: Final = 80
# Of acts that are about no tenant.
_NO_TENANTS_CELL: Final = 0

_LOWEST_ID: Final = UUID(int=0)


class Act(Enum):
    LOGGED_IN = "logged_in"
    LOGGED_OUT = "logged_out"
    REVEALED = "revealed"
    REPLAYED = "replayed"
    THROTTLE_CLEARED = "throttle_cleared"
    SETTINGS_CHANGED = "settings_changed"


class ObjectKind(Enum):
    SESSION = "session"
    ALLOCATION = "allocation"
    CALL = "call"
    EXPLANATION = "explanation"
    EVENT = "event"
    THROTTLES = "throttles"
    SETTINGS = "settings"


class ActKey(NamedTuple):
    at_us: int
    id: UUID


class Scope(NamedTuple):
    """The tenant that an act is about."""

    cell: int
    tenant_id: str


@dataclass(frozen=True, slots=True)
class NewAct:
    """`object_id` names the object within its kind; the caller masks what must not be read in it."""

    operator: str
    client_address: str
    act: Act
    object_kind: ObjectKind
    object_id: str
    scope: Scope | None = None


@dataclass(frozen=True, slots=True)
class ActRecord:
    id: UUID
    at_us: int
    tenant_id: str | None
    operator: str
    client_address: str
    act: Act
    object_kind: ObjectKind
    object_id: str


async def record(connection: Connection, new: NewAct, now_us: int) -> None:
    await connection.execute(
        _SQL["insert"],
        _NO_TENANTS_CELL if new.scope is None else new.scope.cell,
        uuid4(),
        to_datetime(now_us),
        None if new.scope is None else new.scope.tenant_id,
        new.operator,
        new.client_address,
        new.act.value,
        new.object_kind.value,
        new.object_id,
    )


async def list_acts(
    connection: Connection, scope: Scope | None, before: ActKey, limit: int
) -> Page[ActRecord, ActKey]:
    """Acts below `before`, the newest first; those of one tenant, or all."""
    below = (to_datetime(before.at_us), before.id, limit + 1)
    if scope is None:
        rows = await connection.fetch(_SQL["acts"], ALL_CELLS, *below)
    else:
        rows = await connection.fetch(_SQL["acts_of_tenant"], scope.cell, *below, scope.tenant_id)
    acts = [
        ActRecord(
            # As the standard library's, which compares and prints like every other.
            UUID(bytes=row["id"].bytes),
            to_instant_us(row["at"]),
            row["tenant_id"],
            row["operator"],
            row["client_address"],
            Act(row["act"]),
            ObjectKind(row["object_kind"]),
            row["object_id"],
        )
        for row in rows[:limit]
    ]
    return Page(acts, ActKey(acts[-1].at_us, acts[-1].id) if len(rows) > limit else None)


def newest(before_us: int) -> ActKey:
    """Where the first page begins: below every act of that instant."""
    return ActKey(before_us, _LOWEST_ID)


async def delete_old(database: Database, now_us: int) -> int:
    """Delete what is kept no longer; how many. Raises DatabaseAway, CommitUnknown."""
    before = to_datetime(now_us - ACTS_KEPT_DAYS * DAY_US)
    count = 0
    for row in await database.read(lambda connection: connection.fetch(_SQL["cells_with_old"], before)):
        while deleted := await database.write(partial(_delete_batch, cell=row["cell"], before=before)):
            count += deleted
    return count


async def _delete_batch(connection: Connection, cell: int, before: datetime) -> int:
    return count_of(await connection.execute(_SQL["delete_old"], cell, before, ACTS_PER_COMMIT_MAX))
