"""Lists over HTTP: each filter, paging, and what is said of a query that makes no sense."""

from __future__ import annotations

import base64
import itertools
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
import pytest

from cordboard.clock import EPOCH
from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer

from .conftest import MakeShop
from .shop import AGENT, CUSTOMER, OTHER_AGENT, OTHER_CUSTOMER, UNKNOWN_ID, Shop, assert_refused

LISTS = ("greenpin", "calls", "verifications")
INDIA = timezone(timedelta(hours=5, minutes=30))
_sids = itertools.count(1)


async def read(shop: Shop, name: str, **filters: Any) -> Answer:
    return await shop.ask("GET", f"/{name}?{urlencode(filters)}")


async def items(shop: Shop, name: str, **filters: Any) -> list[dict[str, Any]]:
    """What one page has, which is all there is."""
    answer = await read(shop, name, **filters)
    assert answer.status == 200, answer.body
    assert answer.body["method"] == "GET"
    assert set(answer.data) == {"items", "next_cursor"}
    assert answer.data["next_cursor"] is None
    found: list[dict[str, Any]] = answer.data["items"]
    return found


async def order_ids(shop: Shop, **filters: Any) -> list[str]:
    return [item["transaction_id"] for item in await items(shop, "greenpin", **filters)]


async def sids(shop: Shop, name: str, **filters: Any) -> list[str]:
    return [item["call_sid"] for item in await items(shop, name, **filters)]


async def dial(
    shop: Shop,
    session: aiohttp.ClientSession,
    caller: str,
    line: str,
    call_sid: str | None = None,
    **more: str,
) -> str:
    """A passthru hop of a call; returns its CallSid."""
    call_sid = call_sid or f"{shop.id}call{next(_sids)}"
    hop = {"CallSid": call_sid, "CallFrom": caller, "CallTo": line, "Direction": "incoming"}
    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/exotel/passthru?switch=1"
    async with session.get(url, params={**hop, **more}, headers=shop.authorization) as response:
        assert response.status == 200, await response.text()
    await shop.switchboard.records.flush()
    # So that two calls are not of one instant.
    shop.clock.advance(1)
    return call_sid


def local(shop: Shop, zone: timezone = INDIA) -> datetime:
    """The present time of the shop."""
    return (EPOCH + timedelta(microseconds=shop.clock.now_us())).astimezone(zone)


# ── GreenPins ────────────────────────────────────────────────────────────────


async def test_a_list_has_the_data_of_each_newest_first(shop: Shop) -> None:
    assert await items(shop, "greenpin") == []
    first = await shop.make("first")
    shop.clock.advance(1)
    second = await shop.make("second", b__numbers=[OTHER_CUSTOMER])
    assert await items(shop, "greenpin") == [second, first]
    await shop.delete(first["greenpin_id"])
    assert await items(shop, "greenpin") == [second, first | {"state": "vault"}]


async def test_nobody_lists_what_is_anothers(make_shop: MakeShop, session: aiohttp.ClientSession) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    made = await neighbour.make(a__pin="1234", b__pin="9876")
    call_sid = await dial(neighbour, session, AGENT, neighbour.lines[0], digits='"1234"')
    for name, filters in (
        ("greenpin", {"transaction_id": "order"}),
        ("greenpin", {"vn": neighbour.lines[0]}),
        ("greenpin", {"number": AGENT}),
        ("calls", {"call_sid": call_sid}),
        ("calls", {"allocation_id": made["greenpin_id"]}),
        ("calls", {"caller": AGENT}),
        ("verifications", {"allocation_id": made["greenpin_id"]}),
        *((name, {}) for name in LISTS),
    ):
        assert await items(shop, name, **filters) == []
        assert len(await items(neighbour, name, **filters)) == 1


