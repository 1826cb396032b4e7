"""Who may ask, and the envelope around every answer of the API, whatever was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest
from structlog.testing import capture_logs

from cordboard.node import Node, running_node
from cordboard.routing.allocate import PRECEDENCE, Code
from cordboard.settings import Settings
from cordboard.simulator.client import Answer, Client, Credentials
from cordboard.storage import provisioning
from cordboard.storage.database import CommitUnknown
from cordboard.web.errors import STATUS_OF, problem_of

from .conftest import MakeShop
from .shop import (
    ADMIN_TOKEN,
    AGENT,
    CUSTOMER,
    UNKNOWN_ID,
    ShiftedClock,
    Shop,
    assert_refused,
    basic,
    open_shop,
)

RESOURCES = [
    ("POST", "/greenpin"),
    ("PUT", "/greenpin"),
    ("GET", "/greenpin"),
    ("GET", "/calls"),
    ("GET", "/verifications"),
    ("GET", f"/greenpin/{UNKNOWN_ID}"),
    ("PUT", f"/greenpin/{UNKNOWN_ID}"),
    ("DELETE", f"/greenpin/{UNKNOWN_ID}"),
    ("GET", f"/greenpin/{UNKNOWN_ID}/members"),
    ("GET", "/settings"),
    ("PUT", "/settings"),
    ("POST", "/applet-keys"),
    ("GET", "/applet-keys"),
    ("DELETE", f"/applet-keys/{UNKNOWN_ID}"),
]


def test_the_codes_have_the_statuses_of_the_table() -> None:
    """exotel.md 8.8."""
    assert {code.value: status for code, status in STATUS_OF.items()} == {
        0: 500,
        1: 404,
        2: 400,
        3: 400,
        4: 452,
        5: 400,
        7: 401,
        8: 403,
        9: 400,
        13: 409,
        14: 409,
        15: 403,
        16: 400,
        17: 413,
        18: 409,
        19: 409,
        22: 410,
        23: 400,
        50: 422,
    }
    assert set(STATUS_OF) == set(Code)
    assert set(PRECEDENCE) <= set(Code)


# ── who asks ─────────────────────────────────────────────────────────────────


async def ask_as(shop: Shop, authorization: str | None, tenant_id: str, method: str, path: str) -> Answer:
    headers = {} if authorization is None else {"Authorization": authorization}
    return await shop.client.ask(method, f"/v1/tenants/{tenant_id}{path}", headers=headers)


@pytest.mark.parametrize(("method", "path"), RESOURCES)
async def test_nobody_gets_in_without_credentials(shop: Shop, method: str, path: str) -> None:
    before = await shop.rows()
    answer = await ask_as(shop, None, shop.id, method, path)
    assert_refused(answer, 401, Code.UNAUTHENTICATED, "Authorization")
    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
    assert answer.body["method"] == method
    assert await shop.rows() == before


async def test_credentials_that_are_not_right_all_sound_alike(shop: Shop) -> None:
    token = shop.credentials.api_token
    wrong = [
        "",
        "Basic",
        "Basic !!!",
        "Basic =",
        basic("", ""),
        basic(shop.id, ""),
        basic(shop.id, token[:-1]),
        basic(shop.id, token + "x"),
        basic(shop.id, shop.credentials.applet_key),
        basic(shop.id.upper(), token),
        basic("nobody", token),
        basic("x" * 5_000, token),
        basic("\0", token),
        basic("Grüße", token),
        "Basic /////w==",
        "Bearer " + token,
        f"Bearer {ADMIN_TOKEN}",
        basic(shop.id, token).replace("Basic", "Digest"),
        "Basic " + "A" * 8_000,
    ]
    messages = set()
    for authorization in wrong:
        for tenant_id in (shop.id, "nobody"):
            answer = await ask_as(shop, authorization, tenant_id, "GET", "/settings")
            assert_refused(answer, 401, Code.UNAUTHENTICATED)
            messages.add((answer.body["message"], answer.headers["WWW-Authenticate"]))
    assert len(messages) == 1


async def test_the_scheme_is_read_in_any_case(shop: Shop) -> None:
    authorization = basic(shop.id, shop.credentials.api_token).replace("Basic", "bAsIc")
    assert (await ask_as(shop, authorization, shop.id, "GET", "/settings")).status == 200


@pytest.mark.parametrize(("method", "path"), RESOURCES)
async def test_another_tenants_credentials_are_not_permitted(
    make_shop: MakeShop, method: str, path: str
) -> None:
    shop, neighbour = await make_shop(), await make_shop()
    before = await neighbour.rows()
    authorization = shop.authorization["Authorization"]
    for tenant_id in (neighbour.id, "nobody", "No-Tenant", "%00"):
        answer = await ask_as(shop, authorization, tenant_id, method, path)
        assert_refused(answer, 403, Code.NOT_PERMITTED, "tenant")
    assert await neighbour.rows() == before


@pytest.mark.parametrize(
    ("version", "is_good"), [("1", True), ("1.0", True), ("v1", True), ("2", False), ("", False)]
)
async def test_the_version_is_1_or_not_given(shop: Shop, version: str, is_good: bool) -> None:
    answer = await shop.ask("GET", "/settings", headers={"Exotel-Version": version})
    if is_good:
        assert answer.status == 200
    else:
        assert_refused(answer, 400, Code.VERSION, "Exotel-Version")


async def test_a_bad_version_changes_nothing(shop: Shop) -> None:
    before = await shop.rows()
    answer = await shop.ask("POST", "/greenpin", shop.order(), headers={"Exotel-Version": "2"})
    assert_refused(answer, 400, Code.VERSION)
    assert await shop.rows() == before


# ── what no route takes ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tenants/{tenant}",
        "/v1/tenants/{tenant}/",
        "/v1/tenants/{tenant}/greenpins",
        "/v1/tenants/{tenant}/greenpin/",
        "/v1/tenants/{tenant}/greenpin/x/y/z",
        "/v1/tenants/{tenant}/settings/x",
        "/v1/tenants/",
        "/v1/tenants",
        "/admin/v1/",
        "/admin/v1/nothing",
        "/admin/v1/tenants/x/y",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_told_in_an_envelope(shop: Shop, method: str, path: str) -> None:
    answer = await shop.client.ask(method, path.format(tenant=shop.id))
    assert_refused(answer, 404, Code.NOT_FOUND)
    assert answer.body["method"] == method


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/tenants/{tenant}/greenpin", {"GET", "HEAD", "POST", "PUT"}),
        ("POST", "/v1/tenants/{tenant}/calls", {"GET", "HEAD"}),
        ("POST", "/v1/tenants/{tenant}/greenpin/x", {"GET", "HEAD", "PUT", "DELETE"}),
        ("DELETE", "/v1/tenants/{tenant}/settings", {"GET", "HEAD", "PUT"}),
        ("PUT", "/v1/tenants/{tenant}/applet-keys", {"GET", "HEAD", "POST"}),
        ("PATCH", "/v1/tenants/{tenant}/applet-keys/x", {"DELETE"}),
        ("PUT", "/admin/v1/tenants", {"GET", "HEAD", "POST"}),
        ("PUT", "/admin/v1/tenants/x/vns/y", {"GET", "HEAD", "PATCH", "DELETE"}),
    ],
)
async def test_an_unknown_method_is_told_what_there_is(
    shop: Shop, method: str, path: str, allowed: set[str]
) -> None:
    answer = await shop.client.ask(method, path.format(tenant=shop.id))
    assert_refused(answer, 405, Code.BAD, method)
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/tenants/{tenant}/exotel/nothing", "/v2/tenants/x/greenpin"]
)
async def test_other_paths_are_left_alone(shop: Shop, path: str) -> None:
    answer = await shop.client.ask("GET", path.format(tenant=shop.id))
    assert answer.status == 404
    assert not isinstance(answer.body, dict)


async def test_head_is_get_without_a_body(shop: Shop, session: aiohttp.ClientSession) -> None:
    url = f"{shop.client.base_url}/v1/tenants/{shop.id}/settings"
    async with session.head(url, headers=shop.authorization) as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_request_ids_differ(shop: Shop) -> None:
    answers = [await shop.ask("GET", "/settings") for _ in range(3)]
    ids = {answer.body["request_id"] for answer in answers}
    assert len(ids) == 3
    assert all(len(id) == 32 and int(id, 16) >= 0 for id in ids)


# ── the wire itself ──────────────────────────────────────────────────────────


async def converse(url: str, *sent: bytes) -> list[bytes]:
    """What comes back for each piece that is sent, over one connection."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        heard = []
        for piece in sent:
            writer.write(piece)
            heard.append(await asyncio.wait_for(reader.read(65_536), 10))
        return heard
    finally:
        writer.close()
        await writer.wait_closed()


