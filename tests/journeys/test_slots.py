"""Two processes that share their counts: whichever is scraped tells what both did, also after a `kill -9`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.storage.embedded import running_server
from cordboard.tallies import begin_sharing, process_ended, sharing_environment

from .conftest import ENVIRONMENT
from .world import Tenant, a_person

SLOTS = ("worker-0", "worker-1")

At = Callable[[EngineProcess], Client]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    """Where the processes keep their counts, with some left over from a node before them."""
    directory = tmp_path / "counts"
    directory.mkdir()
    (directory / "counter_worker-9.db").write_bytes(b"left over")
    begin_sharing(directory)
    return directory


@pytest.fixture
async def workers(engine: EngineProcess, tmp_path: Path, counts: Path) -> AsyncIterator[list[EngineProcess]]:
    """Two processes over the database of the engine that most journeys share."""
    server = running_server(engine.postgres_dir)
    assert server is not None
    async with AsyncExitStack() as stack:
        workers = []
        for slot in SLOTS:
            shared = sharing_environment(counts, slot)
            environment = {**ENVIRONMENT, "CORDBOARD_DATABASE_URL": server.dsn, **shared}
            workers.append(EngineProcess(tmp_path / slot / "data", environment))
            workers[-1].data_dir.parent.mkdir()
            stack.push_async_callback(workers[-1].clear_away)
        await asyncio.gather(*(worker.start() for worker in workers))
        yield workers


async def scrape(client: Client) -> Samples:
    text = (await client.ask("GET", "/metrics")).body
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    told = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(told) == len(samples), "each sample is told once"
    return told


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def connected(samples: Samples) -> float:
    return value(samples, "cordboard_decisions_total", decision="connect", reason="listed")


async def until_connected(client: Client, times: int) -> Samples:
    """What a process tells once the others have published what they counted, within a second."""
    while connected(samples := await scrape(client)) < times:
        pass
    return samples


async def call(tenant: Tenant, caller: str, times: int) -> None:
    for _ in range(times):
        assert await tenant.call(caller).select() == "connect"


async def test_any_process_tells_what_all_counted_also_before_a_kill(
    workers: list[EngineProcess], counts: Path, tenant: Tenant, at: At
) -> None:
    first, second = (replace(tenant, client=at(worker)) for worker in workers)
    caller = a_person()
    begun = 0.0
    await tenant.allocate([caller], [a_person()])
    for knows in (first, second):
        # It learns of the tenant, and of the allocation, by the feed.
        while (await knows.call(caller).passthru()).status != 200:
            pass
        # Who is scraped publishes what it has; the last one tells of both.
        begun = connected(await scrape(knows.client))

    await call(first, caller, 3)
    await call(second, caller, 4)
    told = await until_connected(first.client, int(begun) + 7)
    assert connected(told) == begun + 7
    for slot in SLOTS:
        assert value(told, "cordboard_process_resident_memory_bytes", slot=slot) > 1 << 20
    by_bucket = value(told, "cordboard_request_seconds_bucket", applet="passthru", le="+Inf")
    assert by_bucket == value(told, "cordboard_request_seconds_count", applet="passthru") >= begun + 7

    await workers[1].kill()
    process_ended(counts, SLOTS[1])
    told = await scrape(first.client)
    assert connected(told) == begun + 7
    with pytest.raises(KeyError):
        value(told, "cordboard_process_resident_memory_bytes", slot=SLOTS[1])

    await workers[1].start()
    second = replace(tenant, client=at(workers[1]))
    await call(first, caller, 1)
    await call(second, caller, 2)
    for asked in (first, second):
        told = await until_connected(asked.client, int(begun) + 10)
        assert connected(told) == begun + 10
        assert value(told, "cordboard_process_resident_memory_bytes", slot=SLOTS[1]) > 1 << 20
        # Two pools of 12 connections.
        for slot in SLOTS:
            assert value(told, "cordboard_database_connections_max", slot=slot) == 12
    # What is read from what they share is told once, whoever reads it.
    assert value(told, "cordboard_database_up") == 1
    assert value(told, "cordboard_pool_allocations", tenant=tenant.id) == 1
    # Files are of slots, not of processes, and nothing was left of the node before.
    assert {file.stem.rpartition("_")[2] for file in counts.iterdir()} == set(SLOTS)
