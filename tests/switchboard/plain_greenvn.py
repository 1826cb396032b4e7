"""GreenVN, first generation, read aloud. Which VN is picked is not predicted, but whether it may be."""

from __future__ import annotations

from cordboard.routing.allocate import Code
from cordboard.routing.greenvn import GreenVnDraft, Preferences
from cordboard.routing.model import Allocation, AllocationId, Party, Product, Side, Usage
from cordboard.routing.numbers import E164
from cordboard.routing.regions import REGIONS
from tests.switchboard.plain_model import NONSENSE, Held, PlainModel, Wanted, first, numbers_of


def read_create(model: PlainModel, draft: GreenVnDraft) -> Wanted:
    """What it would become, but for its VN."""
    codes = _codes_of_people(model, draft) | _codes_of_preferences(draft.preferences)
    if draft.usage is None or any(not draft.party(side).numbers for side in Side):
        codes.add(Code.MISSING)
    a, b = (
        Party(
            numbers=numbers_of(draft.party(side).numbers or ()),
            virtual_numbers=(),
            pins=tuple(dict.fromkeys(draft.party(side).pins or ())),
            listed_need_pin=False,
        )
        for side in Side
    )
    if set(a.pins) & set(b.pins):
        codes.add(Code.PIN_OR_NUMBER_TAKEN)
    if codes:
        return Wanted(codes, None)
    becomes = Allocation(
        id=AllocationId(bytes(16)),
        product=Product.GREENVN,
        usage=draft.usage or Usage.TWOWAY,
        expires_at_us=0,
        a=a,
        b=b,
        common_pin=False,
        has_members=False,
    )
    return Wanted(codes, becomes)


def read_call_party(model: PlainModel, held: Held, draft: GreenVnDraft) -> Wanted:
    was = held.allocation
    codes = _codes_of_people(model, draft)
    given = {side: draft.party(side).numbers for side in Side}
    if given[Side.A] is None and given[Side.B] is None:
        codes.add(Code.MISSING)
    parties = {}
    for side in Side:
        party, numbers, pins = was.party(side), given[side], draft.party(side).pins
        if numbers is not None and not numbers:
            codes.add(Code.MISSING)
        parties[side] = party._replace(
            numbers=party.numbers if numbers is None else numbers_of(numbers),
            pins=party.pins if pins is None else tuple(dict.fromkeys(pins)),
        )
    if set(parties[Side.A].numbers) & set(parties[Side.B].numbers) - model.provisioned:
        codes.add(Code.BOTH_SIDES)
    if set(parties[Side.A].pins) & set(parties[Side.B].pins):
        codes.add(Code.PIN_OR_NUMBER_TAKEN)
    if codes:
        return Wanted(codes, None)
    return Wanted(codes, was._replace(usage=draft.usage or was.usage, a=parties[Side.A], b=parties[Side.B]))


def code_of_create(
    model: PlainModel, client_id: str, wanted: Wanted, preferences: Preferences, now_us: int
) -> Code | None:
    codes = set(wanted.codes)
    if model.has_client_id(Product.GREENVN, client_id):
        codes.add(Code.CLIENT_ID_TAKEN)
    if wanted.becomes is not None and not right_ones(model, wanted.becomes, preferences, None, now_us):
        codes.add(Code.NOTHING_FREE)
    return first(codes)


def code_of_swap(model: PlainModel, held: Held, preferences: Preferences, now_us: int) -> Code | None:
    codes = _codes_of_preferences(preferences)
    if not right_ones(model, held.allocation, preferences, held, now_us):
        codes.add(Code.NOTHING_FREE)
    return first(codes)


def right_ones(
    model: PlainModel, wanted: Allocation, preferences: Preferences, of: Held | None, now_us: int
) -> set[E164]:
    """The VNs that meet as many preferences as any that is allowed; all of them, where they must be met."""
    named = None
    if preferences.virtual_number not in (None, NONSENSE):
        [named] = numbers_of([preferences.virtual_number or ""])

    def is_allowed(virtual_number: E164) -> bool:
        if of is not None and virtual_number in of.virtual_numbers:
            # A swap leaves it, unless it is asked for by name.
            return virtual_number == named
        line = model.pool[virtual_number]
        return (
            not line.is_drained
            and (not line.is_reserved or virtual_number == named)
            and not model.is_anybody_alone_on(virtual_number, of, now_us)
            and not any(
                model.has_a_route(virtual_number, number, of)
                or model.is_place_cooling((virtual_number, number), of, now_us)
                for number in (*wanted.a.numbers, *wanted.b.numbers)
            )
            and all(
                model.is_pin_free((virtual_number, pin.digits), of, now_us)
                for pin in (*wanted.a.pins, *wanted.b.pins)
            )
        )

    def met(virtual_number: E164) -> int:
        line = model.pool[virtual_number]
        return (
            (virtual_number == named)
            + (preferences.region is not None and preferences.region == line.region)
            + (preferences.type is not None and preferences.type == line.type)
        )

    allowed = set(filter(is_allowed, model.pool))
    asked_for = [preferences.virtual_number, preferences.region, preferences.type]
    most = max(map(met, allowed), default=0)
    needed = sum(wish is not None for wish in asked_for) if preferences.is_strict else most
    return {virtual_number for virtual_number in allowed if met(virtual_number) >= needed}


def _codes_of_people(model: PlainModel, draft: GreenVnDraft) -> set[Code]:
    a, b = (draft.party(side).numbers or () for side in Side)
    return model.codes_of_people(a) | model.codes_of_people(b) | model.codes_of_both(a, b)


def _codes_of_preferences(preferences: Preferences) -> set[Code]:
    codes = set()
    if preferences.virtual_number == NONSENSE:
        codes.add(Code.BAD_NUMBER)
    if preferences.region is not None and preferences.region not in REGIONS:
        codes.add(Code.REGION)
    return codes


def on(wanted: Allocation, virtual_number: E164) -> Allocation:
    """`wanted` with the VN for both sides."""
    return wanted._replace(
        a=wanted.a._replace(virtual_numbers=(virtual_number,)),
        b=wanted.b._replace(virtual_numbers=(virtual_number,)),
    )
