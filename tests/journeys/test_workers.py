"""A node of several processes: one keeps the board, others answer from it, and any of them may die or be
replaced without a call or a change noticing."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineDidNotStart, EngineProcess
from cordboard.simulator.receiver import WAIT_S, EventKind, Receiver
from cordboard.storage.embedded import EmbeddedPostgres

from .conftest import MakeEngine
from .outages import send_all
from .world import PIN, WRONG_PINS, Tenant, a_person, make_tenant

At = Callable[[EngineProcess], Client]

WORKERS = {"CORDBOARD_WORKERS": "2"}
# More connections than the chance that all of them lead to one worker allows: 1 in 2^19.
ENOUGH = 20


def slots_of(engine: EngineProcess) -> dict[str, int]:
    """The processes under the supervisor, by the names of their slots."""
    children = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        try:
            variables = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        except OSError:
            continue
        slots = [value for value in variables if value.startswith("CORDBOARD_SLOT=")]
        if slots:
            found[slots[0].partition("=")[2]] = pid
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - it is told by the system, which sets no event.
            await asyncio.sleep(0)


async def until_another_than(pid: int, engine: EngineProcess, slot: str) -> None:
    await until(lambda: slots_of(engine).get(slot, pid) != pid)


async def until_ready(client: Client) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await client.ask("GET", "/readyz")).status != 200:
            pass


@asynccontextmanager
async def on_new_connections(tenant: Tenant) -> AsyncIterator[Tenant]:
    """Each request may meet another worker."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        client = Client(session, tenant.client.base_url, "")
        yield replace(tenant, client=client, session=session)


@pytest.fixture(scope="module")
async def several(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineProcess]:
    environment = {"CORDBOARD_ADMIN_TOKEN": "made-up-admin-token", "CORDBOARD_CALLBACK_ALLOW": "127.0.0.1"}
    directory = tmp_path_factory.mktemp("several") / "data"
    async with EngineProcess(directory, {**environment, **WORKERS}) as engine:
        yield engine


