"""The second generation of the API, both products, read aloud: `from` is side A, `to` is side B."""

from __future__ import annotations

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Code
from cordboard.routing.model import Allocation, AllocationId, CallPolicy, Party, Product, Side, Usage
from cordboard.routing.second_generation import SecondDraft
from cordboard.routing.tenant import VnSharing
from tests.switchboard.plain_model import DRAWN, Flags, Held, PlainModel, Wanted, numbers_of


def read_create(model: PlainModel, product: Product, draft: SecondDraft, flags: Flags, now_us: int) -> Wanted:
    codes = _codes(model, draft, None)
    if draft.caller_id_number is None or not draft.from_numbers:
        codes.add(Code.MISSING)
    if product is Product.GREENVN and not draft.to_numbers:
        codes.add(Code.MISSING)
    if codes:
        return Wanted(codes, None)
    on = numbers_of([draft.caller_id_number or ""])
    is_greenpin = product is Product.GREENPIN
    duration_s = 86_400 if draft.duration_s is None else draft.duration_s
    becomes = Allocation(
        id=AllocationId(bytes(16)),
        product=product,
        usage=Usage.TWOWAY,
        expires_at_us=now_us + duration_s * SECOND_US,
        a=Party(numbers_of(draft.from_numbers or ()), on, (), listed_need_pin=False),
        b=Party(
            numbers_of(draft.to_numbers or ()),
            on,
            (DRAWN,) if is_greenpin else (),
            listed_need_pin=is_greenpin,
        ),
        common_pin=False,
        has_members=False,
        is_exclusive=flags.vn_sharing is VnSharing.EXCLUSIVE,
        policy=CallPolicy(bool(draft.record), draft.custom_field),
    )
    return Wanted(codes, becomes)


def read_update(model: PlainModel, held: Held, draft: SecondDraft, now_us: int) -> Wanted:
    was = held.allocation
    codes = _codes(model, draft, held)
    if draft.from_numbers is not None and not draft.from_numbers:
        codes.add(Code.MISSING)
    if was.product is Product.GREENVN and draft.to_numbers is not None and not draft.to_numbers:
        codes.add(Code.MISSING)
    lists = {Side.A: draft.from_numbers, Side.B: draft.to_numbers}
    a, b = (
        was.party(side)._replace(
            numbers=was.party(side).numbers if given is None else numbers_of(given),
            virtual_numbers=was.party(side).virtual_numbers
            if draft.caller_id_number is None
            else numbers_of([draft.caller_id_number]),
        )
        for side, given in lists.items()
    )
    if set(a.numbers) & set(b.numbers) - model.provisioned:
        codes.add(Code.BOTH_SIDES)
    if codes:
        return Wanted(codes, None)
    expires_at_us = was.expires_at_us
    if draft.duration_s is not None:
        expires_at_us = now_us + draft.duration_s * SECOND_US
    policy = CallPolicy(
        was.policy.record if draft.record is None else draft.record,
        was.policy.custom_field if draft.custom_field is None else draft.custom_field,
    )
    becomes = was._replace(expires_at_us=expires_at_us, a=a, b=b, policy=policy, is_locked=False)
    return Wanted(codes, becomes)


def _codes(model: PlainModel, draft: SecondDraft, held: Held | None) -> set[Code]:
    a, b = draft.from_numbers or (), draft.to_numbers or ()
    codes = model.codes_of_people(a) | model.codes_of_people(b) | model.codes_of_both(a, b)
    if draft.caller_id_number is not None:
        has = set() if held is None else held.virtual_numbers
        codes |= model.codes_of_lines([draft.caller_id_number], has)
    if draft.duration_s is not None and not 300 <= draft.duration_s <= 170 * 86_400:
        codes.add(Code.BAD)
    if draft.pin_attempts_max is not None and not 1 <= draft.pin_attempts_max <= 10:
        codes.add(Code.BAD)
    return codes
