"""PATCH /admin/v1/tenants/{id}/vns/{number}: lines that are drained or reserved, and given back."""

from __future__ import annotations

import pytest

from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer

from .shop import Shop, assert_refused


async def patch(shop: Shop, number: str, body: object) -> Answer:
    return await shop.client.admin("PATCH", f"/tenants/{shop.id}/vns/{number}", body)


async def test_only_what_is_named_changes(shop: Shop) -> None:
    number = shop.lines[0]
    was = (await shop.client.admin("GET", f"/tenants/{shop.id}/vns/{number}")).body
    assert (was["drained"], was["reserved"]) == (False, False)
    for body, drained, reserved in (
        ({"drained": True}, True, False),
        ({"reserved": True, "drained": None}, True, True),
        ({"drained": False}, False, True),
        ({"drained": True, "reserved": False}, True, False),
    ):
        changed = await patch(shop, number, body)
        assert (changed.status, changed.body) == (200, was | {"drained": drained, "reserved": reserved})
        assert (await shop.client.admin("GET", f"/tenants/{shop.id}/vns/{number}")).body == changed.body


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, Code.MISSING, "drained"),
        ({"drained": None}, Code.MISSING, "drained"),
        ({"drained": "true"}, Code.BAD, "drained"),
        ({"reserved": 1}, Code.BAD, "reserved"),
        ([], Code.BAD, "JSON object"),
    ],
)
async def test_a_change_that_says_nothing_or_nonsense_is_refused(
    shop: Shop, body: object, code: Code, field: str
) -> None:
    assert_refused(await patch(shop, shop.lines[0], body), 400, code, field)


async def test_a_line_that_the_tenant_has_not_is_not_found(shop: Shop) -> None:
    for number in ("+918099999999", "12"):
        assert_refused(await patch(shop, number, {"drained": True}), 404, Code.NOT_FOUND, "number")
    answer = await shop.client.admin("PATCH", f"/tenants/nobody/vns/{shop.lines[0]}", {"drained": True})
    assert_refused(answer, 404, Code.NOT_FOUND, "tenant")


async def test_a_drained_line_takes_no_new_greenpin_and_keeps_its_old_one(shop: Shop) -> None:
    made = await shop.make("old")
    await patch(shop, shop.lines[0], {"drained": True})
    refused = await shop.post(shop.order("new", a__numbers=["+919800000077"], b__numbers=["+919800000078"]))
    assert_refused(refused, 403, Code.NOT_PERMITTED, "a.vns[0]")
    again = await shop.put(made["greenpin_id"], {"a": {"vns": [shop.lines[0]]}, "usage": "oneway"})
    assert (again.status, again.data["usage"]) == (200, "oneway")
