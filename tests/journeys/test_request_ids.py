"""One id for a request, wherever it left a trace: answer, log, records, events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import aiohttp
import orjson
import pytest

from cordboard.simulator.client import Answer, Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.platform import Applet
from cordboard.simulator.receiver import EventKind, Receiver
from cordboard.web.exotel import STRANGERS_TOLD_PER_MINUTE
from cordboard.web.request_ids import given_request_id, trusts_of

from .conftest import MakeEngine
from .test_fast_lane import by_aiohttp, connected, plain
from .world import PIN, Tenant, a_person, make_tenant, national

GIVEN = "4bf92f3577b34da6a3ce929d0e0e4736"


def id_of(answer: Answer) -> str:
    # HTTP does not care how the name is written, and the client writes it its own way.
    return {name.lower(): value for name, value in answer.headers.items()}["x-request-id"]


def hops(engine: EngineProcess) -> list[Mapping[str, Any]]:
    lines = map(orjson.loads, engine.log.read_text().splitlines())
    return [line for line in lines if line["event"] == "hop"]


async def test_a_request_is_called_the_same_in_answers_the_log_records_and_events(
    fresh_engine: MakeEngine,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    at: Callable[[EngineProcess], Client],
) -> None:
    engine = fresh_engine()
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver)
    agent, stranger = a_person(), a_person()
    made = await tenant.allocate([agent], [a_person()])
    listed = tenant.call(agent)
    connected_by = id_of(await listed.passthru())
    call = tenant.call(stranger)
    gathered_by = id_of(await call.gather())
    wrong_by = id_of(await call.passthru("99999"))
    await call.gather()
    right_by = id_of(await call.passthru(PIN))
    refused_by = id_of(await tenant.fetch(Applet.GREETING, (("CallTo", national(tenant.line)),)))
    ended_by = id_of(await call.talk(agent, tenant.line))
    deleted = await tenant.api("DELETE", f"/greenpin/{made['greenpin_id']}")
    assert id_of(deleted) == deleted.body["request_id"]

    events = {event.kind: event.headers["cordboard-request-id"] for event in await tenant.all_events()}
    assert events == {
        EventKind.VERIFICATION_FAILED: wrong_by,
        EventKind.VERIFIED: right_by,
        EventKind.CALL_COMPLETED: ended_by,
        EventKind.DEALLOCATED: id_of(deleted),
    }
    recorded = {event["request_id"] for event in (await tenant.api("GET", "/events")).data["items"]}
    assert recorded == set(events.values())
    verifications = (await tenant.api("GET", "/verifications")).data["items"]
    assert [entry["request_id"] for entry in verifications] == [right_by, wrong_by]
    [shown] = (await tenant.api("GET", f"/calls?call_sid={call.call_sid}")).data["items"]
    assert (shown["request_id"], shown["end"]["request_id"]) == (right_by, ended_by)
    [shown] = (await tenant.api("GET", f"/calls?call_sid={listed.call_sid}")).data["items"]
    assert shown["request_id"] == connected_by

    assert await engine.stop() == 0
    logged = {hop["request_id"]: (hop["decision"], hop["reason"]) for hop in hops(engine)}
    assert {
        id: logged[id] for id in (connected_by, gathered_by, wrong_by, right_by, refused_by, ended_by)
    } == {
        connected_by: ("connect", "listed"),
        gathered_by: ("ask_pin", "none"),
        wrong_by: ("ask_pin", "wrong"),
        right_by: ("connect", "pin"),
        refused_by: ("refuse", "no_input"),
        ended_by: ("ended", "completed"),
    }
    assert len(logged) == 7
    assert {hop["tenant"] for hop in hops(engine)} == {tenant.id}
    assert all(0 < hop["ms"] < 60_000 for hop in hops(engine))


async def said_by(tenant: Tenant, request: bytes) -> str:
    """The id on the answer, in whichever lane."""
    async with connected(tenant) as replies:
        replies.writer.write(request)
        headers = await replies.next_headers()
        return headers["x-request-id"]


async def test_the_id_of_a_trusted_proxy_is_taken_over_in_both_lanes(
    fresh_engine: MakeEngine,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    at: Callable[[EngineProcess], Client],
) -> None:
    engine = fresh_engine(CORDBOARD_TRUSTED_PROXIES="10.0.0.0/8, 127.0.0.1")
    await engine.start()
    tenant = await make_tenant(at(engine), session, receiver)
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    for header, is_taken in ((GIVEN, True), ("+919800000021", False), ("no blanks are in an id", False)):
        hop = plain(tenant, f"x-request-ID: {header}\r\n", CallFrom=national(agent))
        for request in (hop, by_aiohttp(hop)):
            assert (await said_by(tenant, request) == header) is is_taken
    answer = await tenant.api("GET", "/settings", headers={"X-Request-Id": GIVEN})
    assert (id_of(answer), answer.body["request_id"]) == (GIVEN, GIVEN)
    wrong_key = plain(tenant, f"X-Request-Id: {GIVEN}\r\n", key="wrong")
    assert await said_by(tenant, wrong_key) == GIVEN
    async with connected(tenant) as replies:
        for _ in range(2 * STRANGERS_TOLD_PER_MINUTE):
            assert (await replies.ask(wrong_key))[0] == 401
    assert await engine.stop() == 0
    told = [(hop["decision"], hop["request_id"]) for hop in hops(engine)]
    assert told.count(("connect", GIVEN)) == 2
    # A slow machine may need two minutes for them, and tells of all but the last.
    lines = told.count(("unauthorized", GIVEN))
    assert STRANGERS_TOLD_PER_MINUTE <= lines <= 2 * STRANGERS_TOLD_PER_MINUTE


async def test_nobody_else_says_what_a_request_is_called(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    hop = plain(tenant, f"X-Request-Id: {GIVEN}\r\n", CallFrom=national(agent))
    ids = [await said_by(tenant, request) for request in (hop, hop, by_aiohttp(hop))]
    ids.append(id_of(await tenant.api("GET", "/settings", headers={"X-Request-Id": GIVEN})))
    ids.append(id_of(await tenant.client.ask("GET", "/healthz")))
    ids.append(id_of(await tenant.client.ask("GET", "/v1/tenants/nobody/nothing")))
    ids.append(id_of(await tenant.client.admin("GET", "/tenants")))
    assert len(set(ids) - {GIVEN}) == len(ids)
    assert all(len(id) == 32 and int(id, 16) for id in ids)


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        (GIVEN, True),
        ("Root=1-67891233-abcdef01", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("x" * 15, False),
        ("919800000000021", False),
        ("a id with blanks in", False),
        ("a-line-break-in-it\n", False),
        ("", False),
    ],
)
def test_what_an_id_may_be(text: str, is_id: bool) -> None:
    assert (given_request_id(text) == text) is is_id


def test_a_proxy_is_known_by_its_address_in_either_version() -> None:
    trusts = trusts_of(("10.1.0.0/16", "::1"))
    known = {
        address for address in ("10.1.2.3", "::ffff:10.1.2.3", "::1", "10.2.0.1", "::2") if trusts(address)
    }
    assert known == {"10.1.2.3", "::ffff:10.1.2.3", "::1"}
    assert not trusts_of(())("127.0.0.1")
