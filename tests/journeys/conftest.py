"""One engine for most journeys, and fresh ones for those that stop, kill or restart it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.receiver import Receiver

from .world import ADMIN_TOKEN, Tenant, make_tenant

ENVIRONMENT = {"CORDBOARD_ADMIN_TOKEN": ADMIN_TOKEN, "CORDBOARD_CALLBACK_ALLOW": "127.0.0.1"}

MakeTenant = Callable[..., Awaitable[Tenant]]
MakeEngine = Callable[..., EngineProcess]


@pytest.fixture(scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineProcess]:
    """The engine that most journeys share."""
    async with EngineProcess(tmp_path_factory.mktemp("engine") / "data", ENVIRONMENT) as engine:
        yield engine


@pytest.fixture(scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def client(engine: EngineProcess, session: aiohttp.ClientSession) -> Client:
    return Client(session, engine.base_url, ADMIN_TOKEN)


@pytest.fixture
def new_tenant(client: Client, session: aiohttp.ClientSession, receiver: Receiver) -> MakeTenant:
    """Makes a tenant with settings and lines of one's own."""

    async def make(settings: Mapping[str, Any] | None = None, lines: Sequence[str] | None = None) -> Tenant:
        return await make_tenant(client, session, receiver, settings, lines)

    return make


@pytest.fixture
async def tenant(new_tenant: MakeTenant) -> Tenant:
    return await new_tenant()


@pytest.fixture
async def fresh_engine(tmp_path: Path) -> AsyncIterator[MakeEngine]:
    """Makes engines over the same directory, one after the other; none of them outlives the test."""
    async with AsyncExitStack() as engines:

        def make(data_dir: Path = tmp_path / "data", **environment: str) -> EngineProcess:
            engine = EngineProcess(data_dir, {**ENVIRONMENT, **environment})
            engines.push_async_callback(engine.clear_away)
            return engine

        yield make


@pytest.fixture
def at(session: aiohttp.ClientSession) -> Callable[[EngineProcess], Client]:
    """A client of an engine that runs."""
    return lambda engine: Client(session, engine.base_url, ADMIN_TOKEN)
