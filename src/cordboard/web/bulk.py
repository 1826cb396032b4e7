"""Many items in one request: each succeeds or fails by itself, and each is told of in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cordboard.routing.allocate import Code, Fault, Unacceptable
from cordboard.storage.database import DatabaseAway
from cordboard.web.envelope import Answer, propagation
from cordboard.web.errors import Problem, Refused, problem_of

# Two batches of the committer (storage/commits.py): one is filled while the other is written.
MADE_AT_ONCE: Final = 200


@dataclass(frozen=True, slots=True)
class Done:
    """An item that went well. `data` has the allocation's id under the product's key."""

    data: dict[str, Any]
    is_propagated: bool


def bulk_items(body: dict[str, Any], key: str, items_max: int) -> list[object]:
    """The items under `key`. Raises Refused, Unacceptable."""
    items = body.get(key)
    if items is None or items == []:
        raise Unacceptable([Fault(Code.MISSING, key, f"{key} must be given.")])
    if not isinstance(items, list):
        raise Unacceptable([Fault(Code.BAD, key, f"{key} must be a list.")])
    if len(items) > items_max:
        raise Refused(Code.TOO_MANY, f"{key} must have at most {items_max} items.")
    return items


async def make_each(
    items: Sequence[object],
    make: Callable[[dict[str, Any]], Awaitable[Done]],
    *,
    id_key: str,
    client_id_key: str,
) -> Answer:
    """Make all items at once, as far as that goes, so that they share commits."""
    room = asyncio.Semaphore(MADE_AT_ONCE)
    away: DatabaseAway | None = None
    results: list[Done | Problem | None] = [None] * len(items)
    # Of items with the same client id the first in the list comes first, so that it is the later ones
    # that fail; the end of one is the beginning of the next.
    ends: dict[str, asyncio.Event] = {}

    async def work(place: int, before: asyncio.Event | None, end: asyncio.Event) -> None:
        nonlocal away
        try:
            if before is not None:
                await before.wait()
            async with room:
                if away is not None:
                    # Each further try would only wait for its own timeout.
                    raise away
                results[place] = await make(_object(items[place]))
        except Exception as error:
            away = error if isinstance(error, DatabaseAway) else away
            results[place] = problem_of(error)
        finally:
            end.set()

    async with asyncio.TaskGroup() as tasks:
        for place, item in enumerate(items):
            client_id = item.get(client_id_key) if isinstance(item, dict) else None
            end = asyncio.Event()
            before = None
            if isinstance(client_id, str):
                before, ends[client_id] = ends.get(client_id), end
            tasks.create_task(work(place, before, end))
    reports = []
    is_propagated = True
    for result in results:
        assert result is not None, "every item ends in one of the two"
        if isinstance(result, Done):
            is_propagated &= result.is_propagated
            reports.append(item_done(id_key, result.data[id_key], result.data))
        else:
            reports.append(item_refused(id_key, None, result))
    return bulk_answer(reports, is_propagated=is_propagated)


def bulk_answer(reports: Sequence[dict[str, Any]], *, is_propagated: bool) -> Answer:
    failed = sum(not report["success"] for report in reports)
    return Answer(
        reports,
        status=207 if failed else 200,
        message=f"{failed} of {len(reports)} items failed." if failed else None,
        headers=propagation(is_propagated),
        success=not failed,
    )


def item_done(id_key: str, id: object, data: dict[str, Any]) -> dict[str, Any]:
    return _item(id_key, id, success=True, status=200, code=None, message=None, data=data)


def item_refused(id_key: str, id: object, problem: Problem) -> dict[str, Any]:
    return _item(
        id_key,
        id,
        success=False,
        status=problem.status,
        code=int(problem.code),
        message=problem.message,
        data=problem.data,
    )


def _item(id_key: str, id: object, **said: Any) -> dict[str, Any]:
    return {id_key: id if isinstance(id, str) else None, **said}


def _object(item: object) -> dict[str, Any]:
    """Raises Refused (400/5)."""
    if not isinstance(item, dict):
        raise Refused(Code.BAD, "The item must be an object.")
    return item
