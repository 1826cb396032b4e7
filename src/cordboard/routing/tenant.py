"""A tenant's settings as the engine reads them (exotel.md 8.7).

What a client sent is kept verbatim beside this; here every key has its type and its default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeVar

from cordboard.routing.model import NEVER_US, CallRules

# 170 days, the default and the ceiling of an allocation's life (exotel.md 8.6).
DEALLOCATION_S_MAX: Final = 170 * 86_400
NO_END: Final = "-1"
# Where there is no end but a duration is named all the same: dates end with the year 9999.
LIFE_S_MAX: Final = 1_000 * 365 * 86_400

_SECONDS_PER: Final = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# Nine digits of days are more years than dates hold; what is over the cap is cut to it anyway.
_DURATION = re.compile(r"([0-9]{1,9})([dhms])", re.ASCII)
_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,9}[dhms])", re.ASCII)


class VnSharing(Enum):
    """Whether a VN of a second-generation allocation may carry others, told apart by their PINs."""

    EXCLUSIVE = "exclusive"
    PIN = "pin"


class VnChoice(Enum):
    """Which of the fitting VNs an allocation gets; sticky is one that its people had before."""

    LEAST_LOADED = "least_loaded"
    PREFER_STICKY = "prefer_sticky"
    AVOID_STICKY = "avoid_sticky"


class CallbackTimeFormat(Enum):
    """How callbacks write times (exotel.md 11.14), both in the account's time zone."""

    ISO = "iso"  # 2021-11-09T10:09:15+05:30
    PLAIN = "plain"  # 2021-11-09 10:09:15


class MissingRecording(Enum):
    """What `recording_url` is where there is no recording (exotel.md 11.16)."""

    TEXT = "text"  # the text "null", as the pages show it
    NULL = "null"  # JSON's null


class CallbackTo(Enum):
    """What a call event's `to` tells (exotel.md 11.17)."""

    REAL = "real"  # the number that was dialled out
    MASKED = "masked"  # the VN, so that subscribers learn nobody's number


