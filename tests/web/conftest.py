"""A real node in this process: embedded PostgreSQL, real HTTP over loopback. Every test has a tenant of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from cordboard.node import Node, running_node
from cordboard.settings import Settings
from cordboard.simulator.client import Client

from .shop import ADMIN_TOKEN, BULK_ITEMS_MAX, ShiftedClock, Shop, open_shop

MakeShop = Callable[..., Awaitable[Shop]]


@pytest.fixture(scope="session")
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture(scope="session")
async def node(tmp_path_factory: pytest.TempPathFactory, clock: ShiftedClock) -> AsyncIterator[Node]:
    directory = tmp_path_factory.mktemp("web")
    settings = Settings(
        data_dir=directory / "data",
        board_dir=directory / "board",
        admin_token=ADMIN_TOKEN,
        port=0,
        bulk_items_max=BULK_ITEMS_MAX,
    )
    async with running_node(settings, clock) as node:
        yield node


@pytest.fixture(scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


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