def head_of(shop: Shop, *lines: str) -> bytes:
    first = f"POST /v1/tenants/{shop.id}/greenpin HTTP/1.1"
    authorization = f"Authorization: {shop.authorization['Authorization']}"
    return "\r\n".join((first, "Host: x", authorization, *lines, "", "")).encode()


async def test_curl_may_expect_100_continue(shop: Shop) -> None:
    body = orjson.dumps(shop.order())
    head = head_of(shop, f"Content-Length: {len(body)}", "Expect: 100-continue")
    first, second = await converse(shop.client.base_url, head, body)
    assert first == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_nothing_else_may_be_expected(shop: Shop) -> None:
    (heard,) = await converse(shop.client.base_url, head_of(shop, "Content-Length: 2", "Expect: tea"))
    assert heard.startswith(b"HTTP/1.1 417 ")
    assert orjson.loads(heard.partition(b"\r\n\r\n")[2])["code"] == Code.BAD


async def test_452_has_a_reason_on_the_wire(shop: Shop) -> None:
    for n in range(10):
        await shop.make(f"order-{n}", a__pin_length=1, b__numbers=[f"+9198000002{n:02d}"])
    body = orjson.dumps(shop.order("last", a__pin_length=1))
    (heard,) = await converse(shop.client.base_url, head_of(shop, f"Content-Length: {len(body)}") + body)
    assert heard.startswith(b"HTTP/1.1 452 Nothing Free To Allocate\r\n")


