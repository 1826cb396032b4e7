"""The engine as a process: it stops, is killed, starts again, and nothing that was answered is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import orjson
import pytest

from cordboard.simulator.client import Client, Credentials
from cordboard.simulator.engine import EngineDidNotStart, EngineProcess
from cordboard.simulator.platform import Applet, KeyPlace
from cordboard.simulator.receiver import WAIT_S, EventKind, Receiver
from cordboard.storage.embedded import running_server

from .conftest import MakeEngine
from .world import ADMIN_TOKEN, PIN, WRONG_PINS, Call, Tenant, a_line, a_person, make_tenant, raw_exchange

At = Callable[[EngineProcess], Client]


def an_order(transaction_id: str, line: str, *, pin: str | None = None) -> dict[str, Any]:
    """Somebody on side A, and on side B whoever has the PIN."""
    b = {"pin": pin} if pin else {"pin_length": 9}
    return {"transaction_id": transaction_id, "a": {"vns": [line], "numbers": [a_person()]}, "b": b}


def moved(tenant: Tenant, client: Client) -> Tenant:
    """The same tenant on an engine that listens elsewhere."""
    return Tenant(client, tenant.session, tenant.receiver, tenant.credentials, tenant.virtual_numbers)


def again(call: Call, tenant: Tenant) -> Call:
    """The same call, asked about at another engine."""
    return Call(tenant, call.caller, call.virtual_number, call.call_sid)


async def cli(data_dir: Path, *arguments: str) -> tuple[int | None, str, str]:
    """A command of the console script, its exit code and what it said."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("CORDBOARD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cordboard", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**inherited, "CORDBOARD_DATA_DIR": str(data_dir)},
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_started_again_on_the_same_directory_everything_is_as_it_was(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    agent, customer, member, guesser = a_person(), a_person(), a_person(), a_person()
    made = await before.allocate([agent], [customer])
    gone = await before.allocate([a_person()], [a_person()], pin="1234")
    await before.api("DELETE", f"/greenpin/{gone['greenpin_id']}")
    verified, guessing, prompted = before.call(member), before.call(guesser), before.call(a_person())
    assert await verified.enter(PIN) == "connect"
    for wrong in WRONG_PINS[:2]:
        assert await guessing.enter(wrong) == "pin"
    await prompted.gather()
    repeated = {
        "transaction_id": "ORD-key",
        "a": {"vns": [before.line], "numbers": [a_person()]},
        "b": {"pin": "77"},
    }
    key = {"Idempotency-Key": "over-a-restart"}
    first_answer = await before.create(repeated, headers=key)
    assert first_answer.status == 200
    settings = (await before.api("GET", "/settings")).data
    assert await engine.stop() == 0

    await engine.start()
    after = moved(before, at(engine))
    assert (await after.api("GET", f"/greenpin/{made['greenpin_id']}")).data == made
    assert (await after.api("GET", f"/greenpin/{gone['greenpin_id']}")).data["state"] == "vault"
    assert (await after.api("GET", "/settings")).data == settings
    assert await after.call(agent).targets() == [customer, member]
    assert await again(verified, after).targets() == [agent], "a success of the call governs its later hops"
    assert await again(guessing, after).enter(WRONG_PINS[2]) == "reject", "two attempts are used up"
    assert await again(guessing, after).enter(PIN) == "reject"
    assert (await after.create(repeated, headers=key)).data == first_answer.data
    assert await after.call(a_person()).enter(PIN) == "connect"
    failed = await after.all_events(EventKind.VERIFICATION_FAILED)
    assert [event.body["pin"] for event in failed] == list(WRONG_PINS[:3])
    assert await engine.stop() == 0


async def test_a_stopping_engine_answers_every_change_that_it_makes(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    work = Work(before)
    await asyncio.gather(*(work.allocate_until_away(worker, engine.ask_to_stop) for worker in range(8)))
    assert await engine.ended() == 0
    assert running_server(engine.postgres_dir) is None

    await engine.start()
    after = moved(before, at(engine))
    for greenpin_id in work.answered:
        assert (await after.api("GET", f"/greenpin/{greenpin_id}")).data["state"] == "active"
    assert len(work.unanswered) == 8
    for transaction_id in work.unanswered:
        assert (await after.create(an_order(transaction_id, before.line))).status == 200, "it was not made"


class Work:
    """Clients that allocate as fast as they are answered, until the engine is away."""

    def __init__(self, tenant: Tenant) -> None:
        self.answered: list[str] = []
        # What each client asked for last.
        self.unanswered: list[str] = []
        self._tenant = tenant

    async def allocate_until_away(self, worker: int, after_a_hundred: Callable[[], object]) -> None:
        """`after_a_hundred` is called in the middle of it, once for all clients together."""
        for number in count():
            transaction_id = f"ORD-{worker}-{number}"
            body = an_order(transaction_id, self._tenant.line, pin=f"{worker}{number:05d}")
            try:
                answer = await self._tenant.create(body)
            except (aiohttp.ClientError, ConnectionError):
                self.unanswered.append(transaction_id)
                return
            assert answer.status == 200
            self.answered.append(answer.data["greenpin_id"])
            if len(self.answered) == 100:
                after_a_hundred()


async def test_a_killed_engine_has_lost_nothing_that_it_answered(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    verified, guessing = before.call(a_person()), before.call(a_person())
    made = await before.allocate([agent := a_person()], [a_person()])
    assert await verified.enter(PIN) == "connect"
    for wrong in WRONG_PINS[:2]:
        assert await guessing.enter(wrong) == "pin"
    ended = before.call(agent)
    assert await ended.targets() == [made["b"]["numbers"][0], verified.caller]
    assert (await ended.talk(made["b"]["numbers"][0], before.line)).status == 200
    work = Work(before)
    await asyncio.gather(*(work.allocate_until_away(worker, engine.crash) for worker in range(8)))
    await engine.kill()

    await engine.start()
    after = moved(before, at(engine))
    for greenpin_id in work.answered:
        assert (await after.api("GET", f"/greenpin/{greenpin_id}")).data["state"] == "active"
    assert await again(verified, after).targets() == [agent]
    assert await again(guessing, after).enter(WRONG_PINS[2]) == "reject"
    assert (await again(ended, after).talk(made["b"]["numbers"][0], before.line)).status == 200
    # At least once is promised; here nothing was under way to the subscriber when the engine died.
    events = await after.all_events()
    by_call = [(event.kind, event.body.get("call_sid"), event.body.get("pin")) for event in events]
    told = {
        (EventKind.VERIFIED, verified.call_sid, PIN),
        *((EventKind.VERIFICATION_FAILED, guessing.call_sid, wrong) for wrong in WRONG_PINS[:3]),
        (EventKind.CALL_COMPLETED, ended.call_sid, None),
    }
    assert set(by_call) == told
    assert len(await verifications(engine, before.credentials)) == 4
    # Nothing is half there: what was not answered is either whole or absent.
    for transaction_id in work.unanswered:
        body = {
            "transaction_id": transaction_id,
            "a": {"vns": [before.line], "numbers": [a_person()]},
            "b": {},
        }
        assert (await after.create(body)).body["code"] in {None, 18}


async def verifications(engine: EngineProcess, credentials: Credentials) -> list[object]:
    """The verifications on record, one for each entry of a call."""
    address = running_server(engine.postgres_dir)
    assert address is not None
    connection = await asyncpg.connect(**address.connect_kwargs)
    try:
        return list(
            await connection.fetch(
                "SELECT call_sid, outcome FROM verification WHERE tenant_id = $1", credentials.tenant_id
            )
        )
    finally:
        await connection.close()


async def test_a_killed_database_is_brought_back(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver)
    agent, customer = a_person(), a_person()
    await tenant.allocate([agent], [customer])
    pid_file = engine.postgres_dir / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    assert await tenant.call(agent).targets() == [customer]
    # Asked with one key, as a client does that does not know what became of its request.
    key = {"Idempotency-Key": "over-a-crash"}
    order = an_order("ORD-after", tenant.line)
    async with asyncio.timeout(WAIT_S):
        while (answer := await tenant.create(order, headers=key)).status == 503:
            pass
    assert answer.status == 200
    assert (await tenant.api("GET", f"/greenpin/{answer.data['greenpin_id']}")).status in {200, 503}
    assert await tenant.call(agent).targets() == [customer]
    assert await engine.stop() == 0
    assert running_server(engine.postgres_dir) is None


async def test_what_expired_while_the_engine_was_down_is_told_when_it_is_back(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    agent = a_person()
    made = await before.allocate([agent], [a_person()], duration="1s", transaction_id="ORD-down")
    await engine.kill()
    await engine.start()
    after = moved(before, at(engine))
    event = await after.told(EventKind.DEALLOCATED, transaction_id="ORD-down")
    assert event.body["state"] == "vault"
    assert (await after.api("GET", f"/greenpin/{made['greenpin_id']}")).data["state"] == "vault"
    assert await after.call(agent).select() == "reject"
    assert len(await after.all_events(EventKind.DEALLOCATED)) == 1


async def test_an_event_that_its_subscriber_refused_is_told_again_also_after_a_restart(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    made = await before.allocate([a_person()], [a_person()])
    receiver.fail_next(1)
    await before.api("DELETE", f"/greenpin/{made['greenpin_id']}")
    refused = await receiver.wait_for_refused(
        lambda event: event.body.get("greenpin_id") == made["greenpin_id"]
    )
    assert await engine.stop() == 0
    await engine.start()
    told = await moved(before, at(engine)).told(EventKind.DEALLOCATED, greenpin_id=made["greenpin_id"])
    assert told.body == refused.body


async def test_a_second_engine_on_the_same_directory_refuses_to_start(
    fresh_engine: MakeEngine, at: At
) -> None:
    first, second = fresh_engine(), fresh_engine()
    await first.start()
    with pytest.raises(EngineDidNotStart, match="already running"):
        await second.start()
    assert (await at(first).ask("GET", "/healthz")).status == 200
    assert running_server(first.postgres_dir) is not None


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_an_engine_whose_port_is_taken_names_the_settings(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ("serve", "--port", str(port), "--workers", workers, "--data-dir", str(tmp_path / "data"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cordboard", *words, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
    last = said.decode().splitlines()[-1]
    assert last.startswith(f"cordboard: CORDBOARD_HOST, CORDBOARD_PORT: 127.0.0.1:{port} cannot be used")
    assert "Traceback" not in said.decode()
    assert process.returncode == 1


async def test_a_token_that_nobody_set_is_made_and_kept_in_a_closed_file(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    engine = EngineProcess(tmp_path / "data")
    async with engine:
        token_file = engine.data_dir / "admin-token"
        token = token_file.read_text().strip()
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        said = "\n".join(engine.said) + engine.log.read_text()
        assert str(token_file) in said
        assert token not in said
        client = Client(session, engine.base_url, token)
        await client.add_tenant("acme1m")
        assert (await client.ask("POST", "/admin/v1/tenants", {"id": "other"})).status == 401
        assert await engine.stop() == 0
        await engine.start()
        assert token_file.read_text().strip() == token


async def test_an_engine_says_one_line_when_it_listens_and_leaves_no_database_running(
    fresh_engine: MakeEngine,
) -> None:
    engine = fresh_engine()
    await engine.start()
    assert engine.said == []
    assert engine.base_url.startswith("http://127.0.0.1:")
    assert running_server(engine.postgres_dir) is not None
    assert await engine.stop() == 0
    assert running_server(engine.postgres_dir) is None


async def test_what_is_provisioned_at_the_command_line_answers_calls(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    line = a_line()
    code, out, err = await cli(engine.data_dir, "tenant", "add", "acme1m")
    assert code == 0, err
    made = orjson.loads(out)
    await engine.start()
    code, out, err = await cli(
        engine.data_dir, "vn", "add", "acme1m", line, "--region", "KA", "--type", "mobile"
    )
    assert code == 0, err
    code, out, err = await cli(engine.data_dir, "token", "add", "acme1m")
    assert code == 0, err
    credentials = Credentials("acme1m", orjson.loads(out)["api_token"], made["applet_key"])
    tenant = Tenant(at(engine), session, receiver, credentials, (line,))
    agent, customer = a_person(), a_person()
    # The feed reaches the engine within its poll; the answer that says so is waited for.
    async with asyncio.timeout(WAIT_S):
        while (await tenant.api("PUT", "/settings", {"aparty_pin_enabled": "false"})).status != 200:
            pass
    await tenant.allocate([agent], [customer])
    assert await tenant.call(agent).targets() == [customer]


async def test_no_log_line_shows_a_number_a_pin_or_a_key(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine(CORDBOARD_LOG_LEVEL="debug")
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver)
    agent, customer, stranger = a_person(), a_person(), a_person()
    pin, wrong = "918273645", "564738291"
    made = await tenant.allocate([agent], [customer], pin=pin)
    call = tenant.call(stranger)
    await call.enter(wrong)
    await call.enter(pin)
    await call.targets()
    await call.talk(agent, tenant.line)
    for key_in in KeyPlace:
        await call.hop(Applet.GREETING, key_in=key_in)
    await tenant.create({"transaction_id": "x", "a": {"vns": [tenant.line], "numbers": [agent, "junk"]}})
    await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")
    await tenant.all_events()
    # A request that aiohttp itself cannot read.
    key = tenant.credentials.applet_key
    unreadable = f"GET /v1/x?key={key}&CallFrom={agent}\x00 HTTP/1.1\r\n\r\n"
    await raw_exchange(engine.base_url, unreadable.encode())
    assert await engine.stop() == 0
    log = engine.log.read_text() + (engine.postgres_dir / "postgres.log").read_text()
    secrets = {
        *(number[3:] for number in (agent, customer, stranger)),
        *(pin, wrong, ADMIN_TOKEN, tenant.credentials.applet_key, tenant.credentials.api_token),
    }
    assert {secret for secret in secrets if secret in log} == set()
    for line in engine.log.read_text().splitlines():
        assert isinstance(orjson.loads(line), dict), "logs are JSON"


async def test_many_calls_at_once_are_each_answered_for_themselves(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine()
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver)
    pairs = [(a_person(), a_person()) for _ in range(40)]
    for number, (agent, customer) in enumerate(pairs):
        await tenant.allocate([agent], [customer], pin=f"30{number:02d}")

    async def one(number: int, agent: str, customer: str) -> None:
        stranger = tenant.call(a_person())
        assert await stranger.enter(f"30{number:02d}") == "connect"
        assert await stranger.targets() == [agent]
        assert (await tenant.call(agent).targets())[0] == customer

    await asyncio.gather(*(one(number, *pair) for number, pair in enumerate(pairs)))
    assert len(await tenant.all_events(EventKind.VERIFIED)) == 40


async def test_one_process_says_that_it_cannot_be_replaced_and_goes_on(
    engine: EngineProcess, client: Client
) -> None:
    os.kill(engine.pid, signal.SIGHUP)
    async with asyncio.timeout(WAIT_S):
        while "node.not_replaced" not in engine.log.read_text():
            assert (await client.ask("GET", "/healthz")).status == 200
    assert (await client.ask("GET", "/readyz")).status == 200
