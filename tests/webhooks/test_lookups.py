"""Names looked up in threads of their own: one at a time for each host, and nobody waits for another's."""

from __future__ import annotations

import asyncio
import socket
import sys
from ipaddress import ip_address

import pytest

from cordboard.webhooks.lookups import LOOKUPS_MAX, Lookups, addresses_of

from .outbox import GIVE_UP_S, LOOPBACK, a_nameserver


async def test_whoever_wants_to_know_waits_for_the_same_lookup_and_may_give_up() -> None:
    async with a_nameserver() as nameserver, asyncio.TaskGroup() as tasks:
        lookups = Lookups(nameserver)
        first, second = (tasks.create_task(lookups.resolve("hangs.example", port)) for port in (80, 443))
        await nameserver.until(1)
        first.cancel()
        await asyncio.wait([first])
        third = tasks.create_task(lookups.resolve("hangs.example", 8080))
        nameserver.let_go.set()
        assert [found["port"] for found in (*await second, *await third)] == [443, 8080]
        assert {found["host"] for found in (*await second, *await third)} == {LOOPBACK.host}
        assert nameserver.asked == ["hangs.example"]
        await lookups.resolve("hangs.example")
        assert nameserver.asked == ["hangs.example"] * 2, "what was true then is asked anew"


async def test_everybody_hears_that_there_is_no_such_name() -> None:
    async with a_nameserver() as nameserver:
        lookups = Lookups(nameserver)
        nameserver.answer = socket.gaierror(socket.EAI_NONAME, "no such name")
        asking = asyncio.gather(*(lookups.resolve("hangs.example") for _ in "ab"), return_exceptions=True)
        await nameserver.until(1)
        nameserver.let_go.set()
        assert [type(heard) for heard in await asking] == [socket.gaierror] * 2
        nameserver.answer = LOOPBACK
        assert await lookups.resolve("hangs.example")


async def test_so_many_hosts_may_hang_and_the_next_waits_for_one_of_them() -> None:
    async with a_nameserver() as nameserver, asyncio.TaskGroup() as tasks:
        lookups = Lookups(nameserver)
        hosts = [f"hangs{place}.example" for place in range(LOOKUPS_MAX)]
        hanging = [tasks.create_task(lookups.resolve(host)) for host in hosts]
        await nameserver.until(LOOKUPS_MAX)
        late = tasks.create_task(lookups.resolve("late.example"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await lookups.resolve("impatient.example")
        assert len(nameserver.asked) == LOOKUPS_MAX
        nameserver.let_go.set()
        for task in (*hanging, late):
            assert (await task)[0]["host"] == LOOPBACK.host
        assert nameserver.asked[LOOKUPS_MAX:] == ["late.example"]


def test_the_resolver_of_the_system_is_asked() -> None:
    found = addresses_of("localhost", socket.AF_UNSPEC)
    assert found
    assert all(ip_address(address.host).is_loopback for address in found)
    with pytest.raises(socket.gaierror):
        addresses_of("127.0.0.1", socket.AF_INET6)
    with pytest.raises(UnicodeError):
        addresses_of("." * 300, socket.AF_UNSPEC)


async def test_a_lookup_that_hangs_does_not_keep_the_engine_from_ending() -> None:
    program = """
import asyncio, threading
from cordboard.webhooks.lookups import Lookups

async def main():
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(host, family):
        loop.call_soon_threadsafe(begun.set)
        threading.Event().wait()

    waiting = asyncio.ensure_future(Lookups(hang).resolve("hangs.example"))
    await begun.wait()
    waiting.cancel()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        async with asyncio.timeout(GIVE_UP_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
