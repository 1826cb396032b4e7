"""With the database stopped, hung or refusing, calls are decided and recorded; nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import asyncpg
import pytest

from cordboard.simulator.client import Answer, Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.receiver import WAIT_S, EventKind, Receiver
from cordboard.storage.embedded import EmbeddedPostgres

from .conftest import MakeEngine
from .outages import Hung, Outage, Proxy, Refusing, Stopped, a_database, a_proxy
from .world import PIN, WRONG_PINS, Call, Tenant, a_person, make_tenant

At = Callable[[EngineProcess], Client]
Result = TypeVar("Result")

# The time budget of a hop (settings.py), and what this machine may add to it while others use it.
HOP_S = 1.0 + 0.5
# After some 3 s it is known that the database is away; until then a change may wait for it.
CHANGE_S = 3.0 + 2.0
GIVE_UP_S = 30

GUESSING_IS_FREE = {
    "pin_failures_per_caller": "99999/1h",
    "pin_failures_per_vn": "99999/1h",
    "pin_failures_per_tenant": "99999/1h",
}


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with a_database(tmp_path / "elsewhere") as postgres:
        yield postgres


@pytest.fixture
async def proxy(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    async with a_proxy(postgres) as proxy:
        yield proxy


@pytest.fixture(params=["stopped", "hung", "refusing"])
def outage(
    request: pytest.FixtureRequest, postgres: EmbeddedPostgres, proxy: Proxy, tmp_path: Path
) -> Outage:
    outages: dict[str, Outage] = {
        "stopped": Stopped(postgres),
        "hung": Hung(postgres, tmp_path / "elsewhere"),
        "refusing": Refusing(proxy),
    }
    return outages[request.param]


async def within(seconds: float, answer: Awaitable[Result]) -> Result:
    started_s = time.perf_counter()
    result = await answer
    took_s = time.perf_counter() - started_s
    assert took_s < seconds, f"it took {took_s:.2f} s"
    return result


async def readiness(client: Client) -> dict[str, Any]:
    body: dict[str, Any] = (await client.ask("GET", "/readyz")).body
    return body


async def until_drained(client: Client) -> None:
    async with asyncio.timeout(WAIT_S):
        while (state := await readiness(client))["spool_records"] or not state["database_up"]:
            pass


async def until_targets(tenant: Tenant, caller: str, expected: list[str | None]) -> None:
    """The board has what was drained, a moment after the database."""
    async with asyncio.timeout(WAIT_S):
        while await tenant.call(caller).targets() != expected:
            pass


async def until_known_away(client: Client) -> None:
    async with asyncio.timeout(WAIT_S):
        while (await readiness(client))["database_up"]:
            pass


async def rows(postgres: EmbeddedPostgres, query: str, *arguments: object) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(**postgres.connect_kwargs)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


async def verifications(postgres: EmbeddedPostgres, tenant: Tenant) -> list[tuple[object, ...]]:
    """In the order in which they happened, once nothing is untold any more."""
    async with asyncio.timeout(GIVE_UP_S):
        while await rows(postgres, "SELECT 1 FROM untold_outcome WHERE tenant_id = $1", tenant.id):
            pass
    query = "SELECT call_sid, outcome FROM verification WHERE tenant_id = $1 ORDER BY verified_at"
    return await rows(postgres, query, tenant.id)


async def metric(client: Client, name: str) -> float:
    lines = (await client.ask("GET", "/metrics")).body.splitlines()
    [line] = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.split()[1])


def is_refused(answer: Answer) -> bool:
    return (answer.status, answer.body["code"], answer.body["success"]) == (503, 0, False) and (
        "Retry-After" in answer.headers
    )


def again(call: Call, tenant: Tenant) -> Call:
    return Call(tenant, call.caller, call.virtual_number, call.call_sid)


@pytest.mark.parametrize("is_killed", [False, True], ids=["alive", "killed"])
async def test_calls_are_decided_and_what_they_verify_reaches_the_database_once_in_order(
    outage: Outage,
    is_killed: bool,
    postgres: EmbeddedPostgres,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    fresh_engine: MakeEngine,
    at: At,
) -> None:
    engine = fresh_engine(CORDBOARD_DATABASE_URL=outage.dsn)
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver, settles=False)
    agent, customer = a_person(), a_person()
    made = await tenant.allocate([agent], [customer])
    verified, stranger, guesser = (tenant.call(a_person()) for _ in range(3))
    assert await verified.enter(PIN) == "connect"
    await stranger.gather()
    assert len(await tenant.all_events(EventKind.VERIFIED)) == 1, "nothing is on its way any more"

    await outage.begin()
    ended = tenant.call(agent)
    assert await within(HOP_S, ended.targets()) == [customer, verified.caller]
    assert await within(HOP_S, verified.targets()) == [agent], "the success was recorded"
    assert await within(HOP_S, stranger.select(PIN)) == "connect"
    assert await within(HOP_S, stranger.targets()) == [agent]
    for wrong in WRONG_PINS[:2]:
        await within(HOP_S, guesser.gather())
        assert await within(HOP_S, guesser.select(wrong)) == "pin"
        assert await within(HOP_S, guesser.select(wrong)) == "pin", "repeated, it is no other attempt"
    await within(HOP_S, guesser.gather())
    assert await within(HOP_S, guesser.select(WRONG_PINS[2])) == "reject"
    assert await within(HOP_S, guesser.select(PIN)) == "reject"
    for _ in range(2):
        assert (await within(HOP_S, ended.talk(customer, tenant.line))).status == 200
    order = {"transaction_id": "away", "a": {"vns": [tenant.line], "numbers": [a_person()]}, "b": {}}
    path = f"/greenpin/{made['greenpin_id']}"
    for change in (
        tenant.create(order),
        tenant.api("PUT", path, {"b": {"numbers": [a_person()]}}),
        tenant.api("DELETE", path),
        tenant.api("GET", path),
        tenant.api("PUT", "/settings", {"max_pin_attempts": 9}),
    ):
        assert is_refused(await within(CHANGE_S, change))
    await until_known_away(at(engine))
    # The end was reported twice: which is the first is for the database to say.
    assert (await readiness(at(engine)))["spool_records"] == 6
    assert await metric(at(engine), "cordboard_spool_records") == 6
    assert await metric(at(engine), "cordboard_spool_written_total") == 6
    assert await metric(at(engine), "cordboard_spool_bytes") > 0
    assert await metric(at(engine), "cordboard_database_up") == 0
    assert (await at(engine).ask("GET", "/healthz")).status == 200
    if is_killed:
        await engine.kill()

    await outage.end()
    if is_killed:
        await engine.start()
    after = Tenant(at(engine), session, receiver, tenant.credentials, tenant.virtual_numbers)
    await until_drained(at(engine))
    assert await verifications(postgres, tenant) == [
        (verified.call_sid, "success"),
        (stranger.call_sid, "success"),
        *[(guesser.call_sid, "failure")] * 3,
    ]
    ends = await rows(postgres, "SELECT call_sid, call_type FROM call_end WHERE tenant_id = $1", tenant.id)
    assert ends == [(ended.call_sid, "completed")]
    told = [
        (event.kind, event.body.get("call_sid"), event.body.get("pin")) for event in await after.all_events()
    ]
    by_subject: list[list[tuple[object, ...]]] = [
        [
            *((EventKind.VERIFIED, call.call_sid, PIN) for call in (verified, stranger)),
            (EventKind.CALL_COMPLETED, ended.call_sid, None),
        ],
        [(EventKind.VERIFICATION_FAILED, guesser.call_sid, wrong) for wrong in WRONG_PINS[:3]],
    ]
    for expected in by_subject:
        assert [event for event in told if event in expected] == expected
    assert len(told) == 6
    # The stranger has joined, as was told; and nothing of what was refused was done by half.
    await until_targets(after, agent, [customer, stranger.caller, verified.caller])
    assert await again(guesser, after).select(PIN) == "reject"
    async with asyncio.timeout(WAIT_S):
        while (answer := await after.api("GET", path)).status == 503:
            pass
    assert answer.data["b"] == made["b"]
    assert answer.data["state"] == "active"
    assert (await after.create(order)).status == 200
    assert await engine.stop() == 0
    assert await after_stop(engine) == 0


async def after_stop(engine: EngineProcess) -> int:
    """Bytes that are left in the spool."""
    return (engine.data_dir / "spool" / "records").stat().st_size


@pytest.mark.parametrize("is_killed", [False, True], ids=["alive", "killed"])
async def test_a_commit_that_hung_and_lands_after_the_spool_wrote_it_counts_once(
    is_killed: bool,
    postgres: EmbeddedPostgres,
    proxy: Proxy,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    fresh_engine: MakeEngine,
    at: At,
) -> None:
    engine = fresh_engine(CORDBOARD_DATABASE_URL=proxy.dsn)
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver, settles=False)
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    stranger, guesser = tenant.call(a_person()), tenant.call(a_person())
    for call in (stranger, guesser):
        await call.gather()
    proxy.hang_before_commit_of(stranger.call_sid.encode(), commits_itself=True)
    assert await within(HOP_S, stranger.select(PIN)) == "connect"
    assert proxy.hanging.is_set()
    assert await within(HOP_S, guesser.select(WRONG_PINS[0])) == "pin"
    await until_known_away(at(engine))
    if is_killed:
        await engine.kill()
    proxy.flow()
    if is_killed:
        await engine.start()
    after = Tenant(at(engine), session, receiver, tenant.credentials, tenant.virtual_numbers)
    await until_drained(at(engine))
    assert await verifications(postgres, tenant) == [
        (stranger.call_sid, "success"),
        (guesser.call_sid, "failure"),
    ]
    kinds = sorted(event.kind.value for event in await after.all_events())
    assert kinds == ["failed verification", "verified"]
    await until_targets(after, agent, [customer, stranger.caller])
    assert await again(stranger, after).targets() == [agent]


@pytest.mark.parametrize("lands", [True, False], ids=["landed", "lost"])
async def test_a_create_whose_commit_cannot_be_known_says_so_and_its_key_finds_out(
    lands: bool,
    postgres: EmbeddedPostgres,
    proxy: Proxy,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    fresh_engine: MakeEngine,
    at: At,
) -> None:
    engine = fresh_engine(CORDBOARD_DATABASE_URL=proxy.dsn)
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver, settles=False)
    agent = a_person()
    order = {
        "transaction_id": "ORD-unknown",
        "a": {"vns": [tenant.line], "numbers": [agent]},
        "b": {"numbers": [a_person()]},
    }
    key = {"Idempotency-Key": "commit-unknown"}
    proxy.hang_before_commit_of(b"ORD-unknown")
    answer = await within(CHANGE_S, tenant.create(order, headers=key))
    assert is_refused(answer)
    assert "cannot be known" in answer.body["message"]
    if not lands:
        await proxy.close()
    proxy.flow()
    if not lands:
        await proxy.open()
    async with asyncio.timeout(WAIT_S):
        while (found_out := await tenant.create(order, headers=key)).status == 503:
            pass
    assert found_out.status == 200
    assert ("Idempotent-Replayed" in found_out.headers) is lands
    made = await rows(postgres, "SELECT count(*) FROM allocation WHERE client_id = 'ORD-unknown'")
    assert made == [(1,)]
    # A repeated answer is older than this node's board may be.
    async with asyncio.timeout(WAIT_S):
        while await tenant.call(agent).select() != "connect":
            pass


async def test_a_full_spool_refuses_what_needs_a_record_and_connects_the_rest(
    postgres: EmbeddedPostgres,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    fresh_engine: MakeEngine,
    at: At,
) -> None:
    engine = fresh_engine(CORDBOARD_DATABASE_URL=postgres.dsn, CORDBOARD_SPOOL_BYTES_MAX="65536")
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver, GUESSING_IS_FREE, settles=False)
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    await postgres.stop()
    answered: list[str] = []
    while True:
        call = tenant.call(a_person())
        await call.gather()
        if (await call.connect(WRONG_PINS[0])).status == 503:
            break
        answered.append(call.call_sid)
    assert 50 < len(answered) < 300
    refused = tenant.call(a_person())
    await refused.gather()
    assert await refused.select(PIN) == "reject"
    assert (await refused.passthru(PIN)).status == 302
    assert await tenant.call(agent).targets() == [customer]
    faults = (await at(engine).ask("GET", "/metrics")).body
    assert 'cordboard_faults_total{fault="spool_full"} 3.0' in faults
    assert await metric(at(engine), "cordboard_spool_records") == len(answered)

    await postgres.start()
    await until_drained(at(engine))
    assert [call_sid for call_sid, _ in await verifications(postgres, tenant)] == answered
    assert await refused.select(PIN) == "connect"


async def test_a_node_that_the_database_comes_and_goes_from_leaves_the_spool_under_load(
    postgres: EmbeddedPostgres,
    proxy: Proxy,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    fresh_engine: MakeEngine,
    at: At,
) -> None:
    """A stream of calls that never ends does not keep the spool from being drained."""
    engine = fresh_engine(CORDBOARD_DATABASE_URL=proxy.dsn)
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver, GUESSING_IS_FREE, settles=False)
    await tenant.allocate([a_person()], [a_person()])
    answered: list[str] = []
    is_over = asyncio.Event()

    async def call_again_and_again() -> None:
        while not is_over.is_set():
            call = tenant.call(a_person())
            await call.gather()
            assert await within(HOP_S, call.select(WRONG_PINS[0])) == "pin"
            answered.append(call.call_sid)

    async with asyncio.TaskGroup() as callers:
        for _ in range(4):
            callers.create_task(call_again_and_again())
        for _ in range(2):
            await proxy.close()
            await asyncio.sleep(0.5)
            await proxy.open()
            await until_drained(at(engine))
        proxy.hang()
        await until_known_away(at(engine))
        proxy.flow()
        await until_drained(at(engine))
        is_over.set()
    assert await metric(at(engine), "cordboard_spool_written_total") > 10
    await until_drained(at(engine))
    recorded = [call_sid for call_sid, _ in await verifications(postgres, tenant)]
    assert sorted(map(str, recorded)) == sorted(answered)
    events = await rows(postgres, "SELECT subject FROM event WHERE tenant_id = $1", tenant.id)
    assert sorted(str(call_sid) for (call_sid,) in events) == sorted(answered)
