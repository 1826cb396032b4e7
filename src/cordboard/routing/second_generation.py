"""Allocations of the second generation of the API (exotel.md 9), proposed and revised.

`from` is side A, whose callers enter nothing; `to` is side B, whose GreenPin callers all enter the one PIN.
Both sides have the one VN that the client names. Pure, like allocate.py, whose rules about numbers hold here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cordboard.routing.allocate import (
    Code,
    Dice,
    Fault,
    Generation,
    Pool,
    Standing,
    Unacceptable,
    draw_pin,
    listed_numbers,
)
from cordboard.routing.model import Allocation, AllocationId, CallPolicy, Party, Product, Side, State, Usage
from cordboard.routing.numbers import E164, Pin, parse_number
from cordboard.routing.tenant import TenantSettings, VnSharing

# 5 minutes, 24 hours and 170 days, as the page has them. The tenant's own longest life does not cut these.
DURATION_S_MIN: Final = 300
DURATION_S_DEFAULT: Final = 86_400
DURATION_S_MAX: Final = 14_688_000
CUSTOM_FIELD_CHARACTERS_MAX: Final = 256
# The page knows no bound; more attempts than the tenant's own setting may have would make no lock.
PIN_ATTEMPTS_DEFAULT: Final = 3
PIN_ATTEMPTS_MAX: Final = 10
# The system makes the PIN, and this is its length.
PIN_LENGTH: Final = 4

_FIELDS: Final[Mapping[Side, str]] = {Side.A: "from", Side.B: "to"}


class OutOfRange(Fault):
    """A value of the right form that is beyond a bound; this generation tells it from one of a wrong form."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SecondDraft:
    """A request of either product, its types checked, its numbers still text; None is what it does not say.

    `faults` is what its form alone breaks, as in allocate.Draft. Only GreenPin knows `pin_attempts_max`.
    """

    caller_id_number: str | None = None
    from_numbers: Sequence[str] | None = None
    to_numbers: Sequence[str] | None = None
    duration_s: int | None = None
    record: bool | None = None
    custom_field: str | None = None
    pin_attempts_max: int | None = None
    faults: tuple[Fault, ...] = ()

    def numbers(self, side: Side) -> Sequence[str] | None:
        return self.from_numbers if side is Side.A else self.to_numbers

    def is_malformed(self, field: str) -> bool:
        """Whether the request has `field` in a form that cannot be read: it is wrong, and not missing."""
        return any(fault.field == field for fault in self.faults)


def field_of(side: Side) -> str:
    """How this generation calls the numbers of a side, `from` or `to`."""
    return _FIELDS[side]


def propose(
    product: Product,
    allocation_id: AllocationId,
    tenant_id: str,
    draft: SecondDraft,
    settings: TenantSettings,
    pool: Pool,
    dice: Dice,
    now_us: int,
) -> Standing:
    """The allocation that a create asks for. Raises Unacceptable."""
    if not settings.generation_2_enabled:
        message = "caller_id_number: the setting generation_2_enabled does not allow this form of the API."
        raise Unacceptable([Fault(Code.NOT_PERMITTED, "caller_id_number", message)])
    faults = list(draft.faults)
    if draft.caller_id_number is None and not draft.is_malformed("caller_id_number"):
        faults.append(Fault(Code.MISSING, "caller_id_number", "caller_id_number must be given."))
    virtual_number = _virtual_number(draft, settings, pool, faults)
    numbers: dict[Side, tuple[E164, ...]] = {}
    for side in Side:
        given = draft.numbers(side)
        if not given and _needs_numbers(product, side) and not draft.is_malformed(field_of(side)):
            faults.append(_missing(side))
        numbers[side] = listed_numbers(field_of(side), given or (), settings, pool, faults)
    _check_together(numbers, draft, faults)
    if faults or virtual_number is None:
        raise Unacceptable(faults)

    is_greenpin = product is Product.GREENPIN
    on = (virtual_number,)
    pin: tuple[Pin, ...] = ()
    if is_greenpin:
        pin = (draw_pin(PIN_LENGTH, on, (), pool, dice, "pin"),)
    duration_s = DURATION_S_DEFAULT if draft.duration_s is None else draft.duration_s
    return Standing(
        tenant_id=tenant_id,
        client_id=None,
        allocation=Allocation(
            id=allocation_id,
            product=product,
            usage=Usage.TWOWAY,
            expires_at_us=now_us + duration_s * 1_000_000,
            a=Party(numbers[Side.A], on, (), listed_need_pin=False),
            b=Party(numbers[Side.B], on, pin, listed_need_pin=is_greenpin),
            common_pin=False,
            has_members=False,
            is_exclusive=settings.vn_sharing is VnSharing.EXCLUSIVE,
            policy=CallPolicy(record=bool(draft.record), custom_field=draft.custom_field),
        ),
        state=State.ACTIVE,
        version=1,
        cool_off_s=settings.cool_off_s,
        created_at_us=now_us,
        generation=Generation.SECOND,
        pin_attempts_max=(draft.pin_attempts_max or PIN_ATTEMPTS_DEFAULT) if is_greenpin else None,
    )


