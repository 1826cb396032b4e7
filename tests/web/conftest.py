"""A real node in this process, over loopback. Every test has a tenant of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from cordboard.node import Node, running_node
from cordboard.settings import Settings
from cordboard.simulator.client import Client
from cordboard.simulator.receiver import Receiver
from cordboard.storage.embedded import DATABASE, running_server

from .shop import ADMIN_TOKEN, BULK_ITEMS_MAX, ShiftedClock, Shop, open_shop

MakeShop = Callable[..., Awaitable[Shop]]


@pytest.fixture(scope="session")
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web") / "data"


@pytest.fixture(scope="session")
async def node(data_dir: Path, clock: ShiftedClock) -> AsyncIterator[Node]:
    """The node that most tests share."""
    settings = Settings(
        data_dir=data_dir,
        board_dir=data_dir / "board",
        admin_token=SecretStr(ADMIN_TOKEN),
        port=0,
        # Where the receivers of these tests listen.
        callback_allow=("127.0.0.0/8", "::1"),
        bulk_items_max=BULK_ITEMS_MAX,
    )
    async with running_node(settings, clock) as node:
        yield node


@pytest.fixture
async def own_settings(node: Node, tmp_path: Path) -> Settings:
    """For a node that a test may break: with a database of its own, on the server of the shared node."""
    server = running_server(node.switchboard.settings.postgres_dir)
    assert server is not None
    name = f"own_{tmp_path.name}"
    connection = await asyncpg.connect(server.dsn)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    return Settings(
        data_dir=tmp_path / "data",
        board_dir=tmp_path / "board",
        database_url=SecretStr(server.dsn.replace(f"/{DATABASE}?", f"/{name}?")),
        admin_token=SecretStr(ADMIN_TOKEN),
        port=0,
        # Where the receivers of these tests listen.
        callback_allow=("127.0.0.0/8", "::1"),
    )


@pytest.fixture(scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture(scope="session")
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def client(node: Node, session: aiohttp.ClientSession) -> Client:
    return Client(session, node.url, ADMIN_TOKEN)


@pytest.fixture
def make_shop(node: Node, client: Client, clock: ShiftedClock) -> MakeShop:
    async def make(settings: dict[str, Any] | None = None, lines: list[str] | None = None) -> Shop:
        return await open_shop(node, client, clock, settings, lines)

    return make


@pytest.fixture
async def shop(make_shop: MakeShop) -> Shop:
    return await make_shop()
