"""Events over HTTP: what is listed and shown of them, replays, webhook secrets, and where events may go."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from standardwebhooks import Webhook

from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer
from cordboard.simulator.receiver import Receiver

from .conftest import MakeShop
from .shop import AGENT, UNKNOWN_ID, Shop, assert_refused, set_dead

# Nobody listens there.
NOWHERE = "http://user:secret@127.0.0.1:9/path?key=secret"
KEY = "deallocation_callback_event_endpoint"


async def shop_with(make_shop: MakeShop, url: str) -> Shop:
    return await make_shop({KEY: url})


async def end_one(shop: Shop, name: str) -> None:
    """Gives rise to one event."""
    made = await shop.make(name, b__pin="4821")
    assert (await shop.delete(made["greenpin_id"])).status == 200
    # So that no two are of one instant.
    shop.clock.advance(1)


async def items(shop: Shop, **filters: Any) -> list[dict[str, Any]]:
    answer = await shop.ask("GET", f"/events?{urlencode(filters)}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.data["items"]
    return found


async def replay(shop: Shop, path: str, body: object = None) -> Answer:
    return await shop.ask("POST", f"/events/{path}", body)


async def test_events_are_listed_newest_first_a_page_at_a_time(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, NOWHERE)
    assert await items(shop) == []
    for name in ("one", "two", "three"):
        await end_one(shop, name)
    listed = await items(shop)
    assert [event["created_at"] for event in listed] == sorted(
        (event["created_at"] for event in listed), reverse=True
    )
    event = listed[0]
    assert (event["kind"], event["product"], event["seq"]) == ("deallocated", "greenpin", 1)
    assert (event["state"], event["endpoint"], event["finished_at"]) == ("pending", "127.0.0.1:9", None)
    assert not {"body", "facts"} & set(event)
    assert "secret" not in str(listed)
    first = await shop.ask("GET", "/events?limit=2")
    rest = await items(shop, cursor=first.data["next_cursor"], limit=2)
    paged = [*first.data["items"], *rest]
    assert [event["id"] for event in paged] == [event["id"] for event in listed]


async def test_events_are_filtered_by_state_kind_and_date(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, NOWHERE)
    await end_one(shop, "one")
    await set_dead(shop)
    await end_one(shop, "two")
    newest, oldest = await items(shop)
    assert [event["id"] for event in await items(shop, state="dead")] == [oldest["id"]]
    assert [event["id"] for event in await items(shop, state="pending")] == [newest["id"]]
    assert await items(shop, state="delivered") == []
    assert len(await items(shop, kind="deallocated")) == 2
    assert await items(shop, kind="verified", state="dead") == []
    assert [event["id"] for event in await items(shop, to_date=oldest["created_at"])] == [oldest["id"]]
    assert [event["id"] for event in await items(shop, from_date=newest["created_at"])] == [newest["id"]]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("state=gone", Code.BAD),
        ("kind=call", Code.BAD),
        ("colour=red", Code.UNSUPPORTED_FILTER),
        ("cursor=nonsense", Code.BAD),
        ("from_date=2026-03-02&to_date=2026-03-01", Code.DATE_RANGE),
    ],
)
async def test_a_list_that_makes_no_sense_is_refused(shop: Shop, query: str, code: Code) -> None:
    assert_refused(await shop.ask("GET", f"/events?{query}"), 400, code)


async def test_one_event_is_shown_with_its_attempts_and_masked_unless_the_token_may_reveal(
    make_shop: MakeShop, receiver: Receiver
) -> None:
    shop = await shop_with(make_shop, receiver.url("/shown"))
    await end_one(shop, "one")
    while not (delivered := await items(shop, state="delivered")):
        pass
    path = f"/events/{delivered[0]['id']}"
    shown = (await shop.ask("GET", path)).data
    (attempt,) = shown["attempt_log"]
    assert (attempt["attempt"], attempt["status"], attempt["error"]) == (1, 200, None)
    assert shown["body"]["aparty_numbers"] == [f"…{AGENT[-2:]}"]
    assert shown["body"]["bparty_pins"] == ["****"]
    assert AGENT not in str(shown)
    assert "4821" not in str(shown["body"])
    assert_refused(await shop.ask("GET", f"{path}?reveal=true"), 403, Code.NOT_PERMITTED)

    made = await shop.client.admin("POST", f"/tenants/{shop.id}/tokens", {"reveal": True})
    user = (shop.id, made.body["api_token"])

    async def read(id: str, query: str = "") -> Any:
        url = f"/v1/tenants/{shop.id}/events/{id}{query}"
        return (await shop.client.ask("GET", url, user=user)).body["data"]

    assert await read(shown["id"]) == shown
    # It was delivered, and there is no data key to keep it whole.
    assert await read(shown["id"], "?reveal=true") == shown
    await shop.ask("PUT", "/settings", {KEY: NOWHERE})
    await end_one(shop, "two")
    (pending,) = await items(shop, state="pending")
    assert AGENT not in str((await read(pending["id"]))["body"])
    whole = await read(pending["id"], "?reveal=true")
    assert whole["body"]["aparty_numbers"] == [AGENT]
    assert whole["body"]["bparty_pins"] == ["4821"]


async def test_a_masked_event_is_not_replayed(make_shop: MakeShop, receiver: Receiver) -> None:
    shop = await shop_with(make_shop, receiver.url("/masked"))
    await end_one(shop, "one")
    while not (delivered := await items(shop, state="delivered")):
        pass
    refused = await replay(shop, f"{delivered[0]['id']}/replay")
    assert_refused(refused, 409, Code.CLIENT_ID_TAKEN)
    assert "masked" in refused.body["message"]
    body = {"state": "delivered", "from_date": delivered[0]["created_at"]}
    assert (await replay(shop, "replay", body)).data == {"replayed": 0}
    assert await items(shop) == delivered


async def test_what_is_not_ones_own_is_not_there(make_shop: MakeShop) -> None:
    shop, stranger = await shop_with(make_shop, NOWHERE), await make_shop()
    await end_one(shop, "one")
    (event,) = await items(shop)
    assert await items(stranger) == []
    for id in (event["id"], UNKNOWN_ID, "nonsense"):
        assert_refused(await stranger.ask("GET", f"/events/{id}"), 404, Code.NOT_FOUND)
        assert_refused(await replay(stranger, f"{id}/replay"), 404, Code.NOT_FOUND)


async def test_a_dead_event_is_replayed_and_a_pending_one_is_not(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, NOWHERE)
    await end_one(shop, "one")
    (event,) = await items(shop)
    assert_refused(await replay(shop, f"{event['id']}/replay"), 409, Code.CLIENT_ID_TAKEN)
    await set_dead(shop)
    assert (await replay(shop, f"{event['id']}/replay")).data == {"replayed": 1}
    (again,) = await items(shop)
    assert (again["state"], again["id"], again["finished_at"]) == ("pending", event["id"], None)
    assert again["replayed_at"] is not None


async def test_a_time_range_is_replayed(make_shop: MakeShop) -> None:
    shop = await shop_with(make_shop, NOWHERE)
    for name in ("one", "two", "three"):
        await end_one(shop, name)
    await set_dead(shop)
    newest, middle, oldest = await items(shop)
    body = {"state": "dead", "from_date": oldest["created_at"], "to_date": middle["created_at"]}
    assert (await replay(shop, "replay", {**body, "state": "delivered"})).data == {"replayed": 0}
    assert (await replay(shop, "replay", body)).data == {"replayed": 2}
    assert (await replay(shop, "replay", body)).data == {"replayed": 0}
    assert [event["id"] for event in await items(shop, state="dead")] == [newest["id"]]
    del body["to_date"]
    assert (await replay(shop, "replay", body)).data == {"replayed": 1}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"state": "dead"}, Code.MISSING),
        ({"from_date": "2026-03-01"}, Code.MISSING),
        ({"state": "pending", "from_date": "2026-03-01"}, Code.BAD),
        ({"state": "dead", "from_date": "yesterday"}, Code.BAD),
        ({"state": "dead", "from_date": "2026-03-01", "to_date": "x"}, Code.BAD),
        ({"state": "dead", "from_date": "2026-03-02", "to_date": "2026-03-01"}, Code.DATE_RANGE),
    ],
)
async def test_a_replay_that_makes_no_sense_is_refused(shop: Shop, body: dict[str, str], code: Code) -> None:
    assert_refused(await replay(shop, "replay", body), 400, code)


# ── secrets ──────────────────────────────────────────────────────────────────


async def test_secrets_are_shown_once_and_rotated(shop: Shop) -> None:
    (first,) = (await shop.ask("GET", "/webhook-secrets")).data["webhook_secrets"]
    assert set(first) == {"secret_id", "created_at", "retired_at"}
    last = await shop.ask("DELETE", f"/webhook-secrets/{first['secret_id']}")
    assert_refused(last, 409, Code.CLIENT_ID_TAKEN)
    made = await shop.ask("POST", "/webhook-secrets")
    assert made.status == 201
    Webhook(made.data["webhook_secret"])
    assert made.data["webhook_secret"].startswith("whsec_")
    assert (await shop.ask("DELETE", f"/webhook-secrets/{first['secret_id']}")).status == 200
    gone = await shop.ask("DELETE", f"/webhook-secrets/{first['secret_id']}")
    assert_refused(gone, 404, Code.NOT_FOUND)
    listed = (await shop.ask("GET", "/webhook-secrets")).data["webhook_secrets"]
    assert [secret["retired_at"] is None for secret in listed] == [False, True]
    assert "whsec_" not in str(listed)


async def test_a_tenant_has_five_secrets_and_no_more(shop: Shop) -> None:
    answers = [await shop.ask("POST", "/webhook-secrets") for _ in range(5)]
    assert [answer.status for answer in answers] == [201] * 4 + [409]


# ── endpoints ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:192.168.0.1]/",
        "http://0xa9fea9fe/",
        "http://[64:ff9b::a00:1]/",
        "http://0.0.0.0/",
        "https://example.com:22/",
    ],
)
async def test_an_endpoint_that_leads_inside_is_refused_by_its_key(shop: Shop, url: str) -> None:
    answer = await shop.ask("PUT", "/settings", {KEY: url})
    assert_refused(answer, 400, Code.BAD)
    assert answer.body["message"].startswith(KEY)
    made = await shop.client.admin("POST", "/tenants", {"id": f"{shop.id}-two", "settings": {KEY: url}})
    assert_refused(made, 400, Code.BAD)
    assert (await shop.ask("PUT", "/settings", {KEY: None})).status == 200
