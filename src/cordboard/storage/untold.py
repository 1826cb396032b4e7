"""Outcomes that are on record before what follows from them is told.

A caller waits for one statement, which puts the outcome on record beside a row that says what is to be told.
The members and events that follow come in a transaction of their own, which takes that row away: once,
whoever does it, and however often an engine is killed in between. Outcomes that count for a lock do not go
this way, because the next entry is decided by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, assert_never

import structlog

from cordboard.clock import to_datetime
from cordboard.routing.model import Outcome, Progress, RightPin, WrongPin
from cordboard.storage import outcomes
from cordboard.storage.database import Connection
from cordboard.storage.feed import Written
from cordboard.storage.outcomes import NewOutcome, call_key
from cordboard.storage.queries import load
from cordboard.storage.spooled import outcome_of, outcome_to_json

_SQL: Final = load("untold")
_CELLS: Final = list(range(256))

_log = structlog.get_logger(__name__)


async def put_on_record(
    connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int
) -> list[Progress]:
    """What is on record of each call, these outcomes included. Outside a transaction: it is one itself."""
    entries = outcomes.first_of_each(items)
    rows = await connection.fetch(
        _SQL["put_on_record"],
        cell,
        *outcomes.columns_of(entries),
        [outcome_to_json(item) if is_to_be_told(item.outcome) else None for item in entries],
        to_datetime(now_us),
    )
    seen = {(call_key(row), row["digits_digest"]) for row in rows}
    if all((item.call, item.outcome.digest) in seen for item in entries):
        on_record = outcomes.progress_by_call({item.call for item in entries}, rows)
    else:
        # Another process was first while we looked, and its row is not of our snapshot.
        on_record = await outcomes.progress_of(connection, cell, {item.call for item in entries})
    return [on_record[item.call] for item in items]


def is_to_be_told(outcome: Outcome) -> bool:
    """A listed caller's success is a record, and nothing follows from it (routing.md, Which event, when)."""
    match outcome:
        case RightPin():
            return outcome.is_stranger or outcome.resets_lock
        case WrongPin():
            return True
        case unmatched:
            assert_never(unmatched)


async def tell(connection: Connection, cell: int, items: Sequence[NewOutcome], now_us: int) -> Written | None:
    """In a transaction: what follows from those entries of which nobody has told yet.

    Told is what is on record, which another process may have put there first. Returns what was added to the
    feed.
    """
    rows = await connection.fetch(_SQL["take"], cell, *outcomes.key_columns_of(items))
    bodies = {(call_key(row), row["digits_digest"]): row["body"] for row in rows}
    entries = ((item.call, item.outcome.digest) for item in items)
    untold = [outcome_of(bodies.pop(entry)) for entry in entries if entry in bodies]
    return await outcomes.tell(connection, cell, untold, now_us) if untold else None


async def left_untold(connection: Connection, until_us: int, limit: int) -> list[tuple[int, NewOutcome]]:
    """(cell, outcome), oldest first: whoever put them on record, until then, is gone or late."""
    left = []
    for row in await connection.fetch(_SQL["left"], _CELLS, to_datetime(until_us), limit):
        try:
            left.append((row["cell"], outcome_of(row["body"])))
        except (ValueError, KeyError, TypeError) as error:
            # Of a later version; it stays for that.
            _log.error("untold.unreadable", error=type(error).__name__)
    return left
