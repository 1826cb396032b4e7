"""What is measured is what the engine would have made, and the peers are asked for the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from benchmarks.beside import FASTAPI_REDIS, MODULES, running_redis
from benchmarks.calls import AppletRequests, Hop
from benchmarks.cores import Cores
from benchmarks.decide import decide
from benchmarks.peers.fastapi_redis import fill
from benchmarks.peers.lookup import Wiring
from benchmarks.servers import served
from benchmarks.world import LISTED_A, LISTED_B, STRANGERS, TENANT
from cordboard.storage.embedded import EmbeddedPostgres
from cordboard.switchboard.loading import load_board
from cordboard.tables.board import BoardTables
from tests.benchmarks.conftest import ALLOCATIONS, Filled, keys_and_indexes

KEY = "applet-key"
CASES = ["the timer itself", "listed", "member", "PIN right", "PIN wrong", "stranger", "unknown VN"]


async def test_the_rules_stand_again_when_the_rows_are_in(filled: Filled) -> None:
    assert await keys_and_indexes(filled.connection) == filled.keys_before
    assert await filled.connection.fetchval("SELECT bool_and(convalidated) FROM pg_constraint")
    assert await filled.connection.fetchval("SELECT count(*) FROM allocation") == ALLOCATIONS
    assert filled.row_bytes > ALLOCATIONS * 1_000


async def test_every_case_is_decided_as_it_is_called(filled: Filled, board_directory: Path) -> None:
    """`decide` itself looks at each decision."""
    tables = BoardTables(board_directory)
    try:
        await load_board(filled.database, tables)
        figures = list(decide(tables, filled.world, 2 * ALLOCATIONS))
        assert tables.allocation_count() == ALLOCATIONS
    finally:
        tables.close()
    assert [figure.what for figure in figures] == CASES
    assert all(figure.latency is not None for figure in figures)


@pytest.fixture(scope="module")
async def peers(filled: Filled, postgres: EmbeddedPostgres) -> AsyncIterator[dict[str, str]]:
    """Name → base URL of each that can be started here."""
    cores = Cores()
    cores.shared = True
    host = quote(str(postgres.connect_kwargs["host"]), safe="/")
    password = quote(postgres.connect_kwargs["password"], safe="")
    dsn = f"postgresql://{postgres.connect_kwargs['user']}:{password}@/{filled.name}?host={host}"
    async with AsyncExitStack() as stack:
        redis_socket = await stack.enter_async_context(running_redis(cores))
        if redis_socket:
            await fill(filled.connection, redis_socket)
        environment = Wiring(dsn, TENANT, KEY, redis_socket).environment()
        urls: dict[str, str] = {}
        for name, module in MODULES.items():
            if name != FASTAPI_REDIS or redis_socket:
                server = await stack.enter_async_context(served(module, cores, environment))
                urls[name] = f"http://127.0.0.1:{server.address[1]}"
        yield urls


def path_of(applet: str, hop: Hop, key: str = KEY) -> str:
    made = AppletRequests(TENANT, key, applet)
    [request] = made.requests([b"c" * 32], [made.tail(hop)])
    return request.split(b" ")[1].decode()


async def test_every_peer_answers_a_call_as_the_engine_does(filled: Filled, peers: dict[str, str]) -> None:
    world = filled.world
    index = 41
    vn_a, vn_b = world.virtual_number(index), world.virtual_number(index + 1)
    asked = {
        "listed": Hop(LISTED_A + 2 * index, vn_a),
        "listed, who needs a PIN": Hop(LISTED_B + 2 * index, vn_b),
        "stranger": Hop(STRANGERS, vn_b),
        "right PIN": Hop(STRANGERS, vn_b, world.b_pin(index)),
        "wrong PIN": Hop(STRANGERS, vn_b, "999999"),
        "unknown VN": Hop(LISTED_A + 2 * index, world.unknown_virtual_number(index)),
    }
    expected = {
        "listed": (200, "connect"),
        "listed, who needs a PIN": (302, "pin"),
        "stranger": (302, "pin"),
        "right PIN": (200, "connect"),
        "wrong PIN": (302, "pin"),
        "unknown VN": (302, "reject"),
    }
    async with aiohttp.ClientSession() as session:
        for name, url in peers.items():
            if name == "bare aiohttp":
                continue
            for case, hop in asked.items():
                passthru = f"{url}{path_of('passthru', hop)}"
                async with session.get(passthru, allow_redirects=False) as reply:
                    said = (reply.status, (await reply.json(content_type=None))["select"])
                    assert said == expected[case], (name, case)
            async with session.get(f"{url}{path_of('connect', asked['listed'])}") as reply:
                dialling = await reply.json()
                assert dialling["destination"]["numbers"] == [
                    f"+91{LISTED_B + 2 * index}",
                    f"+91{LISTED_B + 2 * index + 1}",
                ], name
                assert dialling["outgoing_phone_number"] == f"+91{vn_b}", name
            async with session.get(f"{url}{path_of('gather', asked['stranger'])}") as reply:
                assert (await reply.json())["max_input_digits"] == 6, name
            async with session.get(f"{url}{path_of('passthru', asked['listed'], key='other')}") as reply:
                assert reply.status == 401, name


async def test_the_bare_handler_says_as_much_as_the_engine(peers: dict[str, str]) -> None:
    hop = Hop(LISTED_A, 80_0000_0000)
    async with aiohttp.ClientSession() as session:
        sizes: dict[str, int] = {}
        for applet in ("passthru", "connect", "gather"):
            async with session.get(f"{peers['bare aiohttp']}{path_of(applet, hop)}") as reply:
                assert reply.status == 200
                sizes[applet] = len(await reply.read())
    # A VN and two numbers; two sentences; a word.
    assert sizes["passthru"] == len('{"select":"connect"}')
    assert sizes["connect"] > 100
    assert sizes["gather"] > 150
