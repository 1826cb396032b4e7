"""GET and PUT /settings: every key of the pages with its default, and nothing that nobody could read."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.routing.allocate import Code, Unacceptable
from cordboard.routing.regions import REGIONS
from cordboard.routing.tenant import (
    CallbackTimeFormat,
    CallbackTo,
    MissingRecording,
    TenantSettings,
    VnChoice,
    VnSharing,
    parse_settings,
)
from cordboard.web.schemas import Region
from cordboard.web.tenant_settings import DEFAULT_SETTINGS, SettingsBody, checked_settings, effective
from cordboard.webhooks.destinations import Destinations

from .conftest import MakeShop
from .shop import Shop, assert_refused

DEFAULTS = {
    "country": "IN",
    "intl_num_sup": "false",
    "max_deallocation_time": "170d",
    "timezone": "IST",
    "deletion_time": 0,
    "tag_enabled": "false",
    "aparty_tag": "aparty",
    "bparty_tag": "bparty",
    "sms_config": None,
    "sticky_agent_enabled": "false",
    "lcr_enabled": "false",
    "default_region": None,
    "greencall_complete_event_endpoint": None,
    "failed_verification_event_endpoint": None,
    "verified_caller_event_endpoint": None,
    "deallocation_callback_event_endpoint": None,
    "default_flow_id": None,
    "greenpin_call_complete_event_endpoint": None,
    "aparty_pin_length": 4,
    "bparty_pin_length": 4,
    "aparty_pin_enabled": "true",
    "bparty_pin_enabled": "true",
    "common_pin_length": 4,
    "common_pin_enabled": "false",
    "withheld_callers": "pin",
    "max_pin_attempts": 3,
    "pin_failures_per_caller": "9/15m",
    "pin_failures_per_vn": "60/1h",
    "pin_failures_per_tenant": "1000/1h",
    "rate_limit": None,
    "prompt_pin": "Please enter your PIN, followed by the hash key.",
    "prompt_pin_again": "That did not work. Please enter your PIN again, followed by the hash key.",
    "greeting_connect": "Please wait while we connect you.",
    "greeting_refused": "Sorry, this call cannot be connected. Goodbye.",
    "vn_sharing": "exclusive",
    "vn_choice": "least_loaded",
    "flows": [],
    "generation_2_enabled": "true",
    "retention_days": None,
    "callback_time_format": "iso",
    "missing_recording": "text",
    "callback_to": "real",
}


async def test_a_new_tenant_has_the_documented_settings(shop: Shop) -> None:
    answer = await shop.ask("GET", "/settings")
    assert (answer.status, answer.body["success"], answer.body["code"]) == (200, True, None)
    assert answer.data == DEFAULTS


def test_the_defaults_that_are_shown_are_those_that_the_engine_has() -> None:
    shown = {key: value for key, value in DEFAULT_SETTINGS.items() if value is not None}
    assert parse_settings(shown) == parse_settings({}) == TenantSettings()
    assert len(fields(TenantSettings)) > 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("country", "US"),
        ("intl_num_sup", "true"),
        ("intl_num_sup", True),
        ("intl_num_sup", False),
        ("max_deallocation_time", "90s"),
        ("max_deallocation_time", "15m"),
        ("max_deallocation_time", "170d"),
        ("max_deallocation_time", "-1"),
        ("timezone", "UTC"),
        ("deletion_time", 0),
        ("deletion_time", 86_400),
        ("deletion_time", "60"),
        ("tag_enabled", "true"),
        ("aparty_tag", "shop"),
        ("sms_config", {"any": ["shape", 1, None, 2.5]}),
        ("sms_config", "text"),
        ("sticky_agent_enabled", "true"),
        ("lcr_enabled", "true"),
        ("default_region", "KA"),
        ("greencall_complete_event_endpoint", "https://user:pass@example.com:8443/x?y=z"),
        ("verified_caller_event_endpoint", "http://[::1]:9000/"),
        ("failed_verification_event_endpoint", "http://127.0.0.1/"),
        ("default_flow_id", "228040"),
        ("aparty_pin_length", 1),
        ("aparty_pin_length", 9),
        ("bparty_pin_length", "6"),
        ("common_pin_length", 6),
        ("common_pin_enabled", "true"),
        ("aparty_pin_enabled", False),
        ("withheld_callers", "refuse"),
        ("max_pin_attempts", 1),
        ("max_pin_attempts", 10),
        ("pin_failures_per_caller", "1/1s"),
        ("pin_failures_per_vn", "100000/1d"),
        ("pin_failures_per_tenant", "5/24h"),
        ("rate_limit", "10000/1m"),
        ("prompt_pin", "अपना पिन दबाएँ"),
        ("greeting_refused", "x" * 1_000),
        ("vn_sharing", "pin"),
        ("vn_choice", "avoid_sticky"),
        ("vn_choice", "prefer_sticky"),
        ("flows", ["228040", "40021"]),
        ("flows", []),
        ("flows", ["x"] * 100),
        ("generation_2_enabled", "false"),
        ("generation_2_enabled", False),
        ("retention_days", 30),
        ("retention_days", "3650"),
        ("callback_time_format", "plain"),
        ("missing_recording", "null"),
        ("callback_to", "masked"),
        ("bparty_tag", "x" * 255),
        ("deallocation_callback_event_endpoint", "https://example.com/"),
        ("greenpin_call_complete_event_endpoint", "https://example.com/"),
        ("bparty_pin_enabled", "false"),
        ("of_tomorrow", {"a": [1, 2.5, "x", None, True, {"b": []}]}),
        ("", "an empty key"),
        ("model_config", "a name of pydantic's"),
    ],
)
async def test_a_good_value_is_kept_as_it_was_sent(shop: Shop, key: str, value: Any) -> None:
    changed = await shop.ask("PUT", "/settings", {key: value})
    assert changed.status == 200
    assert changed.body["method"] == "PUT"
    assert changed.data == DEFAULTS | {key: value}
    shown = (await shop.ask("GET", "/settings")).data
    assert orjson.dumps(shown[key]) == orjson.dumps(value)
    assert shown == changed.data


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("country", "XX"),
        ("country", "IND"),
        ("country", ""),
        ("country", 91),
        ("intl_num_sup", "yes"),
        ("intl_num_sup", "True"),
        ("intl_num_sup", 1),
        ("intl_num_sup", 0),
        ("intl_num_sup", []),
        ("max_deallocation_time", "171d"),
        ("max_deallocation_time", "1200"),
        ("max_deallocation_time", "0s"),
        ("max_deallocation_time", "-2"),
        ("max_deallocation_time", -1),
        ("max_deallocation_time", 1200),
        ("timezone", "Asia/Kolkata"),
        ("timezone", "utc"),
        ("deletion_time", -1),
        ("deletion_time", 86_401),
        ("deletion_time", "x"),
        ("deletion_time", True),
        ("deletion_time", 1.5),
        ("aparty_tag", ""),
        ("aparty_tag", 5),
        ("aparty_tag", "x" * 256),
        ("default_region", 5),
        ("default_region", ["KA"]),
        ("default_flow_id", ""),
        ("default_flow_id", 228040),
        ("default_flow_id", "x" * 65),
        ("tag_enabled", "on"),
        ("bparty_tag", ["x"]),
        ("bparty_tag", "a\0b"),
        ("sticky_agent_enabled", "yes"),
        ("lcr_enabled", 1),
        ("deallocation_callback_event_endpoint", "example.com"),
        ("failed_verification_event_endpoint", 5),
        ("greenpin_call_complete_event_endpoint", "mailto:x@example.com"),
        ("aparty_pin_enabled", "off"),
        ("bparty_pin_enabled", 0),
        ("common_pin_enabled", "1"),
        ("generation_2_enabled", "no"),
        ("prompt_pin_again", 5),
        ("greeting_refused", ""),
        ("greencall_complete_event_endpoint", "example.com/x"),
        ("greencall_complete_event_endpoint", "ftp://example.com/"),
        ("greencall_complete_event_endpoint", "http://"),
        ("greencall_complete_event_endpoint", "http:///path"),
        ("greencall_complete_event_endpoint", "http://example.com:99999/"),
        ("greencall_complete_event_endpoint", "http://example.com/ x"),
        ("greencall_complete_event_endpoint", "http://example.com/\r\nX: y"),
        ("greencall_complete_event_endpoint", ""),
        ("greencall_complete_event_endpoint", ["http://example.com/"]),
        ("verified_caller_event_endpoint", "http://example.com/" + "x" * 2_048),
        ("aparty_pin_length", 0),
        ("aparty_pin_length", 10),
        ("bparty_pin_length", "0"),
        ("bparty_pin_length", "four"),
        ("common_pin_length", 4.0),
        ("withheld_callers", "allow"),
        ("max_pin_attempts", 0),
        ("max_pin_attempts", 11),
        ("pin_failures_per_caller", "9"),
        ("pin_failures_per_caller", "0/15m"),
        ("pin_failures_per_caller", "9/2d"),
        ("pin_failures_per_caller", "9/25h"),
        ("pin_failures_per_caller", "100001/1h"),
        ("pin_failures_per_vn", 60),
        ("pin_failures_per_tenant", "9/0m"),
        ("rate_limit", "10001/1m"),
        ("rate_limit", "100"),
        ("prompt_pin", ""),
        ("prompt_pin", "x" * 1_001),
        ("prompt_pin", "a\0b"),
        ("greeting_connect", 5),
        ("vn_sharing", "none"),
        ("vn_choice", "any"),
        ("vn_sharing", 1),
        ("vn_choice", "sticky"),
        ("flows", {}),
        ("flows", "228040"),
        ("flows", [228040]),
        ("flows", [{"flow_id": "228040"}]),
        ("flows", [""]),
        ("flows", ["x"] * 101),
        ("retention_days", 0),
        ("retention_days", 3_651),
        ("callback_time_format", "ISO"),
        ("missing_recording", ""),
        ("callback_to", "vn"),
        ("of_tomorrow", "a\0b"),
        ("of_tomorrow", {"a": [{"b\0": 1}]}),
    ],
)
async def test_a_bad_value_is_named_and_changes_nothing(shop: Shop, key: str, value: Any) -> None:
    before = await shop.rows()
    answer = await shop.ask("PUT", "/settings", {"max_pin_attempts": 5, key: value})
    assert_refused(answer, 400, Code.BAD, key)
    assert await shop.rows() == before
    made = await shop.client.admin("POST", "/tenants", {"id": f"{shop.id}-2", "settings": {key: value}})
    assert_refused(made, 400, Code.BAD, key)


@pytest.mark.parametrize("region", ["XX", "ka", "", "KA "])
async def test_a_region_that_nobody_serves_is_refused_as_such(shop: Shop, region: str) -> None:
    before = await shop.rows()
    answer = await shop.ask("PUT", "/settings", {"default_region": region})
    assert_refused(answer, 403, Code.REGION, "default_region must be one of DL, MU")
    assert await shop.rows() == before
    # What is wrong in form comes first.
    both = await shop.ask("PUT", "/settings", {"default_region": region, "timezone": "CET"})
    assert_refused(both, 400, Code.BAD, "timezone")


def test_a_virtual_number_belongs_to_one_of_the_same_regions() -> None:
    assert get_args(Region) == REGIONS


def test_every_key_of_the_contract_has_a_place() -> None:
    assert set(DEFAULTS) == set(SettingsBody.model_fields)


@pytest.mark.parametrize(
    ("key", "value", "field", "read"),
    [
        ("tag_enabled", "true", "tag_enabled", True),
        ("aparty_tag", "agent", "a_tag", "agent"),
        ("bparty_tag", "customer", "b_tag", "customer"),
        ("callback_time_format", "plain", "callback_time_format", CallbackTimeFormat.PLAIN),
        ("missing_recording", "null", "missing_recording", MissingRecording.NULL),
        ("callback_to", "masked", "callback_to", CallbackTo.MASKED),
        ("vn_sharing", "pin", "vn_sharing", VnSharing.PIN),
        ("vn_choice", "prefer_sticky", "vn_choice", VnChoice.PREFER_STICKY),
        ("vn_choice", "avoid_sticky", "vn_choice", VnChoice.AVOID_STICKY),
        ("flows", ["228040", "40021"], "flows", ("228040", "40021")),
        # As this was kept before it was checked.
        ("flows", [{"flow_id": "228040"}, "40021"], "flows", ("40021",)),
        ("default_flow_id", "228040", "default_flow_id", "228040"),
        ("default_region", "KA", "default_region", "KA"),
        ("generation_2_enabled", "false", "generation_2_enabled", False),
        ("generation_2_enabled", False, "generation_2_enabled", False),
    ],
)
def test_the_engine_reads_what_was_set(key: str, value: Any, field: str, read: Any) -> None:
    assert parse_settings({key: value}) == replace(TenantSettings(), **{field: read})


async def test_null_takes_a_key_back_to_its_default(shop: Shop) -> None:
    await shop.ask("PUT", "/settings", {"max_pin_attempts": 5, "of_tomorrow": 1, "country": "us"})
    changed = await shop.ask("PUT", "/settings", {"max_pin_attempts": None, "of_tomorrow": None})
    assert changed.data == DEFAULTS | {"country": "US"}


async def test_only_the_keys_named_change(shop: Shop) -> None:
    await shop.ask("PUT", "/settings", {"prompt_pin": "one"})
    changed = await shop.ask("PUT", "/settings", {"greeting_connect": "two"})
    assert changed.data == DEFAULTS | {"prompt_pin": "one", "greeting_connect": "two"}


@pytest.mark.parametrize("raw", [b"", b"{}"])
async def test_an_empty_change_is_none(shop: Shop, raw: bytes) -> None:
    assert_refused(await shop.ask("PUT", "/settings", raw=raw), 400, Code.MISSING, "setting")


@pytest.mark.parametrize("raw", [b"[]", b"{", b"null"])
async def test_what_is_no_object_is_refused(shop: Shop, raw: bytes) -> None:
    assert_refused(await shop.ask("PUT", "/settings", raw=raw), 400, Code.BAD)


async def test_settings_are_at_most_64_kib_together(shop: Shop) -> None:
    assert (await shop.ask("PUT", "/settings", {"one": "x" * 40_000})).status == 200
    before = await shop.rows()
    assert_refused(await shop.ask("PUT", "/settings", {"two": "x" * 40_000}), 400, Code.BAD, "65536 bytes")
    assert_refused(await shop.ask("PUT", "/settings", {"one": "x" * 70_000}), 400, Code.BAD, "65536 bytes")
    assert await shop.rows() == before
    assert (await shop.ask("PUT", "/settings", {"one": None, "two": "x" * 40_000})).status == 200


@pytest.mark.parametrize(("depth", "is_good"), [(31, True), (200, False), (1_000, False)])
async def test_values_are_not_nested_without_end(shop: Shop, depth: int, is_good: bool) -> None:
    raw = b'{"deep":' + b"[" * depth + b"]" * depth + b"}"
    answer = await shop.ask("PUT", "/settings", raw=raw)
    if is_good:
        assert answer.status == 200
    else:
        assert_refused(answer, 400, Code.BAD, "deep")


async def test_a_change_governs_the_next_request(shop: Shop) -> None:
    await shop.ask("PUT", "/settings", {"aparty_pin_length": "7", "timezone": "UTC"})
    assert len((await shop.make())["a"]["pin"]) == 7
    await shop.ask("PUT", "/settings", {"intl_num_sup": "true"})
    assert (await shop.make("abroad", b__numbers=["+14155552671"]))["b"]["numbers"] == ["+14155552671"]
    await shop.ask("PUT", "/settings", {"country": "us"})
    assert (await shop.make("home", b__numbers=["4155552672"]))["b"]["numbers"] == ["+14155552672"]


async def test_settings_given_with_the_tenant_are_kept(make_shop: MakeShop) -> None:
    shop = await make_shop({"max_pin_attempts": 5, "of_tomorrow": 1, "country": "in", "prompt_pin": None})
    shown = (await shop.ask("GET", "/settings")).data
    assert shown == DEFAULTS | {"max_pin_attempts": 5, "of_tomorrow": 1}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-10, 200_000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
    | st.sampled_from(["true", "false", "-1", "9/15m", "1d", "IN", "UTC", "pin", "KA", "http://h/"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(sorted(SettingsBody.model_fields)) | st.text(max_size=3), json_values, max_size=4
    )
)
def test_whatever_is_accepted_can_be_read_by_the_engine(given_settings: dict[str, Any]) -> None:
    try:
        kept = checked_settings(given_settings, Destinations())
    except Unacceptable:
        return
    settings = parse_settings({key: value for key, value in kept.items() if value is not None})
    assert 1 <= settings.a_pin_length <= 9
    assert settings.timezone in ("IST", "UTC")
    assert 0 <= settings.cool_off_s <= 86_400
    assert set(effective(kept)) >= set(DEFAULT_SETTINGS)
