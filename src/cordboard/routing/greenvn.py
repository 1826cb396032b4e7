"""GreenVN, first generation: what a request asks for, held against the rules of routing.md.

Pure like allocate.py beside it. The engine picks one VN for both sides; listed callers never enter a PIN,
PINs are for strangers who join.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cordboard.routing.allocate import (
    NUMBERS_PER_SIDE_MAX,
    Code,
    Fault,
    Pool,
    Standing,
    Unacceptable,
    listed_numbers,
)
from cordboard.routing.choose import NumberPool, Wanted, choose
from cordboard.routing.model import Allocation, AllocationId, Party, Product, Side, State, Usage
from cordboard.routing.numbers import E164, Pin, parse_number
from cordboard.routing.regions import REGIONS
from cordboard.routing.tenant import TenantSettings, expiry_us

# One for each listed number; the board's records have room for as many.
PINS_PER_SIDE_MAX: Final = NUMBERS_PER_SIDE_MAX

NUMBERS_KEY: Final = {Side.A: "aparty_numbers", Side.B: "bparty_numbers"}
PINS_KEY: Final = {Side.A: "aparty_pins", Side.B: "bparty_pins"}

RegionOf = Callable[[str], str | None]
"""The region of an Indian postal code; None where it has none (army post)."""

_PIN_CODE: Final = re.compile(r"[1-9][0-9]{5}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Preferences:
    """What the VN should be like; a strict request takes no other. Values are still text."""

    virtual_number: str | None = None
    region: str | None = None
    pin_code: str | None = None
    type: str | None = None
    is_strict: bool = False


ANY_VIRTUAL_NUMBER: Final = Preferences()


@dataclass(frozen=True, slots=True)
class GreenVnParty:
    """What a request says of one side; None is what it does not say."""

    numbers: Sequence[str] | None = None
    pins: tuple[Pin, ...] | None = None


@dataclass(frozen=True, slots=True)
class GreenVnDraft:
    """A request, its types checked, its numbers still text; `faults` as in allocate.Draft."""

    a: GreenVnParty = GreenVnParty()
    b: GreenVnParty = GreenVnParty()
    usage: Usage | None = None
    preferences: Preferences = ANY_VIRTUAL_NUMBER
    flow_id: str | None = None
    duration_s: int | None = None
    tags: tuple[str | None, str | None] = (None, None)
    faults: tuple[Fault, ...] = ()

    def party(self, side: Side) -> GreenVnParty:
        return self.a if side is Side.A else self.b

    def is_malformed(self, field: str) -> bool:
        """Whether the request has `field` in a form that cannot be read: it is wrong, and not missing."""
        return any(fault.field == field for fault in self.faults)


def propose_greenvn(
    allocation_id: AllocationId,
    tenant_id: str,
    client_id: str,
    draft: GreenVnDraft,
    settings: TenantSettings,
    pool: NumberPool,
    region_of: RegionOf,
    now_us: int,
) -> Standing:
    """The allocation that a create asks for. Raises Unacceptable."""
    faults = list(draft.faults)
    numbers = {side: _numbers(side, draft, settings, pool, faults) or () for side in Side}
    for side, key in NUMBERS_KEY.items():
        if not draft.party(side).numbers and not draft.is_malformed(key):
            faults.append(Fault(Code.MISSING, key, f"{key} must be given."))
    if draft.usage is None and not draft.is_malformed("usage"):
        faults.append(Fault(Code.MISSING, "usage", "usage must be given."))
    _check_sides(numbers, faults)
    pins = {side: _once(draft.party(side).pins or ()) for side in Side}
    _check_pins(pins, faults)
    if draft.flow_id is None and len(settings.flows) > 1 and settings.default_flow_id is None:
        message = "flow_id must be given: this tenant has several call flows, and none by default."
        faults.append(Fault(Code.MISSING, "flow_id", message))
    if draft.flow_id is not None and settings.flows and draft.flow_id not in settings.flows:
        message = "flow_id: this tenant has no such call flow (setting flows)."
        faults.append(Fault(Code.FLOW, "flow_id", message))
    wanted = _wanted(draft.preferences, numbers, pins, settings, region_of, faults)
    if faults:
        raise Unacceptable(faults)

    virtual_number = _chosen(wanted, pool)
    a, b = (Party(numbers[side], (virtual_number,), pins[side], listed_need_pin=False) for side in Side)
    return Standing(
        tenant_id=tenant_id,
        client_id=client_id,
        allocation=Allocation(
            id=allocation_id,
            product=Product.GREENVN,
            usage=draft.usage or Usage.TWOWAY,
            expires_at_us=expiry_us(settings, draft.duration_s, now_us),
            a=a,
            b=b,
            common_pin=False,
            has_members=False,
        ),
        state=State.ACTIVE,
        version=1,
        cool_off_s=settings.cool_off_s,
        created_at_us=now_us,
        flow_id=draft.flow_id,
        tags=draft.tags,
    )


def revise_parties(
    current: Standing, draft: GreenVnDraft, settings: TenantSettings, pool: Pool, now_us: int
) -> Standing:
    """`current` with other people, PINs or usage on the same VN. Raises Unacceptable.

    Lists replace. At least one list of numbers must be there, if only the one that it has.
    """
    faults = list(draft.faults)
    was = current.allocation
    keys = tuple(NUMBERS_KEY.values())
    if draft.a.numbers is None and draft.b.numbers is None and not any(map(draft.is_malformed, keys)):
        message = f"At least one of {keys[0]} and {keys[1]} must be given."
        faults.append(Fault(Code.MISSING, keys[0], message))
    numbers: dict[Side, tuple[E164, ...]] = {}
    pins: dict[Side, tuple[Pin, ...]] = {}
    for side, key in NUMBERS_KEY.items():
        given, has = draft.party(side), was.party(side)
        if given.numbers is not None and not given.numbers:
            faults.append(Fault(Code.MISSING, key, f"{key} must not be empty."))
        listed = _numbers(side, draft, settings, pool, faults)
        numbers[side] = has.numbers if listed is None else listed
        pins[side] = has.pins if given.pins is None else _once(given.pins)
    _check_sides(numbers, faults)
    _check_pins(pins, faults)
    if faults:
        raise Unacceptable(faults)
    a, b = (was.party(side)._replace(numbers=numbers[side], pins=pins[side]) for side in Side)
    return _revised(current, was._replace(usage=draft.usage or was.usage, a=a, b=b), now_us)


def revise_virtual_number(
    current: Standing,
    preferences: Preferences,
    faults: Sequence[Fault],
    settings: TenantSettings,
    pool: NumberPool,
    region_of: RegionOf,
    now_us: int,
) -> Standing:
    """`current` on another VN; on the same one only if it is asked for by name. Raises Unacceptable."""
    was = current.allocation
    broken = list(faults)
    numbers = {side: was.party(side).numbers for side in Side}
    pins = {side: was.party(side).pins for side in Side}
    wanted = _wanted(preferences, numbers, pins, settings, region_of, broken)
    if broken:
        raise Unacceptable(broken)
    virtual_number = _chosen(replace(wanted, present=was.a.virtual_numbers[0]), pool)
    a, b = (was.party(side)._replace(virtual_numbers=(virtual_number,)) for side in Side)
    return _revised(current, was._replace(a=a, b=b), now_us)


def nothing_free(*, is_strict: bool) -> Fault:
    which = "that meets all preferences" if is_strict else "for these numbers and PINs"
    return Fault(Code.NOTHING_FREE, "greenvn", f"greenvn: no virtual number {which} is free.")


def _revised(current: Standing, becomes: Allocation, now_us: int) -> Standing:
    return replace(current, allocation=becomes, version=current.version + 1, updated_at_us=now_us)


def _numbers(
    side: Side, draft: GreenVnDraft, settings: TenantSettings, pool: Pool, faults: list[Fault]
) -> tuple[E164, ...] | None:
    given = draft.party(side).numbers
    return None if given is None else listed_numbers(NUMBERS_KEY[side], given, settings, pool, faults)


def _once(pins: Sequence[Pin]) -> tuple[Pin, ...]:
    return tuple(dict.fromkeys(pins))


def _check_sides(numbers: dict[Side, tuple[E164, ...]], faults: list[Fault]) -> None:
    if set(numbers[Side.A]) & set(numbers[Side.B]):
        key = NUMBERS_KEY[Side.B]
        message = f"{key}: a number cannot be on both sides, {NUMBERS_KEY[Side.A]} has it too."
        faults.append(Fault(Code.BOTH_SIDES, key, message))


def _check_pins(pins: dict[Side, tuple[Pin, ...]], faults: list[Fault]) -> None:
    """Both sides stand on one VN, where one PIN must not mean both."""
    if set(pins[Side.A]) & set(pins[Side.B]):
        key = PINS_KEY[Side.B]
        message = f"{key}: one of them is in {PINS_KEY[Side.A]} too."
        faults.append(Fault(Code.PIN_OR_NUMBER_TAKEN, key, message))


def _wanted(
    preferences: Preferences,
    numbers: dict[Side, tuple[E164, ...]],
    pins: dict[Side, tuple[Pin, ...]],
    settings: TenantSettings,
    region_of: RegionOf,
    faults: list[Fault],
) -> Wanted:
    named = None
    if preferences.virtual_number is not None:
        named = parse_number(preferences.virtual_number, settings.country)
        if named is None:
            field = "preferences.greenvn"
            faults.append(Fault(Code.BAD_NUMBER, field, f"{field} is not a telephone number."))
    return Wanted(
        numbers=numbers[Side.A] + numbers[Side.B],
        pins=pins[Side.A] + pins[Side.B],
        named=named,
        region=_region(preferences, region_of, faults),
        type=preferences.type,
        is_strict=preferences.is_strict,
        default_region=_default_region(preferences, settings),
        choice=settings.vn_choice,
    )


def _region(preferences: Preferences, region_of: RegionOf, faults: list[Fault]) -> str | None:
    """The region asked for; one that is named goes before the one of a postal code."""
    region, pin_code = preferences.region, preferences.pin_code
    if region is not None and region not in REGIONS:
        field = "preferences.region"
        message = f"{field}: this region is not supported; there are {', '.join(REGIONS)}."
        faults.append(Fault(Code.REGION, field, message))
    if pin_code is not None and not _PIN_CODE.fullmatch(pin_code):
        field = "preferences.pin_code"
        message = f"{field} must be text of six digits, the first not 0."
        faults.append(Fault(Code.BAD, field, message))
        return region
    return region if region is not None or pin_code is None else region_of(pin_code)


def _default_region(preferences: Preferences, settings: TenantSettings) -> str | None:
    is_asked_for = preferences.region is not None or preferences.pin_code is not None
    return None if is_asked_for else settings.default_region


def _chosen(wanted: Wanted, pool: NumberPool) -> E164:
    """Raises Unacceptable (452/4)."""
    virtual_number = choose(wanted, pool)
    if virtual_number is None:
        raise Unacceptable([nothing_free(is_strict=wanted.is_strict and wanted.preferences > 0)])
    return virtual_number