async def test_greenpins_are_found_by_each_filter(shop: Shop) -> None:
    one, two, three, _ = shop.lines
    await shop.make("plain")
    await shop.make("other", a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER], b__vns=[three])
    gone = await shop.make("gone", b__numbers=[OTHER_CUSTOMER], a__vns=[three])
    await shop.delete(gone["greenpin_id"])
    again = await shop.make("gone", b__numbers=[OTHER_CUSTOMER])

    async def found(**filters: Any) -> list[str]:
        return sorted(await order_ids(shop, **filters))

    assert await found() == ["gone", "gone", "other", "plain"]
    assert await found(transaction_id="gone") == ["gone", "gone"]
    assert await found(transaction_id="gone", state="active") == ["gone"]
    [active] = await items(shop, "greenpin", transaction_id="gone", state="active")
    assert active == again
    assert await found(transaction_id="nobody's") == []
    assert await found(vn=one) == ["gone", "other", "plain"]
    assert await found(vn=three) == ["gone", "other"]
    assert await found(vn=three, state="active") == ["other"]
    assert await found(vn=three, state="vault") == ["gone"]
    assert await found(vn=three, number=OTHER_AGENT) == ["other"]
    assert await found(vn="+918099999999") == []
    # Numbers may be written as people write them.
    assert await found(vn=f"0{two[3:]}", number=CUSTOMER[3:]) == ["plain"]
    assert await found(number=OTHER_CUSTOMER) == ["gone", "gone", "other"]
    assert await found(number=OTHER_CUSTOMER, state="vault") == ["gone"]
    assert await found(state="active") == ["gone", "other", "plain"]
    assert await found(state="vault") == ["gone"]


async def test_past_its_end_it_counts_as_vaulted_whether_swept_or_not(shop: Shop) -> None:
    await shop.make("short", deallocation_policy={"duration": "60s"})
    await shop.make("long", b__numbers=[OTHER_CUSTOMER])
    shop.clock.advance(61)
    for filters in ({}, {"vn": shop.lines[0]}, {"number": AGENT}):
        assert await order_ids(shop, state="active", **filters) == ["long"]
        [ended] = await items(shop, "greenpin", state="vault", **filters)
        assert (ended["transaction_id"], ended["state"]) == ("short", "vault")


async def test_a_vn_that_was_swapped_is_no_longer_found_by(shop: Shop) -> None:
    made = await shop.make()
    await shop.put(made["greenpin_id"], {"a": {"vns": [shop.lines[2]]}})
    assert await order_ids(shop, vn=shop.lines[0]) == []
    assert await order_ids(shop, vn=shop.lines[2]) == ["order"]


async def test_a_member_is_found_by_its_number(shop: Shop, session: aiohttp.ClientSession) -> None:
    await shop.make(a__pin="1234")
    assert await order_ids(shop, number=OTHER_AGENT) == []
    await dial(shop, session, OTHER_AGENT, shop.lines[0], digits='"1234"')
    assert await order_ids(shop, number=OTHER_AGENT) == ["order"]


# ── dates ────────────────────────────────────────────────────────────────────


async def test_dates_are_days_or_seconds_of_the_account_or_instants_with_an_offset(shop: Shop) -> None:
    day, second = timedelta(days=1), timedelta(seconds=1)
    early = local(shop).replace(microsecond=0) - 2 * second
    await shop.make()
    late = local(shop).replace(microsecond=0) + 2 * second
    plain, iso = "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"

    def days(moment: datetime) -> str:
        return moment.strftime("%Y-%m-%d")

    for filters in (
        {"from_date": days(early)},
        {"to_date": days(late)},
        {"from_date": days(early), "to_date": days(late)},
        {"from_date": early.strftime(plain), "to_date": late.strftime(plain)},
        {"from_date": early.isoformat(), "to_date": late.isoformat()},
        {"from_date": early.astimezone(UTC).strftime(f"{iso}Z")},
        {"from_date": early.astimezone(UTC).strftime(f"{iso}.000001+0000")},
        # The plus of the offset, lost by a client that does not encode it.
        {"from_date": early.isoformat().replace("+", " ")},
        {"from_date": "0001-01-01", "to_date": "9999-12-31"},
    ):
        assert await order_ids(shop, **filters) == ["order"], filters
    for filters in (
        {"from_date": days(late + day)},
        {"to_date": days(early - day)},
        {"from_date": late.strftime(plain)},
        {"to_date": early.strftime(plain)},
        # It is an hour that the account has not reached.
        {"from_date": early.astimezone(UTC).strftime(f"{iso}-01:00")},
        {"to_date": "1969-12-31"},
        {"from_date": "9999-12-31"},
    ):
        assert await order_ids(shop, **filters) == [], filters


