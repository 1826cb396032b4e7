"""A real Prometheus over a real engine under calls: every panel and rule has data; alerts fire, and stop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.platform import Callee, Shape, SimulatedCaller
from cordboard.simulator.receiver import EventKind, Receiver
from cordboard.simulator.wire import LegEnd
from cordboard.storage.embedded import EmbeddedPostgres
from tests.grafana import (
    ALERTS,
    GRAFANA,
    RULES,
    Expression,
    measured_by,
    of_alerts,
    of_panels,
    of_recording_rules,
)
from tests.journeys.conftest import ENVIRONMENT
from tests.journeys.outages import a_database
from tests.journeys.world import ADMIN_TOKEN, PIN, WRONG_PINS, Tenant, a_person, make_tenant

from .prometheus import Prometheus, program

pytestmark = pytest.mark.ops

EXPRESSIONS = [
    *of_panels(),
    *of_recording_rules(),
    *(measured for alert in of_alerts() for measured in measured_by(alert)),
]
# A minute's worth of waiting becomes two seconds.
LIMITS = {"CordboardWebhooksLate": "2"}
VN_FAILURES_MAX = 5


@dataclass(frozen=True)
class World:
    """An engine, what surrounds it, and a Prometheus that has seen it from its first call on."""

    postgres: EmbeddedPostgres
    tenant: Tenant
    receiver: Receiver
    prometheus: Prometheus


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    directory = tmp_path_factory.mktemp("ops")
    async with (
        a_database(directory / "elsewhere") as postgres,
        EngineProcess(directory / "data", {**ENVIRONMENT, "CORDBOARD_DATABASE_URL": postgres.dsn}) as engine,
        Receiver() as receiver,
        aiohttp.ClientSession() as session,
        Prometheus(directory / "prometheus", engine.base_url.removeprefix("http://"), LIMITS) as prometheus,
    ):
        client = Client(session, engine.base_url, ADMIN_TOKEN)
        settings = {"pin_failures_per_vn": f"{VN_FAILURES_MAX}/1h", "max_pin_attempts": "3"}
        tenant = await make_tenant(client, session, receiver, settings)

        async def is_scraped() -> bool:
            return bool(await prometheus.values("cordboard_decisions_total"))

        # Rates count from the second scrape on.
        await prometheus.until(is_scraped)
        world = World(postgres, tenant, receiver, prometheus)
        await calls(world)
        yield world


async def calls(world: World) -> None:
    """One of each kind, in both shapes of a flow."""
    tenant = world.tenant
    courier, customer, stranger = a_person(), a_person(), a_person()
    made = await tenant.allocate([courier], [customer])
    for shape in Shape:
        await tenant.place(SimulatedCaller(courier, tenant.line), shape, greets_first=True)
        missed = (Callee(LegEnd.NO_ANSWER),)
        await tenant.place(SimulatedCaller(courier, tenant.line, callees=missed), shape)
        await tenant.place(SimulatedCaller(stranger, tenant.line, keys=(WRONG_PINS[0], PIN)), shape)
        await tenant.place(SimulatedCaller(a_person(), tenant.line), shape)
    assert (await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")).status == 200
    await tenant.told(EventKind.DEALLOCATED)
    await tenant.allocate([courier], [customer])


@asynccontextmanager
async def database_stopped(postgres: EmbeddedPostgres) -> AsyncIterator[None]:
    await postgres.stop()
    try:
        yield
    finally:
        await postgres.start()


def promtool(*arguments: str | Path) -> list[str]:
    return [program("promtool"), *map(str, arguments)]


@pytest.mark.parametrize(
    "command",
    [
        promtool("check", "config", GRAFANA / "prometheus.yml"),
        promtool("check", "rules", "--lint=all", "--lint-fatal", RULES, ALERTS),
        promtool("test", "rules", *sorted((GRAFANA / "tests").glob("*.yml"))),
    ],
    ids=["configuration", "rules", "faults"],
)
async def test_promtool_finds_nothing_wrong(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: expression.where)
async def test_every_panel_and_rule_has_data(world: World, expression: Expression) -> None:
    async def has_data() -> bool:
        return not all(map(math.isnan, await world.prometheus.values(expression.text)))

    await world.prometheus.until(has_data)


async def test_a_database_that_is_away_is_alerted_on_and_so_is_its_spool(world: World) -> None:
    assert "CordboardDatabaseAway" not in await world.prometheus.firing()
    async with database_stopped(world.postgres):
        alert = await world.prometheus.until_firing("CordboardDatabaseAway")
        assert alert["annotations"]["description"].startswith("127.0.0.1:")
        assert await world.tenant.call(a_person()).enter(PIN) == "connect"
        await world.prometheus.until_firing("CordboardSpoolGrowing")
    await world.prometheus.until_quiet("CordboardDatabaseAway")
    await world.prometheus.until_quiet("CordboardSpoolGrowing")


async def test_a_dead_subscriber_is_alerted_on(world: World) -> None:
    await world.tenant.all_events()
    # Tried again after 1 s and after 5 s.
    world.receiver.fail_next(2)
    made = await world.tenant.allocate([a_person()], [a_person()], pin="0000", transaction_id="late")
    assert (await world.tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")).status == 200
    await world.prometheus.until_firing("CordboardWebhooksLate")
    await world.tenant.told(EventKind.DEALLOCATED, transaction_id="late")
    await world.prometheus.until_quiet("CordboardWebhooksLate")


async def test_a_guesser_is_alerted_on_until_the_window_is_lifted(world: World) -> None:
    tenant = world.tenant
    for _ in range(VN_FAILURES_MAX):
        await tenant.call(a_person()).enter(WRONG_PINS[0])
    alert = await world.prometheus.until_firing("CordboardPinsAreGuessed")
    assert alert["labels"]["scope"] == "vn"
    assert (await tenant.client.admin("DELETE", f"/tenants/{tenant.id}/throttles?all=true")).status == 200
    await world.prometheus.until_quiet("CordboardPinsAreGuessed")
