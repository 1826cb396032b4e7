"""Two engines over one database: what only one request can have, one gets, wherever it was sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cordboard.simulator.client import Answer, Client, Credentials
from cordboard.simulator.engine import EngineProcess
from cordboard.storage.embedded import running_server

from .conftest import ENVIRONMENT
from .world import a_line, a_person

ROUNDS = 6
AT_ONCE = 12
LINES = 8

Engines = tuple[EngineProcess, EngineProcess]
At = Callable[[EngineProcess], Client]


@pytest.fixture
async def engines(engine: EngineProcess, tmp_path: Path) -> AsyncIterator[Engines]:
    """The engine that most journeys share, and a second process with a board of its own."""
    server = running_server(engine.postgres_dir)
    assert server is not None
    environment = {**ENVIRONMENT, "CORDBOARD_DATABASE_URL": server.dsn}
    async with EngineProcess(tmp_path / "second", environment) as second:
        yield engine, second


async def tenant_on_both(first: Client, second: Client, lines: list[str]) -> Credentials:
    credentials = await first.add_tenant(f"both-{lines[0][1:]}")
    await first.add_virtual_numbers(credentials.tenant_id, *lines)
    # The second one learns of the tenant and of its numbers through the feed.
    while True:
        pool = await second.api(credentials, "GET", "/pool")
        if pool.status == 200 and len(pool.body["data"]["items"]) == len(lines):
            return credentials


async def test_no_number_ever_gets_two_routes_on_one_line(engines: Engines, at: At) -> None:
    clients = at(engines[0]), at(engines[1])
    lines = [a_line() for _ in range(LINES)]
    credentials = await tenant_on_both(*clients, lines)
    agent = a_person()

    async def allocate(place: int) -> Answer:
        body = {
            "connection_id": f"order-{place}",
            "aparty_numbers": [agent],
            "bparty_numbers": [a_person()],
            "usage": "twoway",
        }
        return await clients[place % 2].api(credentials, "POST", "/greenvn", body)

    made: list[Answer] = []
    for wave in range(ROUNDS):
        places = range(wave * AT_ONCE, (wave + 1) * AT_ONCE)
        made += await asyncio.gather(*map(allocate, places))
    # One allocation a line, and then there is none left for this agent.
    assert Counter(answer.status for answer in made) == {200: LINES, 452: ROUNDS * AT_ONCE - LINES}
    picked = [answer.body["data"]["greenvn"] for answer in made if answer.status == 200]
    assert sorted(picked) == sorted(lines)


async def test_one_of_many_gets_a_line_for_itself(engines: Engines, at: At) -> None:
    clients = at(engines[0]), at(engines[1])
    lines = [a_line() for _ in range(ROUNDS)]
    credentials = await tenant_on_both(*clients, lines)

    async def allocate(line: str, place: int) -> Answer:
        first_generation = {
            "transaction_id": f"order-{line}-{place}",
            "a": {"numbers": [a_person()], "vns": [line]},
            "b": {"numbers": [a_person()]},
        }
        second_generation = {"caller_id_number": line, "from": [a_person()], "to": [a_person()]}
        body = first_generation if place % 3 == 0 else second_generation
        return await clients[place % 2].api(credentials, "POST", "/greenpin", body)

    for line in lines:
        answers = await asyncio.gather(*(allocate(line, place) for place in range(AT_ONCE)))
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) <= {200, 201, 409}
        # Either one that wants the line alone, or those that share it.
        assert statuses[201] == (0 if statuses[200] else 1)
