"""The bodies beside the samples of the reference pages."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cordboard.clock import SECOND_US
from cordboard.routing.model import Product
from cordboard.storage.facts import Facts, facts_of
from cordboard.webhooks.payloads import NotWorded, body_of

from .outbox import NOW_US, call_completed, deallocated, verification_failed, verified

# The samples of "ExoBridge GreenPin: callbacks", as printed there.
SAMPLE_CALL = {
    "transaction_id": "random_string",
    "call_sid": "ec44cfd684850a68decc4cebc4e2143u",
    "vn": "+916292134464",
    "greenpin_id": "6447bb53-70c3-40ea-850b-de2fd3c585ee",
    "from": "+917987686144",
    "to": "+916292134471",
    "call_type": "completed",
    "start_time": "2020-03-23T12:58:02+00:00",
    "current_time": "2020-03-23T12:58:22+00:00",
    "dial_call_duration": 20,
    "on_call_duration": 17,
    "direction": "incoming",
    "recording_url": "<S3_bucket_path>",
    "dial_call_status": "completed",
    "source": "exotel",
}
SAMPLE_DEALLOCATION = {
    "transaction_id": "client's identifier of the allocation",
    "aparty_numbers": ["+91798XXXX144"],
    "bparty_numbers": ["+91995XXXX625"],
    "aparty_vns": ["+91629XXXX471", "+9162XXXX4464"],
    "bparty_vns": ["+91629XXXX465", "+91629XXXX464"],
    "aparty_pins": ["713"],
    "bparty_pins": ["884"],
    "usage": "twoway",
    "greenpin_id": "a62b5590-XXXX-4X33-a5X-fbaedaa5dd51",
    "state": "active",
}
SAMPLE_VERIFIED = {
    "caller": "+917XXXXX6144",
    "greenpin_id": "XXXXXe3-105f-4fba-89c0-7842df249313",
    "vn": "+91629XXXXX71",
    "transaction_id": "order-id",
    "pin": "4321",
    "call_sid": "7d90fXXXXXc1a449bd4b700fce9d165p",
}
SAMPLE_FAILED = {
    "start_time": "2021-11-09T10:09:15+05:30",
    "caller": "+917XXXXX6144",
    "vn": "+9162921XXXXX",
    "call_sid": "XXXXfdea48XXX49bd4b700fce9d165p",
    "pin": "1234",
}


def shape(value: Any) -> Any:
    """Keys in their order, with types for values."""
    if isinstance(value, dict):
        return [(key, shape(member)) for key, member in value.items()]
    if isinstance(value, list):
        return [type(value), *{shape(member) for member in value}]
    return type(value)


@pytest.mark.parametrize(
    ("facts", "sample"),
    [
        (call_completed(), SAMPLE_CALL),
        (deallocated(), SAMPLE_DEALLOCATION),
        (verified(), SAMPLE_VERIFIED),
        (verification_failed(), SAMPLE_FAILED),
    ],
)
def test_a_greenpin_body_has_the_keys_types_and_order_of_its_sample(
    facts: Facts, sample: dict[str, Any]
) -> None:
    assert shape(body_of(Product.GREENPIN, facts)) == shape(sample)


@pytest.mark.parametrize("facts", [call_completed(), deallocated(), verified(), verification_failed()])
def test_facts_survive_the_outbox(facts: Facts) -> None:
    assert facts_of(facts.kind, facts.to_json()) == facts


@pytest.mark.parametrize("facts", [call_completed(), deallocated(), verified(), verification_failed()])
def test_facts_do_not_show_numbers_or_pins(facts: Facts) -> None:
    for secret in ("7987686144", "6292134471", "6292134464", "0713", "00123456789012", "recordings.example"):
        assert secret not in f"{facts} {facts!r}"


def test_the_call_event_is_the_sample() -> None:
    body = body_of(Product.GREENPIN, call_completed(recording_url="<S3_bucket_path>"))
    assert body == SAMPLE_CALL


def test_a_call_without_recording_says_null_as_a_text() -> None:
    assert body_of(Product.GREENPIN, call_completed(recording_url=None))["recording_url"] == "null"


def test_a_released_allocation_is_in_the_vault() -> None:
    assert body_of(Product.GREENPIN, deallocated()) == {
        "transaction_id": "order-id",
        "aparty_numbers": ["+917987686144"],
        "bparty_numbers": ["+916292134471"],
        "aparty_vns": ["+916292134464", "+916292134465"],
        "bparty_vns": ["+916292134465"],
        "aparty_pins": ["0713"],
        "bparty_pins": ["884"],
        "usage": "twoway",
        "greenpin_id": "6447bb53-70c3-40ea-850b-de2fd3c585ee",
        "state": "vault",
    }


def test_a_side_without_pin_has_an_empty_list() -> None:
    body = body_of(Product.GREENPIN, deallocated(a_pins=(), b_pins=()))
    assert body["aparty_pins"] == body["bparty_pins"] == []


def test_a_verified_caller_may_be_withheld() -> None:
    assert body_of(Product.GREENPIN, verified(caller=None)) == {
        "caller": None,
        "greenpin_id": "6447bb53-70c3-40ea-850b-de2fd3c585ee",
        "vn": "+916292134464",
        "transaction_id": "order-id",
        "pin": "0713",
        "call_sid": "ec44cfd684850a68decc4cebc4e2143u",
    }


def test_a_failed_verification_tells_the_digits_as_keyed() -> None:
    assert body_of(Product.GREENPIN, verification_failed()) == {
        "start_time": "2021-11-09T10:09:15+05:30",
        "caller": "+917987686144",
        "vn": "+916292134464",
        "call_sid": "ec44cfd684850a68decc4cebc4e2143u",
        "pin": "00123456789012",
    }


HEARD_AT = "2021-11-09T10:09:15+05:30"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("2026-02-23 12:31:58", "2026-02-23T12:31:58+05:30"),
        (" 2026-02-23 12:31:58 ", "2026-02-23T12:31:58+05:30"),
        ("Mon, 23 Feb 2026 12:31:59", "2026-02-23T12:31:59+05:30"),
        ("2026-02-23T07:01:58Z", "2026-02-23T12:31:58+05:30"),
        ("2026-02-23T12:31:58.500", "2026-02-23T12:31:58+05:30"),
        # What the platform writes where it has no time.
        ("1970-01-01 05:30:00", HEARD_AT),
        ("0000-00-00 00:00:00", HEARD_AT),
        ("null", HEARD_AT),
        ("", HEARD_AT),
        (None, HEARD_AT),
    ],
)
def test_a_start_time_gets_the_offset_of_the_account(written: str | None, told: str) -> None:
    assert body_of(Product.GREENPIN, verification_failed(start_time=written))["start_time"] == told


def test_an_account_may_live_in_utc() -> None:
    body = body_of(Product.GREENPIN, verification_failed("2021-11-09 04:39:15", timezone="UTC"))
    assert body["start_time"] == "2021-11-09T04:39:15+00:00"
    assert NOW_US // SECOND_US == 1_636_432_755


@given(written=st.text() | st.datetimes().map(str))
@example(written="9999-12-31T23:59:59-12:00")
@example(written="0001-01-01T00:00:00+12:00")
@example(written="0001-01-01 00:00:00")
def test_no_start_time_is_too_strange_to_be_told(written: str) -> None:
    told = body_of(Product.GREENPIN, verification_failed(start_time=written))["start_time"]
    assert told.endswith("+05:30")


def test_greenvn_has_no_bodies_yet() -> None:
    with pytest.raises(NotWorded):
        body_of(Product.GREENVN, verified())
