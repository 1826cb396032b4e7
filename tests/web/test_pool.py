"""GET …/pool tells how much room each VN has left; /metrics tells it of each tenant."""

from __future__ import annotations

import pytest

from cordboard.routing.allocate import Code
from cordboard.simulator.client import Client

from .conftest import MakeShop
from .shop import AGENT, CUSTOMER, OTHER_AGENT, Shop, assert_refused


async def test_every_vn_says_what_stands_on_it_and_what_is_free(shop: Shop) -> None:
    made = await shop.make(a__numbers=[AGENT, OTHER_AGENT], b__pin_length=2)
    await shop.make("second", a__pin="7", b__pin="123456789")
    items = {item["vn"]: item for item in (await shop.ask("GET", "/pool")).data["items"]}
    assert list(items) == sorted(shop.lines)
    first, second, third = (items[line] for line in shop.lines[:3])
    assert (first["allocations"], first["numbers"]) == (2, 2)
    assert first["free_pins"] | {"1": 9, "4": 9_999, "9": 10**9} == first["free_pins"]
    assert (second["allocations"], second["numbers"]) == (2, 1)
    assert second["free_pins"] | {"1": 10, "2": 99, "9": 10**9 - 1} == second["free_pins"]
    assert (third["allocations"], third["numbers"], third["state"]) == (0, 0, "open")
    await shop.delete(made["greenpin_id"])
    after = {item["vn"]: item for item in (await shop.ask("GET", "/pool")).data["items"]}
    assert (after[shop.lines[0]]["allocations"], after[shop.lines[0]]["numbers"]) == (1, 1)


async def test_a_pin_that_cools_is_not_free(make_shop: MakeShop) -> None:
    shop = await make_shop({"deletion_time": 600})
    made = await shop.make(a__pin="7")
    await shop.delete(made["greenpin_id"])
    [item] = (await shop.ask("GET", f"/pool?vn={shop.lines[0][1:]}")).data["items"]
    assert (item["allocations"], item["free_pins"]["1"]) == (0, 9)
    shop.clock.advance(601)
    [item] = (await shop.ask("GET", f"/pool?vn={shop.lines[0][1:]}")).data["items"]
    assert item["free_pins"]["1"] == 10


async def test_paging_shows_each_vn_once(shop: Shop) -> None:
    shown, cursor = [], ""
    while True:
        page = (await shop.ask("GET", f"/pool?limit=3{cursor}")).data
        shown += [item["vn"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert shown == sorted(shop.lines)


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("limit=0", Code.BAD, "limit"),
        ("cursor=x", Code.BAD, "cursor"),
        ("vn=1", Code.BAD_NUMBER, "vn"),
        ("region=KA", Code.UNSUPPORTED_FILTER, "region"),
    ],
)
async def test_a_bad_question_names_its_field(shop: Shop, query: str, code: Code, field: str) -> None:
    assert_refused(await shop.ask("GET", f"/pool?{query}"), 400, code, field)


async def test_the_metrics_tell_it_of_each_tenant(make_shop: MakeShop, client: Client) -> None:
    shop = await make_shop()
    await shop.make(b__pin="7", b__numbers=[CUSTOMER])
    told = (await client.ask("GET", "/metrics")).body.splitlines()
    tenant = f'tenant="{shop.id}"'
    assert f'cordboard_pool_virtual_numbers{{state="open",{tenant}}} {len(shop.lines)}.0' in told
    assert f"cordboard_pool_allocations{{{tenant}}} 2.0" in told
    assert f"cordboard_pool_numbers{{{tenant}}} 2.0" in told
    assert f'cordboard_pool_free_pins{{length="1",{tenant}}} 9.0' in told
    # One of the ten PINs of one digit; B's VN and A's are taken.
    assert f"cordboard_pool_guess_probability_max{{{tenant}}} 0.1" in told
    assert f"cordboard_pool_idle_virtual_numbers{{{tenant}}} {len(shop.lines) - 2}.0" in told
    assert not any(AGENT[3:] in line for line in told)


async def test_of_a_tenant_that_is_gone_the_metrics_tell_nothing(make_shop: MakeShop, client: Client) -> None:
    shop = await make_shop()
    tenant = f'tenant="{shop.id}"'
    assert tenant in (await client.ask("GET", "/metrics")).body
    assert (await client.admin("DELETE", f"/tenants/{shop.id}")).status == 200
    assert tenant not in (await client.ask("GET", "/metrics")).body
