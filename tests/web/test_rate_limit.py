"""The tenant setting `rate_limit`: exact over any window, with word of when to come back."""

from __future__ import annotations

import math
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from cordboard.routing.allocate import Code
from cordboard.routing.tenant import Rate
from cordboard.switchboard.throttle import WINDOW_S_MAX
from cordboard.web.rate_limit import RateLimiter

from .conftest import MakeShop
from .shop import Shop, assert_refused, basic

SHOP = "shop"


def admitted_at(limiter: RateLimiter, rate: Rate, instants_s: Iterable[float]) -> list[float]:
    return [now_s for now_s in instants_s if limiter.wait_s(SHOP, rate, now_s) == 0]


# ── the arithmetic ───────────────────────────────────────────────────────────


def test_who_keeps_exactly_to_the_rate_is_never_refused() -> None:
    limiter = RateLimiter()
    instants_s = [second / 2 for second in range(100)]
    assert admitted_at(limiter, Rate(2, 1), instants_s) == instants_s


def test_a_refused_request_does_not_count_and_hears_when_the_oldest_leaves() -> None:
    limiter, rate = RateLimiter(), Rate(2, 60)
    assert limiter.wait_s(SHOP, rate, 1_000.0) == 0
    assert limiter.wait_s(SHOP, rate, 1_010.0) == 0
    assert limiter.wait_s(SHOP, rate, 1_020.0) == 40
    assert limiter.wait_s(SHOP, rate, 1_059.75) == 0.25
    assert limiter.wait_s(SHOP, rate, 1_060.0) == 0
    assert limiter.wait_s(SHOP, rate, 1_060.0) == 10


def test_tenants_do_not_share_a_budget() -> None:
    limiter, rate = RateLimiter(), Rate(1, 60)
    assert limiter.wait_s(SHOP, rate, 0.0) == 0
    assert limiter.wait_s("other", rate, 0.0) == 0
    assert limiter.wait_s(SHOP, rate, 0.0) == 60


def test_a_lowered_limit_counts_what_was_admitted_under_the_old_one() -> None:
    limiter = RateLimiter()
    assert admitted_at(limiter, Rate(4, 60), [0.0, 1.0, 2.0, 3.0]) == [0.0, 1.0, 2.0, 3.0]
    assert limiter.wait_s(SHOP, Rate(2, 60), 10.0) == 52
    assert limiter.wait_s(SHOP, Rate(2, 60), 62.0) == 0
    assert limiter.wait_s(SHOP, Rate(5, 60), 62.0) == 0


def test_who_asks_no_more_is_forgotten() -> None:
    limiter, rate = RateLimiter(), Rate(1, 60)
    for number in range(1_000):
        limiter.wait_s(f"shop-{number}", rate, float(number))
    assert len(limiter._admitted) == 1_000
    limiter.wait_s("shop-999", rate, 2_000.0)
    limiter.wait_s("last", rate, WINDOW_S_MAX + 998.0)
    assert list(limiter._admitted) == ["shop-999", "last"]


@given(
    count_max=st.integers(1, 3),
    window_s=st.integers(1, 4),
    pauses=st.lists(st.sampled_from([0, 1, 2, 8]), max_size=40),
)
def test_no_window_has_more_than_the_limit_and_who_waits_as_told_is_admitted(
    count_max: int, window_s: int, pauses: list[int]
) -> None:
    """Against a list that is searched from the beginning each time. Quarters of a second add up exactly."""
    limiter, rate = RateLimiter(), Rate(count_max, window_s)
    now_s = 0.0
    admitted_s: list[float] = []
    for pause in pauses:
        now_s += pause / 4
        in_window = [instant_s for instant_s in admitted_s if instant_s > now_s - window_s]
        wait_s = limiter.wait_s(SHOP, rate, now_s)
        assert (wait_s == 0) == (len(in_window) < count_max)
        if wait_s:
            assert 0 < wait_s <= window_s
            assert limiter.wait_s(SHOP, rate, now_s + wait_s - 0.125) > 0
            now_s += wait_s
            assert limiter.wait_s(SHOP, rate, now_s) == 0
        admitted_s.append(now_s)