def revise(
    current: Standing, draft: SecondDraft, settings: TenantSettings, pool: Pool, now_us: int
) -> Standing:
    """`current` with what an update names changed, and unlocked. Raises Unacceptable.

    A `caller_id_number` takes both sides to that VN: only allocations without a PIN are moved.
    """
    was = current.allocation
    faults = list(draft.faults)
    virtual_number = _virtual_number(draft, settings, pool, faults, was.a.virtual_numbers)
    numbers: dict[Side, tuple[E164, ...]] = {}
    for side in Side:
        given = draft.numbers(side)
        if given is None:
            numbers[side] = was.party(side).numbers
            continue
        if not given and _needs_numbers(was.product, side):
            faults.append(_missing(side))
        numbers[side] = listed_numbers(field_of(side), given, settings, pool, faults)
    _check_together(numbers, draft, faults)
    if faults:
        raise Unacceptable(faults)

    assert virtual_number is None or not was.b.pins, "a PIN stays on the VN that it was drawn for"
    on = was.a.virtual_numbers if virtual_number is None else (virtual_number,)
    policy = was.policy
    if draft.record is not None:
        policy = policy._replace(record=draft.record)
    if draft.custom_field is not None:
        policy = policy._replace(custom_field=draft.custom_field)
    expires_at_us = was.expires_at_us
    if draft.duration_s is not None:
        expires_at_us = now_us + draft.duration_s * 1_000_000
    return replace(
        current,
        allocation=was._replace(
            expires_at_us=expires_at_us,
            a=was.a._replace(numbers=numbers[Side.A], virtual_numbers=on),
            b=was.b._replace(numbers=numbers[Side.B], virtual_numbers=on),
            is_locked=False,
            policy=policy,
        ),
        version=current.version + 1,
        pin_attempts_max=draft.pin_attempts_max or current.pin_attempts_max,
        pin_failures=0,
        updated_at_us=now_us,
    )


def _needs_numbers(product: Product, side: Side) -> bool:
    """Whether a side is nobody without numbers: whoever enters the PIN is a `to` of GreenPin."""
    return side is Side.A or product is Product.GREENVN


def _missing(side: Side) -> Fault:
    field = field_of(side)
    return Fault(Code.MISSING, field, f"{field} must be given, with at least one number.")


def _virtual_number(
    draft: SecondDraft, settings: TenantSettings, pool: Pool, faults: list[Fault], has: Sequence[E164] = ()
) -> E164 | None:
    """The VN that the request names; `has` is the one that the allocation stands on already."""
    if draft.caller_id_number is None:
        return None
    field = "caller_id_number"
    number = parse_number(draft.caller_id_number, settings.country)
    if number is None:
        faults.append(Fault(Code.BAD_NUMBER, field, f"{field} is not a telephone number."))
    elif not pool.has_virtual_number(number):
        faults.append(Fault(Code.NOT_PERMITTED, field, f"{field} is not a virtual number of this tenant."))
    elif pool.is_drained(number) and number not in has:
        message = f"{field} is a virtual number that gets no new allocations."
        faults.append(Fault(Code.NOT_PERMITTED, field, message))
    return number


def _check_together(
    numbers: Mapping[Side, tuple[E164, ...]], draft: SecondDraft, faults: list[Fault]
) -> None:
    """Nobody on both sides, and every value within its bounds."""
    if set(numbers[Side.A]) & set(numbers[Side.B]):
        message = "to: a number cannot be on both sides, from has it too."
        faults.append(Fault(Code.BOTH_SIDES, "to", message))
    if draft.duration_s is not None and not DURATION_S_MIN <= draft.duration_s <= DURATION_S_MAX:
        message = f"duration must be {DURATION_S_MIN} to {DURATION_S_MAX} seconds."
        faults.append(OutOfRange(Code.BAD, "duration", message))
    if draft.pin_attempts_max is not None and not 1 <= draft.pin_attempts_max <= PIN_ATTEMPTS_MAX:
        message = f"max_pin_attempts must be 1 to {PIN_ATTEMPTS_MAX}."
        faults.append(OutOfRange(Code.BAD, "max_pin_attempts", message))
    if draft.custom_field is not None and len(draft.custom_field) > CUSTOM_FIELD_CHARACTERS_MAX:
        message = f"custom_field must have at most {CUSTOM_FIELD_CHARACTERS_MAX} characters."
        faults.append(OutOfRange(Code.BAD, "custom_field", message))
