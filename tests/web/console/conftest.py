"""Somebody who is logged in at the console of the node that the tests of the web share, and a tenant."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest

from cordboard.node import Node
from tests.web.conftest import MakeShop
from tests.web.test_throttles import STRANGER, select

from .browsing import Person
from .world import KEY, MEMBER, NOWHERE, PIN, World


@pytest.fixture
async def stranger(node: Node) -> AsyncIterator[Person]:
    """Who is not logged in."""
    # The node is at an address, whose cookies are kept only if one asks for it.
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield Person(session, node.url)


@pytest.fixture
async def person(stranger: Person) -> Person:
    assert (await stranger.log_in()).status == 303
    return stranger


@pytest.fixture
async def world(make_shop: MakeShop) -> World:
    shop = await make_shop({"callback_time_format": "plain"})
    made = await shop.make(b__pin=PIN)
    ended = await shop.make("ended", a__vns=[shop.lines[2]], b__vns=[shop.lines[3]])
    await shop.ask("PUT", "/settings", {KEY: NOWHERE})
    await shop.delete(ended["greenpin_id"])
    assert await select(shop, STRANGER, "wrong", "1111") == "pin"
    assert await select(shop, MEMBER, "right", PIN) == "connect"
    [event] = (await shop.ask("GET", "/events")).data["items"][:1]
    root = f"/console/t/{shop.id}"
    return World(shop, root, f"{root}/allocations/{made['greenpin_id']}", f"{root}/events/{event['id']}")