async def test_after_a_body_that_is_too_large_the_next_request_is_answered(shop: Shop) -> None:
    for _ in range(3):
        answer = await shop.ask("POST", "/greenpin", raw=b" " * 900_000)
        assert_refused(answer, 413, Code.TOO_MANY)
        assert (await shop.ask("GET", "/settings")).status == 200


async def test_a_client_that_goes_away_in_its_body_leaves_no_fault(shop: Shop) -> None:
    before = await shop.rows()
    where = urlsplit(shop.client.base_url)
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(head_of(shop, "Content-Length: 1000") + b'{"transaction_id"')
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        for _ in range(3):
            assert (await shop.ask("GET", "/settings")).status == 200
    assert [line for line in logs if line["event"] == "http.fault"] == []
    assert await shop.rows() == before


# ── when we are at fault ─────────────────────────────────────────────────────


@pytest.fixture
async def own_node(own_settings: Settings, clock: ShiftedClock) -> AsyncIterator[Node]:
    """A node that a test may break."""
    async with running_node(own_settings, clock) as node:
        yield node


async def test_without_the_database_changes_are_refused_and_settings_still_read(
    own_node: Node, session: aiohttp.ClientSession, clock: ShiftedClock
) -> None:
    shop = await open_shop(own_node, Client(session, own_node.url, ADMIN_TOKEN), clock)
    made = await shop.make()
    await own_node.switchboard.database.close()
    put = {"usage": "oneway"}
    for answer in (
        await shop.post(shop.order("other")),
        await shop.post(shop.order("other"), Idempotency_Key="k"),
        await shop.get(made["greenpin_id"]),
        await shop.put(made["greenpin_id"], put),
        await shop.delete(made["greenpin_id"]),
        await shop.ask("PUT", "/settings", {"country": "IN"}),
        await shop.ask("GET", "/applet-keys"),
        await shop.ask("POST", "/applet-keys"),
        await shop.client.admin("GET", "/tenants"),
        await shop.client.admin("POST", "/tenants", {"id": "other"}),
    ):
        assert_refused(answer, 503, Code.INTERNAL, "nothing was changed")
        assert answer.headers["Retry-After"] == "1"
    items = [{"greenpin_id": made["greenpin_id"], **put}] * 3
    bulk = await shop.ask("PUT", "/greenpin", {"greenpins": items})
    assert [(item["status"], item["code"]) for item in bulk.data] == [(503, 0)] * 3
    assert (await shop.ask("GET", "/settings")).status == 200
    # What is wrong with a request by itself is still told.
    assert_refused(await shop.post({}), 400, Code.MISSING)
    await own_node.switchboard.database.connect()
    assert (await shop.get(made["greenpin_id"])).data == made