async def test_a_day_is_the_accounts(make_shop: MakeShop) -> None:
    for zone, offset in (("IST", INDIA), ("UTC", UTC)):
        shop = await make_shop({"timezone": zone})
        today = local(shop, offset)
        await shop.make()
        midnight = today.replace(hour=0, minute=0, second=0, microsecond=0)
        assert await order_ids(shop, from_date=today.strftime("%Y-%m-%d")) == ["order"]
        assert await order_ids(shop, to_date=(midnight - timedelta(seconds=1)).isoformat()) == []


async def test_the_second_that_an_item_names_finds_it(shop: Shop, session: aiohttp.ClientSession) -> None:
    call_sid = await dial(shop, session, AGENT, shop.lines[0])
    [call] = await items(shop, "calls")
    second = call["first_hop_at"]
    assert second.endswith("+05:30")
    assert await sids(shop, "calls", from_date=second, to_date=second) == [call_sid]
    assert await sids(shop, "calls", to_date=second.replace("T", " ")[:19]) == [call_sid]


# ── calls ────────────────────────────────────────────────────────────────────


async def test_a_call_is_told_with_its_end(shop: Shop, session: aiohttp.ClientSession) -> None:
    made = await shop.make(a__pin="1234")
    line = shop.lines[0]
    refused = await dial(shop, session, CUSTOMER, shop.lines[3])
    call_sid = await dial(shop, session, AGENT, line)
    [call, other] = await items(shop, "calls")
    assert (other["call_sid"], other["decision"], other["reason"]) == (refused, "refuse", "no_allocation")
    assert (call["decision"], call["caller"], call["to"], call["end"]) == ("ask_pin", AGENT, None, None)
    await dial(shop, session, AGENT, line, call_sid, digits='"1234"')
    [call] = await items(shop, "calls", call_sid=call_sid)
    assert (call["to"], call["end"]) == (CUSTOMER, None)
    ended = {
        "CallType": "completed",
        "DialCallStatus": "completed",
        "DialCallDuration": "17",
        "Legs[0][OnCallDuration]": "12",
        "DialWhomNumber": OTHER_CUSTOMER,
        "RecordingUrl": "https://platform.example/r.mp3",
        "StartTime": "2026-03-01 10:00:00",
    }
    await dial(shop, session, AGENT, line, call_sid, **ended)
    [call] = await items(shop, "calls", call_sid=call_sid)
    times = {key: call.pop(key) for key in ("first_hop_at", "last_hop_at")}
    ended_at = call["end"].pop("ended_at")
    assert call.pop("request_id") != call["end"].pop("request_id"), "of two hops"
    assert times["first_hop_at"] < times["last_hop_at"] <= ended_at
    assert call == {
        "call_sid": call_sid,
        "vn": line,
        "caller": AGENT,
        "decision": "connect",
        "reason": None,
        "matched": "pin",
        "allocation_id": made["greenpin_id"],
        "product": "greenpin",
        "side": "a",
        "to": OTHER_CUSTOMER,
        "end": {
            "call_type": "completed",
            "dial_call_status": "completed",
            "dial_call_duration": 17,
            "on_call_duration": 12,
            "recording_url": "https://platform.example/r.mp3",
            "start_time": "2026-03-01 10:00:00",
        },
    }


