"""GreenPin, first generation, read aloud: what a request breaks by itself, and what it would become."""

from __future__ import annotations

from collections.abc import Sequence

from cordboard.clock import SECOND_US
from cordboard.routing.allocate import Code, Draft, PartyDraft
from cordboard.routing.model import Allocation, AllocationId, Party, Product, Side, Usage
from cordboard.routing.numbers import Pin
from tests.switchboard.plain_model import DRAWN, Flags, Held, PlainModel, Wanted, numbers_of, pins_of

LONGEST_LIFE_US = 170 * 86_400 * SECOND_US


def read_create(model: PlainModel, draft: Draft, flags: Flags) -> Wanted:
    codes = _codes_of_numbers(model, draft, None)
    if not draft.a.virtual_numbers and not draft.b.virtual_numbers:
        codes.add(Code.MISSING)
    names_somebody = {side: bool(draft.party(side).numbers) for side in Side}
    usage = draft.usage or Usage.TWOWAY
    if flags.common_pin:
        if draft.a.pin and draft.b.pin and draft.a.pin != draft.b.pin:
            codes.add(Code.BAD)
    elif any(not flags.pin_enabled(side) and not names_somebody[side] for side in Side):
        codes.add(Code.MISSING)
    codes |= _codes_of_sides(names_somebody, usage)
    if codes:
        return Wanted(codes, None)
    virtual_numbers = {side: numbers_of(draft.party(side).virtual_numbers or ()) for side in Side}
    shared = virtual_numbers[Side.A] or virtual_numbers[Side.B]
    parties = {}
    for side in Side:
        pin: Pin | None
        if flags.common_pin:
            pin = draft.a.pin or draft.b.pin or DRAWN
        elif flags.pin_enabled(side):
            pin = draft.party(side).pin or DRAWN
        else:
            pin = None
        parties[side] = Party(
            numbers=numbers_of(draft.party(side).numbers or ()),
            virtual_numbers=virtual_numbers[side] or shared,
            pins=_one_or_none(pin),
            listed_need_pin=flags.pin_enabled(side),
        )
    becomes = Allocation(
        id=AllocationId(bytes(16)),
        product=Product.GREENPIN,
        usage=usage,
        expires_at_us=0,
        a=parties[Side.A],
        b=parties[Side.B],
        common_pin=flags.common_pin,
        has_members=False,
    )
    return Wanted(codes, becomes)


def read_update(model: PlainModel, held: Held, draft: Draft) -> Wanted:
    was = held.allocation
    codes = _codes_of_numbers(model, draft, held)
    names_somebody = {
        side: bool(
            was.party(side).numbers if draft.party(side).numbers is None else draft.party(side).numbers
        )
        for side in Side
    }
    usage = draft.usage or was.usage
    if was.common_pin and draft.a.pin and draft.b.pin and draft.a.pin != draft.b.pin:
        codes.add(Code.BAD)
    if any(was.party(side).pin is None and not names_somebody[side] for side in Side):
        codes.add(Code.MISSING)
    codes |= _codes_of_sides(names_somebody, usage)
    parties = {}
    for side in Side:
        party, asked = was.party(side), draft.party(side)
        numbers = party.numbers if asked.numbers is None else numbers_of(asked.numbers)
        parties[side] = Party(
            numbers=numbers,
            virtual_numbers=numbers_of(asked.virtual_numbers or ()) or party.virtual_numbers,
            pins=_one_or_none(_revised_pin(was, side, draft)),
            listed_need_pin=party.listed_need_pin,
        )
    if set(parties[Side.A].numbers) & set(parties[Side.B].numbers):
        codes.add(Code.BOTH_SIDES)
    if codes:
        return Wanted(codes, None)
    return Wanted(codes, was._replace(usage=usage, a=parties[Side.A], b=parties[Side.B]))


def lengths_of(draft: Draft, *, is_common: bool) -> dict[Side, int]:
    """How long PINs are that are drawn for the request."""
    if is_common:
        return dict.fromkeys(Side, draft.a.pin_length or draft.b.pin_length or 4)
    return {side: draft.party(side).pin_length or 4 for side in Side}


def with_drawn_pins(
    model: PlainModel,
    becomes: Allocation,
    answered: Allocation,
    lengths: dict[Side, int],
    of: Held | None,
    now_us: int,
) -> Allocation:
    """`becomes` with the PINs that were drawn, each of its length and free everywhere."""
    drawn = {side: becomes.party(side).pin == DRAWN for side in Side}
    full = becomes._replace(
        a=becomes.a._replace(pins=answered.a.pins) if drawn[Side.A] else becomes.a,
        b=becomes.b._replace(pins=answered.b.pins) if drawn[Side.B] else becomes.b,
    )
    for side in Side:
        if drawn[side]:
            pin = full.party(side).pin
            assert pin is not None
            assert len(pin) == lengths[side]
            drawn_keys = pins_of(full) - pins_of(becomes)
            assert all(model.is_pin_free(key, of, now_us) for key in drawn_keys)
            assert full.common_pin or full.a.pin != full.b.pin
    return full


def _revised_pin(was: Allocation, side: Side, draft: Draft) -> Pin | None:
    pin = was.party(side).pin
    if pin is None:
        return None
    asked: Sequence[PartyDraft] = [draft.a, draft.b] if was.common_pin else [draft.party(side)]
    given = next((party.pin for party in asked if party.pin), None)
    length = next((party.pin_length for party in asked if party.pin_length), None)
    if given is not None:
        return given
    return pin if length in (None, len(pin)) else DRAWN


def _codes_of_numbers(model: PlainModel, draft: Draft, held: Held | None) -> set[Code]:
    has = set() if held is None else held.virtual_numbers
    codes = model.codes_of_both(draft.a.numbers or (), draft.b.numbers or ())
    for side in Side:
        codes |= model.codes_of_people(draft.party(side).numbers or ())
        codes |= model.codes_of_lines(draft.party(side).virtual_numbers or (), has)
    return codes


def _codes_of_sides(names_somebody: dict[Side, bool], usage: Usage) -> set[Code]:
    if not any(names_somebody.values()) or (usage is Usage.ONEWAY and not names_somebody[Side.B]):
        return {Code.MISSING}
    return set()


def _one_or_none(pin: Pin | None) -> tuple[Pin, ...]:
    return () if pin is None else (pin,)
