"""Login, the session's cookie, and forms that others send."""

from __future__ import annotations

from http.cookies import SimpleCookie

import aiohttp
import pytest

from cordboard.clock import SECOND_US
from cordboard.node import Node, running_node
from cordboard.settings import Settings
from cordboard.simulator.client import Client
from cordboard.web.console.sessions import SESSION_S, Sessions
from tests.web.shop import ADMIN_TOKEN, AGENT, ShiftedClock, Shop

from .browsing import Person, acts

LINE = "+918000000010"
NOW_US = 1_800_000_000 * SECOND_US


# ── cookies ──────────────────────────────────────────────────────────────────


def test_another_process_with_the_same_token_reads_a_session() -> None:
    cookie = Sessions("a token").begin("Asha", NOW_US)
    read = Sessions("a token").read(cookie, NOW_US + 5 * SECOND_US)
    assert read is not None
    assert read.operator == "Asha"
    assert len(read.form_token) >= 32


def test_no_other_token_reads_it_and_nobody_can_change_it() -> None:
    sessions = Sessions("a token")
    cookie = sessions.begin("Asha", NOW_US)
    assert Sessions("another token").read(cookie, NOW_US) is None
    other = "B" if cookie[40] == "A" else "A"
    for changed in ("", "x", "ünlesbar", cookie[:-2], cookie[:40] + other + cookie[41:]):
        assert sessions.read(changed, NOW_US) is None


@pytest.mark.parametrize(("age_s", "is_read"), [(0, True), (SESSION_S, True), (SESSION_S + 1, False)])
def test_a_session_ends_after_its_time(age_s: int, is_read: bool) -> None:
    sessions = Sessions("a token")
    cookie = sessions.begin("Asha", NOW_US)
    assert (sessions.read(cookie, NOW_US + age_s * SECOND_US) is not None) is is_read


def test_a_sealed_value_comes_back_and_is_no_session() -> None:
    sessions = Sessions("a token")
    sealed = sessions.seal('["Mallory", "token"]', NOW_US)
    assert sessions.unseal(sealed, NOW_US) == '["Mallory", "token"]'
    assert sessions.read(sealed, NOW_US) is None
    assert sessions.unseal(sessions.begin("Asha", NOW_US), NOW_US) is None
    assert sessions.unseal(sealed, NOW_US + (SESSION_S + 1) * SECOND_US) is None


# ── login ────────────────────────────────────────────────────────────────────


async def test_nobody_sees_a_page_without_a_session(stranger: Person, shop: Shop) -> None:
    for path in ("/console", f"/console/t/{shop.id}", "/console/audit", "/console/nothing"):
        seen = await stranger.open(path)
        assert seen.status == 303
        assert seen.headers["Location"].startswith("/console/login?next=")
        assert seen.html == ""
    assert (
        (await stranger.post(f"/console/t/{shop.id}", q="x")).headers["Location"].startswith("/console/login")
    )


async def test_the_right_token_begins_a_session_that_scripts_cannot_read(
    stranger: Person, shop: Shop
) -> None:
    wanted = f"/console/t/{shop.id}/pool"
    seen = await stranger.log_in(next=wanted)
    assert (seen.status, seen.headers["Location"]) == (303, wanted)
    [cookie] = SimpleCookie(seen.headers["Set-Cookie"]).values()
    assert cookie["httponly"]
    assert cookie["samesite"] == "Strict"
    assert cookie["path"] == "/console"
    assert int(cookie["max-age"]) == 12 * 3_600
    assert not cookie["secure"]
    assert ADMIN_TOKEN not in cookie.value
    assert (await stranger.open(wanted)).status == 200


async def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_alone(stranger: Person, node: Node) -> None:
    seen = await stranger.send(
        "/console/login",
        {"name": "Asha", "token": ADMIN_TOKEN},
        {"Origin": node.url.replace("http:", "https:"), "X-Forwarded-Proto": "https"},
    )
    [cookie] = SimpleCookie(seen.headers["Set-Cookie"]).values()
    assert cookie["secure"]


async def test_a_wrong_token_is_refused_by_its_field_and_locks_nobody_out(stranger: Person) -> None:
    seen = await stranger.log_in(token="wrong")
    assert seen.status == 403
    assert "token: this is not the admin token." in seen.text
    assert "Set-Cookie" not in seen.headers
    assert 'value="Asha"' in seen.html
    assert "wrong" not in seen.html
    assert (await stranger.log_in()).status == 303