async def test_calls_are_found_by_each_filter(make_shop: MakeShop, session: aiohttp.ClientSession) -> None:
    shop = await make_shop({"aparty_pin_enabled": "false"})
    one, two, *_ = shop.lines
    made = await shop.make()
    connected = await dial(shop, session, AGENT, one)
    asked = await dial(shop, session, CUSTOMER, two)
    withheld = await dial(shop, session, "", two)
    refused = await dial(shop, session, CUSTOMER, one)

    assert await sids(shop, "calls") == [refused, withheld, asked, connected]
    assert await sids(shop, "calls", call_sid=asked) == [asked]
    assert await sids(shop, "calls", call_sid="nobody's") == []
    assert await sids(shop, "calls", caller=CUSTOMER) == [refused, asked]
    assert await sids(shop, "calls", caller="withheld") == [withheld]
    assert (await items(shop, "calls", caller="withheld"))[0]["caller"] is None
    assert await sids(shop, "calls", vn=two) == [withheld, asked]
    assert await sids(shop, "calls", vn=two, caller=CUSTOMER) == [asked]
    assert await sids(shop, "calls", allocation_id=made["greenpin_id"]) == [connected]
    assert await sids(shop, "calls", allocation_id=UNKNOWN_ID) == []
    assert await sids(shop, "calls", decision="connect") == [connected]
    assert await sids(shop, "calls", decision="ask_pin") == [withheld, asked]
    assert await sids(shop, "calls", decision="refuse") == [refused]
    assert await sids(shop, "calls", decision="refuse", call_sid=asked) == []
    since = (await items(shop, "calls", call_sid=withheld))[0]["first_hop_at"]
    assert await sids(shop, "calls", from_date=since) == [refused, withheld]
    assert await sids(shop, "calls", to_date=since) == [withheld, asked, connected]


# ── verifications ────────────────────────────────────────────────────────────


async def test_verifications_are_found_by_each_filter_and_never_tell_the_digits(
    shop: Shop, session: aiohttp.ClientSession
) -> None:
    one, two, *_ = shop.lines
    made = await shop.make(a__pin="712345", b__pin="798765")
    right = await dial(shop, session, AGENT, one, digits='"712345"')
    wrong = await dial(shop, session, AGENT, one, digits='"700001"')
    withheld = await dial(shop, session, "", two, digits='"700002"')

    answer = await read(shop, "verifications")
    [_, _, told] = answer.data["items"]
    assert told.pop("verified_at").endswith("+05:30")
    assert told.pop("request_id")
    assert told == {
        "call_sid": right,
        "vn": one,
        "caller": AGENT,
        "outcome": "success",
        "reason": "right_pin",
        "allocation_id": made["greenpin_id"],
        "side": "a",
    }
    assert "7123" not in str(answer.body)
    assert "7000" not in str(answer.body)

    assert await sids(shop, "verifications") == [withheld, wrong, right]
    assert await sids(shop, "verifications", call_sid=wrong) == [wrong]
    assert await sids(shop, "verifications", caller=AGENT) == [wrong, right]
    assert await sids(shop, "verifications", caller="withheld") == [withheld]
    assert await sids(shop, "verifications", vn=one) == [wrong, right]
    assert await sids(shop, "verifications", vn=two) == [withheld]
    assert await sids(shop, "verifications", allocation_id=made["greenpin_id"]) == [right]
    assert await sids(shop, "verifications", outcome="success") == [right]
    assert await sids(shop, "verifications", outcome="failure") == [withheld, wrong]
    assert await sids(shop, "verifications", outcome="failure", caller=AGENT, vn=one) == [wrong]
    since = (await items(shop, "verifications", call_sid=wrong))[0]["verified_at"]
    assert await sids(shop, "verifications", from_date=since) == [withheld, wrong]
    assert await sids(shop, "verifications", to_date=since) == [wrong, right]


# ── paging ───────────────────────────────────────────────────────────────────


