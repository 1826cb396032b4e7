"""Bodies of the second generation (exotel.md 9.2) as pydantic models, strict about types like schemas.py.

Good: `"from": ["+91…"]`, or one number as a text, as a revision of the page had it; `"to": []` of a GreenPin;
`"duration": 3600`; null for what is absent; keys that nobody knows.
Bad, with code 5 and status 400: `"duration": "3600"` or `true` or `3600.0`, `"record": "true"`,
a number that is no text, an eleventh number. Of the right form but beyond a bound (`"duration": 299`): that
is for routing/second_generation.py to say, with status 422.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cordboard.routing.allocate import NUMBERS_PER_SIDE_MAX, Code, Fault
from cordboard.routing.model import Product
from cordboard.routing.second_generation import SecondDraft
from cordboard.web.schemas import Text, read_as


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Numbers = Annotated[list[str], Field(max_length=NUMBERS_PER_SIDE_MAX), BeforeValidator(_as_list)]


class VirtualNumberBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    caller_id_number: str | None = None


class CallPartyBody(VirtualNumberBody):
    from_: Numbers | None = Field(None, alias="from")
    to: Numbers | None = None


class SecondGreenVnBody(CallPartyBody):
    duration: int | None = None
    record: bool | None = None
    custom_field: Text | None = None


class SecondGreenPinBody(SecondGreenVnBody):
    max_pin_attempts: int | None = None


_BODIES: Final[Mapping[Product, type[SecondGreenVnBody]]] = {
    Product.GREENVN: SecondGreenVnBody,
    Product.GREENPIN: SecondGreenPinBody,
}


def is_second(given: object) -> bool:
    """Whether the body of a create is of the second generation (exotel.md 11.2)."""
    return isinstance(given, dict) and given.get("caller_id_number") is not None


def parse_second_create(product: Product, given: object) -> SecondDraft:
    """The draft of a create; faults of form are in it."""
    return _draft(*read_as(_BODIES[product], given))


def parse_second_update(given: object) -> SecondDraft:
    """The draft of an update of a GreenPin, with its faults of form."""
    return _update(SecondGreenPinBody, given)


def parse_call_party(given: object) -> SecondDraft:
    """The draft of a change of a GreenVN's numbers, with its faults of form."""
    return _update(CallPartyBody, given)


def parse_swap(given: object) -> SecondDraft:
    """The draft of a change of a GreenVN's VN, with its faults of form."""
    draft = _draft(*read_as(VirtualNumberBody, given))
    if draft == SecondDraft():
        missing = Fault(Code.MISSING, "caller_id_number", "caller_id_number must be given.")
        return SecondDraft(faults=(missing,))
    return draft


def _update(model: type[CallPartyBody], given: object) -> SecondDraft:
    body, faults = read_as(model, given)
    if body.caller_id_number is not None:
        body = body.model_copy(update={"caller_id_number": None})
        message = "caller_id_number cannot be changed."
        faults = (*faults, Fault(Code.BAD, "caller_id_number", message))
    draft = _draft(body, faults)
    if draft == SecondDraft():
        keys = [field.alias or name for name, field in model.model_fields.items()]
        keys.remove("caller_id_number")
        message = f"At least one of {', '.join(keys)} must be given."
        return SecondDraft(faults=(Fault(Code.MISSING, keys[0], message),))
    return draft


def _draft(body: VirtualNumberBody, faults: tuple[Fault, ...]) -> SecondDraft:
    said: dict[str, Any] = body.model_dump()
    return SecondDraft(
        caller_id_number=said["caller_id_number"],
        from_numbers=said.get("from_"),
        to_numbers=said.get("to"),
        duration_s=said.get("duration"),
        record=said.get("record"),
        custom_field=said.get("custom_field"),
        pin_attempts_max=said.get("max_pin_attempts"),
        faults=faults,
    )