# ── over HTTP ────────────────────────────────────────────────────────────────


async def test_a_tenant_has_no_limit_by_default(shop: Shop) -> None:
    assert {(await shop.ask("GET", "/applet-keys")).status for _ in range(50)} == {200}


async def test_over_its_limit_a_tenant_hears_when_to_come_back(make_shop: MakeShop) -> None:
    shop = await make_shop({"rate_limit": "3/1h"})
    made = await shop.make()
    assert (await shop.get(made["greenpin_id"])).status == 200
    # A request that is refused for another reason was a request too.
    assert_refused(await shop.put(made["greenpin_id"], {"usage": "x"}), 400, Code.BAD)
    before = await shop.rows()
    for method, path, body in (
        ("GET", "/applet-keys", None),
        ("POST", "/greenpin", shop.order("another")),
        ("DELETE", f"/greenpin/{made['greenpin_id']}", None),
    ):
        refused = await shop.ask(method, path, body)
        assert_refused(refused, 429, Code.TOO_MANY, "rate_limit")
        assert refused.body["method"] == method
        assert 3_500 < int(refused.headers["Retry-After"]) <= 3_600
    assert await shop.rows() == before


async def test_who_is_not_the_tenant_cannot_use_up_its_budget(make_shop: MakeShop, shop: Shop) -> None:
    limited = await make_shop({"rate_limit": "1/1h"})
    url = f"/v1/tenants/{limited.id}/applet-keys"
    for _ in range(3):
        wrong = await limited.client.ask("GET", url, user=(limited.id, "wrong"))
        assert_refused(wrong, 401, Code.UNAUTHENTICATED)
        stranger = {"Authorization": basic(shop.id, shop.credentials.api_token)}
        assert_refused(await limited.client.ask("GET", url, headers=stranger), 403, Code.NOT_PERMITTED)
    assert (await limited.ask("GET", "/applet-keys")).status == 200
    assert (await limited.ask("GET", "/applet-keys")).status == 429


async def test_calls_are_never_limited(make_shop: MakeShop) -> None:
    shop = await make_shop({"rate_limit": "1/1h"})
    assert (await shop.ask("GET", "/applet-keys")).status == 200
    assert (await shop.ask("GET", "/applet-keys")).status == 429
    for applet in ("passthru?switch=1&", "gather?", "connect?", "greeting?"):
        url = f"/v1/tenants/{shop.id}/exotel/{applet}key={shop.credentials.applet_key}&CallSid=c1"
        assert (await shop.client.ask("GET", url)).status == 200


async def test_a_new_limit_holds_from_the_next_request_on(shop: Shop) -> None:
    changed = await shop.ask("PUT", "/settings", {"rate_limit": "2/1h"})
    assert changed.data["rate_limit"] == "2/1h"
    statuses = [(await shop.ask("GET", "/applet-keys")).status for _ in range(3)]
    assert statuses == [200, 200, 429]


async def test_settings_are_not_limited_so_that_a_tenant_can_undo_its_own_limit(shop: Shop) -> None:
    assert (await shop.ask("PUT", "/settings", {"rate_limit": "1/1d"})).status == 200
    # Neither are they counted: the one request that the limit admits is still there.
    assert {(await shop.ask("GET", "/settings")).status for _ in range(3)} == {200}
    assert_refused(await shop.ask("PUT", "/settings", {"rate_limit": "0/1d"}), 400, Code.BAD)
    assert [(await shop.ask("GET", "/applet-keys")).status for _ in range(2)] == [200, 429]
    assert (await shop.ask("PUT", "/settings", {"rate_limit": None})).status == 200
    assert {(await shop.ask("GET", "/applet-keys")).status for _ in range(3)} == {200}


def test_the_wait_is_told_in_whole_seconds_that_suffice() -> None:
    limiter, rate = RateLimiter(), Rate(1, 60)
    limiter.wait_s(SHOP, rate, 0.0)
    told_s = math.ceil(limiter.wait_s(SHOP, rate, 0.001))
    assert told_s == 60
    assert limiter.wait_s(SHOP, rate, 0.001 + told_s) == 0
