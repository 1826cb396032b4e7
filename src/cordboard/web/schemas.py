"""Bodies of requests as pydantic models: strict about types, and as tolerant as the vendor's pages.

Good: `"pin_length": 3` and `"3"`, `"pin": "0123"`, `"duration": "1200s"` (d, h, m, s),
`Deallocation_policy` as the page's table spells it, null for what is absent, keys that nobody knows.
Bad, with code 5: `"pin_length": 0` or `3.0` or `true`, `"pin": 123` (its zeros would be lost),
`"duration": "1200"`, a number that is not text, an eleventh number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from cordboard.routing.allocate import (
    NUMBERS_PER_SIDE_MAX,
    VIRTUAL_NUMBERS_PER_SIDE_MAX,
    Code,
    Draft,
    Fault,
    PartyDraft,
    Unacceptable,
)
from cordboard.routing.model import Usage
from cordboard.routing.numbers import PIN_DIGITS_MAX, PIN_DIGITS_MIN, Pin
from cordboard.routing.regions import REGIONS
from cordboard.routing.tenant import parse_duration
from cordboard.web.auth import TENANT_ID

CLIENT_ID_CHARACTERS_MAX: Final = 255
FLOW_ID_CHARACTERS_MAX: Final = 64
# 4 MiB of them are some 100,000; this many are 0.5 s of one transaction.
VIRTUAL_NUMBERS_PER_REQUEST_MAX: Final = 10_000

Body = TypeVar("Body", bound=BaseModel)


# ── types of values ──────────────────────────────────────────────────────────


def without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul", "must not have the character U+0000")
    return text


def _pin(value: object) -> Pin:
    pin = Pin.parse(value) if isinstance(value, str) else None
    if pin is None:
        raise PydanticCustomError("pin", f"must be text of {PIN_DIGITS_MIN} to {PIN_DIGITS_MAX} digits")
    return pin


def whole_number(smallest: int, largest: int) -> Callable[[object], int]:
    """Reads an int, or text of digits; a bool is neither."""

    def read(value: object) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(largest)):
            value = int(value)
        if type(value) is not int or not smallest <= value <= largest:
            raise PydanticCustomError("whole_number", f"must be a whole number from {smallest} to {largest}")
        return value

    return read


def _duration(value: object) -> int:
    seconds = parse_duration(value) if isinstance(value, str) else None
    if seconds is None:
        raise PydanticCustomError("duration", 'must be a number and a unit (d, h, m or s), like "1200s"')
    return seconds


def _served_region(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "must be text")
    if value not in REGIONS:
        raise PydanticCustomError("region", f"must be one of {', '.join(REGIONS)}")
    return value


def _tenant_id(value: object) -> str:
    if not isinstance(value, str) or not TENANT_ID.fullmatch(value):
        raise PydanticCustomError(
            "tenant_id", "must be 1 to 63 characters of a-z, 0-9, _ and -, the first a letter or a digit"
        )
    return value


def whole_number_schema(smallest: int, largest: int) -> WithJsonSchema:
    """What `whole_number` reads."""
    digits = {"type": "string", "pattern": f"^[0-9]{{1,{len(str(largest))}}}$"}
    return WithJsonSchema({"anyOf": [{"type": "integer", "minimum": smallest, "maximum": largest}, digits]})


DURATION_PATTERN: Final = "0*[1-9][0-9]*[dhms]"
# Nine digits and a unit (routing/tenant.py).
DURATION_CHARACTERS_MAX: Final = 10

# The forms of ids in paths and bodies, as JSON schemas.
FORMS_OF_IDS: Final[Mapping[str, dict[str, Any]]] = {
    "tenant": {"type": "string", "pattern": f"^{TENANT_ID.pattern}$"},
    "uuid": {"type": "string", "format": "uuid"},
}

# The bounds come first: behind a function pydantic no longer knows that it measures text.
Text = Annotated[str, AfterValidator(without_nul)]
TenantId = Annotated[str, PlainValidator(_tenant_id), WithJsonSchema(FORMS_OF_IDS["tenant"])]
ClientId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=CLIENT_ID_CHARACTERS_MAX),
    AfterValidator(without_nul),
]
FlowId = Annotated[
    str, StringConstraints(min_length=1, max_length=FLOW_ID_CHARACTERS_MAX), AfterValidator(without_nul)
]
# Whether it is a number is a rule of the core, which knows the tenant's country.
Number = Annotated[
    str,
    Field(
        description="A telephone number: E.164, or as it is dialled in the tenant's country.",
        examples=["+919800000021", "9800000021"],
    ),
]
PinText = Annotated[
    Pin,
    PlainValidator(_pin),
    WithJsonSchema({"type": "string", "pattern": f"^[0-9]{{{PIN_DIGITS_MIN},{PIN_DIGITS_MAX}}}$"}),
]
PinLength = Annotated[
    int,
    PlainValidator(whole_number(PIN_DIGITS_MIN, PIN_DIGITS_MAX)),
    whole_number_schema(PIN_DIGITS_MIN, PIN_DIGITS_MAX),
]
Duration = Annotated[
    int,
    PlainValidator(_duration),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{DURATION_PATTERN}$",
            "maxLength": DURATION_CHARACTERS_MAX,
            "description": "A number and its unit: d, h, m (minutes) or s.",
            "examples": ["1200s", "2h"],
        }
    ),
]
Region = Literal["DL", "MU", "MH", "WB", "AP", "TN", "GJ", "KA", "KL", "RJ", "MP"]
# What an account asks for: another region is not wrong in form, it is not served (exotel.md 8.8).
ServedRegion = Annotated[
    str, PlainValidator(_served_region), WithJsonSchema({"type": "string", "enum": list(REGIONS)})
]


# ── GreenPin ─────────────────────────────────────────────────────────────────


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class PartyBody(_Strict):
    numbers: Annotated[list[Number], Field(max_length=NUMBERS_PER_SIDE_MAX)] | None = None
    vns: Annotated[list[Number], Field(max_length=VIRTUAL_NUMBERS_PER_SIDE_MAX)] | None = None
    pin: PinText | None = None
    pin_length: PinLength | None = None


class DeallocationPolicy(_Strict):
    duration: Duration | None = None


class GreenPinBody(_Strict):
    """An allocation to make, or what is to change about one."""

    # Every key is optional here, because what must be there is a rule of the core.
    transaction_id: ClientId | None = None
    a: PartyBody | None = None
    b: PartyBody | None = None
    usage: Literal["oneway", "twoway"] | None = None
    deallocation_policy: DeallocationPolicy | None = None
    # The page's table spells it so, its samples do not.
    deallocation_policy_of_the_table: DeallocationPolicy | None = Field(None, alias="Deallocation_policy")
    # What events call the sides, in place of the tenant's words (exotel.md 8.7); no update changes them.
    aparty_tag: Text | None = None
    bparty_tag: Text | None = None


UPDATABLE: Final = "a, b, usage and deallocation_policy"


def parse_create(given: object) -> tuple[str, Draft]:
    """The client id and the draft of a create; faults of form are in the draft."""
    body, faults = read_as(GreenPinBody, given)
    if body.transaction_id is None and not any(fault.field == "transaction_id" for fault in faults):
        missing = Fault(Code.MISSING, "transaction_id", "transaction_id must be given.")
        faults = (*faults, missing)
    return body.transaction_id or "", _draft(body, faults)


def parse_update(given: object) -> Draft:
    """The draft of an update, with its faults of form."""
    body, faults = read_as(GreenPinBody, given)
    draft = _draft(body, faults)
    # An update changes no tags, so one that has nothing else changes nothing.
    says_nothing = replace(draft, tags=(None, None)) == Draft(faults=faults)
    if says_nothing and all(fault.field == "transaction_id" for fault in faults):
        message = f"At least one of {UPDATABLE} must be given."
        faults = (*faults, Fault(Code.MISSING, "a", message))
    if body.transaction_id is not None:
        message = "transaction_id cannot be changed."
        faults = (*faults, Fault(Code.BAD, "transaction_id", message))
    for key, party in (("a", body.a), ("b", body.b)):
        if party is not None and party.vns is not None and not party.vns:
            faults = (*faults, Fault(Code.BAD, f"{key}.vns", f"{key}.vns must not be empty."))
    return _draft(body, faults)


def parse_id(given: str) -> UUID | None:
    """A UUID in its usual form; others are known to nobody."""
    try:
        id = UUID(given)
    except ValueError:
        return None
    return id if str(id) == given.lower() else None


def _draft(body: GreenPinBody, faults: tuple[Fault, ...]) -> Draft:
    policy = body.deallocation_policy or body.deallocation_policy_of_the_table
    return Draft(
        a=_party_draft(body.a),
        b=_party_draft(body.b),
        usage=None if body.usage is None else Usage(body.usage),
        duration_s=None if policy is None else policy.duration,
        tags=(body.aparty_tag, body.bparty_tag),
        faults=faults,
    )


def _party_draft(party: PartyBody | None) -> PartyDraft:
    if party is None:
        return PartyDraft()
    return PartyDraft(party.numbers, party.vns, party.pin, party.pin_length)


# ── administration ───────────────────────────────────────────────────────────


class NewTenantBody(_Strict):
    id: TenantId
    # Read by tenant_settings.checked_settings.
    settings: Annotated[dict[str, Any] | None, Field(description="As `PUT …/settings` takes them.")] = None


class EraseBody(_Strict):
    number: Number
    # Of this tenant only.
    tenant: TenantId | None = None
    dry_run: Annotated[bool, Field(description="Count what would be erased, and erase nothing.")] = False


class NewTokenBody(_Strict):
    # Whether numbers and PINs are shown whole to who has it.
    reveal: bool = False


class EventReplayBody(_Strict):
    # Of which state, written from when until when.
    state: Literal["dead", "delivered"]
    from_date: Text
    to_date: Text | None = None


class NewVirtualNumberBody(_Strict):
    number: Number
    region: Region | None = None
    type: Literal["mobile", "landline"] | None = None
    flow_id: FlowId | None = None
    # Given by name only.
    reserved: bool = False


class VirtualNumberStateBody(_Strict):
    drained: bool | None = None
    reserved: bool | None = None


class NewVirtualNumbersBody(_Strict):
    vns: Annotated[
        list[NewVirtualNumberBody], Field(min_length=1, max_length=VIRTUAL_NUMBERS_PER_REQUEST_MAX)
    ]


# ── pydantic's errors as ours ────────────────────────────────────────────────

_WORDS: Final[Mapping[str, str]] = {
    "missing": "must be given",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "literal_error": "must be {expected}",
}

_CODES: Final[Mapping[str, Code]] = {
    "missing": Code.MISSING,
    "too_short": Code.MISSING,
    "region": Code.REGION,
}


def checked(model: type[Body], given: object) -> Body:
    """`given` as `model`. Raises Unacceptable."""
    try:
        return model.model_validate(given)
    except ValidationError as invalid:
        raise Unacceptable(faults_of(invalid)) from None


def read_as(model: type[Body], given: object) -> tuple[Body, tuple[Fault, ...]]:
    """`given` as `model` without the keys whose form is wrong, and what is wrong with them.

    The model must have no key that it cannot do without.
    """
    try:
        return model.model_validate(given), ()
    except ValidationError as invalid:
        rest = given
        for error in _errors(invalid):
            rest = _without(rest, _keys(error))
        return model.model_validate(rest), faults_of(invalid)


def faults_of(invalid: ValidationError) -> tuple[Fault, ...]:
    """One fault for each error: its field without places in lists, its message with them."""
    return tuple(_fault_of(error) for error in _errors(invalid))


def _errors(invalid: ValidationError) -> list[ErrorDetails]:
    # Without what was sent: it may be a number or a PIN.
    return invalid.errors(include_url=False, include_input=False)


def _fault_of(error: ErrorDetails) -> Fault:
    place = ""
    for part in error["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else part
    kind = error["type"]
    words = _WORDS[kind].format(**error.get("ctx", {})) if kind in _WORDS else error["msg"]
    return Fault(_CODES.get(kind, Code.BAD), ".".join(_keys(error)), f"{place or 'The body'} {words}.")


def _keys(error: ErrorDetails) -> tuple[str, ...]:
    """The keys that lead to the error, up to the first place in a list."""
    keys: list[str] = []
    for part in error["loc"]:
        if isinstance(part, int):
            break
        keys.append(part)
    return tuple(keys)


def _without(given: Any, keys: tuple[str, ...]) -> Any:
    """`given` without what `keys` lead to; without a key, that is everything."""
    if not keys:
        return {}
    first, *rest = keys
    if not rest:
        return {key: value for key, value in given.items() if key != first}
    return {**given, first: _without(given[first], tuple(rest))}
