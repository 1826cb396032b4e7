"""The bodies beside the samples of the reference pages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Generation
from cordboard.routing.model import Product
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import CallbackTimeFormat, CallbackTo, MissingRecording
from cordboard.storage.facts import Facts, Insights, facts_of
from cordboard.webhooks.payloads import body_of

from .outbox import (
    ALLOCATION,
    CALLED,
    NOW_US,
    OTHER_PIN,
    PIN,
    call_completed,
    deallocated,
    verification_failed,
    verified,
)

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
# The samples of "ExoBridge GreenVN", as printed there.
SAMPLE_GREENVN_CALL = {
    "start_time": "2021-01-19T19:17:03+50:30",
    "direction": "incoming",
    "source": "exotel",
    "dial_call_duration": "32",
    "connection_id": "YOUR_CONNECTION_ID",
    "dial_call_status": "completed",
    "greenvn": "+91804XXXX513",
    "recording_url": "https://s3-ap-southeast-1.amazonaws.com/exotelrecordings/<your_sid>/CALL_SID.mp3",
    "on_call_duration": 27,
    "greenvn_id": "d12638b6-28b8-488d-8cf3-c60619ac2280",
    "call_type": "completed",
    "call_sid": "53fa8e40bb1XXXXXXXXXX257c439151k",
    "to": "+91776XXXX969",
    "current_time": "2021-01-19T19:17:44+50:30",
    "from": "+91959XXXX342",
}
SAMPLE_GREENVN_CALL_WITH_INSIGHTS = {
    "start_time": "2021-09-24 07:05:28",
    "insights": {
        "DisconnectedBy": "Caller",
        "Status": "completed",
        "DetailedStatus": "CALL_COMPLETED",
        "RingingDuration": "4.58",
    },
    "direction": "incoming",
    "source": "monotel",
    "dial_call_duration": "11",
    "connection_id": "Sample_ID",
    "dial_call_status": "completed",
    "greenvn": "+9120XXXXX531",
    "on_call_duration": 4,
    "recording_url": "null",
    "greenvn_id": "6360bbb7-XXXX-410c-XXXX-0c6ec70cc442",
    "call_type": "completed",
    "call_sid": "8a4d92198hy678hgt0fd9c1f2063159o",
    "to": "+9198XXXXX940",
    "current_time": "2021-09-24 07:05:44",
    "from": "+91XXXXX99814",
}
SAMPLE_GREENVN_DEALLOCATION = {
    "connection_id": "YOUR_CONNECTION_ID",
    "aparty_numbers": ["+917317678172"],
    "bparty_numbers": ["+918400047000"],
    "aparty_pins": [None],
    "bparty_pins": [None],
    "usage": "twoway",
    "state": "vault",
    "greenvn": "+91983XXXX195",
    "greenvn_id": "fffe1797-b738-483f-a5a6-757ddfb15e78",
}
SAMPLE_GREENVN_VERIFIED = {
    "caller": "+917XXXXX6144",
    "greenvn_id": "XXXXXe3-105f-4fba-89c0-7842df249313",
    "greenvn": "+91629XXXXX71",
    "connection_id": "order-id",
    "pin": "4321",
}
SAMPLE_GREENVN_FAILED = {
    "start_time": "2021-11-09T10:09:15+05:30",
    "caller": "+917XXXXX6144",
    "greenvn": "+9162921XXXXX",
    "call_sid": "XXXXfdea48XXX49bd4b700fce9d165p",
    "pin": "1234",
}

INSIGHTS = Insights(
    disconnected_by="Caller", status="completed", detailed_status="CALL_COMPLETED", ringing_duration="4.58"
)
ALL_KINDS = (call_completed(), deallocated(), verified(), verification_failed())
# With every fact that is not always there.
RICH = (
    call_completed(
        transaction_id=None,
        insights=INSIGHTS,
        a_tag="agent",
        b_tag="customer",
        time_format=CallbackTimeFormat.PLAIN,
        missing_recording=MissingRecording.NULL,
        callback_to=CallbackTo.MASKED,
        custom_field="ref 7",
        record=False,
        generation=Generation.SECOND,
    ),
    call_completed(insights=Insights(status="failed")),
    deallocated(None, a_pins=(), b_pins=(), custom_field=None, record=True, generation=Generation.SECOND),
    verified(None, None, custom_field="ref 7", record=True, generation=Generation.SECOND),
    verification_failed(None, caller=None, time_format=CallbackTimeFormat.PLAIN),
)


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


@pytest.mark.parametrize(
    ("facts", "sample"),
    [
        (call_completed(), SAMPLE_GREENVN_CALL),
        (call_completed(recording_url=None, insights=INSIGHTS), SAMPLE_GREENVN_CALL_WITH_INSIGHTS),
        (deallocated(a_pins=(), b_pins=()), SAMPLE_GREENVN_DEALLOCATION),
        (verified(), SAMPLE_GREENVN_VERIFIED),
        (verification_failed(), SAMPLE_GREENVN_FAILED),
    ],
)
def test_a_greenvn_body_has_the_keys_types_and_order_of_its_sample(
    facts: Facts, sample: dict[str, Any]
) -> None:
    assert shape(body_of(Product.GREENVN, facts)) == shape(sample)


@pytest.mark.parametrize("facts", [*ALL_KINDS, *RICH])
def test_facts_survive_the_outbox(facts: Facts) -> None:
    assert facts_of(facts.kind, orjson.loads(orjson.dumps(facts.to_json()))) == facts


@pytest.mark.parametrize("facts", [*ALL_KINDS, *RICH])
def test_facts_do_not_show_numbers_or_pins(facts: Facts) -> None:
    for secret in ("7987686144", "6292134471", "6292134464", "0713", "00123456789012", "recordings.example"):
        assert secret not in f"{facts} {facts!r}"
    assert "ref 7" not in repr(facts), "a client may write a number there"


# Keys that facts got since their first version.
ADDED_SINCE = {
    *("insights", "a_tag", "b_tag", "time_format", "missing_recording", "callback_to"),
    *("custom_field", "record", "generation"),
}


@pytest.mark.parametrize("facts", ALL_KINDS)
def test_facts_of_an_earlier_version_are_still_told(facts: Facts) -> None:
    kept = {key: value for key, value in facts.to_json().items() if key not in ADDED_SINCE}
    assert facts_of(facts.kind, kept) == facts


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


# ── GreenVN ──────────────────────────────────────────────────────────────────


def test_a_greenvn_call() -> None:
    assert body_of(Product.GREENVN, call_completed(timezone="IST", recording_url=None)) == {
        "start_time": "2020-03-23T12:58:02+05:30",
        "direction": "incoming",
        "source": "exotel",
        "dial_call_duration": "20",
        "connection_id": "random_string",
        "dial_call_status": "completed",
        "greenvn": "+916292134464",
        "recording_url": "null",
        "on_call_duration": 17,
        "greenvn_id": "6447bb53-70c3-40ea-850b-de2fd3c585ee",
        "call_type": "completed",
        "call_sid": "ec44cfd684850a68decc4cebc4e2143u",
        "to": "+916292134471",
        "current_time": "2020-03-23T18:28:22+05:30",
        "from": "+917987686144",
    }


def test_insights_are_told_where_the_platform_sent_some() -> None:
    body = body_of(Product.GREENVN, call_completed(insights=INSIGHTS))
    assert body["insights"] == SAMPLE_GREENVN_CALL_WITH_INSIGHTS["insights"]
    assert "insights" not in body_of(Product.GREENVN, call_completed())


def test_what_the_platform_left_out_of_its_insights_is_null() -> None:
    body = body_of(Product.GREENVN, call_completed(insights=Insights(status="failed")))
    assert body["insights"] == {
        "DisconnectedBy": None,
        "Status": "failed",
        "DetailedStatus": None,
        "RingingDuration": None,
    }


def test_greenpin_has_no_insights() -> None:
    assert body_of(Product.GREENPIN, call_completed(insights=INSIGHTS)) == body_of(
        Product.GREENPIN, call_completed()
    )


def test_a_released_greenvn() -> None:
    assert body_of(Product.GREENVN, deallocated()) == {
        "connection_id": "order-id",
        "aparty_numbers": ["+917987686144"],
        "bparty_numbers": ["+916292134471"],
        # As the wire of GreenVN has them: integers, which have no leading zero.
        "aparty_pins": [713],
        "bparty_pins": [884],
        "usage": "twoway",
        "state": "vault",
        "greenvn": "+916292134464",
        "greenvn_id": "6447bb53-70c3-40ea-850b-de2fd3c585ee",
    }


@pytest.mark.parametrize(("pins", "listed"), [((), [None]), ((PIN,), [713]), ((PIN, OTHER_PIN), [713, 884])])
def test_a_greenvn_side_lists_its_pins_and_without_one_a_null(
    pins: tuple[Pin, ...], listed: list[int | None]
) -> None:
    assert body_of(Product.GREENVN, deallocated(a_pins=pins))["aparty_pins"] == listed
    assert body_of(Product.GREENVN, deallocated(b_pins=pins))["bparty_pins"] == listed


def test_a_verified_caller_of_a_greenvn_is_told_with_the_pin_as_text_and_without_the_call() -> None:
    assert body_of(Product.GREENVN, verified(caller=None)) == {
        "caller": None,
        "greenvn_id": "6447bb53-70c3-40ea-850b-de2fd3c585ee",
        "greenvn": "+916292134464",
        "connection_id": "order-id",
        "pin": "0713",
    }


def test_a_failed_verification_on_a_greenvn() -> None:
    assert body_of(Product.GREENVN, verification_failed()) == {
        "start_time": "2021-11-09T10:09:15+05:30",
        "caller": "+917987686144",
        "greenvn": "+916292134464",
        "call_sid": "ec44cfd684850a68decc4cebc4e2143u",
        "pin": "00123456789012",
    }


# ── what settings and the second generation add ──────────────────────────────


@pytest.mark.parametrize("product", Product)
def test_tags_come_after_the_documented_keys(product: Product) -> None:
    plain = body_of(product, call_completed())
    tagged = body_of(product, call_completed(a_tag="agent", b_tag="customer"))
    assert list(tagged.items()) == [*plain.items(), ("aparty_tag", "agent"), ("bparty_tag", "customer")]


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize("custom_field", [None, "ref 7"])
@pytest.mark.parametrize("record", [True, False])
def test_the_second_generation_has_its_own_ids_and_two_more_keys_at_the_end(
    product: Product, custom_field: str | None, record: bool
) -> None:
    for facts_with in (call_completed, deallocated, verified):
        said: dict[str, Any] = {"transaction_id": None, "custom_field": custom_field, "record": record}
        plain = body_of(product, facts_with(**said))
        added = body_of(product, facts_with(**said, generation=Generation.SECOND))
        id_key, prefix = {
            Product.GREENPIN: ("greenpin_id", "gp_"),
            Product.GREENVN: ("greenvn_id", "gvn_"),
        }[product]
        assert plain[id_key] == str(ALLOCATION)
        as_it_is_known = {id_key: prefix + ALLOCATION.hex}
        assert list(added.items()) == [
            *(plain | as_it_is_known).items(),
            ("custom_field", custom_field),
            ("record", record),
        ]
        assert plain["transaction_id" if product is Product.GREENPIN else "connection_id"] is None


@pytest.mark.parametrize(
    ("kept_record", "generation"),
    [(None, Generation.FIRST), (True, Generation.SECOND), (False, Generation.SECOND)],
)
def test_facts_that_did_not_say_their_generation_said_it_by_the_recording(
    kept_record: bool | None, generation: Generation
) -> None:
    for facts in (call_completed(), deallocated(), verified()):
        kept = facts.to_json() | {"record": kept_record}
        del kept["generation"]
        told = facts_of(facts.kind, kept)
        assert told == replace(facts, record=bool(kept_record), generation=generation)


@pytest.mark.parametrize("product", Product)
def test_a_call_without_recording_may_say_null_as_json_has_it(product: Product) -> None:
    def recording_url(**facts: Any) -> Any:
        return body_of(product, call_completed(missing_recording=MissingRecording.NULL, **facts))[
            "recording_url"
        ]

    assert recording_url(recording_url=None) is None
    assert (
        recording_url(recording_url="https://recordings.example/1.mp3") == "https://recordings.example/1.mp3"
    )


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize(("called", "told"), [(CALLED, "+916292134464"), (None, None)])
def test_the_number_dialled_may_be_masked_by_the_vn(
    product: Product, called: E164 | None, told: str | None
) -> None:
    body = body_of(product, call_completed(called=called, callback_to=CallbackTo.MASKED))
    assert body["to"] == told
    assert "+916292134471" not in body.values()


@pytest.mark.parametrize("product", Product)
@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("2026-02-23 12:31:58", "2026-02-23 12:31:58"),
        ("Mon, 23 Feb 2026 12:31:59", "2026-02-23 12:31:59"),
        ("2026-02-23T07:01:58Z", "2026-02-23 12:31:58"),
        ("2026-02-23T12:31:58.500", "2026-02-23 12:31:58"),
        ("1970-01-01 05:30:00", "2021-11-09 10:09:15"),
        (None, "2021-11-09 10:09:15"),
    ],
)
def test_times_may_be_plain(product: Product, written: str | None, told: str) -> None:
    facts = verification_failed(start_time=written, time_format=CallbackTimeFormat.PLAIN)
    assert body_of(product, facts)["start_time"] == told


@pytest.mark.parametrize("product", Product)
def test_plain_times_are_the_accounts_own(product: Product) -> None:
    body = body_of(product, call_completed(timezone="IST", time_format=CallbackTimeFormat.PLAIN))
    assert (body["start_time"], body["current_time"]) == ("2020-03-23 12:58:02", "2020-03-23 18:28:22")
    body = body_of(product, call_completed(timezone="UTC", time_format=CallbackTimeFormat.PLAIN))
    assert (body["start_time"], body["current_time"]) == ("2020-03-23 12:58:02", "2020-03-23 12:58:22")
