"""The operator's view of the windows of wrong PINs, over HTTP."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import pytest

from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer, Client

from .conftest import MakeShop
from .shop import Shop, assert_refused

STRANGER, OTHER_STRANGER = "+919800000091", "+919800000092"
LIMITS = {"pin_failures_per_caller": "2/15m", "pin_failures_per_vn": "4/1h", "max_pin_attempts": 9}


async def select(shop: Shop, caller: str, sid: str, digits: str) -> str:
    """What a passthru hop with these digits is answered."""
    asked = {"key": shop.credentials.applet_key, "CallSid": sid, "CallFrom": caller, "digits": digits}
    query = urlencode({**asked, "CallTo": shop.lines[1], "switch": "1"})
    answer = await shop.client.ask("GET", f"/v1/tenants/{shop.id}/exotel/passthru?{query}")
    assert isinstance(answer.body, dict)
    return str(answer.body["select"])


@pytest.fixture
async def guessed_at(make_shop: MakeShop) -> Shop:
    """A shop with two wrong PINs of one stranger, and one of another and of nobody."""
    shop = await make_shop(LIMITS)
    await shop.make(b__pin="4821")
    for caller, digits in ((STRANGER, "1111"), (STRANGER, "2222"), (OTHER_STRANGER, "3"), ("anonymous", "4")):
        assert await select(shop, caller, "sid", digits) == "pin"
    return shop


async def windows(client: Client, shop: Shop, query: str = "") -> list[dict[str, Any]]:
    answer = await client.admin("GET", f"/tenants/{shop.id}/throttles{query}")
    assert answer.status == 200, answer.body
    shown: list[dict[str, Any]] = answer.body["windows"]
    return shown


async def clear(client: Client, shop: Shop, query: str = "") -> Answer:
    return await client.admin("DELETE", f"/tenants/{shop.id}/throttles{query}")


async def test_windows_are_listed_with_the_full_ones_first_and_callers_masked(
    guessed_at: Shop, client: Client
) -> None:
    shown = await windows(client, guessed_at)
    assert [(one["scope"], one["failures"], one["full_until"] is not None) for one in shown] == [
        ("vn", 4, True),
        ("caller", 2, True),
        ("tenant", 4, False),
        ("caller", 1, False),
        ("caller", 1, False),
    ]
    line = guessed_at.lines[1]
    by_vn, by_caller, by_tenant, by_other, by_nobody = shown
    assert (by_vn["vn"], by_vn["limit"]) == (line, "4/1h")
    assert (by_caller["caller"], by_caller["vn"], by_caller["limit"]) == ("…91", None, "2/15m")
    assert (by_tenant["caller"], by_tenant["vn"], by_tenant["limit"]) == (None, None, "1000/1h")
    assert by_other["caller"] == "…92"
    assert (by_nobody["caller"], by_nobody["vn"]) == (None, line)
    revealed = await windows(client, guessed_at, "?reveal=true")
    assert [one["caller"] for one in revealed] == [None, STRANGER, None, OTHER_STRANGER, None]


async def test_what_is_lifted_lets_entries_through_again(guessed_at: Shop, client: Client) -> None:
    assert await select(guessed_at, STRANGER, "again", "4821") == "reject"
    line = guessed_at.lines[1]
    answer = await clear(client, guessed_at, f"?vn={quote(line)}")
    assert answer.body == {"id": guessed_at.id, "scope": "vn"}
    assert [(one["scope"], one["failures"]) for one in await windows(client, guessed_at)] == [
        ("caller", 2),
        ("tenant", 4),
        ("caller", 1),
    ]
    # The caller's own is full still.
    assert await select(guessed_at, STRANGER, "third", "4821") == "reject"
    answer = await clear(client, guessed_at, f"?caller={quote(STRANGER)}")
    assert answer.body["scope"] == "caller"
    assert await select(guessed_at, STRANGER, "fourth", "4821") == "connect"
    assert (await clear(client, guessed_at)).body["scope"] == "tenant"
    assert [(one["scope"], one["caller"]) for one in await windows(client, guessed_at)] == [("caller", "…92")]
    assert (await clear(client, guessed_at, "?all=true")).body["scope"] == "all"
    assert await windows(client, guessed_at) == []


async def test_full_windows_and_refusals_are_metrics(guessed_at: Shop, client: Client) -> None:
    await select(guessed_at, STRANGER, "again", "4821")
    metrics = (await client.ask("GET", "/metrics")).body.splitlines()
    for name in ("cordboard_throttled_total", "cordboard_throttles_full"):
        found = [line.split()[0] for line in metrics if line.startswith(f"{name}{{")]
        assert found == [f'{name}{{scope="{scope}"}}' for scope in ("caller", "vn", "tenant")]
    full = next(line for line in metrics if line.startswith('cordboard_throttles_full{scope="vn"}'))
    assert float(full.split()[1]) >= 1


async def test_bad_questions_are_refused(shop: Shop, client: Client) -> None:
    for query, code, field in (
        ("?caller=12", Code.BAD_NUMBER, "caller"),
        ("?colour=red", Code.UNSUPPORTED_FILTER, "colour"),
        ("?all=yes", Code.BAD, "all"),
        (f"?vn={quote(shop.lines[0])}&all=true", Code.BAD, "caller, vn and all"),
    ):
        assert_refused(await clear(client, shop, query), 400, code, field)
    for method in ("GET", "DELETE"):
        assert (await client.admin(method, "/tenants/nobody/throttles")).status == 404
        assert (await client.ask(method, f"/admin/v1/tenants/{shop.id}/throttles")).status == 401
