"""Reveals and changes: on record before they show or happen, and never with a number whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cordboard.storage import audit
from cordboard.storage.audit import ACTS_KEPT_DAYS, Act, NewAct, ObjectKind, Scope, newest
from cordboard.storage.database import Connection, Database
from cordboard.web.query import LATEST_US
from tests.web.shop import AGENT, CUSTOMER, Shop, set_dead
from tests.web.test_throttles import STRANGER, select, windows

from .browsing import Person, acts
from .world import FIELD, KEY, MEMBER, PIN, World, assert_masked

DAY_US = 86_400_000_000


@asynccontextmanager
async def unwritable_log(database: Database) -> AsyncIterator[None]:
    """Whatever is to be put on record is refused by the database."""

    async def rule(statement: str) -> None:
        await database.write(lambda connection: connection.execute(statement))

    await rule("ALTER TABLE operator_act ADD CONSTRAINT nothing_new CHECK (false) NOT VALID")
    try:
        yield
    finally:
        await rule("ALTER TABLE operator_act DROP CONSTRAINT nothing_new")


async def test_an_allocation_is_revealed_and_that_is_on_record(person: Person, world: World) -> None:
    seen = await person.post(f"{world.allocation}/reveal")
    assert seen.status == 200
    for whole in (AGENT, CUSTOMER, MEMBER, PIN):
        assert whole in seen.text
    assert "under Asha" in seen.text
    [act] = await acts(world.shop)
    assert (act.operator, act.client_address) == ("Asha", "127.0.0.1")
    assert (act.act, act.object_kind) == (Act.REVEALED, ObjectKind.ALLOCATION)
    assert act.object_id == world.allocation.rpartition("/")[2]
    # It was shown once; the page itself is masked as before.
    assert_masked(await person.open(world.allocation))
    assert (await person.open(f"{world.allocation}/reveal")).status == 404


async def test_a_custom_field_is_hidden_until_it_is_revealed(person: Person, shop: Shop) -> None:
    body = {
        "caller_id_number": shop.lines[0],
        "from": [AGENT],
        "to": [CUSTOMER],
        "custom_field": FIELD,
    }
    made = await shop.post(body)
    path = f"/console/t/{shop.id}/allocations/{made.body['response']['greenpin_id']}"
    assert_masked(await person.open(path))
    assert FIELD in (await person.post(f"{path}/reveal")).text


async def test_every_reveal_leaves_a_row_without_the_number(person: Person, world: World) -> None:
    vn = world.shop.lines[1]
    call = await person.post(f"{world.root}/calls/reveal", call_sid="right")
    assert MEMBER in call.text
    event = await person.post(f"{world.event}/reveal")
    assert AGENT in event.text
    throttle = await person.post(f"{world.root}/throttles/reveal")
    assert STRANGER in throttle.text
    run = await person.post(f"{world.root}/dry-run", vn=vn, caller=STRANGER, pin=PIN, reveal="true")
    assert STRANGER in run.text
    assert AGENT in run.text
    assert [(act.object_kind, act.object_id) for act in reversed(await acts(world.shop))] == [
        (ObjectKind.CALL, "right"),
        (ObjectKind.EVENT, world.event.rpartition("/")[2]),
        (ObjectKind.THROTTLES, "callers"),
        (ObjectKind.EXPLANATION, f"a call to {vn} from …91"),
    ]
    assert_masked(await person.open("/console/audit"))


async def test_a_persons_number_in_the_wrong_box_is_masked_on_record(person: Person, world: World) -> None:
    await person.post(f"{world.root}/dry-run", vn=STRANGER, caller="withheld", reveal="true")
    await person.post(f"{world.root}/throttles/clear", vn=STRANGER)
    assert [act.object_id for act in reversed(await acts(world.shop))] == [
        "a call to …91 from withheld",
        "the windows of …91",
    ]


async def test_what_cannot_be_put_on_record_is_neither_shown_nor_done(person: Person, world: World) -> None:
    shop = world.shop
    await set_dead(shop)
    [window, *_] = await windows(shop.client, shop)
    async with unwritable_log(shop.switchboard.database):
        for path, fields in (
            (f"{world.allocation}/reveal", {}),
            (f"{world.root}/calls/reveal", {"call_sid": "right"}),
            (f"{world.event}/reveal", {}),
            (f"{world.root}/throttles/reveal", {}),
            (f"{world.root}/dry-run", {"vn": shop.lines[1], "caller": STRANGER, "reveal": "true"}),
            (f"{world.event}/replay", {}),
            (f"{world.root}/throttles/clear", {"all": "true"}),
            (f"{world.root}/settings/tag_enabled", {"value": "true"}),
        ):
            seen = await person.post(path, **fields)
            assert seen.status == 500, path
            assert_masked(seen)
    assert await acts(shop) == []
    assert [event["state"] for event in (await shop.ask("GET", "/events")).data["items"]].count("dead")
    assert window in await windows(shop.client, shop)
    assert (await shop.ask("GET", "/settings")).data["tag_enabled"] == "false"


async def test_a_dead_event_is_replayed_once_and_a_pending_one_is_not(person: Person, world: World) -> None:
    refused = await person.post(f"{world.event}/replay")
    assert refused.status == 409
    assert "event_id: the event is pending" in refused.text
    assert await acts(world.shop) == []
    await set_dead(world.shop)
    replayed = await person.post(f"{world.event}/replay")
    assert replayed.status == 303
    page = await person.open(replayed.headers["Location"])
    assert "The event will be told again." in page.text
    assert "Pending" in page.text
    [act] = await acts(world.shop)
    assert (act.act, act.object_kind) == (Act.REPLAYED, ObjectKind.EVENT)


async def test_a_window_is_cleared_by_its_row_without_its_number(person: Person, world: World) -> None:
    shop = world.shop
    assert await select(shop, STRANGER, "another", "2222") == "pin"
    page = await person.open(f"{world.root}/throttles")
    [kept] = page.hidden("caller")
    cleared = await person.post(f"{world.root}/throttles/clear", caller=kept)
    assert (cleared.status, cleared.headers["Location"]) == (303, f"{world.root}/throttles?notice=cleared")
    assert {window["scope"] for window in await windows(shop.client, shop)} == {"vn", "tenant"}
    await person.post(f"{world.root}/throttles/clear", vn=shop.lines[1])
    await person.post(f"{world.root}/throttles/clear")
    assert await windows(shop.client, shop) == []
    assert [act.object_id for act in reversed(await acts(shop))] == [
        "the window of caller …91",
        f"the windows of {shop.lines[1]}",
        "the tenant's own window",
    ]
    both = await person.post(f"{world.root}/throttles/clear", vn=shop.lines[1], all="true")
    assert both.status == 400
    assert "caller, vn and all" in both.text
    plain = await person.post(f"{world.root}/throttles/clear", caller=STRANGER)
    assert plain.status == 400


async def test_a_setting_is_changed_as_the_api_would(person: Person, shop: Shop) -> None:
    path = f"/console/t/{shop.id}/settings"
    for key, value in (("max_pin_attempts", "5"), ("prompt_pin", "Your PIN, please."), ("flows", '["a"]')):
        seen = await person.post(f"{path}/{key}", value=value)
        assert (seen.status, seen.headers["Location"]) == (303, f"{path}?notice=changed")
    data = (await shop.ask("GET", "/settings")).data
    assert (data["max_pin_attempts"], data["prompt_pin"], data["flows"]) == (5, "Your PIN, please.", ["a"])
    assert (await person.post(f"{path}/max_pin_attempts", default="default")).status == 303
    assert (await shop.ask("GET", "/settings")).data["max_pin_attempts"] == 3
    log = await acts(shop)
    assert [(act.act, act.object_id) for act in log][:1] == [(Act.SETTINGS_CHANGED, "max_pin_attempts")]
    assert "Your PIN" not in str(log)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_pin_attempts", "eleven"),
        ("max_pin_attempts", "11"),
        ("timezone", "Mars"),
        (KEY, "http://10.0.0.1/"),
        ("prompt_pin", ""),
        ("flows", "[1]"),
    ],
)
async def test_a_bad_setting_is_refused_by_its_key_and_nothing_is_on_record(
    person: Person, shop: Shop, key: str, value: str
) -> None:
    seen = await person.post(f"/console/t/{shop.id}/settings/{key}", value=value)
    assert seen.status == 400
    assert key in seen.text.split("Now")[0].partition("Setting")[2].replace(key, "", 1)
    assert await acts(shop) == []


async def test_a_setting_is_shown_without_its_passwords(person: Person, world: World) -> None:
    for path in (f"{world.root}/settings", f"{world.root}/settings/{KEY}"):
        seen = await person.open(path)
        assert "https://nowhere.invalid/…" in seen.text
        assert "user" not in seen.html.replace("under", "")
    blank = await person.post(f"{world.root}/settings/{KEY}")
    assert blank.status == 400


# ── the log ──────────────────────────────────────────────────────────────────


async def test_the_log_is_read_page_by_page(person: Person, shop: Shop) -> None:
    for _ in range(60):
        await person.post(f"/console/t/{shop.id}/throttles/reveal")
    first = await person.open(f"/console/audit?tenant={shop.id}")
    [older] = first.links("cursor=")
    second = await person.open(older)
    assert [page.html.count('data-label="Who"') for page in (first, second)] == [50, 10]
    assert second.links("cursor=") == []
    everything = await person.open("/console/audit")
    assert everything.html.count('data-label="Who"') == 50


async def test_logins_are_on_record_with_what_a_proxy_says(person: Person) -> None:
    await person.send(
        "/console/logout",
        {"form_token": person.form_token},
        {"Origin": person.origin, "X-Forwarded-For": "203.0.113.7"},
    )
    await person.log_in("Ben")
    text = (await person.open("/console/audit")).text
    assert "Ben 127.0.0.1 Logged in" in text
    assert "Asha 127.0.0.1, for 203.0.113.7 Logged out" in text


async def test_old_acts_are_deleted_and_young_ones_stay(database: Database) -> None:
    now_us = 1_800_000_000_000_000
    old_us = now_us - ACTS_KEPT_DAYS * DAY_US

    async def write(connection: Connection) -> None:
        for cell, at_us in ((0, old_us - 1), (7, old_us - 1), (7, old_us), (9, now_us)):
            act = NewAct("Asha", "::1", Act.REVEALED, ObjectKind.CALL, "sid", Scope(cell, "shop"))
            await audit.record(connection, act, at_us)

    await database.write(write)
    assert await audit.delete_old(database, now_us) == 2
    page = await database.read(lambda connection: audit.list_acts(connection, None, newest(LATEST_US), 10))
    assert [act.at_us for act in page.items] == [now_us, old_us]
