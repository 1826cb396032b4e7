"""What an operator does over HTTP with the admin token: tenants, their numbers, their secrets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cordboard.simulator.client import Answer, Client

from .conftest import MakeTenant
from .world import ADMIN_TOKEN, Tenant, a_line, a_person, a_tenant_id, national


def is_error(answer: Answer, status: int, code: int, field: str = "") -> None:
    assert (answer.status, answer.body["code"]) == (status, code), answer.body
    assert field in answer.body["message"]


async def works(tenant: Tenant, token: str) -> bool:
    answer = await tenant.client.ask("GET", f"/v1/tenants/{tenant.id}/settings", user=(tenant.id, token))
    assert answer.status in {200, 401}
    return answer.status == 200


async def test_a_tenant_is_made_with_its_secrets_and_shown_without_them(client: Client) -> None:
    tenant_id = a_tenant_id()
    made = await client.admin("POST", "/tenants", {"id": tenant_id, "settings": {"max_pin_attempts": 2}})
    assert made.status == 201
    assert set(made.body) == {"id", "api_token", "applet_key", "webhook_secret"}
    assert made.body["id"] == tenant_id
    shown = await client.admin("GET", f"/tenants/{tenant_id}")
    assert shown.status == 200
    assert shown.body["settings"] == {"max_pin_attempts": 2}
    listed = await client.admin("GET", "/tenants")
    assert tenant_id in {tenant["id"] for tenant in listed.body["tenants"]}
    for secret in (made.body["api_token"], made.body["applet_key"], made.body["webhook_secret"]):
        assert len(secret) >= 22, "128 bits as text"
        assert secret not in repr((shown, listed))


async def test_a_tenant_id_is_given_once(client: Client) -> None:
    tenant_id = a_tenant_id()
    answers = await asyncio.gather(*(client.admin("POST", "/tenants", {"id": tenant_id}) for _ in range(4)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, 3, "id"),
        ({"id": "Acme"}, 5, "id"),
        ({"id": "acme/1"}, 5, "id"),
        ({"id": ""}, 5, "id"),
        ({"id": 1}, 5, "id"),
        ({"id": "acme-x", "settings": []}, 5, "settings"),
        ({"id": "acme-x", "settings": {"timezone": "CET"}}, 5, "timezone"),
        ({"id": "acme-x", "settings": {"max_pin_attempts": 0}}, 5, "max_pin_attempts"),
    ],
)
async def test_a_bad_tenant_is_not_made(client: Client, body: Any, code: int, field: str) -> None:
    is_error(await client.admin("POST", "/tenants", body), 400, code, field)
    assert (await client.admin("GET", "/tenants/acme-x")).status == 404


async def test_nobody_provisions_without_the_admin_token(client: Client, tenant: Tenant) -> None:
    path = "/admin/v1/tenants"
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": ADMIN_TOKEN},
        {"Authorization": f"Bearer {tenant.credentials.api_token}"},
    ):
        for method, body in (("GET", None), ("POST", {"id": a_tenant_id()})):
            is_error(await client.ask(method, path, body, headers=headers), 401, 7)
    is_error(await client.ask("GET", path, user=("admin", ADMIN_TOKEN)), 401, 7)


async def test_a_pool_is_added_to_shown_and_taken_from(tenant: Tenant) -> None:
    landline, mobile = a_line(), a_line()
    numbers = [
        {"number": national(landline), "region": "KA", "type": "landline"},
        {"number": mobile, "type": "mobile", "flow_id": "228040"},
    ]
    added = await tenant.client.admin("POST", f"/tenants/{tenant.id}/vns", {"vns": numbers})
    assert added.status == 201
    pool = (await tenant.client.admin("GET", f"/tenants/{tenant.id}/vns")).body["vns"]
    by_number = {number["number"]: number for number in pool}
    assert set(by_number) == {tenant.line, landline, mobile}
    assert (by_number[landline]["region"], by_number[landline]["type"]) == ("KA", "landline")
    assert by_number[mobile]["flow_id"] == "228040"
    one = await tenant.client.admin("GET", f"/tenants/{tenant.id}/vns/{landline}")
    assert one.body == by_number[landline]
    assert (await tenant.client.admin("DELETE", f"/tenants/{tenant.id}/vns/{landline}")).status == 200
    is_error(await tenant.client.admin("GET", f"/tenants/{tenant.id}/vns/{landline}"), 404, 1)
    is_error(await tenant.client.admin("DELETE", f"/tenants/{tenant.id}/vns/{landline}"), 404, 1)


async def test_a_number_belongs_to_one_tenant(new_tenant: MakeTenant) -> None:
    ours, theirs = await new_tenant(), await new_tenant()
    free = a_line()
    wanted = {"vns": [{"number": free}, {"number": theirs.line}]}
    is_error(await ours.client.admin("POST", f"/tenants/{ours.id}/vns", wanted), 409, 19, "vns[1]")
    pool = (await ours.client.admin("GET", f"/tenants/{ours.id}/vns")).body["vns"]
    assert [number["number"] for number in pool] == [ours.line], "all of them, or none"


async def test_what_carries_live_allocations_is_not_deleted(tenant: Tenant) -> None:
    made = [await tenant.allocate([a_person()], [a_person()], pin=pin) for pin in ("1001", "1002")]
    for path in (f"/tenants/{tenant.id}", f"/tenants/{tenant.id}/vns/{tenant.line}"):
        refused = await tenant.client.admin("DELETE", path)
        assert refused.status == 409
        assert refused.body["message"].startswith("2 live allocations")
    for allocation in made:
        await tenant.api("DELETE", f"/greenpin/{allocation['greenpin_id']}")
    assert (await tenant.client.admin("DELETE", f"/tenants/{tenant.id}/vns/{tenant.line}")).status == 200
    assert (await tenant.client.admin("DELETE", f"/tenants/{tenant.id}")).status == 200
    assert not await works(tenant, tenant.credentials.api_token)
    assert (await tenant.call(a_person()).passthru()).status == 401
    is_error(await tenant.client.admin("GET", f"/tenants/{tenant.id}"), 404, 1)


async def test_a_number_of_a_deleted_tenant_can_be_provisioned_again(new_tenant: MakeTenant) -> None:
    before = await new_tenant()
    assert (await before.client.admin("DELETE", f"/tenants/{before.id}")).status == 200
    after = await new_tenant(lines=[before.line])
    agent, customer = a_person(), a_person()
    await after.allocate([agent], [customer])
    assert await after.call(agent).targets() == [customer]


async def test_a_token_is_rotated_without_a_moment_between(tenant: Tenant) -> None:
    path = f"/tenants/{tenant.id}/tokens"
    [first] = (await tenant.client.admin("GET", path)).body["tokens"]
    made = await tenant.client.admin("POST", path)
    assert made.status == 201
    assert await works(tenant, tenant.credentials.api_token)
    assert await works(tenant, made.body["api_token"])
    assert (await tenant.client.admin("DELETE", f"{path}/{first['token_id']}")).status == 200
    assert not await works(tenant, tenant.credentials.api_token)
    assert await works(tenant, made.body["api_token"])
    is_error(await tenant.client.admin("DELETE", f"{path}/{first['token_id']}"), 404, 1)
    tokens = (await tenant.client.admin("GET", path)).body["tokens"]
    assert [token["token_id"] for token in tokens] == [made.body["token_id"]]


async def test_a_tenant_rotates_its_own_applet_keys(tenant: Tenant) -> None:
    agent = a_person()
    await tenant.allocate([agent], [a_person()])
    [old] = (await tenant.api("GET", "/applet-keys")).data["applet_keys"]
    made = await tenant.api("POST", "/applet-keys")
    assert made.status == 201
    assert (await tenant.api("DELETE", f"/applet-keys/{old['key_id']}")).status == 200
    assert (await tenant.call(agent).passthru()).status == 401
    query = f"key={made.data['applet_key']}&CallFrom={national(agent)}&CallTo={national(tenant.line)}"
    assert (await tenant.client.ask("GET", f"/v1/tenants/{tenant.id}/exotel/passthru?{query}")).status == 200


async def test_an_unknown_tenant_has_nothing(client: Client) -> None:
    for path in ("", "/vns", "/tokens", "/applet-keys"):
        is_error(await client.admin("GET", f"/tenants/nobody{path}"), 404, 1)
    is_error(await client.admin("POST", "/tenants/nobody/vns", {"vns": [{"number": a_line()}]}), 404, 1)
    is_error(await client.admin("GET", "/nothing"), 404, 1)
