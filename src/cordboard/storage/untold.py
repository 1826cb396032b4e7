"""Outcomes that are on record, and of which nothing has been told yet.

A caller waits for one statement, which puts the outcome on record in a table of its own. From there it goes
to its place among the others, with the member and the events that follow, in a transaction of its own: once,
whoever does it, and however often an engine is killed in between. Outcomes that count for a lock do not go
this way, because the next entry is decided by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import structlog

from cordboard.clock import to_datetime
from cordboard.routing.model import NEW_CALL, Progress, WrongPin
from cordboard.routing.progress import with_outcome
from cordboard.storage import outcomes
from cordboard.storage.database import Connection
from cordboard.storage.feed import Written
from cordboard.storage.outcomes import CallKey, NewOutcome, Recorded, call_key
from cordboard.storage.queries import ALL_CELLS, load
from cordboard.storage.spooled import outcome_of, outcome_to_json

_SQL: Final = load("untold")

_log = structlog.get_logger(__name__)


async def put_on_record(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> list[Progress]:
    """What is on record of each call, these outcomes included. Outside a transaction: it is one itself."""
    entries = outcomes.first_of_each(items)
    rows = await connection.fetch(
        _SQL["put_on_record"],
        cell,
        *outcomes.key_columns_of(entries),
        outcomes.outcome_texts_of(entries),
        *outcomes.admission_columns_of(entries),
        [to_datetime(item.at_us) for item in entries],
        [outcome_to_json(item) for item in entries],
        to_datetime(now_us),
    )
    given = Counter(item.call for item in entries)
    alone = Counter(call_key(row) for row in rows if not row["has_more"])
    # Nearly always it is the first entry of its call, and known without another look.
    on_record = dict.fromkeys((call for call in given if alone[call] == given[call]), NEW_CALL)
    for item in entries:
        if (progress := on_record.get(item.call)) is not None:
            failures = progress.failures + isinstance(item.outcome, WrongPin)
            on_record[item.call] = with_outcome(progress, item.outcome, failures)
    if others := given.keys() - on_record.keys():
        on_record |= await outcomes.progress_of(connection, cell, others)
    return [on_record[item.call] for item in items]


async def tell(connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int) -> Written | None:
    """In a transaction: what follows from those entries of which nobody has told yet.

    Told is what is on record, which another process may have put there first. Returns what was added to the
    feed.
    """
    untold = await _take(connection, cell, items)
    found = [untold[entry] for item in items if (entry := _entry(item)) in untold]
    return await outcomes.enter(connection, cell, found, now_us) if found else None


async def record(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> list[Recorded]:
    """In a transaction: as `outcomes.record`, also of entries that are on record and untold."""
    untold = await _take(connection, cell, items)
    first = [untold.get(_entry(item), item) for item in items]
    return await outcomes.record(connection, cell, first, now_us)


async def left_untold(
    connection: Connection, until_us: int, limit: int, cells: Sequence[int] = ALL_CELLS
) -> list[tuple[int, NewOutcome]]:
    """(cell, outcome), oldest first: whoever put them on record, until then, is gone or late."""
    left = []
    for row in await connection.fetch(_SQL["left"], cells, to_datetime(until_us), limit):
        try:
            left.append((row["cell"], outcome_of(row["body"])))
        except (ValueError, KeyError, TypeError) as error:
            # Of a later version; it stays for that.
            _log.error("untold.unreadable", error=type(error).__name__)
    return left


async def _take(
    connection: Connection, cell: int, items: Sequence[NewOutcome]
) -> dict[tuple[CallKey, bytes], NewOutcome]:
    rows: Sequence[Any] = await connection.fetch(_SQL["take"], cell, *outcomes.key_columns_of(items))
    return {(call_key(row), row["digits_digest"]): outcome_of(row["body"]) for row in rows}


def _entry(item: NewOutcome) -> tuple[CallKey, bytes]:
    return item.call, item.outcome.digest
