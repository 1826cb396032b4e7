"""Bodies of any shape become a draft: whatever is wrong with them is a fault, never an exception."""

from __future__ import annotations

import random
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from cordboard.routing.allocate import Code, Draft, Unacceptable, propose
from cordboard.routing.model import AllocationId
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import TenantSettings
from cordboard.web.schemas import parse_create, parse_update

NUMBERS = ["9800000021", "+919800000022", "12", "", "+918000000010"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-1, 11)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.sampled_from(["1", "0123", "oneway", "twoway", "20s", "5x", "a\0b"])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
number_lists = st.lists(st.sampled_from(NUMBERS) | json_values, max_size=3)
parties = st.fixed_dictionaries(
    {},
    optional={
        "numbers": number_lists | json_values,
        "vns": number_lists | json_values,
        "pin": st.sampled_from(["12", "0"]) | json_values,
        "pin_length": st.integers(1, 9) | json_values,
        "unknown": json_values,
    },
)
policies = st.fixed_dictionaries({}, optional={"duration": st.just("20s") | json_values}) | json_values
bodies = st.fixed_dictionaries(
    {},
    optional={
        "transaction_id": st.just("order") | json_values,
        "a": parties | json_values,
        "b": parties | json_values,
        "usage": st.sampled_from(["oneway", "twoway"]) | json_values,
        "deallocation_policy": policies,
        "Deallocation_policy": policies,
        "aparty_tag": json_values,
    },
)


class OneLine:
    """A pool of one virtual number, with every PIN free."""

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return virtual_number == E164("+918000000010")

    def is_drained(self, virtual_number: E164) -> bool:  # noqa: ARG002
        return False

    def is_provisioned(self, number: E164) -> bool:
        return self.has_virtual_number(number)

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool:  # noqa: ARG002
        return False


def assert_well_formed(draft: Draft) -> None:
    for fault in draft.faults:
        assert fault.code in (Code.MISSING, Code.BAD)
        assert fault.message.endswith(".")
        assert "\0" not in fault.message
    for party in (draft.a, draft.b):
        assert all(isinstance(text, str) for text in (*(party.numbers or ()), *(party.virtual_numbers or ())))
        assert len(party.numbers or ()) <= 10
        assert party.pin is None or isinstance(party.pin, Pin)
        assert party.pin_length is None or 1 <= party.pin_length <= 9
    assert draft.duration_s is None or draft.duration_s > 0


@given(bodies)
def test_any_body_of_a_create_is_made_or_refused(body: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps(body))
    client_id, draft = parse_create(body)
    assert_well_formed(draft)
    dice = random.Random(0).randrange
    try:
        standing = propose(
            AllocationId(bytes(16)), "acme", client_id, draft, TenantSettings(), OneLine(), dice, 0
        )
    except Unacceptable as refused:
        if draft.faults:
            # Nothing beyond what the form breaks is answered, but for what is missing.
            assert refused.fault.code in (Code.MISSING, Code.BAD)  # noqa: PT017
        return
    assert not draft.faults
    assert standing.client_id == client_id == body["transaction_id"]


@given(bodies)
def test_any_body_of_an_update_is_a_draft(body: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps(body))
    draft = parse_update(body)
    assert_well_formed(draft)
    if body.get("transaction_id") is not None:
        assert "transaction_id" in [fault.field for fault in draft.faults]
    if draft == Draft():
        raise AssertionError("a draft that says nothing must have a fault")


@given(json_values)
def test_what_is_no_object_has_a_fault(body: Any) -> None:
    if not isinstance(body, dict):
        assert parse_create(body)[1].faults
        assert parse_update(body).faults
