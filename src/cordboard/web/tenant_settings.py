"""`/settings`: what a tenant may set (exotel.md 8.7), and its REST resource.

Kept as it was sent, so that `true` comes back as `true` and `"true"` as `"true"`; the engine's reading of
it is routing/tenant.py. Keys that nobody knows are kept and returned, because the vendor's list is not
known to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from yarl import URL

from cordboard.routing.allocate import Code, Fault, Unacceptable
from cordboard.routing.numbers import PIN_DIGITS_MAX, PIN_DIGITS_MIN, country_is_known
from cordboard.routing.tenant import DEALLOCATION_S_MAX, DEFAULTS, NO_END, Rate, parse_duration, parse_rate
from cordboard.storage import provisioning
from cordboard.switchboard.service import Switchboard
from cordboard.switchboard.throttle import WINDOW_S_MAX
from cordboard.web.bodies import read_object
from cordboard.web.envelope import Answer, propagation
from cordboard.web.exchange import TENANT_PATH, Exchange, Tenants
from cordboard.web.openapi import Operation, Route
from cordboard.web.rate_limit import REQUESTS_MAX
from cordboard.web.schemas import (
    DURATION_CHARACTERS_MAX,
    DURATION_PATTERN,
    FlowId,
    ServedRegion,
    checked,
    whole_number,
    whole_number_schema,
    without_nul,
)
from cordboard.webhooks.destinations import Destinations

# Some 40 keys of which ten are texts of up to 2 kB; more is somebody's database.
SETTINGS_BYTES_MAX: Final = 64 << 10
# Deeper than any configuration, and far from where parsers give up.
NESTING_MAX: Final = 32
PROMPT_CHARACTERS_MAX: Final = 1_000
URL_CHARACTERS_MAX: Final = 2_048
TAG_CHARACTERS_MAX: Final = 255
# All failures in a window are kept in memory: 8 bytes each.
FAILURES_MAX: Final = 100_000
RETENTION_DAYS_MAX: Final = 3_650
# Accounts have a handful; the settings as a whole have a limit of their own.
FLOWS_MAX: Final = 100


# ── values ───────────────────────────────────────────────────────────────────


def _flag(value: object) -> object:
    if value is True or value is False or value in ("true", "false"):
        return value
    raise PydanticCustomError("flag", 'must be "true" or "false"')


def _whole(smallest: int, largest: int) -> PlainValidator:
    read = whole_number(smallest, largest)

    def check(value: object) -> object:
        read(value)
        return value

    return PlainValidator(check)


def _country(value: object) -> str:
    if isinstance(value, str) and value.isascii() and country_is_known(value.upper()):
        return value.upper()
    raise PydanticCustomError("country", 'must be an ISO 3166-1 alpha-2 code, like "IN"')


def _longest_life(value: object) -> object:
    if value == NO_END:
        return value
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None or seconds > DEALLOCATION_S_MAX:
        raise PydanticCustomError(
            "longest_life",
            'must be a number and a unit (d, h, m or s) of at most 170 days, or "-1" for no end',
        )
    return value


def _rate(count_max: int) -> PlainValidator:
    def check(value: object) -> object:
        rate = parse_rate(value) if isinstance(value, str) else None
        if rate is None or not 1 <= rate.count_max <= count_max or rate.window_s > WINDOW_S_MAX:
            raise PydanticCustomError(
                "rate", f'must be a count from 1 to {count_max} in a window of at most a day, like "9/15m"'
            )
        return value

    return PlainValidator(check)


def _absolute_url(value: str) -> str:
    try:
        url = URL(value)
        is_good = url.scheme in ("http", "https") and bool(url.raw_host)
    except ValueError:
        is_good = False
    if not is_good or not value.isprintable() or " " in value:
        raise PydanticCustomError("url", "must be an absolute http or https URL")
    return value


_RATE_SCHEMA: Final = WithJsonSchema(
    {
        "type": "string",
        "pattern": f"^0*[1-9][0-9]*/{DURATION_PATTERN}$",
        "description": "A count and the window in which it may be reached, of at most a day.",
        "examples": ["9/15m"],
    }
)
_COUNTRY_SCHEMA: Final = WithJsonSchema(
    {"type": "string", "pattern": "^[A-Za-z]{2}$", "description": "ISO 3166-1 alpha-2."}
)
_LONGEST_LIFE_SCHEMA: Final = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "pattern": f"^{DURATION_PATTERN}$", "maxLength": DURATION_CHARACTERS_MAX},
            {"const": NO_END},
        ],
        "description": "At most 170d, which is the default; -1 is no end.",
    }
)

Flag = Annotated[Any, PlainValidator(_flag), WithJsonSchema({"enum": [True, False, "true", "false"]})]
PinLength = Annotated[
    Any, _whole(PIN_DIGITS_MIN, PIN_DIGITS_MAX), whole_number_schema(PIN_DIGITS_MIN, PIN_DIGITS_MAX)
]
RateText = Annotated[Any, _rate(FAILURES_MAX), _RATE_SCHEMA]
Prompt = Annotated[
    str, StringConstraints(min_length=1, max_length=PROMPT_CHARACTERS_MAX), AfterValidator(without_nul)
]
Tag = Annotated[
    str, StringConstraints(min_length=1, max_length=TAG_CHARACTERS_MAX), AfterValidator(without_nul)
]
Endpoint = Annotated[
    str,
    StringConstraints(max_length=URL_CHARACTERS_MAX),
    AfterValidator(_absolute_url),
    Field(json_schema_extra={"format": "uri", "pattern": "^[Hh][Tt][Tt][Pp][Ss]?:"}),
]


class SettingsBody(BaseModel):
    """Any subset of the keys; null takes a key back to its default."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    country: Annotated[str, PlainValidator(_country), _COUNTRY_SCHEMA] | None = None
    intl_num_sup: Flag | None = None
    max_deallocation_time: Annotated[Any, PlainValidator(_longest_life), _LONGEST_LIFE_SCHEMA] | None = None
    timezone: Literal["IST", "UTC"] | None = None
    deletion_time: Annotated[Any, _whole(0, 86_400), whole_number_schema(0, 86_400)] | None = None
    tag_enabled: Flag | None = None
    aparty_tag: Tag | None = None
    bparty_tag: Tag | None = None
    sms_config: Any = None
    sticky_agent_enabled: Flag | None = None
    lcr_enabled: Flag | None = None
    default_region: ServedRegion | None = None
    greencall_complete_event_endpoint: Endpoint | None = None
    failed_verification_event_endpoint: Endpoint | None = None
    verified_caller_event_endpoint: Endpoint | None = None
    deallocation_callback_event_endpoint: Endpoint | None = None
    default_flow_id: FlowId | None = None
    greenpin_call_complete_event_endpoint: Endpoint | None = None
    aparty_pin_length: PinLength | None = None
    bparty_pin_length: PinLength | None = None
    aparty_pin_enabled: Flag | None = None
    bparty_pin_enabled: Flag | None = None
    common_pin_length: PinLength | None = None
    common_pin_enabled: Flag | None = None
    withheld_callers: Literal["pin", "refuse"] | None = None
    max_pin_attempts: Annotated[Any, _whole(1, 10), whole_number_schema(1, 10)] | None = None
    pin_failures_per_caller: RateText | None = None
    pin_failures_per_vn: RateText | None = None
    pin_failures_per_tenant: RateText | None = None
    rate_limit: Annotated[Any, _rate(REQUESTS_MAX), _RATE_SCHEMA] | None = None
    prompt_pin: Prompt | None = None
    prompt_pin_again: Prompt | None = None
    greeting_connect: Prompt | None = None
    greeting_refused: Prompt | None = None
    vn_sharing: Literal["exclusive", "pin"] | None = None
    vn_choice: Literal["least_loaded", "prefer_sticky", "avoid_sticky"] | None = None
    flows: Annotated[list[FlowId], Field(max_length=FLOWS_MAX)] | None = None
    generation_2_enabled: Flag | None = None
    retention_days: (
        Annotated[Any, _whole(1, RETENTION_DAYS_MAX), whole_number_schema(1, RETENTION_DAYS_MAX)] | None
    ) = None
    callback_time_format: Literal["iso", "plain"] | None = None
    missing_recording: Literal["text", "null"] | None = None
    callback_to: Literal["real", "masked"] | None = None


