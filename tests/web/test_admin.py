"""/admin/v1: tenants, virtual numbers, credentials; and the applet keys that tenants change themselves."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from cordboard.routing.allocate import Code
from cordboard.simulator.client import Client, Credentials

from .conftest import MakeShop
from .shop import ADMIN_TOKEN, OTHER_CUSTOMER, UNKNOWN_ID, Shop, assert_refused, basic


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {ADMIN_TOKEN}x",
        f"Basic {ADMIN_TOKEN}",
        basic("admin", ADMIN_TOKEN),
        "Bearer Grüße",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/tenants"), ("POST", "/tenants"), ("DELETE", "/tenants/x"), ("POST", "/tenants/x/tokens")],
)
async def test_only_the_admin_token_opens(
    client: Client, authorization: str | None, method: str, path: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await client.ask(method, f"/admin/v1{path}", headers=headers)
    assert_refused(answer, 401, Code.UNAUTHENTICATED, "Authorization")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


# ── tenants ──────────────────────────────────────────────────────────────────


async def test_a_tenant_is_made_shown_and_deleted(client: Client) -> None:
    made = await client.admin("POST", "/tenants", {"id": "made-1", "settings": {"timezone": "UTC"}})
    assert (made.status, list(made.body)) == (201, ["id", "api_token", "applet_key", "webhook_secret"])
    assert made.body["id"] == "made-1"
    assert made.body["api_token"] != made.body["applet_key"]
    shown = await client.admin("GET", "/tenants/made-1")
    assert (shown.status, shown.body["id"], shown.body["settings"]) == (200, "made-1", {"timezone": "UTC"})
    assert datetime.fromisoformat(shown.body["created_at"]).utcoffset() is not None
    listed = (await client.admin("GET", "/tenants")).body["tenants"]
    assert "made-1" in [tenant["id"] for tenant in listed]
    credentials = Credentials("made-1", made.body["api_token"], "")
    assert (await client.api(credentials, "GET", "/settings")).status == 200
    deleted = await client.admin("DELETE", "/tenants/made-1")
    assert (deleted.status, deleted.body) == (200, {"id": "made-1"})
    assert (await client.api(credentials, "GET", "/settings")).status == 401
    for method in ("GET", "DELETE"):
        assert_refused(await client.admin(method, "/tenants/made-1"), 404, Code.NOT_FOUND)
    again = await client.admin("POST", "/tenants", {"id": "made-1"})
    assert again.status == 201
    assert again.body["api_token"] != made.body["api_token"]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({}, 400, Code.MISSING, "id"),
        ({"settings": {}}, 400, Code.MISSING, "id"),
        ({"id": 5}, 400, Code.BAD, "id"),
        ({"id": ""}, 400, Code.BAD, "id"),
        ({"id": "Acme"}, 400, Code.BAD, "id"),
        ({"id": "-acme"}, 400, Code.BAD, "id"),
        ({"id": "ac me"}, 400, Code.BAD, "id"),
        ({"id": "acme\n"}, 400, Code.BAD, "id"),
        ({"id": "x" * 64}, 400, Code.BAD, "id"),
        ({"id": "bad-1", "settings": 5}, 400, Code.BAD, "settings"),
        ({"id": "bad-1", "settings": {"max_pin_attempts": 0}}, 400, Code.BAD, "max_pin_attempts"),
    ],
)
async def test_a_bad_tenant_is_not_made(
    client: Client, body: Any, status: int, code: Code, field: str
) -> None:
    before = (await client.admin("GET", "/tenants")).body
    assert_refused(await client.admin("POST", "/tenants", body), status, code, field)
    assert (await client.admin("GET", "/tenants")).body == before


async def test_ids_of_1_to_63_characters_are_taken(client: Client) -> None:
    for id in ("0", "a_-9", "x" * 63):
        assert (await client.admin("POST", "/tenants", {"id": id})).status == 201


async def test_an_id_is_one_tenants(shop: Shop) -> None:
    before = await shop.rows()
    answer = await shop.client.admin("POST", "/tenants", {"id": shop.id})
    assert_refused(answer, 409, Code.CLIENT_ID_TAKEN, "id")
    assert await shop.rows() == before
    at_once = await asyncio.gather(
        *(shop.client.admin("POST", "/tenants", {"id": f"{shop.id}-twin"}) for _ in range(5))
    )
    assert sorted(answer.status for answer in at_once) == [201] + [409] * 4


@pytest.mark.parametrize("tenant_id", ["nobody", "NOBODY", "%00", "x" * 500])
async def test_a_tenant_that_is_not_there_is_not_found(client: Client, tenant_id: str) -> None:
    vns = {"vns": [{"number": "+918012345678"}]}
    for method, path, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/vns", None),
        ("POST", "/vns", vns),
        ("GET", "/vns/+918012345678", None),
        ("DELETE", "/vns/+918012345678", None),
        ("GET", "/tokens", None),
        ("POST", "/tokens", None),
        ("DELETE", f"/tokens/{UNKNOWN_ID}", None),
        ("POST", "/applet-keys", None),
    ):
        answer = await client.admin(method, f"/tenants/{tenant_id}{path}", body)
        assert_refused(answer, 404, Code.NOT_FOUND, "tenant")


async def test_a_tenant_with_live_allocations_stays(shop: Shop) -> None:
    first = await shop.make("first")
    await shop.make("second", b__numbers=[OTHER_CUSTOMER], deallocation_policy={"duration": "60s"})
    before = await shop.rows()
    answer = await shop.client.admin("DELETE", f"/tenants/{shop.id}")
    assert_refused(answer, 409, Code.CLIENT_ID_TAKEN, "2 live allocations")
    assert answer.body["data"] == {"live_allocations": 2}
    assert await shop.rows() == before
    await shop.delete(first["greenpin_id"])
    # Past its end it stands in nobody's way.
    shop.clock.advance(61)
    assert (await shop.client.admin("DELETE", f"/tenants/{shop.id}")).status == 200
    assert {table: rows for table, rows in (await shop.rows()).items() if rows} == {}


# ── virtual numbers ──────────────────────────────────────────────────────────


async def test_virtual_numbers_are_added_shown_and_deleted(shop: Shop) -> None:
    number = f"+9181{int(shop.lines[0][-8:]):08d}"
    new = {"number": number[3:], "region": "KA", "type": "mobile", "flow_id": "228040"}
    added = await shop.client.admin("POST", f"/tenants/{shop.id}/vns", {"vns": [new]})
    assert (added.status, list(added.body)) == (201, ["vns"])
    (shown,) = added.body["vns"]
    assert {key: shown[key] for key in new} == new | {"number": number}
    listed = (await shop.client.admin("GET", f"/tenants/{shop.id}/vns")).body["vns"]
    assert [vn["number"] for vn in listed] == [*shop.lines, number]
    for written in (number, "%2B" + number[1:]):
        one = await shop.client.admin("GET", f"/tenants/{shop.id}/vns/{written}")
        assert (one.status, one.body["number"], one.body["region"]) == (200, number, "KA")
    deleted = await shop.client.admin("DELETE", f"/tenants/{shop.id}/vns/{number}")
    assert (deleted.status, deleted.body) == (200, {"number": number})
    gone = await shop.client.admin("DELETE", f"/tenants/{shop.id}/vns/%2B{number[1:]}")
    assert_refused(gone, 404, Code.NOT_FOUND, "number")


async def test_plain_numbers_have_no_more_than_a_number(shop: Shop) -> None:
    (first, *_) = (await shop.client.admin("GET", f"/tenants/{shop.id}/vns")).body["vns"]
    assert (first["number"], first["region"], first["type"], first["flow_id"]) == (
        shop.lines[0],
        None,
        None,
        None,
    )


GOOD = {"number": "+918212345678"}


@pytest.mark.parametrize(
    ("vns", "status", "code", "field"),
    [
        (None, 400, Code.MISSING, "vns"),
        ([], 400, Code.MISSING, "vns"),
        ("x", 400, Code.BAD, "vns"),
        (["+918012345678"], 400, Code.BAD, "vns[0]"),
        ([GOOD, {}], 400, Code.MISSING, "vns[1].number"),
        ([GOOD, {"number": 918012345678}], 400, Code.BAD, "vns[1].number"),
        ([GOOD, {"number": "12"}], 400, Code.BAD_NUMBER, "vns[1].number"),
        ([GOOD, {"number": "9" * 100_000}], 400, Code.BAD_NUMBER, "vns[1].number"),
        ([GOOD, {"number": "8212345678"}], 400, Code.BAD, "vns[1].number"),
        ([{**GOOD, "region": "XX"}], 400, Code.BAD, "vns[0].region"),
        ([{**GOOD, "type": "satellite"}], 400, Code.BAD, "vns[0].type"),
        ([{**GOOD, "flow_id": 228040}], 400, Code.BAD, "vns[0].flow_id"),
        ([{**GOOD, "flow_id": "x" * 65}], 400, Code.BAD, "vns[0].flow_id"),
        ([{**GOOD, "flow_id": "\0"}], 400, Code.BAD, "vns[0].flow_id"),
    ],
)
async def test_of_a_bad_list_of_numbers_none_is_added(
    shop: Shop, vns: Any, status: int, code: Code, field: str
) -> None:
    before = await shop.rows()
    body = {} if vns is None else {"vns": vns}
    answer = await shop.client.admin("POST", f"/tenants/{shop.id}/vns", body)
    assert_refused(answer, status, code, field)
    assert await shop.rows() == before


async def test_a_number_belongs_to_one_tenant_and_the_list_is_all_or_nothing(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    before = await shop.rows()
    for taken in (neighbour.lines[1], shop.lines[1]):
        vns = {"vns": [GOOD, {"number": taken}]}
        answer = await shop.client.admin("POST", f"/tenants/{shop.id}/vns", vns)
        assert_refused(answer, 409, Code.PIN_OR_NUMBER_TAKEN, "vns[1].number", f"…{taken[-2:]}")
        assert taken[1:] not in answer.body["message"]
    assert await shop.rows() == before


async def test_a_new_number_can_be_allocated_at_once(shop: Shop) -> None:
    number = f"+9183{int(shop.lines[0][-8:]):08d}"
    await shop.client.add_virtual_numbers(shop.id, number)
    assert (await shop.make(a__vns=[number]))["a"]["vns"] == [number]
    await shop.client.add_virtual_numbers(shop.id, number[:3] + "84" + number[5:])


async def test_many_numbers_are_added_in_one_request(shop: Shop) -> None:
    start = int(shop.lines[0][-8:]) * 1_000
    numbers = [f"+9170{(start + n) % 100_000_000:08d}" for n in range(1_000)]
    await shop.client.add_virtual_numbers(shop.id, *numbers)
    listed = (await shop.client.admin("GET", f"/tenants/{shop.id}/vns")).body["vns"]
    assert len(listed) == 1_004


async def test_a_number_with_live_allocations_stays(shop: Shop) -> None:
    made = await shop.make()
    before = await shop.rows()
    for line in shop.lines[:2]:
        answer = await shop.client.admin("DELETE", f"/tenants/{shop.id}/vns/{line}")
        assert_refused(answer, 409, Code.CLIENT_ID_TAKEN, "1 live allocation ")
        assert answer.body["data"] == {"live_allocations": 1}
    assert await shop.rows() == before
    await shop.delete(made["greenpin_id"])
    for line in shop.lines:
        assert (await shop.client.admin("DELETE", f"/tenants/{shop.id}/vns/{line}")).status == 200
    answer = await shop.post(shop.order("other"))
    assert_refused(answer, 403, Code.NOT_PERMITTED, "a.vns[0]")


async def test_another_tenants_number_is_not_found(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    for method in ("GET", "DELETE"):
        for number in (neighbour.lines[0], "nonsense", "%00", "9" * 200):
            answer = await shop.client.admin(method, f"/tenants/{shop.id}/vns/{number}")
            assert_refused(answer, 404, Code.NOT_FOUND, "number")


async def test_admin_bodies_of_numbers_may_be_4_mib_and_others_256_kib(shop: Shop) -> None:
    padding = "x" * 900_000
    small = await shop.client.admin("POST", "/tenants", {"id": "padded", "padding": padding})
    assert_refused(small, 413, Code.TOO_MANY)
    number = f"+9185{int(shop.lines[0][-8:]):08d}"
    vns = {"vns": [{"number": number}], "padding": padding}
    assert (await shop.client.admin("POST", f"/tenants/{shop.id}/vns", vns)).status == 201


# ── credentials ──────────────────────────────────────────────────────────────


async def test_tokens_are_rotated(shop: Shop) -> None:
    path = f"/tenants/{shop.id}/tokens"
    (first,) = (await shop.client.admin("GET", path)).body["tokens"]
    assert list(first) == ["token_id", "reveal", "created_at"]
    made = await shop.client.admin("POST", path)
    assert (made.status, list(made.body)) == (201, ["token_id", "api_token"])
    UUID(made.body["token_id"])
    new = Credentials(shop.id, made.body["api_token"], "")
    for credentials in (shop.credentials, new):
        assert (await shop.client.api(credentials, "GET", "/settings")).status == 200
    deleted = await shop.client.admin("DELETE", f"{path}/{first['token_id']}")
    assert (deleted.status, deleted.body) == (200, {"token_id": first["token_id"]})
    assert (await shop.ask("GET", "/settings")).status == 401
    assert (await shop.client.api(new, "GET", "/settings")).status == 200
    listed = (await shop.client.admin("GET", path)).body["tokens"]
    assert [token["token_id"] for token in listed] == [made.body["token_id"]]


@pytest.mark.parametrize("what", ["tokens", "applet-keys"])
@pytest.mark.parametrize("id", [UNKNOWN_ID, "x", "%00"])
async def test_an_unknown_credential_is_not_found(shop: Shop, what: str, id: str) -> None:
    before = await shop.rows()
    answer = await shop.client.admin("DELETE", f"/tenants/{shop.id}/{what}/{id}")
    assert_refused(answer, 404, Code.NOT_FOUND)
    assert await shop.rows() == before


async def is_accepted(shop: Shop, session: aiohttp.ClientSession, key: str) -> bool:
    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/exotel/k/{key}/passthru?Direction=incoming"
    async with session.get(url, allow_redirects=False) as response:
        return response.status != 401


async def test_applet_keys_are_rotated_by_the_operator(shop: Shop, session: aiohttp.ClientSession) -> None:
    path = f"/tenants/{shop.id}/applet-keys"
    (first,) = (await shop.client.admin("GET", path)).body["applet_keys"]
    made = await shop.client.admin("POST", path)
    assert (made.status, list(made.body)) == (201, ["key_id", "applet_key"])
    assert await is_accepted(shop, session, made.body["applet_key"])
    assert (await shop.client.admin("DELETE", f"{path}/{first['key_id']}")).status == 200
    assert not await is_accepted(shop, session, shop.credentials.applet_key)
    assert await is_accepted(shop, session, made.body["applet_key"])


async def test_applet_keys_are_rotated_by_the_tenant(shop: Shop, session: aiohttp.ClientSession) -> None:
    (first,) = (await shop.ask("GET", "/applet-keys")).data["applet_keys"]
    assert first["created_at"].endswith("+05:30")
    made = await shop.ask("POST", "/applet-keys")
    assert (made.status, list(made.data)) == (201, ["key_id", "applet_key"])
    assert (made.body["status"], made.body["success"]) == (201, True)
    assert await is_accepted(shop, session, made.data["applet_key"])
    deleted = await shop.ask("DELETE", f"/applet-keys/{first['key_id']}")
    assert (deleted.status, deleted.data) == (200, {"key_id": first["key_id"]})
    assert not await is_accepted(shop, session, shop.credentials.applet_key)
    again = await shop.ask("DELETE", f"/applet-keys/{first['key_id']}")
    assert_refused(again, 404, Code.NOT_FOUND)


async def test_a_tenant_cannot_delete_what_is_anothers_or_another_kind(make_shop: MakeShop) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    (theirs,) = (await neighbour.ask("GET", "/applet-keys")).data["applet_keys"]
    (token,) = (await shop.client.admin("GET", f"/tenants/{shop.id}/tokens")).body["tokens"]
    for id in (theirs["key_id"], token["token_id"]):
        assert_refused(await shop.ask("DELETE", f"/applet-keys/{id}"), 404, Code.NOT_FOUND)
    assert (await neighbour.ask("GET", "/applet-keys")).data["applet_keys"] == [theirs]
