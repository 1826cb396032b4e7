"""GET …/explain says what a call would be answered, and leaves no trace."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer, Client

from .conftest import MakeShop
from .shop import AGENT, CUSTOMER, Shop, assert_refused

STRANGER = "+919800000099"
ASKS_B_ONLY = {"aparty_pin_enabled": "false", "max_pin_attempts": 2}


async def explain(shop: Shop, **query: str) -> Answer:
    return await shop.ask("GET", f"/explain?{urlencode({'vn': shop.lines[0], **query})}")


@pytest.fixture
async def asking_shop(make_shop: MakeShop) -> Shop:
    return await make_shop(ASKS_B_ONLY)


async def make(shop: Shop) -> dict[str, Any]:
    return await shop.make(a__vns=[shop.lines[0]], b__vns=[shop.lines[0]], b__pin="4321")


async def test_a_listed_caller_is_connected_and_the_numbers_are_masked(asking_shop: Shop) -> None:
    made = await make(asking_shop)
    told = (await explain(asking_shop, caller=AGENT)).data
    assert told["decision"] == {
        "decision": "connect",
        "matched": "listed",
        "allocation_id": made["greenpin_id"],
        "product": "greenpin",
        "side": "a",
        "targets": ["…31"],
        "caller_id": asking_shop.lines[0],
        "record": False,
    }
    assert (told["caller"], told["vn"]) == ("…21", asking_shop.lines[0])
    [candidate] = told["candidates"]
    assert (candidate["relation"], candidate["verdict"]) == ("listed", "connected")
    assert (candidate["numbers"], candidate["pins"]) == (["…21"], [])


@pytest.mark.parametrize(
    ("query", "decision", "verdict"),
    [
        ({"caller": CUSTOMER}, {"decision": "ask_pin", "attempts_left": 2}, "pin_needed"),
        ({"caller": CUSTOMER, "pin": "4321"}, {"decision": "connect", "matched": "pin"}, "connected"),
        ({"caller": CUSTOMER, "pin": "9999"}, {"decision": "ask_pin", "last_entry": "wrong"}, "pin_differs"),
        ({"caller": STRANGER}, {"decision": "ask_pin"}, "pin_needed"),
        ({}, {"decision": "ask_pin"}, "pin_needed"),
        ({"caller": "withheld", "pin": "4321"}, {"decision": "connect"}, "connected"),
        ({"caller": AGENT, "at": "9000-01-01"}, {"decision": "refuse", "reason": "no_allocation"}, "ended"),
    ],
)
async def test_what_would_be_answered_and_by_which_rule(
    asking_shop: Shop, query: dict[str, str], decision: dict[str, Any], verdict: str
) -> None:
    await make(asking_shop)
    told = (await explain(asking_shop, **query)).data
    assert told["decision"] | decision == told["decision"]
    assert [candidate["verdict"] for candidate in told["candidates"]] == [verdict]


async def test_explaining_counts_and_records_nothing(asking_shop: Shop) -> None:
    await make(asking_shop)
    before = await asking_shop.rows()
    for _ in range(20):
        told = (await explain(asking_shop, caller=STRANGER, pin="9999")).data
        assert told["throttled"] == {"caller": False, "shared": False}
    assert await asking_shop.rows() == before
    for what in ("calls", "verifications"):
        assert (await asking_shop.ask("GET", f"/{what}")).data["items"] == []


async def test_only_a_token_with_the_right_sees_numbers_and_pins(asking_shop: Shop, client: Client) -> None:
    await make(asking_shop)
    refused = await explain(asking_shop, caller=CUSTOMER, reveal="true")
    assert_refused(refused, 403, Code.NOT_PERMITTED, "reveal")
    made = await client.admin("POST", f"/tenants/{asking_shop.id}/tokens", {"reveal": True})
    path = (
        f"/v1/tenants/{asking_shop.id}/explain?{urlencode({'vn': asking_shop.lines[0], 'caller': CUSTOMER})}"
    )
    user = (asking_shop.id, made.body["api_token"])
    [masked] = (await client.ask("GET", path, user=user)).body["data"]["candidates"]
    assert (masked["numbers"], masked["pins"]) == (["…31"], ["****"])
    told = (await client.ask("GET", f"{path}&reveal=true", user=user)).body["data"]
    assert told["caller"] == CUSTOMER
    assert (told["candidates"][0]["numbers"], told["candidates"][0]["pins"]) == ([CUSTOMER], ["4321"])
    listed = await client.admin("GET", f"/tenants/{asking_shop.id}/tokens")
    assert sorted(token["reveal"] for token in listed.body["tokens"]) == [False, True]


async def test_the_operator_may_ask_for_every_tenant(asking_shop: Shop, client: Client) -> None:
    await make(asking_shop)
    query = urlencode({"vn": asking_shop.lines[0], "caller": AGENT, "reveal": "true"})
    told = await client.admin("GET", f"/tenants/{asking_shop.id}/explain?{query}")
    assert told.body["decision"]["targets"] == [CUSTOMER]
    assert (await client.admin("GET", f"/tenants/nobody/explain?{query}")).status == 404


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("", Code.MISSING, "vn"),
        ("vn=12", Code.BAD_NUMBER, "vn"),
        ("vn=08000000010&caller=x", Code.BAD_NUMBER, "caller"),
        ("vn=08000000010&pin=12a", Code.BAD, "pin"),
        ("vn=08000000010&at=tomorrow", Code.BAD, "at"),
        ("vn=08000000010&reveal=yes", Code.BAD, "reveal"),
        ("vn=08000000010&colour=red", Code.UNSUPPORTED_FILTER, "colour"),
    ],
)
async def test_a_bad_question_names_its_field(shop: Shop, query: str, code: Code, field: str) -> None:
    assert_refused(await shop.ask("GET", f"/explain?{query}"), 400, code, field)


async def test_a_vn_of_somebody_else_is_unknown(make_shop: MakeShop) -> None:
    shop, other = await make_shop(), await make_shop()
    told = (await explain(shop, vn=other.lines[0], caller=AGENT)).data
    assert told["decision"] == {"decision": "refuse", "reason": "unknown_vn", "allocation_id": None}
    assert told["candidates"] == []
