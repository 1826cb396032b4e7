"""`/openapi.json` and `/docs`: everything that is served is in them, and what they say is true."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import replace
from html import escape
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import quote, urlencode

import jsonschema_rs
import orjson
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cordboard.node import Node
from cordboard.routing.allocate import Code
from cordboard.simulator.client import Answer, Client
from cordboard.web.app import build_app
from cordboard.web.errors import MEANING_OF, STATUS_OF
from cordboard.web.exotel import Exotel
from cordboard.web.openapi import OPEN, TENANT_API, Operation, Route, document
from cordboard.web.page import page_of
from cordboard.web.schemas import Duration, PinLength, PinText, TenantId
from cordboard.web.tenant_settings import Flag, RateText, SettingsBody

from .conftest import MakeShop
from .shop import ADMIN_TOKEN, AGENT, CUSTOMER, OTHER_CUSTOMER, UNKNOWN_ID, Shop, set_dead
from .test_settings import DEFAULTS

Json = dict[str, Any]


@pytest.fixture
async def served(client: Client) -> Json:
    answer = await client.ask("GET", "/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    body: Json = answer.body
    return body


# ── completeness ─────────────────────────────────────────────────────────────


async def test_every_route_is_documented_and_everything_documented_is_a_route(
    node: Node, served: Json
) -> None:
    app = build_app(node.switchboard, Exotel(node.switchboard), ADMIN_TOKEN)
    routed = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        # What no other route takes is refused by those of `*`, and a HEAD is a GET.
        if route.resource is not None and route.method not in {"*", "HEAD"}
        # Pages for people are no API.
        if not route.resource.canonical.startswith("/console")
    }
    documented = {(method, path) for path, methods in served["paths"].items() for method in methods}
    assert routed == documented
    assert len(documented) > 30


def test_every_code_has_a_status_and_a_meaning() -> None:
    assert set(MEANING_OF) == set(STATUS_OF) == set(Code)


async def test_it_is_valid_openapi_3_1(served: Json) -> None:
    assert served["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(served).validate()


async def test_every_reference_leads_somewhere_and_nothing_is_left_over(served: Json) -> None:
    text = orjson.dumps(served).decode()
    references = set(re.findall(r'"\$ref":"#/components/([a-zA-Z]+)/([^"]+)"', text))
    named = {
        (kind, name) for kind in ("schemas", "responses", "headers") for name in served["components"][kind]
    }
    assert references == named
    schemes = {name for operation in operations(served) for way in operation["security"] for name in way}
    assert schemes == set(served["components"]["securitySchemes"])


async def test_each_operation_has_a_name_of_its_own(served: Json) -> None:
    names = [operation["operationId"] for operation in operations(served)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]*)+", name) for name in names), names


def operations(served: Json) -> list[Json]:
    return [operation for methods in served["paths"].values() for operation in methods.values()]


# ── declaring ────────────────────────────────────────────────────────────────


class Search(BaseModel):
    state: str = Field(description="Which.")
    limit: int = 50
    cursor: str | None = None


async def answer_nothing(_: Any) -> Any:
    raise NotImplementedError


def test_a_query_is_declared_by_the_model_that_parses_it() -> None:
    operation = Operation("Search", query=Search, data=dict[str, int])
    route = Route("GET", "/v1/tenants/{tenant}/greenpin", answer_nothing, TENANT_API, operation)
    parameters = document([route], "1")["paths"][route.path]["get"]["parameters"]
    assert [one for one in parameters if one["in"] == "query"] == [
        {
            "in": "query",
            "name": "state",
            "required": True,
            "description": "Which.",
            "schema": {"type": "string"},
        },
        {"in": "query", "name": "limit", "required": False, "schema": {"type": "integer", "default": 50}},
        {"in": "query", "name": "cursor", "required": False, "schema": {"type": "string"}},
    ]


def test_a_body_implies_how_it_may_be_wrong() -> None:
    route = Route("POST", "/x", answer_nothing, OPEN, Operation("Make", body=Search, data=Search))
    assert set(document([route], "1")["paths"]["/x"]["post"]["responses"]) == {"200", "400", "413"}
    assert set(document([replace(route, operation=Operation("Make"))], "1")["paths"]["/x"]["post"]) == {
        "tags",
        "operationId",
        "summary",
        "responses",
        "security",
    }


def test_a_parameter_that_nobody_described_is_no_parameter() -> None:
    route = Route("GET", "/v1/{mystery}", answer_nothing, OPEN, Operation("Guess"))
    with pytest.raises(KeyError, match="mystery"):
        document([route], "1")


# ── truth: requests ──────────────────────────────────────────────────────────

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-1, 12)
    | st.sampled_from([0.5, 4.0, [], {}, "true", "false", "True", "-1", "a-b_c", "-a", "x" * 64, "4821\n"])
    | st.text("0129٣", max_size=11)
    | st.from_regex(r"[0-9]{1,10}[dhmsx]?", fullmatch=True)
    | st.from_regex(r"[0-9]{1,3}/[0-9]{1,3}[dhms]?", fullmatch=True)
)


@pytest.mark.parametrize("type_", [PinText, Duration, Flag, TenantId])
@given(value=VALUES)
def test_what_the_schema_of_a_type_says_is_what_it_takes(type_: Any, value: Any) -> None:
    assert is_taken(type_, value) == fits(type_, value)


@pytest.mark.parametrize("type_", [PinLength, RateText])
@given(value=VALUES)
def test_what_a_type_takes_its_schema_allows(type_: Any, value: Any) -> None:
    """The bounds of numbers that are text are no matter of a pattern."""
    assert fits(type_, value) or not is_taken(type_, value)


def is_taken(type_: Any, value: Any) -> bool:
    try:
        TypeAdapter(type_).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def fits(type_: Any, value: Any) -> bool:
    return jsonschema_rs.is_valid(TypeAdapter(type_).json_schema(), value)


def test_the_settings_as_they_are_shown_may_be_sent_back() -> None:
    assert not list(jsonschema_rs.iter_errors(SettingsBody.model_json_schema(), DEFAULTS))


# ── truth: answers ───────────────────────────────────────────────────────────


class Seen(NamedTuple):
    method: str
    path: str
    status: int
    # The second generation answers on the paths of the first.
    is_second: bool = False


class Reader:
    """Holds answers to the document, and remembers which of them it has seen."""

    def __init__(self, served: Json) -> None:
        self._served = served
        self.seen: set[Seen] = set()

    def read(self, method: str, path: str, answer: Answer) -> Any:
        said = self._served["paths"][path][method.lower()]["responses"][str(answer.status)]
        if "$ref" in said:
            said = self._served["components"]["responses"][said["$ref"].split("/")[-1]]
        schema = said["content"]["application/json"]["schema"]
        errors = jsonschema_rs.iter_errors({**schema, "components": self._served["components"]}, answer.body)
        assert [error.message for error in errors] == []
        self.seen.add(Seen(method.lower(), path, answer.status, set(answer.body) == {"response"}))
        return answer.body


def forms_of(schema: Json) -> set[bool]:
    """Whether an answer may be of the first generation (or of none), and whether of the second."""
    return {form.get("required") == ["response"] for form in schema.get("anyOf", [schema])}


async def test_every_good_answer_of_the_api_has_the_form_that_is_documented(
    client: Client, make_shop: MakeShop, served: Json
) -> None:
    lines = [f"+9144{number:08d}" for number in range(10)]
    shop = await make_shop({"rate_limit": "1000/1m"}, lines)
    reader = Reader(served)
    api, admin = "/v1/tenants/{tenant}", "/admin/v1/tenants"

    async def ask(method: str, path: str, body: object = None, status: int = 200, **places: str) -> Any:
        answer = await shop.ask(method, path.format(**places), body)
        assert answer.status == status, answer.body
        read = reader.read(method, api + path, answer)
        return read["response" if "response" in read else "data"]

    async def tell(method: str, path: str, body: object = None, status: int = 200, **places: str) -> Any:
        answer = await client.admin(method, "/tenants" + path.format(**places), body)
        assert answer.status == status, answer.body
        return reader.read(method, admin + path, answer)

    made = await ask("POST", "/greenpin", shop.order())
    other = await ask("POST", "/greenpin", shop.order("other", deallocation_policy={"duration": "2h"}))
    one = {"greenpin_id": made["greenpin_id"]}
    await ask("GET", "/greenpin/{greenpin_id}", **one)
    await ask("PUT", "/greenpin/{greenpin_id}", {"usage": "oneway"}, **one)
    good, bad = {**one, "usage": "twoway"}, {"greenpin_id": UNKNOWN_ID, "usage": "twoway"}
    await ask("PUT", "/greenpin", {"greenpins": [good]})
    await ask("PUT", "/greenpin", {"greenpins": [good, bad, 5]}, 207)
    await join(shop, other["b"]["pin"], shop.lines[1])
    members = [
        member
        for id in (made["greenpin_id"], other["greenpin_id"])
        for member in (await ask("GET", "/greenpin/{greenpin_id}/members", greenpin_id=id))["members"]
    ]
    assert len(members) == 1
    item = {"b": {"vns": [lines[1]], "numbers": ["+919800000033"]}, "a": {"numbers": ["+919800000023"]}}
    items = [{**item, "transaction_id": "item"}, {**item, "transaction_id": "item"}]
    await ask("POST", "/greenpin/bulk", {"greenpins": items[:1]})
    assert [item["code"] for item in await ask("POST", "/greenpin/bulk", {"greenpins": items}, 207)] == [
        18,
        18,
    ]

    connection = {
        "connection_id": "order",
        "aparty_numbers": [AGENT],
        "bparty_numbers": [CUSTOMER],
        "aparty_pins": [71],
        "usage": "twoway",
        "flow_id": "440080",
        "strictness": True,
        "preferences": {"greenvn": lines[2]},
    }
    vn = {"greenvn_id": (await ask("POST", "/greenvn", connection))["greenvn_id"]}
    await ask("GET", "/greenvn/{greenvn_id}", **vn)
    await ask("PUT", "/greenvn/{greenvn_id}/call-party", {"bparty_numbers": [OTHER_CUSTOMER]}, **vn)
    await join(shop, "71", lines[2])
    assert len((await ask("GET", "/greenvn/{greenvn_id}/members", **vn))["members"]) == 1
    swap = {"strictness": "true", "preferences": {"greenvn": lines[3]}}
    assert (await ask("PUT", "/greenvn/{greenvn_id}/vn", swap, **vn))["greenvn"] == lines[3]
    again = {**connection, "connection_id": "item", "aparty_pins": []}
    assert len(await ask("POST", "/greenvn/bulk", {"greenvns": [again]})) == 1
    failed = await ask("POST", "/greenvn/bulk", {"greenvns": [again, 5]}, 207)
    assert [item["code"] for item in failed] == [18, 5]

    await ask_second(shop, ask)

    for path in ("/greenpin", "/greenvn", "/calls", "/verifications"):
        assert (await ask("GET", path))["items"]
    line = quote(shop.lines[0])
    reader.read("GET", api + "/explain", await shop.ask("GET", f"/explain?vn={line}&caller=withheld&pin=7"))
    reader.read("GET", api + "/explain", await shop.ask("GET", f"/explain?vn={line}&caller={quote(AGENT)}"))
    told = await client.admin("GET", f"/tenants/{shop.id}/explain?vn={line}")
    reader.read("GET", admin + "/{tenant}/explain", told)
    for method in ("GET", "DELETE"):
        answer = await client.admin(method, f"/tenants/{shop.id}/throttles")
        reader.read(method, admin + "/{tenant}/throttles", answer)
    assert len((await ask("GET", "/pool"))["items"]) == len(shop.lines)
    await ask("DELETE", "/greenpin/{greenpin_id}", **one)
    await ask("DELETE", "/greenpin/{greenpin_id}", greenpin_id=other["greenpin_id"])
    await ask("DELETE", "/greenvn/{greenvn_id}", **vn)
    await ask("GET", "/settings")
    await ask("PUT", "/settings", {"of_tomorrow": [1], "country": "in"})
    await ask("PUT", "/settings", {"deallocation_callback_event_endpoint": "http://127.0.0.1:9/"})
    ended = await ask("POST", "/greenpin", shop.order("ended"))
    await ask("DELETE", "/greenpin/{greenpin_id}", greenpin_id=ended["greenpin_id"])
    (event,) = (await ask("GET", "/events"))["items"]
    await set_dead(shop)
    await ask("GET", "/events/{event_id}", event_id=event["id"])
    await ask("POST", "/events/{event_id}/replay", event_id=event["id"])
    await ask("POST", "/events/replay", {"state": "dead", "from_date": "2026-01-01"})
    secret = await ask("POST", "/webhook-secrets", status=201)
    await ask("GET", "/webhook-secrets")
    await ask("DELETE", "/webhook-secrets/{secret_id}", secret_id=secret["secret_id"])
    key = await ask("POST", "/applet-keys", status=201)
    await ask("GET", "/applet-keys")
    await ask("DELETE", "/applet-keys/{key_id}", key_id=key["key_id"])

    tenant = f"{shop.id}-by-document"
    await tell("POST", "", {"id": tenant, "settings": {"prompt_pin": "Hello"}}, 201)
    await tell("GET", "")
    await tell("GET", "/{tenant}", tenant=tenant)
    number = {"number": "+918088888801", "region": "KA", "type": "mobile", "flow_id": "228040"}
    await tell("POST", "/{tenant}/vns", {"vns": [number, {"number": "08088888802"}]}, 201, tenant=tenant)
    await tell("GET", "/{tenant}/vns", tenant=tenant)
    for method, body in (("GET", None), ("PATCH", {"drained": True, "reserved": True}), ("DELETE", None)):
        await tell(method, "/{tenant}/vns/{number}", body, tenant=tenant, number="+918088888801")
    for what, id in (("tokens", "token_id"), ("applet-keys", "key_id")):
        new = await tell("POST", f"/{{tenant}}/{what}", status=201, tenant=tenant)
        await tell("GET", f"/{{tenant}}/{what}", tenant=tenant)
        await tell("DELETE", f"/{{tenant}}/{what}/{{id}}", tenant=tenant, id=new[id])
    await tell("DELETE", "/{tenant}", tenant=tenant)
    erased: dict[str, object] = {"number": AGENT, "tenant": shop.id, "dry_run": True}
    reader.read("POST", "/admin/v1/erase", await client.admin("POST", "/erase", erased))
    reader.read("GET", "/readyz", await client.ask("GET", "/readyz"))

    good_ones = {
        Seen(method, path, int(status), is_second)
        for path, methods in served["paths"].items()
        for method, operation in methods.items()
        for status, answer in operation["responses"].items()
        if int(status) < 300 and "/exotel/" not in path
        for is_second in forms_of(answer["content"].get("application/json", {"schema": {}})["schema"])
    }
    texts = {Seen("get", path, 200) for path in ("/healthz", "/metrics", "/docs", "/openapi.json")}
    assert reader.seen == good_ones - texts
    assert len({one for one in reader.seen if one.is_second}) == 13


Ask = Callable[..., Awaitable[Any]]


async def ask_second(shop: Shop, ask: Ask) -> None:
    """All that clients of the second generation may ask, each on a line of its own; something stays."""
    two = {"from": [AGENT], "to": [CUSTOMER], "custom_field": "x", "record": True, "duration": 600}
    pins = [
        (await ask("POST", "/greenpin", {**two, "caller_id_number": shop.lines[place]}, 201))
        for place in (4, 5)
    ]
    vns = [
        (await ask("POST", "/greenvn", {**two, "caller_id_number": shop.lines[place]}, 201))
        for place in (6, 7)
    ]
    pin = {"greenpin_id": pins[0]["greenpin_id"]}
    await join(shop, pins[0]["pin"], shop.lines[4])
    shown = await ask("GET", "/greenpin/{greenpin_id}", **pin)
    assert shown["call_count"] == 1
    assert len((await ask("GET", "/greenpin/{greenpin_id}/members", **pin))["members"]) == 1
    changed = await ask("PUT", "/greenpin/{greenpin_id}", {"max_pin_attempts": 5, "custom_field": ""}, **pin)
    assert changed["updated_at"]
    good = {**pin, "record": False}
    [report] = await ask("PUT", "/greenpin", [good])
    assert report == {**pin, "status": "updated"}
    reports = await ask(
        "PUT", "/greenpin", [good, {**pin, "duration": 1}, {"greenpin_id": UNKNOWN_ID}, 5], 207
    )
    assert [report.get("code") for report in reports] == [None, 5, 1, 5]
    await ask("DELETE", "/greenpin/{greenpin_id}", **pin)
    assert (await ask("GET", "/greenpin/{greenpin_id}", **pin))["status"] == "deleted"

    vn = {"greenvn_id": vns[0]["greenvn_id"]}
    assert (await ask("GET", "/greenvn/{greenvn_id}", **vn))["call_count"] == 0
    assert (await ask("GET", "/greenvn/{greenvn_id}/members", **vn))["members"] == []
    await ask("PUT", "/greenvn/{greenvn_id}/call-party", {"to": OTHER_CUSTOMER}, **vn)
    swapped = await ask("PUT", "/greenvn/{greenvn_id}/vn", {"caller_id_number": shop.lines[8]}, **vn)
    assert swapped["virtual_number"] == shop.lines[8]
    await ask("DELETE", "/greenvn/{greenvn_id}", **vn)


async def test_refusals_have_the_form_that_is_documented(make_shop: MakeShop, served: Json) -> None:
    shop, stranger = await make_shop(), await make_shop()
    reader = Reader(served)
    all_path, one_path = "/v1/tenants/{tenant}/greenpin", "/v1/tenants/{tenant}/greenpin/{greenpin_id}"
    url = f"/v1/tenants/{shop.id}/greenpin"
    made = await shop.make()

    async def post(body: object = None, *, raw: bytes | None = None) -> None:
        reader.read("POST", all_path, await shop.ask("POST", "/greenpin", body, raw=raw))

    await post(shop.order(None))
    await post(raw=b"[]")
    await post(raw=b" " * (300 << 10))
    await post(shop.order("order"))
    for number in range(11):
        party = {"vns": [shop.lines[2]], "pin_length": 1}
        order = {"a": {**party, "numbers": [f"+9198000002{number:02d}"]}, "b": party}
        await post({**order, "transaction_id": f"short {number}"})
    for headers in ({}, stranger.authorization):
        reader.read("POST", all_path, await shop.client.ask("POST", url, {}, headers=headers))
    reader.read("DELETE", one_path, await shop.delete(UNKNOWN_ID))
    for _ in range(2):
        reader.read("DELETE", one_path, await shop.delete(made["greenpin_id"]))
    await shop.ask("PUT", "/settings", {"rate_limit": "1/1h"})
    await shop.ask("GET", "/applet-keys")
    await post({})
    assert {one.status for one in reader.seen} == {200, 400, 401, 403, 404, 409, 410, 413, 429, 452}


async def join(shop: Shop, pin: str, line: str) -> None:
    """A stranger calls and becomes a member; when its call has ended, the call is on record."""
    caller = "+919800000077"
    for entered in ({}, {"digits": f'"{pin}"'}):
        for applet in ("passthru", "gather"):
            await shop.client.ask("GET", hop(shop, applet, caller, line, **entered))
    await shop.client.ask("GET", hop(shop, "passthru", caller, line, CallType="completed"))


def hop(shop: Shop, applet: str, caller: str, line: str, **more: str) -> str:
    said = {
        "key": shop.credentials.applet_key,
        "CallSid": f"by-{caller}-to-{line}",
        "CallFrom": caller,
        "CallTo": line,
    }
    return f"/v1/tenants/{shop.id}/exotel/{applet}?{urlencode(said | more)}"


async def test_what_the_applets_say_has_the_form_that_is_documented(shop: Shop, served: Json) -> None:
    await shop.make()
    reader = Reader(served)
    version = {"Exotel-Version": "1.0"}
    # Connected, asked for a PIN, refused.
    for caller, line in ((AGENT, shop.lines[0]), ("+919800000078", shop.lines[1]), ("", "+910000")):
        for applet in ("gather", "connect"):
            answer = await shop.client.ask("GET", hop(shop, applet, caller, line), headers=version)
            reader.read("GET", f"/v1/tenants/{{tenant}}/exotel/{applet}", answer)


# ── serving ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
async def test_who_has_it_already_is_not_sent_it_again(client: Client, path: str) -> None:
    first = await client.ask("GET", path)
    tag = CIMultiDict(first.headers)["ETag"]
    for known in (tag, f'"other", W/{tag}', "*"):
        again = await client.ask("GET", path, headers={"If-None-Match": known})
        assert (again.status, again.body, CIMultiDict(again.headers)["ETag"]) == (304, "", tag)
    other = await client.ask("GET", path, headers={"If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, first.body)
    head = await client.ask("HEAD", path)
    assert (head.status, head.body, CIMultiDict(head.headers)["ETag"]) == (200, "", tag)
    assert head.headers["Content-Length"] == first.headers["Content-Length"]


async def test_the_page_shows_every_operation_and_every_link_leads_somewhere(
    client: Client, served: Json
) -> None:
    page: str = (await client.ask("GET", "/docs")).body
    ids = re.findall(r"id=[\"']([^\"']+)", page)
    assert len(set(ids)) == len(ids)
    assert {operation["operationId"] for operation in operations(served)} <= set(ids)
    assert {f"schema-{name}" for name in served["components"]["schemas"]} <= set(ids)
    links = set(re.findall(r"href=[\"']([^\"']+)", page))
    assert links == {f"#{id}" for id in ids} | {"openapi.json"}


def test_values_are_shown_as_json_and_what_is_said_of_parts_is_not_lost() -> None:
    class Choice(BaseModel):
        key: list[Annotated[str, Field(description="Of an item.")]] | Literal[True, "true", 5] | None

    operation = Operation("Choose", body=Choice)
    page = page_of(document([Route("POST", "/x", answer_nothing, OPEN, operation)], "1"))
    values = "<code>true</code> or <code>&quot;true&quot;</code> or <code>5</code>"
    assert f"list of string or {values} or null<br>Of an item." in page


async def test_the_page_needs_nothing_but_itself_and_may_have_nothing_else(client: Client) -> None:
    answer = await client.ask("GET", "/docs")
    page: str = answer.body
    policy = answer.headers["Content-Security-Policy"]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "unsafe" not in policy
    assert not re.search(
        r"<(script|img|iframe|link|object|form)|\bon\w+=|style=|https?://|@import|url\(", page
    )


def test_what_the_document_says_cannot_become_markup() -> None:
    evil = "<script>alert('&')</script>"

    class Evil(BaseModel):
        key: str = Field(evil, description=evil, pattern=evil, examples=[evil])

    operation = Operation(evil, description=evil, body=Evil, data=Evil, query=Evil)
    page = page_of(document([Route("POST", "/x", answer_nothing, OPEN, operation)], evil))
    assert "<script" not in page
    assert page.count(escape(evil)) > 5
