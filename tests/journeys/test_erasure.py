"""One person erased from a running engine with a data key: the others are answered as before."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace

import aiohttp
import pytest

from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineDidNotStart, EngineProcess
from cordboard.simulator.receiver import EventKind, Receiver

from .conftest import MakeEngine
from .world import PIN, Tenant, a_person, make_tenant

At = Callable[[EngineProcess], Client]

KEY, NEW_KEY = (base64.b64encode(bytes(range(n, n + 32))).decode() for n in range(2))


async def test_an_erased_person_is_a_stranger_and_nobody_else_notices(tenant: Tenant, client: Client) -> None:
    ann, ben, cat, dan = (a_person() for _ in range(4))
    made = await tenant.allocate([ann, dan], [ben])
    assert await tenant.call(cat).enter(PIN) == "connect"
    call = tenant.call(ann)
    assert await call.targets() == [ben, cat]
    await call.talk(ben, tenant.line)
    await tenant.told(EventKind.CALL_COMPLETED)
    await tenant.told(EventKind.VERIFIED)

    for person, what in ((cat, "memberships"), (ann, "allocations_updated")):
        body = {"number": person, "tenant": tenant.id}
        counted = await client.admin("POST", "/erase", {**body, "dry_run": True})
        answer = await client.admin("POST", "/erase", body)
        assert (answer.status, answer.body[what]) == (200, 1)
        assert counted.body == answer.body
        assert "Cordboard-Propagation" not in answer.headers
        again = await client.admin("POST", "/erase", body)
        assert set(again.body.values()) == {0}

    assert (await tenant.api("GET", f"/calls?caller={ann[1:]}")).body["data"]["items"] == []
    # Who calls from here on is on record again.
    assert await tenant.call(ann).select() == "pin"
    assert await tenant.call(cat).select() == "pin"
    assert await tenant.call(dan).targets() == [ben]
    shown = await tenant.api("GET", f"/greenpin/{made['greenpin_id']}")
    assert shown.body["data"]["a"]["numbers"] == [dan]
    # With the PIN she is who anybody with it would be.
    assert await tenant.call(cat).enter(PIN) == "connect"


async def test_what_cannot_be_erased_is_refused(client: Client) -> None:
    for body, status, code in (
        ({"number": "12"}, 400, 16),
        ({"number": a_person(), "tenant": "nobody"}, 404, 1),
        ({"tenant": "nobody"}, 400, 3),
    ):
        answer = await client.admin("POST", "/erase", body)
        assert (answer.status, answer.body["code"]) == (status, code)


async def test_with_a_key_a_repeated_request_gets_its_answer_and_only_with_a_key_the_engine_starts(
    fresh_engine: MakeEngine, session: aiohttp.ClientSession, receiver: Receiver, at: At
) -> None:
    engine = fresh_engine(CORDBOARD_DATA_KEY=KEY)
    await engine.start()
    before = await make_tenant(at(engine), session, receiver)
    body = {
        "transaction_id": "ORD-1",
        "a": {"vns": [before.line], "numbers": [a_person()]},
        "b": {"pin": "77"},
    }
    key = {"Idempotency-Key": "again"}
    first = await before.create(body, headers=key)
    assert (await before.create(body, headers=key)).data == first.data
    assert (await before.create({**body, "usage": "oneway"}, headers=key)).status == 409
    assert await engine.stop() == 0

    without = fresh_engine()
    with pytest.raises(EngineDidNotStart, match="CORDBOARD_DATA_KEY lacks the key"):
        await without.start()
    rotated = fresh_engine(CORDBOARD_DATA_KEY=f"{NEW_KEY},{KEY}")
    await rotated.start()
    after = replace(before, client=at(rotated))
    assert (await after.create(body, headers=key)).data == first.data
    assert await rotated.stop() == 0