@pytest.mark.parametrize("name", ["", "x" * 81, "a\x07b"])
async def test_a_name_must_be_given_and_printable(stranger: Person, name: str) -> None:
    seen = await stranger.log_in(name=name)
    assert seen.status == 400
    assert "name" in seen.text
    assert "Set-Cookie" not in seen.headers


@pytest.mark.parametrize(
    "wanted", ["https://elsewhere.example/", "//elsewhere.example/", "/console//x@y", "/consoles", "/\\x"]
)
async def test_a_login_leads_to_no_other_site(stranger: Person, wanted: str) -> None:
    assert (await stranger.log_in(next=wanted)).headers["Location"] == "/console"


async def test_logout_drops_the_cookie(person: Person) -> None:
    seen = await person.post("/console/logout")
    assert (seen.status, seen.headers["Location"]) == (303, "/console/login")
    assert person.cookies == {}
    assert (await person.open("/console")).status == 303


async def test_a_session_is_over_after_twelve_hours(person: Person, clock: ShiftedClock) -> None:
    clock.advance(12 * 3_600 - 60)
    assert (await person.open("/console")).status == 200
    clock.advance(120)
    assert (await person.open("/console")).headers["Location"].startswith("/console/login")


async def test_while_the_database_is_away_one_can_look_and_nothing_is_revealed(
    own_settings: Settings, session: aiohttp.ClientSession
) -> None:
    async with (
        running_node(own_settings) as node,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browsing,
    ):
        await Client(session, node.url, ADMIN_TOKEN).add_tenant("shop")
        await node.switchboard.database.close()
        person = Person(browsing, node.url)
        assert (await person.log_in()).status == 303
        assert "shop" in (await person.open("/console")).text
        run = await person.post("/console/t/shop/dry-run", vn=LINE, caller=AGENT)
        assert "Refused: unknown virtual number" in run.text
        revealed = await person.post("/console/t/shop/dry-run", vn=LINE, caller=AGENT, reveal="true")
        assert (revealed.status, revealed.headers["Retry-After"]) == (503, "1")
        assert AGENT not in revealed.text
        assert (await person.open("/console/t/shop")).status == 503
        assert (await person.post("/console/logout")).headers["Location"] == "/console/login"


# ── forms that others send ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "nonsense"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_a_form_of_another_site_is_refused(person: Person, shop: Shop, headers: dict[str, str]) -> None:
    fields = {"form_token": person.form_token, "all": "true"}
    seen = await person.send(f"/console/t/{shop.id}/throttles/clear", fields, headers)
    assert seen.status == 403
    assert "Origin" in seen.text
    login = await person.send("/console/login", {"name": "Asha", "token": ADMIN_TOKEN}, headers)
    assert login.status == 403
    assert await acts(shop) == []


async def test_a_browser_that_says_same_origin_is_believed(person: Person, shop: Shop) -> None:
    fields = {"form_token": person.form_token, "all": "true"}
    path = f"/console/t/{shop.id}/throttles/clear"
    seen = await person.send(path, fields, {"Sec-Fetch-Site": "same-origin"})
    assert seen.status == 303


async def test_a_form_without_the_sessions_token_is_refused(person: Person, shop: Shop) -> None:
    for token in ({}, {"form_token": "another"}, {"form_token": "ünlesbar"}):
        seen = await person.send(f"/console/t/{shop.id}/throttles/clear", {"all": "true", **token})
        assert seen.status == 403
        assert "form_token" in seen.text
    assert await acts(shop) == []


async def test_the_token_of_another_session_is_refused(person: Person, shop: Shop, node: Node) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        other = Person(session, node.url)
        await other.log_in("Ben")
        person.form_token = other.form_token
    assert (await person.post(f"/console/t/{shop.id}/throttles/clear", all="true")).status == 403


async def test_a_body_that_is_no_form_is_refused(person: Person, shop: Shop) -> None:
    too_many = {f"field{n}": "x" for n in range(30)}
    assert (await person.post(f"/console/t/{shop.id}", **too_many)).status == 400
    assert (await person.post(f"/console/t/{shop.id}", q="x" * (65 << 10))).status == 413
