"""The API over HTTP: 32 clients that each want an answer at once, and bulk.

What is answered is durable and routed by. Reads, updates and releases are of what the run has created.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import count, cycle
from typing import Final

import orjson

from benchmarks.engine import CLIENTS, Engine, Measured, api_request, create_requests, order
from benchmarks.figures import Figure, measured_figure
from benchmarks.world import BULK_A, BULK_B, LATER_A, LATER_B, World

PART: Final = "api"
WARM_UP_S: Final = 0.5
BULK_CLIENTS: Final = 4
BULK_ITEMS: Final = 500
_CREATES: Final = f"create, {CLIENTS} clients"
_LONGER: Final = {"deallocation_policy": {"duration": "3h"}}


async def api(engine: Engine, seconds: float) -> AsyncIterator[Figure]:
    """Creates and bulk for `seconds` each; the others on what was created."""
    world = engine.world
    replies: list[bytes] = []
    created = await engine.measure(
        CLIENTS,
        create_requests(engine, "later", LATER_A, LATER_B),
        seconds,
        warm_up_s=WARM_UP_S,
        replies=replies,
    )
    yield _figure(_CREATES, created, world, "a PIN of six digits drawn for each")
    known = [f"/greenpin/{_id_of(reply)}" for reply in replies]
    reads = (api_request(engine.credentials, "GET", path) for path in cycle(known))
    yield _figure(f"read, {CLIENTS} clients", await engine.measure(CLIENTS, reads, seconds), world)
    for what, method, body in (("update", "PUT", _LONGER), ("release", "DELETE", None)):
        requests = (api_request(engine.credentials, method, path, body) for path in known)
        measured = await engine.measure(CLIENTS, requests, None)
        yield _figure(f"{what}, {CLIENTS} clients", measured, world)
    # A bulk create of which an item failed is answered 207, which would end the run.
    bulk = await engine.measure(BULK_CLIENTS, _bulk(engine), seconds, warm_up_s=WARM_UP_S)
    yield _figure(f"bulk create, {BULK_CLIENTS} clients", bulk, world, f"{BULK_ITEMS} items a request")
    yield Figure(
        PART,
        "bulk create, items",
        allocations=world.allocations,
        value=bulk.load.per_second * BULK_ITEMS,
        unit="items/s",
    )


def _figure(what: str, measured: Measured, world: World, note: str = "") -> Figure:
    return measured_figure(PART, what, [measured], allocations=world.allocations, note=note)


def _id_of(reply: bytes) -> str:
    id: str = orjson.loads(reply.partition(b"\r\n\r\n")[2])["data"]["greenpin_id"]
    return id


def _bulk(engine: Engine) -> Iterator[bytes]:
    for first in count(step=BULK_ITEMS):
        orders = [
            order(f"bulk-{n}", BULK_A + n, BULK_B + n, engine.world.virtual_number(n))
            for n in range(first, first + BULK_ITEMS)
        ]
        yield api_request(engine.credentials, "POST", "/greenpin/bulk", {"greenpins": orders})