def _rate_text(rate: Rate) -> str:
    unit, seconds = ("h", 3_600) if rate.window_s % 3_600 == 0 else ("m", 60)
    return f"{rate.count_max}/{rate.window_s // seconds}{unit}"


# As the pages write them; null where there is none.
_DOCUMENTED: Final[dict[str, Any]] = {
    "country": DEFAULTS.country,
    "intl_num_sup": "false",
    "max_deallocation_time": f"{DEALLOCATION_S_MAX // 86_400}d",
    "timezone": DEFAULTS.timezone,
    "deletion_time": DEFAULTS.cool_off_s,
    "tag_enabled": "false",
    "aparty_tag": DEFAULTS.a_tag,
    "bparty_tag": DEFAULTS.b_tag,
    "sticky_agent_enabled": "false",
    "lcr_enabled": "false",
    "aparty_pin_length": DEFAULTS.a_pin_length,
    "bparty_pin_length": DEFAULTS.b_pin_length,
    "aparty_pin_enabled": "true",
    "bparty_pin_enabled": "true",
    "common_pin_length": DEFAULTS.common_pin_length,
    "common_pin_enabled": "false",
    "withheld_callers": "pin",
    "max_pin_attempts": DEFAULTS.call_rules.pin_attempts_max,
    "pin_failures_per_caller": _rate_text(DEFAULTS.pin_failures_per_caller),
    "pin_failures_per_vn": _rate_text(DEFAULTS.pin_failures_per_vn),
    "pin_failures_per_tenant": _rate_text(DEFAULTS.pin_failures_per_tenant),
    "prompt_pin": DEFAULTS.prompt_pin,
    "prompt_pin_again": DEFAULTS.prompt_pin_again,
    "greeting_connect": DEFAULTS.greeting_connect,
    "greeting_refused": DEFAULTS.greeting_refused,
    "vn_sharing": DEFAULTS.vn_sharing.value,
    "vn_choice": DEFAULTS.vn_choice.value,
    "flows": list(DEFAULTS.flows),
    "generation_2_enabled": "true",
    "callback_time_format": DEFAULTS.callback_time_format.value,
    "missing_recording": DEFAULTS.missing_recording.value,
    "callback_to": DEFAULTS.callback_to.value,
}
DEFAULT_SETTINGS: Final[Mapping[str, Any]] = dict.fromkeys(SettingsBody.model_fields) | _DOCUMENTED


