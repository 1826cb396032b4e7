"""What every page has: its headers, its masks, words for what goes wrong, and marks for who cannot see it."""

from __future__ import annotations

import re
from urllib.parse import quote

import aiohttp
import pytest

from cordboard.node import running_node
from cordboard.routing.model import Reason
from cordboard.settings import Settings
from cordboard.simulator.client import Client
from cordboard.web.console import words
from tests.web.conftest import MakeShop
from tests.web.shop import ADMIN_TOKEN, AGENT, ShiftedClock, open_shop
from tests.web.test_throttles import STRANGER, select

from .browsing import Person, acts
from .world import MEMBER, PIN, World, assert_masked


async def test_no_page_shows_a_number_or_pin_before_a_reveal(person: Person, world: World) -> None:
    for path in world.pages:
        seen = await person.open(path)
        assert seen.status == 200, (path, seen.text)
        assert_masked(seen)


async def test_what_is_found_and_explained_is_masked_too(person: Person, world: World) -> None:
    found = await person.post(world.root, q=MEMBER)
    assert "What goes by …77" in found.text
    assert "Right PIN" in found.text
    assert_masked(found)
    vn = world.shop.lines[1]
    explained = await person.post(f"{world.root}/dry-run", vn=vn, caller=STRANGER, pin=PIN)
    assert "Connected" in explained.text
    assert "…91 dials" in explained.text
    assert_masked(explained)
    refused = await person.post(f"{world.root}/dry-run", vn="12", caller=STRANGER, pin=PIN)
    assert refused.status == 400
    assert "vn is not a telephone number." in refused.text
    assert_masked(refused)


