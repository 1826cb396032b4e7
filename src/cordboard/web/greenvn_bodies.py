"""Bodies of GreenVN requests: as tolerant as the vendor's page, and strict about PINs.

Good: `"aparty_pins": [1234]`, `["1234"]`, `[null]` (none), `"strictness": "false"` and `false`, `type` and
`number_type` for the same preference, `Deallocation_policy`, keys that nobody knows.
Bad, with code 5: a PIN of `0123`, `"0123"`, `0`, `-1`, `1.5` or `true`. On the wire a PIN is an integer, so
one with a leading zero would come back as another.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from cordboard.routing.allocate import NUMBERS_PER_SIDE_MAX, Code, Fault
from cordboard.routing.greenvn import (
    ANY_VIRTUAL_NUMBER,
    PINS_KEY,
    PINS_PER_SIDE_MAX,
    GreenVnDraft,
    GreenVnParty,
    Preferences,
)
from cordboard.routing.model import Usage
from cordboard.routing.numbers import PIN_DIGITS_MAX, Pin
from cordboard.web.bodies import parse_object
from cordboard.web.errors import Refused
from cordboard.web.schemas import ClientId, DeallocationPolicy, FlowId, Text, read_as

# What orjson says of it names no field, and a client should learn which of its PINs it was.
_LEADING_ZERO: Final = re.compile(
    rb'"(' + "|".join(PINS_KEY.values()).encode() + rb')"\s*:\s*\[[^\]"]*?(?<![0-9.])-?0[0-9]'
)


def _pin(value: object) -> Pin | None:
    if value is None:
        return None
    text = str(value) if type(value) is int else value
    pin = Pin.parse(text) if isinstance(text, str) else None
    if pin is None or pin.digits.startswith("0"):
        raise PydanticCustomError(
            "pin", f"must be a whole number of 1 to {PIN_DIGITS_MAX} digits, the first not 0"
        )
    return pin


def _strictness(value: object) -> bool:
    if value is True or value is False:
        return value
    if value in ("true", "false"):
        return value == "true"
    raise PydanticCustomError("strictness", "must be true or false")


Numbers = Annotated[list[str], Field(max_length=NUMBERS_PER_SIDE_MAX)]
Pins = Annotated[list[Annotated[Pin | None, PlainValidator(_pin)]], Field(max_length=PINS_PER_SIDE_MAX)]
Kind = Literal["mobile", "landline"]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class PreferencesBody(_Body):
    greenvn: str | None = None
    region: str | None = None
    pin_code: str | None = None
    type: Kind | None = None
    # The example of PUT …/vn calls it so.
    number_type: Kind | None = None


class CallPartyBody(_Body):
    aparty_numbers: Numbers | None = None
    bparty_numbers: Numbers | None = None
    aparty_pins: Pins | None = None
    bparty_pins: Pins | None = None
    usage: Literal["oneway", "twoway"] | None = None


class VirtualNumberBody(_Body):
    strictness: Annotated[bool | None, PlainValidator(_strictness)] = None
    preferences: PreferencesBody | None = None


class GreenVnBody(CallPartyBody, VirtualNumberBody):
    connection_id: ClientId | None = None
    deallocation_policy: DeallocationPolicy | None = None
    deallocation_policy_of_the_table: DeallocationPolicy | None = Field(None, alias="Deallocation_policy")
    flow_id: FlowId | None = None
    aparty_tag: Text | None = None
    bparty_tag: Text | None = None


def parse_greenvn_object(body: bytes) -> dict[str, Any]:
    """The JSON object. Raises Refused (400/5), naming the field where it is a PIN that begins with 0."""
    try:
        return parse_object(body)
    except Refused:
        if (match := _LEADING_ZERO.search(body)) is None:
            raise
        message = f"{match[1].decode()}: a PIN must not begin with 0; it is a whole number here."
        raise Refused(Code.BAD, message) from None


def parse_greenvn(given: object) -> tuple[str, GreenVnDraft]:
    """The client id and the draft of a create; faults of form are in the draft."""
    body, faults = read_as(GreenVnBody, given)
    if body.connection_id is None and not any(fault.field == "connection_id" for fault in faults):
        missing = Fault(Code.MISSING, "connection_id", "connection_id must be given.")
        faults = (*faults, missing)
    policy = body.deallocation_policy or body.deallocation_policy_of_the_table
    draft = GreenVnDraft(
        a=_party(body.aparty_numbers, body.aparty_pins),
        b=_party(body.bparty_numbers, body.bparty_pins),
        usage=_usage(body),
        preferences=_preferences(body),
        flow_id=body.flow_id,
        duration_s=None if policy is None else policy.duration,
        tags=(body.aparty_tag, body.bparty_tag),
        faults=faults,
    )
    return body.connection_id or "", draft


def parse_call_party(given: object) -> GreenVnDraft:
    body, faults = read_as(CallPartyBody, given)
    return GreenVnDraft(
        a=_party(body.aparty_numbers, body.aparty_pins),
        b=_party(body.bparty_numbers, body.bparty_pins),
        usage=_usage(body),
        faults=faults,
    )


def parse_virtual_number(given: object) -> tuple[Preferences, tuple[Fault, ...]]:
    """What a swap of the VN prefers, and what is wrong with its form."""
    body, faults = read_as(VirtualNumberBody, given)
    return _preferences(body), faults


def _party(numbers: list[str] | None, pins: list[Pin | None] | None) -> GreenVnParty:
    if pins is None:
        return GreenVnParty(numbers)
    return GreenVnParty(numbers, tuple(pin for pin in pins if pin is not None))


def _usage(body: CallPartyBody) -> Usage | None:
    return None if body.usage is None else Usage(body.usage)


def _preferences(body: VirtualNumberBody) -> Preferences:
    asked = body.preferences
    if asked is None:
        return ANY_VIRTUAL_NUMBER
    return Preferences(
        virtual_number=asked.greenvn,
        region=asked.region,
        pin_code=asked.pin_code,
        type=asked.type or asked.number_type,
        is_strict=bool(body.strictness),
    )
