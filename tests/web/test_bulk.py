"""Many items of one request: made at once, told of in order."""

from __future__ import annotations

import asyncio
from typing import Any

from cordboard.routing.allocate import Code
from cordboard.storage.database import DatabaseAway
from cordboard.web.bulk import MADE_AT_ONCE, Done, make_each
from cordboard.web.envelope import Answer
from cordboard.web.errors import Refused


async def made(items: list[Any], make: Any) -> Answer:
    return await make_each(items, make, id_key="id", client_id_key="order")


async def test_items_of_one_client_id_come_one_after_the_other_in_their_order() -> None:
    begun: list[str] = []
    other_is_done = asyncio.Event()

    async def make(item: dict[str, Any]) -> Done:
        begun.append(item["name"])
        if item["name"] == "first":
            await other_is_done.wait()
        if item["name"] == "other":
            other_is_done.set()
        return Done({"id": item["name"]}, is_propagated=True)

    items = [
        {"order": "a", "name": "first"},
        {"order": "a", "name": "second"},
        {"order": "b", "name": "other"},
    ]
    answer = await made(items, make)
    assert begun == ["first", "other", "second"]
    assert [report["id"] for report in answer.data] == ["first", "second", "other"]
    assert (answer.status, answer.headers) == (200, {})


async def test_no_more_are_made_at_once_than_two_batches() -> None:
    under_way: list[int] = [0]

    async def make(item: dict[str, Any]) -> Done:
        under_way.append(under_way[-1] + 1)
        await asyncio.sleep(0)
        under_way.append(under_way[-1] - 1)
        return Done({"id": item["order"]}, is_propagated=item["order"] != "7")

    answer = await made([{"order": str(n)} for n in range(3 * MADE_AT_ONCE)], make)
    assert max(under_way) == MADE_AT_ONCE
    assert [report["id"] for report in answer.data] == [str(n) for n in range(3 * MADE_AT_ONCE)]
    assert answer.headers["Cordboard-Propagation"] == "pending"


async def test_once_the_database_is_away_nobody_waits_for_it_again() -> None:
    tried: list[str] = []

    async def make(item: dict[str, Any]) -> Done:
        tried.append(item["order"])
        if item["order"] == "1":
            raise DatabaseAway("made-up")
        raise Refused(Code.BAD, "made-up")

    answer = await made([{"order": str(n)} for n in range(2 * MADE_AT_ONCE)], make)
    assert tried == ["0", "1"]
    assert [report["status"] for report in answer.data] == [400] + [503] * (2 * MADE_AT_ONCE - 1)
    assert (answer.status, answer.success) == (207, False)