Choice = TypeVar("Choice", bound=Enum)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count_max` in any `window_s` seconds."""

    count_max: int
    window_s: int


@dataclass(frozen=True, slots=True)
class TenantSettings:
    country: str = "IN"
    foreign_numbers_allowed: bool = False
    timezone: str = "IST"
    deallocation_s_max: int | None = DEALLOCATION_S_MAX  # None: without end
    cool_off_s: int = 0
    a_pin_length: int = 4
    b_pin_length: int = 4
    a_pin_enabled: bool = True
    b_pin_enabled: bool = True
    common_pin_enabled: bool = False
    common_pin_length: int = 4
    call_rules: CallRules = field(default_factory=CallRules)
    pin_failures_per_caller: Rate = field(default_factory=lambda: Rate(9, 15 * 60))
    pin_failures_per_vn: Rate = field(default_factory=lambda: Rate(60, 3_600))
    pin_failures_per_tenant: Rate = field(default_factory=lambda: Rate(1_000, 3_600))
    rate_limit: Rate | None = None  # of the REST API; None: no limit
    prompt_pin: str = "Please enter your PIN, followed by the hash key."
    prompt_pin_again: str = "That did not work. Please enter your PIN again, followed by the hash key."
    greeting_connect: str = "Please wait while we connect you."
    greeting_refused: str = "Sorry, this call cannot be connected. Goodbye."
    tag_enabled: bool = False
    # What the sides are called in call events, where their allocation does not say.
    a_tag: str = "aparty"
    b_tag: str = "bparty"
    callback_time_format: CallbackTimeFormat = CallbackTimeFormat.ISO
    missing_recording: MissingRecording = MissingRecording.TEXT
    callback_to: CallbackTo = CallbackTo.REAL
    vn_sharing: VnSharing = VnSharing.EXCLUSIVE
    vn_choice: VnChoice = VnChoice.LEAST_LOADED
    # The ids of the account's call flows; empty: it has one, which nobody names.
    flows: tuple[str, ...] = ()
    default_flow_id: str | None = None
    default_region: str | None = None  # one of regions.REGIONS
    generation_2_enabled: bool = True
    retention_days: int | None = None  # of what has ended; None: kept without end


DEFAULTS: Final = TenantSettings()


def parse_duration(text: str) -> int | None:
    """Seconds of `90s`, `15m`, `2h` or `170d` (`m` is minutes); None for anything else, 0 included."""
    if (match := _DURATION.fullmatch(text)) is None:
        return None
    return int(match[1]) * _SECONDS_PER[match[2]] or None


def parse_rate(text: str) -> Rate | None:
    """`9/15m` as at most 9 in 15 minutes; None for anything else."""
    if (match := _RATE.fullmatch(text)) is None or (window_s := parse_duration(match[2])) is None:
        return None
    return Rate(int(match[1]), window_s)


def rate_text(rate: Rate) -> str:
    """As a setting writes it.

    >>> rate_text(Rate(9, 900)), rate_text(Rate(5, 61))
    ('9/15m', '5/61s')
    """
    unit = next(unit for unit, seconds in _SECONDS_PER.items() if rate.window_s % seconds == 0)
    return f"{rate.count_max}/{rate.window_s // _SECONDS_PER[unit]}{unit}"


def parse_settings(given: Mapping[str, Any]) -> TenantSettings:
    """Settings out of what clients set. Values were checked when they were set (web/schemas.py)."""

    def flag(key: str, default: bool) -> bool:
        return default if (value := given.get(key)) is None else value in (True, "true")

    def text(key: str, default: str) -> str:
        return given.get(key) or default

    def whole(key: str, default: int) -> int:
        return default if (value := given.get(key)) is None else int(value)

    def rate(key: str, default: Rate) -> Rate:
        return rate_or_none(key) or default

    def rate_or_none(key: str) -> Rate | None:
        return parse_rate(given[key]) if given.get(key) else None

    def choice(key: str, default: Choice) -> Choice:
        return default if (value := given.get(key)) is None else type(default)(value)

    longest = text("max_deallocation_time", f"{DEALLOCATION_S_MAX}s")
    return TenantSettings(
        country=text("country", DEFAULTS.country),
        foreign_numbers_allowed=flag("intl_num_sup", DEFAULTS.foreign_numbers_allowed),
        timezone=text("timezone", DEFAULTS.timezone),
        deallocation_s_max=None if longest == NO_END else parse_duration(longest),
        cool_off_s=whole("deletion_time", DEFAULTS.cool_off_s),
        a_pin_length=whole("aparty_pin_length", DEFAULTS.a_pin_length),
        b_pin_length=whole("bparty_pin_length", DEFAULTS.b_pin_length),
        a_pin_enabled=flag("aparty_pin_enabled", DEFAULTS.a_pin_enabled),
        b_pin_enabled=flag("bparty_pin_enabled", DEFAULTS.b_pin_enabled),
        common_pin_enabled=flag("common_pin_enabled", DEFAULTS.common_pin_enabled),
        common_pin_length=whole("common_pin_length", DEFAULTS.common_pin_length),
        call_rules=CallRules(
            pin_attempts_max=whole("max_pin_attempts", DEFAULTS.call_rules.pin_attempts_max),
            refuse_withheld=given.get("withheld_callers") == "refuse",
        ),
        pin_failures_per_caller=rate("pin_failures_per_caller", DEFAULTS.pin_failures_per_caller),
        pin_failures_per_vn=rate("pin_failures_per_vn", DEFAULTS.pin_failures_per_vn),
        pin_failures_per_tenant=rate("pin_failures_per_tenant", DEFAULTS.pin_failures_per_tenant),
        rate_limit=rate_or_none("rate_limit"),
        prompt_pin=text("prompt_pin", DEFAULTS.prompt_pin),
        prompt_pin_again=text("prompt_pin_again", DEFAULTS.prompt_pin_again),
        greeting_connect=text("greeting_connect", DEFAULTS.greeting_connect),
        greeting_refused=text("greeting_refused", DEFAULTS.greeting_refused),
        tag_enabled=flag("tag_enabled", DEFAULTS.tag_enabled),
        a_tag=text("aparty_tag", DEFAULTS.a_tag),
        b_tag=text("bparty_tag", DEFAULTS.b_tag),
        callback_time_format=choice("callback_time_format", DEFAULTS.callback_time_format),
        missing_recording=choice("missing_recording", DEFAULTS.missing_recording),
        callback_to=choice("callback_to", DEFAULTS.callback_to),
        vn_sharing=choice("vn_sharing", DEFAULTS.vn_sharing),
        vn_choice=choice("vn_choice", DEFAULTS.vn_choice),
        # Lists of anything were accepted once, and may be kept.
        flows=tuple(flow for flow in given.get("flows") or () if isinstance(flow, str)),
        default_flow_id=given.get("default_flow_id"),
        default_region=given.get("default_region"),
        generation_2_enabled=flag("generation_2_enabled", DEFAULTS.generation_2_enabled),
        retention_days=None if given.get("retention_days") is None else whole("retention_days", 0),
    )


def expiry_us(settings: TenantSettings, duration_s: int | None, now_us: int) -> int:
    """When an allocation of `duration_s` from now ends; without a duration, at the tenant's maximum."""
    longest_s = settings.deallocation_s_max
    if duration_s is None:
        life_s = longest_s
    else:
        life_s = duration_s if longest_s is None else min(duration_s, longest_s)
    return NEVER_US if life_s is None else now_us + min(life_s, LIFE_S_MAX) * 1_000_000
