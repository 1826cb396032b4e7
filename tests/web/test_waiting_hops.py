"""A hop that waits for what is on record of its call is answered, even if the engine stops meanwhile."""

from __future__ import annotations

import asyncio

import aiohttp

from cordboard.node import running_node
from cordboard.settings import Settings
from cordboard.simulator.client import Client

from .shop import ADMIN_TOKEN, AGENT, ShiftedClock, open_shop


async def test_the_engine_stops_behind_the_replies_that_it_owes(
    own_settings: Settings, clock: ShiftedClock, session: aiohttp.ClientSession
) -> None:
    async with running_node(own_settings, clock) as node:
        shop = await open_shop(node, Client(session, node.url, ADMIN_TOKEN), clock)
        await shop.make()
        query = (
            f"key={shop.credentials.applet_key}&CallSid=c1&CallFrom={AGENT[1:]}&CallTo={shop.lines[0][1:]}"
        )
        host, port = node.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        records = await node.switchboard.database.dedicated_connection()
        lock = records.transaction()
        await lock.start()
        await records.execute("LOCK TABLE verification IN ACCESS EXCLUSIVE MODE")
        writer.write(
            f"GET /v1/tenants/{shop.id}/exotel/passthru?{query} HTTP/1.1\r\nHost: cordboard\r\n\r\n".encode()
        )
        await writer.drain()
        # Behind the hop: this reply says that the engine has read it.
        async with session.get(f"{node.url}/healthz") as health:
            assert health.status == 200
    replies = await reader.read()
    await records.close()
    writer.close()
    assert replies.startswith(b"HTTP/1.1 302 ")
    assert replies.endswith(b'{"select":"pin"}')