async def test_a_fault_of_ours_tells_nobody_anything(
    own_node: Node, session: aiohttp.ClientSession, clock: ShiftedClock
) -> None:
    shop = await open_shop(own_node, Client(session, own_node.url, ADMIN_TOKEN), clock)
    database = own_node.switchboard.database
    await database.write(lambda connection: connection.execute("ALTER TABLE party_number RENAME TO gone"))
    with capture_logs() as logs:
        answer = await shop.post(shop.order(a__pin="4321"))
    assert_refused(answer, 500, Code.INTERNAL)
    assert answer.body["message"] == "Internal error; it was logged."
    (line,) = [line for line in logs if line["event"] == "http.fault"]
    assert line["error"] == "UndefinedTableError"
    assert any("making.py" in frame for frame in line["frames"])
    # Other lines are of an engine that other tests share, with ids that may have four such digits.
    for secret in ("4321", AGENT[3:], CUSTOMER[3:], shop.credentials.api_token):
        assert secret not in str(line)


def test_a_commit_that_nobody_knows_of_says_so() -> None:
    problem = problem_of(CommitUnknown("lost"))
    assert (problem.status, problem.code, problem.headers["Retry-After"]) == (503, Code.INTERNAL, "1")
    assert "cannot be known" in problem.message
    assert "Idempotency-Key" in problem.message


async def test_a_change_that_this_node_does_not_route_by_yet_says_so(
    own_settings: Settings, session: aiohttp.ClientSession, clock: ShiftedClock
) -> None:
    settings = own_settings.model_copy(update={"propagation_timeout_s": 1e-9})
    async with running_node(settings, clock) as node:
        switchboard = node.switchboard
        made = await provisioning.add_tenant(switchboard.database, "late", {}, clock.now_us())
        lines = ("+918000000010", "+918000000011")
        client = Client(session, node.url, ADMIN_TOKEN)
        vns = {"vns": [{"number": line} for line in lines]}
        added = await client.admin("POST", "/tenants/late/vns", vns)
        assert (added.status, added.headers["Cordboard-Propagation"]) == (201, "pending")
        position = made.position._replace(n=made.position.n + len(lines))
        assert await switchboard.keeper.wait_for(position, 10)
        credentials = Credentials("late", made.api_token.secret, made.applet_key.secret)
        shop = Shop(client, credentials, lines, switchboard, clock)
        # What this process makes itself is on its board in the next moment, which no timer is faster than.
        created = await shop.post(shop.order())
        assert (created.status, created.headers.get("Cordboard-Propagation")) == (200, None)
        answers = [
            await shop.ask("PUT", "/settings", {"country": "IN"}),
            await shop.ask("POST", "/applet-keys"),
        ]
        greenpin_id = created.data["greenpin_id"]
        answers.append(await shop.put(greenpin_id, {"usage": "oneway"}))
        items = [{"greenpin_id": greenpin_id, "usage": "twoway"}]
        answers.append(await shop.ask("PUT", "/greenpin", {"greenpins": items}))
        answers.append(await shop.delete(greenpin_id))
        for answer in answers:
            assert answer.status in (200, 201)
            assert answer.headers["Cordboard-Propagation"] == "pending"