ENDPOINT_KEYS: Final = tuple(key for key in SettingsBody.model_fields if key.endswith("_event_endpoint"))


def checked_settings(given: object, destinations: Destinations) -> dict[str, Any]:
    """What a client sets, as it is to be kept; the values it resets are None. Raises Unacceptable."""
    body = checked(SettingsBody, given)
    assert isinstance(given, dict), "or it would be no SettingsBody"
    faults = [
        Fault(Code.BAD, key, f"{_shown(key)} {words}.")
        for key, value in given.items()
        if (words := _unkeepable(key, value)) is not None
    ]
    faults += [
        Fault(Code.BAD, key, f"{key} {words}.")
        for key in ENDPOINT_KEYS
        if (value := given.get(key)) is not None and (words := destinations.fault_of(value)) is not None
    ]
    if faults:
        raise Unacceptable(faults)
    check_size(given)
    return given if body.country is None else {**given, "country": body.country}


def effective(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings: what was set, and the default of every other known key."""
    return {**DEFAULT_SETTINGS, **given}


class SettingsResource:
    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._destinations = Destinations.of_settings(switchboard.settings)

    def routes(self, tenants: Tenants) -> list[Route]:
        path = f"{TENANT_PATH}/settings"
        show = Operation("Show all settings", data=SettingsBody)
        change = Operation(
            "Change settings",
            description=(
                "Keys that are not named keep their values, null takes one back to its default, and keys that"
                " nobody knows are kept and returned. Allocations already made are not changed."
            ),
            body=SettingsBody,
            data=SettingsBody,
        )
        return [
            # Not limited: a tenant that has set `rate_limit` to 1/1d must not have to wait a day to undo it.
            tenants.route("GET", path, self._show, show, is_rate_limited=False),
            tenants.route("PUT", path, self._change, change, is_rate_limited=False),
        ]

    async def _show(self, exchange: Exchange) -> Answer:
        return Answer(effective(exchange.tenant.given))

    async def _change(self, exchange: Exchange) -> Answer:
        changed = checked_settings(await read_object(exchange.request), self._destinations)
        if not changed:
            message = "At least one setting must be given."
            raise Unacceptable([Fault(Code.MISSING, "settings", message)])
        check_size({**exchange.tenant.given, **changed})
        switchboard = self._switchboard
        tenant, position = await provisioning.change_settings(
            switchboard.database, exchange.tenant.id, changed, switchboard.clock.now_us()
        )
        is_propagated = await switchboard.propagate(position)
        return Answer(effective(tenant.settings), headers=propagation(is_propagated))


def check_size(settings: Mapping[str, Any]) -> None:
    """Raises Unacceptable."""
    if len(orjson.dumps(settings)) > SETTINGS_BYTES_MAX:
        message = f"The settings of a tenant are together at most {SETTINGS_BYTES_MAX} bytes."
        raise Unacceptable([Fault(Code.BAD, "settings", message)])


def _unkeepable(key: str, value: object) -> str | None:
    """Why PostgreSQL or a parser could not give it back: a NUL, or too many levels."""
    if "\0" in key:
        return "must not have the character U+0000"
    level = [value]
    for _ in range(NESTING_MAX):
        deeper: list[object] = []
        for item in level:
            if isinstance(item, str) and "\0" in item:
                return "must not have the character U+0000"
            if isinstance(item, dict):
                deeper += (*item, *item.values())
            elif isinstance(item, list):
                deeper += item
        if not deeper:
            return None
        level = deeper
    return f"must not be nested deeper than {NESTING_MAX} levels"


def _shown(key: str) -> str:
    """A key is the client's own text: shown as far as it is short and plain."""
    return key if key.isprintable() and len(key) <= TAG_CHARACTERS_MAX else "A key"
