"""The document drives the API: requests as it allows them and as it does not, made up by hypothesis.

Whatever is sent, no fault of ours comes back, and every answer has a status, a content type, headers and a
form that the document names.
"""

from __future__ import annotations

import asyncio
import os
from copy import deepcopy
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import assume, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok

from cordboard.node import Node
from cordboard.routing.allocate import Generation
from cordboard.simulator.client import Client

from .conftest import MakeShop
from .shop import ADMIN_TOKEN, AGENT, CUSTOMER, OTHER_AGENT, OTHER_CUSTOMER, UNKNOWN_ID, Shop

# Of each operation, for good requests and for bad ones: together some 10 s on two slow cores. Five times as
# many found nothing more.
EXAMPLES = 12
# Now and then chance makes a dozen bodies none of which a generation takes for its own; five times hardly.
ROUNDS_MAX = 5
# Each round has its own examples, and the same ones every time: a change shall not meet by chance what it has
# nothing to do with. Another number seeks elsewhere.
SEED = int(os.environ.get("CORDBOARD_EXAMPLES_SEED", "20260105"))

# The core has rules that no schema can say: a number in use, both sides with the same number, …
NOT_HELD_TO = {"positive_data_acceptance"}
# Of a bulk, each item is refused by itself, in an answer that is none.
NOT_HELD_TO_BY_ITEMS = {"negative_data_rejection"}
BULKS = {
    "PUT /v1/tenants/{tenant}/greenpin",
    "POST /v1/tenants/{tenant}/greenpin/bulk",
    "POST /v1/tenants/{tenant}/greenvn/bulk",
}

Json = dict[str, Any]
Ids = dict[str, list[str]]


async def test_whatever_is_sent_the_answer_is_one_of_the_document(
    node: Node, client: Client, make_shop: MakeShop, subtests: pytest.Subtests
) -> None:
    document = (await client.ask("GET", "/openapi.json")).body
    for generation in Generation:
        operations = schemathesis.openapi.from_dict(of_generation(document, generation)).get_all_operations()
        for found in operations:
            assert isinstance(found, Ok), "an operation is not described as it must be"
            operation = found.ok()
            # Some operations end what others need.
            shop = await make_shop()
            ids = await ids_of(shop, generation)
            with subtests.test(operation.label, generation=generation.name):
                forms: set[Generation] = set()
                for round_no in range(ROUNDS_MAX):
                    forms |= await asyncio.to_thread(explore, operation, node.url, shop, ids, SEED + round_no)
                    if generation in forms:
                        break
                assert generation in forms, "nothing that was sent was taken for this generation's"


def of_generation(document: Json, generation: Generation) -> Json:
    """The document with the bodies of one generation alone, of the second only what it shares with the first.

    Out of both, chance would hardly ever make a body that the second takes for its own.
    """
    narrowed: Json = deepcopy(document)
    for methods in narrowed["paths"].values():
        for method, operation in list(methods.items()):
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            forms = body.get("schema", {}).get("anyOf")
            if forms is not None:
                body["schema"] = forms[generation - 1]
            has_second_id = any(
                parameter["name"] in ("greenpin_id", "greenvn_id")
                for parameter in operation.get("parameters", ())
            )
            if generation is Generation.SECOND and forms is None and not has_second_id:
                del methods[method]
    return narrowed


async def ids_of(shop: Shop, generation: Generation) -> Ids:
    """What the paths of requests may name: something that there is, and something that there is not."""
    made = await shop.make()
    connection = {
        "connection_id": "order",
        "aparty_numbers": [OTHER_AGENT],
        "bparty_numbers": [OTHER_CUSTOMER],
        "usage": "twoway",
        "strictness": True,
        "preferences": {"greenvn": shop.lines[0]},
    }
    connected = await shop.ask("POST", "/greenvn", connection)
    two = {"from": [AGENT], "to": [CUSTOMER]}
    made_second = await shop.ask("POST", "/greenpin", {**two, "caller_id_number": shop.lines[2]})
    connected_second = await shop.ask("POST", "/greenvn", {**two, "caller_id_number": shop.lines[3]})
    unknown = UNKNOWN_ID.replace("-", "")
    key = await shop.ask("POST", "/applet-keys")
    token = await shop.client.admin("POST", f"/tenants/{shop.id}/tokens")
    allocations = {
        Generation.FIRST: {
            "greenpin_id": [made["greenpin_id"], UNKNOWN_ID],
            "greenvn_id": [connected.data["greenvn_id"], UNKNOWN_ID],
        },
        Generation.SECOND: {
            "greenpin_id": [made_second.body["response"]["greenpin_id"], f"gp_{unknown}"],
            "greenvn_id": [connected_second.body["response"]["greenvn_id"], f"gvn_{unknown}"],
        },
    }
    secret = await shop.ask("POST", "/webhook-secrets")
    # Nobody listens there; the event waits.
    await shop.ask("PUT", "/settings", {"deallocation_callback_event_endpoint": "http://127.0.0.1:9/"})
    await shop.delete((await shop.make("ended"))["greenpin_id"])
    event_id = (await shop.ask("GET", "/events")).data["items"][0]["id"]
    return {
        **allocations[generation],
        "tenant": [shop.id],
        "key_id": [key.data["key_id"], UNKNOWN_ID],
        "id": [token.body["token_id"], key.data["key_id"], UNKNOWN_ID],
        "event_id": [event_id, UNKNOWN_ID],
        "secret_id": [secret.data["secret_id"], UNKNOWN_ID],
        "number": [*shop.lines, "+919800000099"],
        "key": [shop.credentials.applet_key, "wrong"],
    }


def explore(operation: Any, base_url: str, shop: Shop, ids: Ids, examples_seed: int) -> set[Generation]:
    """Returns in which forms it was answered; of anything but the second generation's it is the first.

    Run in a thread of its own: the server is in this process, and the examples wait for its answers.
    """
    load_all_checks()
    forms = set()
    waived = NOT_HELD_TO | (NOT_HELD_TO_BY_ITEMS if operation.label in BULKS else set())
    checks: list[Any] = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in waived]
    headers = {"Authorization": authorization(operation, shop)}
    names = [parameter.name for parameter in operation.path_parameters]
    # None: anything, which mostly does not get past who asks.
    paths = st.fixed_dictionaries({name: st.sampled_from(ids[name]) for name in names}) | st.none()

    with requests.Session() as session:
        for mode in modes_of(operation):

            @seed(examples_seed)
            @settings(max_examples=EXAMPLES)
            @given(case=paths.flatmap(lambda path: operation.as_strategy(mode, path_parameters=path)))
            def play(case: schemathesis.Case[Any]) -> None:
                # Blanks alone are no body, which some operations do without.
                assume(not isinstance(case.body, bytes) or case.body.strip())
                response = case.call(base_url, session=session, headers=headers)
                case.validate_response(response, checks=checks, headers=headers)
                is_second = response.text.startswith('{"response":')
                forms.add(Generation.SECOND if is_second else Generation.FIRST)

            play()
    return forms


def modes_of(operation: Any) -> list[schemathesis.GenerationMode]:
    """Of nothing there is nothing wrong to send."""
    modes = list(schemathesis.GenerationMode)
    has_input = bool(operation.body) or any(operation.iter_parameters())
    return modes if has_input else modes[:1]


def authorization(operation: Any, shop: Shop) -> str:
    if operation.path.startswith("/admin/"):
        return f"Bearer {ADMIN_TOKEN}"
    return shop.authorization["Authorization"]
