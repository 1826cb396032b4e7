"""A fault of ours connects nobody, and the platform is told in a way that it understands."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from structlog.testing import capture_logs

from cordboard.node import Node, running_node
from cordboard.settings import Settings
from cordboard.simulator.client import Client

from .shop import ADMIN_TOKEN, AGENT, CUSTOMER, ShiftedClock, Shop, open_shop


@pytest.fixture
async def own_node(own_settings: Settings, clock: ShiftedClock) -> AsyncIterator[Node]:
    async with running_node(own_settings, clock) as node:
        yield node


@pytest.fixture
async def broken_shop(own_node: Node, session: aiohttp.ClientSession, clock: ShiftedClock) -> Shop:
    """A shop with an allocation of which the board has only half the bytes."""
    shop = await open_shop(own_node, Client(session, own_node.url, ADMIN_TOKEN), clock)
    settings = {"aparty_pin_enabled": "false", "bparty_pin_enabled": "false"}
    assert (await shop.ask("PUT", "/settings", settings)).status == 200
    await shop.make()
    tables = own_node.switchboard.keeper.tables
    with tables.env.begin(write=True) as txn, txn.cursor(db=tables.allocations) as cursor:
        assert cursor.first()
        key, record = bytes(cursor.key()), bytes(cursor.value())
        txn.put(key, record[: len(record) // 2], db=tables.allocations)
    return shop


def _hop(shop: Shop, applet: str) -> str:
    query = f"key={shop.credentials.applet_key}&CallSid=c1&CallFrom={AGENT[1:]}&CallTo={shop.lines[0][1:]}"
    return f"{shop.client.base_url}/v1/tenants/{shop.id}/exotel/{applet}?{query}"


@pytest.mark.parametrize(
    ("applet", "status", "body"),
    [
        ("passthru", 302, '{"select":"reject"}'),
        ("connect", 503, "Service Unavailable"),
        ("gather", 503, "Service Unavailable"),
        ("greeting", 200, "Sorry, this call cannot be connected. Goodbye."),
    ],
)
async def test_a_board_that_cannot_be_read_refuses(
    broken_shop: Shop, applet: str, status: int, body: str
) -> None:
    with capture_logs() as logs:
        # A session of its own: the other one's connection has left the fast lane.
        async with (
            aiohttp.ClientSession() as platform,
            platform.get(_hop(broken_shop, applet), allow_redirects=False) as reply,
        ):
            assert (reply.status, await reply.text()) == (status, body)
    faults = [line for line in logs if line["event"] == "applet.fault"]
    # The fast lane tells of its own, and hands the request on.
    assert len(faults) == 2
    assert CUSTOMER[3:] not in str(logs)
    counted = broken_shop.switchboard.metrics.faults.labels("bug")._value.get()
    assert counted == 1