async def test_what_one_worker_answered_every_other_routes_by(
    several: EngineProcess, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    tenant = await make_tenant(at(several), session, receiver)
    async with on_new_connections(tenant) as everywhere:
        for _ in range(ENOUGH):
            agent, customer, stranger = a_person(), a_person(), a_person()
            made = await everywhere.allocate([agent], [customer], pin="77001122")
            assert await everywhere.call(agent).targets() == [customer]
            # The hops of one call meet different workers.
            assert await everywhere.call(stranger).enter("77001122") == "connect"
            path = f"/greenpin/{made['greenpin_id']}"
            assert (await everywhere.api("DELETE", path)).status == 200
            assert await everywhere.call(agent).targets() == []
    # They were told by the process that sends events, however many made them.
    assert len(await tenant.all_events(EventKind.VERIFIED)) == ENOUGH
    assert len(await tenant.all_events(EventKind.DEALLOCATED)) == ENOUGH


async def test_wrong_pins_count_whichever_worker_they_meet(
    several: EngineProcess, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    settings = {"pin_failures_per_caller": "4/15m", "max_pin_attempts": 1}
    tenant = await make_tenant(at(several), session, receiver, settings)
    await tenant.allocate([a_person()], [a_person()])
    guesser = a_person()
    async with on_new_connections(tenant) as everywhere:
        for wrong in WRONG_PINS:
            assert await everywhere.call(guesser).enter(wrong) == "reject"
        async with asyncio.timeout(WAIT_S):
            heard = 0
            while heard < ENOUGH:
                told = (await everywhere.client.ask("GET", "/metrics")).body
                heard = heard + 1 if '\ncordboard_throttles_full{scope="caller"} 1.0' in told else 0
        for _ in range(ENOUGH):
            assert await everywhere.call(guesser).enter(PIN) == "reject"
        assert await everywhere.call(a_person()).enter(PIN) == "connect"


async def test_one_scrape_tells_what_all_workers_counted(
    several: EngineProcess, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    tenant = await make_tenant(at(several), session, receiver)
    caller = a_person()
    await tenant.allocate([caller], [a_person()])

    async def connected(client: Client) -> float:
        text = (await client.ask("GET", "/metrics")).body
        [found] = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "cordboard_decisions_total"
            and sample.labels == {"decision": "connect", "reason": "listed"}
        ]
        return float(found)

    before = 0.0
    async with on_new_connections(tenant) as everywhere:
        for _ in range(ENOUGH):
            # Whoever is scraped publishes what it has, so that the last one tells of all.
            before = await connected(everywhere.client)
        for _ in range(ENOUGH):
            assert await everywhere.call(caller).select() == "connect"
    async with asyncio.timeout(WAIT_S):
        while (told := await connected(tenant.client)) < before + ENOUGH:
            pass
    assert told == before + ENOUGH


async def test_processes_that_die_or_are_replaced_under_load_cost_no_call_and_no_change(
    several: EngineProcess, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    """kill -9 of a worker takes the requests that it has; nothing answered is lost, and SIGHUP takes none."""
    tenant = await make_tenant(at(several), session, receiver)
    caller, customer = a_person(), a_person()
    await tenant.allocate([caller], [customer])
    made: list[str] = []
    pins = count(1)
    broken: list[BaseException] = []
    stop = asyncio.Event()

    async def call_all_the_time(mine: Tenant) -> None:
        while not stop.is_set():
            try:
                assert await mine.call(caller).targets() == [customer]
            except aiohttp.ClientError as error:
                broken.append(error)

    async def change_all_the_time(mine: Tenant) -> None:
        while not stop.is_set():
            try:
                pin = f"{next(pins):08d}"
                made.append((await mine.allocate([a_person()], [a_person()], pin=pin))["greenpin_id"])
            except aiohttp.ClientError as error:
                broken.append(error)

    async def progress(changes: int) -> None:
        await until(lambda: len(made) >= changes)

    async with on_new_connections(tenant) as everywhere, asyncio.TaskGroup() as load:
        for mine in (tenant, everywhere):
            load.create_task(call_all_the_time(mine))
            load.create_task(change_all_the_time(mine))
        try:
            await progress(20)
            before = slots_of(several)
            assert set(before) == {"node-0", "worker-0", "worker-1"}
            os.kill(several.pid, signal.SIGHUP)
            await until(lambda: set(slots_of(several)) == {"node-1", "worker-2", "worker-3"})
            await progress(len(made) + 20)
            assert broken == [], "a replacement refuses and loses nothing"
            assert not [pid for pid in before.values() if is_alive(pid)]
            for slot in ("worker-2", "worker-3", "node-1"):
                pid = slots_of(several)[slot]
                os.kill(pid, signal.SIGKILL)
                await until_another_than(pid, several, slot)
                await progress(len(made) + 20)
        finally:
            stop.set()
    assert len(broken) < 20, "who is refused once, is answered by the next worker"
    await until_ready(tenant.client)
    for greenpin_id in made:
        assert (await tenant.api("GET", f"/greenpin/{greenpin_id}")).data["state"] == "active"


async def test_without_their_supervisor_they_end(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine(**WORKERS)
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    caller, customer = a_person(), a_person()
    await before.allocate([caller], [customer])
    pids = slots_of(engine).values()
    assert len(pids) == 3
    await engine.kill()
    await until(lambda: not any(map(is_alive, pids)))
    # And the next one, of one process, has all they had.
    engine = fresh_engine()
    await engine.start()
    assert await replace(before, client=at(engine)).call(caller).targets() == [customer]


async def test_what_killed_workers_spooled_is_drained_and_one_starts_without_a_database(
    fresh_engine: MakeEngine,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    at: At,
    postgres: EmbeddedPostgres,
) -> None:
    engine = fresh_engine(**WORKERS, CORDBOARD_DATABASE_URL=postgres.dsn)
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver)
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    await postgres.stop()
    strangers = [a_person() for _ in range(4)]
    # It holds numbers.
    assert stat.S_IMODE((engine.data_dir / "spool").stat().st_mode) == 0o700
    async with on_new_connections(tenant) as everywhere:
        for stranger in strangers:
            assert await everywhere.call(stranger).enter(PIN) == "connect"
        killed = {slot: pid for slot, pid in slots_of(engine).items() if slot.startswith("worker")}
        send_all(killed.values(), signal.SIGKILL)
        for slot, pid in killed.items():
            await until_another_than(pid, engine, slot)
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    assert await everywhere.call(agent).targets() == [customer], "decided from the board"
                    break
                except aiohttp.ClientError:
                    continue
    await postgres.start()
    spools = engine.data_dir / "spool"
    await until(lambda: not any(map(size_of, spools.glob("worker-*/records"))))
    told = await tenant.all_events(EventKind.VERIFIED)
    assert {event.body["caller"] for event in told} == set(strangers)
    assert await engine.stop() == 0
    assert [*spools.iterdir()] == []


async def test_one_that_cannot_start_says_why(fresh_engine: MakeEngine, tmp_path: Path) -> None:
    with pytest.raises(EngineDidNotStart, match=r"cordboard: .*none\.csv"):
        await fresh_engine(
            tmp_path / "postal", **WORKERS, CORDBOARD_POSTAL_REGIONS=str(tmp_path / "none.csv")
        ).start()
    with pytest.raises(EngineDidNotStart, match=r"cordboard: the database cannot be reached"):
        await fresh_engine(
            tmp_path / "away", **WORKERS, CORDBOARD_DATABASE_URL="postgresql://nobody@127.0.0.1:9/x"
        ).start()