async def test_every_answer_has_the_headers_that_keep_others_out(person: Person, world: World) -> None:
    login = await person.open("/console/login")
    static = login.links("/console/style-") + login.links("/console/icon-")
    assert len(static) == 2
    for path in [*world.pages, "/console/login", f"{world.root}/nothing", "/console/login?next=/", *static]:
        seen = await person.open(path)
        policy = dict(
            part.strip().split(" ", 1) for part in seen.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["style-src"] == "'self'"
        assert "script-src" not in policy
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["form-action"] == "'self'"
        assert seen.headers["X-Content-Type-Options"] == "nosniff"
        assert seen.headers["Referrer-Policy"] == "same-origin"
        if path not in static:
            assert seen.headers["Cache-Control"] == "no-store"
            assert not re.search(r"<script|<style|\sstyle=|\son\w+=", seen.html)
            assert not re.search(r'(src|href|action)="(?![/#])', seen.html)


async def test_a_page_can_be_used_by_who_cannot_see_it(person: Person, world: World) -> None:
    for path in world.pages:
        html = (await person.open(path)).html
        assert '<html lang="en">' in html
        assert '<a class="skip" href="#main">' in html
        assert html.count("<h1") == html.count("<main") == 1
        assert html.count("<table") == html.count("<caption")
        assert "<th>" not in html
        for field in re.findall(r'<(?:input|select|textarea) id="(\w+)"', html):
            assert f'<label for="{field}">' in html
        assert re.findall(r"<(?:input|select|textarea)(?! id=| type=\"hidden\")", html) == []


async def test_what_is_not_there_is_said_on_a_page(person: Person, world: World) -> None:
    for path, status, word in (
        ("/console/t/nobody", 404, "no such tenant"),
        ("/console/t/NO%00BODY", 404, "no such tenant"),
        (f"{world.root}/allocations/nonsense", 404, "allocation_id"),
        (f"{world.root}/allocations/6447bb53-70c3-40ea-850b-de2fd3c585ee", 404, "allocation_id"),
        (f"{world.root}/calls", 400, "call_sid"),
        (f"{world.root}/calls?call_sid=never", 404, "call_sid"),
        (f"{world.root}/calls?call_sid=a&call_sid=b", 400, "call_sid"),
        (f"{world.root}/events/nonsense", 404, "event_id"),
        (f"{world.root}/events?state=lost", 400, "state"),
        (f"{world.root}/events?from_date=tomorrow", 400, "from_date"),
        (f"{world.root}/events?from_date=2026-03-02&to_date=2026-03-01", 400, "from_date"),
        (f"{world.root}/events?cursor=x", 400, "cursor"),
        (f"{world.root}/pool?vn=1", 400, "vn"),
        (f"{world.root}/settings/nonsense", 404, "key"),
        ("/console/audit?cursor=x", 400, "cursor"),
        ("/console/audit?tenant=nobody", 404, "no such tenant"),
        ("/console/nothing", 404, "no such page"),
    ):
        seen = await person.open(path)
        assert seen.status == status, path
        assert word in seen.text, (path, seen.text)


async def test_what_is_another_tenants_is_not_there(
    person: Person, world: World, make_shop: MakeShop
) -> None:
    stranger = await make_shop()
    other = f"/console/t/{stranger.id}"
    allocation = world.allocation.removeprefix(world.root)
    event = world.event.removeprefix(world.root)
    for path in (allocation, event, "/calls?call_sid=right"):
        assert (await person.open(other + path)).status == 404
    for path in (f"{allocation}/reveal", f"{event}/reveal", f"{event}/replay"):
        assert (await person.post(other + path)).status == 404
    assert await acts(stranger) == []
    found = await person.post(other, q=MEMBER)
    assert "Calls (0)" in found.text


# ── what is found and told ───────────────────────────────────────────────────


async def test_one_box_finds_by_whatever_one_has(person: Person, world: World) -> None:
    id = world.allocation.rpartition("/")[2]
    for text, counts in (
        (id, (1, 0, 0)),
        ("order", (1, 0, 0)),
        ("right", (0, 1, 1)),
        (AGENT[3:], (2, 0, 0)),
        (f"0{STRANGER[3:]}", (0, 1, 1)),
        (MEMBER, (1, 1, 1)),
        (world.shop.lines[1], (1, 2, 2)),
        ("nothing of that name", (0, 0, 0)),
    ):
        seen = await person.post(world.root, q=text)
        assert seen.status == 200
        shown = re.findall(r"(?:Allocations|Calls|PIN entries) \((\d+)\)", seen.text)
        assert tuple(map(int, shown)) == counts, text
    blank = await person.post(world.root, q="  ")
    assert blank.status == 400
    assert "q must be given." in blank.text
    odd = await person.post(world.root, q="a\0b")
    assert odd.status == 400
    assert "q must be text" in odd.text


async def test_what_is_sought_in_all_tenants_leads_to_the_right_one(
    own_settings: Settings, session: aiohttp.ClientSession, clock: ShiftedClock
) -> None:
    async with (
        running_node(own_settings, clock) as node,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browsing,
    ):
        client = Client(session, node.url, ADMIN_TOKEN)
        shop = await open_shop(node, client, clock)
        await open_shop(node, client, clock)
        await shop.make(b__pin=PIN)
        assert await select(shop, MEMBER, "right", PIN) == "connect"
        await node.switchboard.recording.telling.flush()
        person = Person(browsing, node.url)
        await person.log_in()
        seen = await person.post("/console", q=MEMBER)
        assert_masked(seen)
        assert f"Found in 1 tenant Tenant Allocations Calls PIN entries Look {shop.id} 1 1 1" in seen.text
        [kept] = seen.hidden("kept_q")
        there = await person.post(f"/console/t/{shop.id}", kept_q=kept)
        assert "What goes by …77" in there.text
        assert "Calls (1)" in there.text
        assert "Found in 0 tenants" in (await person.post("/console", q="nothing of that name")).text
        fields: dict[str, str]
        for fields, field in (({}, "q must be given."), ({"kept_q": "forged"}, "kept_q")):
            bad = await person.post("/console", **fields)
            assert bad.status == 400
            assert field in bad.text


async def test_a_text_of_a_client_cannot_become_markup(person: Person, world: World) -> None:
    await world.shop.make(
        "<script>alert(1)</script>", a__vns=[world.shop.lines[2]], b__vns=[world.shop.lines[3]]
    )
    seen = await person.post(world.root, q="<script>alert(1)</script>")
    assert "Allocations (1)" in seen.text
    assert "<script" not in seen.html


async def test_a_call_is_told_hop_by_hop_with_the_reason(person: Person, world: World) -> None:
    shop = world.shop
    assert await select(shop, STRANGER, "three", "2222") == "pin"
    assert await select(shop, STRANGER, "three", "3333") == "pin"
    assert await select(shop, STRANGER, "three", "5555") == "reject"
    text = (await person.open(f"{world.root}/calls?call_sid=three")).text
    assert "…91 dialled" in text
    said = re.findall(
        r"Passthru (Asked for a PIN|Refused: wrong PINs|Connected)|(Wrong PIN|Right PIN) What", text
    )
    assert [hop or entry for hop, entry in said] == [
        "Wrong PIN",
        "Asked for a PIN",
        "Wrong PIN",
        "Asked for a PIN",
        "Wrong PIN",
        "Refused: wrong PINs",
    ]
    assert "2 attempts are left" in text
    assert "Next: Compare what the caller was told" in text
    connected = (await person.open(f"{world.root}/calls?call_sid=right")).text
    assert "Right PIN" in connected
    assert "Connected The PIN that was entered belongs to a side" in connected


async def test_a_dry_run_goes_on_from_the_call_and_keeps_the_caller(person: Person, world: World) -> None:
    call = await person.open(f"{world.root}/calls?call_sid=right")
    [kept], [vn] = call.hidden("kept_caller"), call.hidden("vn")
    run = await person.post(f"{world.root}/dry-run", vn=vn.replace("&#43;", "+"), kept_caller=kept)
    assert "…77 dials" in run.text
    assert "the caller joined it by PIN" in run.text
    [kept_again] = run.hidden("kept_caller")
    at = "2020-01-01 10:00:00"
    then = await person.post(
        f"{world.root}/dry-run", vn=world.shop.lines[1], kept_caller=kept_again, pin=PIN, at=at
    )
    assert at in then.text
    assert "…77 dials" in then.text
    [kept_pin] = then.hidden("kept_pin")
    typed = await person.post(
        f"{world.root}/dry-run",
        vn=world.shop.lines[1],
        kept_caller=kept_again,
        kept_pin=kept_pin,
        caller=AGENT,
    )
    assert "…21 dials" in typed.text
    forged = await person.post(f"{world.root}/dry-run", vn=world.shop.lines[1], kept_caller="forged")
    assert forged.status == 400
    assert "kept_caller" in forged.text
    for field, value in (("pin", "12a4"), ("at", "then"), ("caller", "12")):
        bad = await person.post(f"{world.root}/dry-run", vn=world.shop.lines[1], **{field: value})
        assert bad.status == 400
        assert field in bad.text


async def test_the_pool_says_how_likely_a_guess_is(person: Person, world: World) -> None:
    shop = world.shop
    await shop.make("one digit", a__vns=[shop.lines[2]], b__vns=[shop.lines[3]], b__pin="7")
    text = (await person.open(f"{world.root}/pool?vn={quote(shop.lines[3])}")).text
    assert "1 in 10" in text
    assert "10,000" in text
    assert (await person.open(f"{world.root}/pool")).text.count("open") == len(shop.lines)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_told_and_says_what_to_do(reason: Reason) -> None:
    said = words.recorded("refuse", reason.value, None)
    assert said == words.refused(reason)
    assert said.short.startswith("Refused: ")
    assert said.why.endswith(".")
    assert said.advice.endswith(".")


def test_a_reason_of_another_version_is_told_as_it_is() -> None:
    said = words.recorded("refuse", "from_the_future", None)
    assert "from_the_future" in said.why