async def all_items(shop: Shop, name: str, between: Any = None, **filters: Any) -> list[dict[str, Any]]:
    """Page after page; `between` is done before each but the first."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await read(shop, name, **filters, **cursor)
        assert answer.status == 200, answer.body
        page = answer.data["items"]
        found += page
        if answer.data["next_cursor"] is None:
            return found
        assert len(page) == filters["limit"]
        cursor = {"cursor": answer.data["next_cursor"]}
        if between is not None:
            await between()


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_have_each_once_also_while_new_ones_are_made(shop: Shop, limit: int) -> None:
    numbers = itertools.count()

    async def make() -> None:
        n = next(numbers)
        await shop.make(f"order-{n}", b__numbers=[f"+9198000003{n:02d}"])

    for _ in range(6):
        await make()
    expected = await items(shop, "greenpin")
    assert await all_items(shop, "greenpin", make, limit=limit) == expected
    for filters in ({"vn": shop.lines[0]}, {"number": AGENT}, {"state": "active"}):
        expected = await items(shop, "greenpin", **filters)
        assert await all_items(shop, "greenpin", limit=limit, **filters) == expected


async def test_calls_and_verifications_are_paged_too(shop: Shop, session: aiohttp.ClientSession) -> None:
    await shop.make(a__pin="1234")
    for n in range(3):
        await dial(shop, session, AGENT, shop.lines[0], digits=f'"77{n}"')
        await dial(shop, session, "", shop.lines[0], digits=f'"88{n}"')

    async def call() -> None:
        await dial(shop, session, AGENT, shop.lines[0], digits='"1234"')

    for name in ("calls", "verifications"):
        for filters in ({}, {"caller": AGENT}, {"vn": shop.lines[0]}):
            expected = await items(shop, name, **filters)
            assert len(expected) >= 3
            assert await all_items(shop, name, call, limit=2, **filters) == expected


async def test_a_page_has_50_unless_told(shop: Shop) -> None:
    for n in range(51):
        await shop.make(f"order-{n}", b__numbers=[f"+9198000004{n:02d}"])
    first = (await read(shop, "greenpin")).data
    assert len(first["items"]) == 50
    rest = (await read(shop, "greenpin", cursor=first["next_cursor"])).data
    assert (len(rest["items"]), rest["next_cursor"]) == (1, None)
    assert len(await items(shop, "greenpin", limit=51)) == 51


# ── queries that make no sense ───────────────────────────────────────────────


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("query", "code", "key"),
    [
        ("colour=red", Code.UNSUPPORTED_FILTER, "colour"),
        ("limit=x&page=2", Code.UNSUPPORTED_FILTER, "page"),
        ("connection_id=order", Code.UNSUPPORTED_FILTER, "connection_id"),
        ("=", Code.UNSUPPORTED_FILTER, "One of the keys"),
        ("vn=", Code.BAD, "vn"),
        ("vn=+", Code.BAD, "vn"),
        ("from_date=%20", Code.BAD, "from_date"),
        ("limit=5&limit=5", Code.BAD, "limit"),
        ("vn=12", Code.BAD_NUMBER, "vn"),
        ("vn=nonsense", Code.BAD_NUMBER, "vn"),
        ("limit=0", Code.BAD, "limit"),
        ("limit=1001", Code.BAD, "limit"),
        ("limit=-1", Code.BAD, "limit"),
        ("limit=1.0", Code.BAD, "limit"),
        ("limit=%D9%A3", Code.BAD, "limit"),
        ("limit=" + "9" * 5_000, Code.BAD, "limit"),
        ("from_date=tomorrow", Code.BAD, "from_date"),
        ("from_date=2026-02-30", Code.BAD, "from_date"),
        ("to_date=2026-02-01T10:00:00", Code.BAD, "to_date"),
        ("to_date=2026-02-01%2010:00", Code.BAD, "to_date"),
        ("to_date=2026-02-01T10:00:00%2B99:00", Code.BAD, "to_date"),
        ("to_date=0000-01-01", Code.BAD, "to_date"),
        ("from_date=2026-03-02&to_date=2026-03-01", Code.DATE_RANGE, "from_date"),
        (
            "from_date=2026-03-01T00:00:00Z&to_date=2026-03-01T05:29:59%2B05:30",
            Code.DATE_RANGE,
            "to_date",
        ),
        ("cursor=x", Code.BAD, "cursor"),
        ("cursor=%00", Code.BAD, "cursor"),
    ],
)
async def test_bad_queries_have_their_code_and_name_their_key(
    shop: Shop, name: str, query: str, code: Code, key: str
) -> None:
    assert_refused(await shop.ask("GET", f"/{name}?{query}"), 400, code, key)


@pytest.mark.parametrize(
    ("query", "code", "key"),
    [
        ("greenpin?call_sid=x", Code.UNSUPPORTED_FILTER, "call_sid"),
        ("greenpin?number=1x", Code.BAD_NUMBER, "number"),
        ("greenpin?number=withheld", Code.BAD_NUMBER, "number"),
        ("greenpin?state=ended", Code.BAD, "state"),
        ("greenpin?transaction_id=a%00b", Code.BAD, "transaction_id"),
        ("calls?transaction_id=x", Code.UNSUPPORTED_FILTER, "transaction_id"),
        ("calls?outcome=success", Code.UNSUPPORTED_FILTER, "outcome"),
        ("calls?caller=Withheld", Code.BAD_NUMBER, "caller"),
        ("calls?allocation_id=x", Code.BAD, "allocation_id"),
        ("calls?decision=maybe", Code.BAD, "decision"),
        ("calls?call_sid=%00", Code.BAD, "call_sid"),
        ("verifications?decision=connect", Code.UNSUPPORTED_FILTER, "decision"),
        ("verifications?outcome=right", Code.BAD, "outcome"),
        ("verifications?caller=12", Code.BAD_NUMBER, "caller"),
    ],
)
async def test_each_list_has_filters_of_its_own(shop: Shop, query: str, code: Code, key: str) -> None:
    assert_refused(await shop.ask("GET", f"/{query}"), 400, code, key)


async def test_what_is_refused_is_not_quoted(shop: Shop) -> None:
    for query in (f"{AGENT[1:]}=x", f"vn={AGENT[1:]}99999", f"number={AGENT[1:]}x", f"to_date={AGENT[1:]}"):
        answer = await shop.ask("GET", f"/greenpin?{query}")
        assert answer.status == 400
        assert AGENT[3:] not in answer.body["message"]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "parts",
    [
        None,
        5,
        "text",
        {},
        [],
        [1],
        [1, 2],
        [1, "not an id"],
        ["1", UNKNOWN_ID],
        [-1, UNKNOWN_ID],
        [2**62, UNKNOWN_ID],
        [True, "sid", 5, 5],
        [1, "a\0b", 5, 5, 1],
        [1, "sid", 5, 2**63, 1],
        [1, "sid", 5, 2**63],
        [1, "sid", -5, 5],
        [1, "sid", 5, 5, 10**9],
        [1, "sid", 5, 5, 1, 1],
        [1, None, 5, 5, 1],
    ],
)
async def test_a_cursor_that_no_page_gave_is_refused(shop: Shop, name: str, parts: object) -> None:
    cursor = base64.urlsafe_b64encode(orjson.dumps(parts)).decode()
    assert_refused(await read(shop, name, cursor=cursor), 400, Code.BAD, "cursor")


async def test_a_cursor_of_another_list_is_refused(shop: Shop, session: aiohttp.ClientSession) -> None:
    await shop.make("first", a__pin="1234")
    await shop.make("second", b__numbers=[OTHER_CUSTOMER])
    for _ in range(2):
        await dial(shop, session, AGENT, shop.lines[0], digits='"1234"')
    cursors = {name: (await read(shop, name, limit=1)).data["next_cursor"] for name in LISTS}
    for name, other in itertools.permutations(LISTS, 2):
        assert_refused(await read(shop, name, cursor=cursors[other]), 400, Code.BAD, "cursor")
        assert (await read(shop, name, cursor=cursors[name])).status == 200
