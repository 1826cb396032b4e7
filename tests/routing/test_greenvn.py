"""What a GreenVN request alone can get wrong, and what becomes of one that gets nothing wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cordboard.routing.allocate import Code, Fault, Standing, Unacceptable
from cordboard.routing.greenvn import (
    GreenVnDraft,
    GreenVnParty,
    Preferences,
    propose_greenvn,
    revise_parties,
    revise_virtual_number,
)
from cordboard.routing.model import AllocationId, Product, State, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import TenantSettings

from .number_pool import ListedPool, Vn

NOW_US = 1_700_000_000_000_000
ID = AllocationId(bytes(range(16)))
ANNE, ARUN, BEENA, BIJU = (f"+91980000002{n}" for n in range(4))
KA_LINE, DL_LINE, OTHERS_LINE = (E164(918000000010 + n) for n in range(3))
POOL = ListedPool(
    (Vn(KA_LINE, "KA", "mobile", load=1), Vn(DL_LINE, "DL", "landline")), others=frozenset({OTHERS_LINE})
)
PIN_A, PIN_B, PIN_C = Pin("1234"), Pin("2345"), Pin("34567")


def region_of(pin_code: str) -> str | None:
    return {"56": "KA", "11": "DL"}.get(pin_code[:2])


def draft(**changed: Any) -> GreenVnDraft:
    asked = GreenVnDraft(GreenVnParty([ANNE], (PIN_A,)), GreenVnParty([BEENA], (PIN_B,)), Usage.TWOWAY)
    return replace(asked, **changed)


def proposed(
    asked: GreenVnDraft, settings: TenantSettings | None = None, pool: ListedPool = POOL
) -> Standing:
    settings = settings or TenantSettings()
    return propose_greenvn(ID, "acme", "order-1", asked, settings, pool, region_of, NOW_US)


def refusal_of(asked: GreenVnDraft, settings: TenantSettings | None = None, pool: ListedPool = POOL) -> Fault:
    with pytest.raises(Unacceptable) as refused:
        proposed(asked, settings, pool)
    return refused.value.fault


def test_a_good_request_becomes_an_allocation_of_both_sides_on_one_vn() -> None:
    asked = draft(
        a=GreenVnParty([ANNE, "09800000021", ANNE], (PIN_A, PIN_C, PIN_A)),
        flow_id="44X8",
        duration_s=600,
        tags=("seller", None),
    )
    standing = proposed(asked, TenantSettings(cool_off_s=90, common_pin_enabled=True))
    allocation = standing.allocation
    assert (standing.client_id, standing.flow_id, standing.tags) == ("order-1", "44X8", ("seller", None))
    assert (standing.state, standing.version, standing.cool_off_s) == (State.ACTIVE, 1, 90)
    assert (allocation.id, allocation.product, allocation.usage) == (ID, Product.GREENVN, Usage.TWOWAY)
    assert allocation.expires_at_us == NOW_US + 600_000_000
    assert allocation.a.numbers == (E164(ANNE), E164("919800000021"))
    assert allocation.b.numbers == (E164(BEENA),)
    assert (allocation.a.pins, allocation.b.pins) == ((PIN_A, PIN_C), (PIN_B,))
    assert allocation.a.virtual_numbers == allocation.b.virtual_numbers == (DL_LINE,)
    flags = (allocation.a.listed_need_pin, allocation.b.listed_need_pin, allocation.common_pin)
    assert flags == (False, False, False)


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"a": GreenVnParty()}, Code.MISSING, "aparty_numbers"),
        ({"a": GreenVnParty([], (PIN_A,))}, Code.MISSING, "aparty_numbers"),
        ({"b": GreenVnParty()}, Code.MISSING, "bparty_numbers"),
        ({"usage": None}, Code.MISSING, "usage"),
        ({"a": GreenVnParty(["12"])}, Code.BAD_NUMBER, "aparty_numbers"),
        ({"b": GreenVnParty(["+14155552671"])}, Code.BAD_NUMBER, "bparty_numbers"),
        ({"b": GreenVnParty([KA_LINE.plus])}, Code.BAD_NUMBER, "bparty_numbers"),
        ({"b": GreenVnParty([OTHERS_LINE.plus])}, Code.BAD_NUMBER, "bparty_numbers"),
        ({"a": GreenVnParty([ANNE, ANNE])}, Code.ALL_DUPLICATES, "aparty_numbers"),
        ({"b": GreenVnParty([BEENA, ANNE])}, Code.BOTH_SIDES, "bparty_numbers"),
        ({"b": GreenVnParty([BEENA], (PIN_C, PIN_A))}, Code.PIN_OR_NUMBER_TAKEN, "bparty_pins"),
        ({"preferences": Preferences("12")}, Code.BAD_NUMBER, "preferences.greenvn"),
        ({"preferences": Preferences(region="XX")}, Code.REGION, "preferences.region"),
        ({"preferences": Preferences(region="ka")}, Code.REGION, "preferences.region"),
        ({"preferences": Preferences(pin_code="012345")}, Code.BAD, "preferences.pin_code"),
        ({"preferences": Preferences(pin_code="5600411")}, Code.BAD, "preferences.pin_code"),
        ({"preferences": Preferences(pin_code="56004१")}, Code.BAD, "preferences.pin_code"),
        ({"preferences": Preferences(pin_code="560041\n")}, Code.BAD, "preferences.pin_code"),
        ({"preferences": Preferences(region="TN", is_strict=True)}, Code.NOTHING_FREE, "greenvn"),
        (
            {"preferences": Preferences(OTHERS_LINE.plus, is_strict=True)},
            Code.NOTHING_FREE,
            "greenvn",
        ),
    ],
)
def test_what_breaks_a_rule_is_refused(changed: dict[str, Any], code: Code, field: str) -> None:
    fault = refusal_of(draft(**changed))
    assert (fault.code, fault.field) == (code, field)
    assert fault.message.startswith(field)


def test_a_field_of_the_wrong_form_is_wrong_and_not_missing() -> None:
    bad = Fault(Code.BAD, "aparty_numbers", "aparty_numbers must be a list.")
    assert refusal_of(draft(a=GreenVnParty(), faults=(bad,))) == bad


def test_of_several_faults_the_first_in_order_is_answered() -> None:
    faulty = {
        "a": GreenVnParty([ANNE, ANNE], (PIN_B,)),
        "b": GreenVnParty([BEENA, ANNE], (PIN_B,)),
        "flow_id": "unknown",
        "preferences": Preferences(pin_code="1", region="XX"),
    }
    settings = TenantSettings(flows=("known",))
    seen = []
    for better in (
        {"preferences": Preferences(region="XX")},
        {"a": GreenVnParty([ANNE], (PIN_B,))},
        {"b": GreenVnParty([BEENA], (PIN_B,))},
        {"b": GreenVnParty([BEENA], (PIN_C,))},
        {"preferences": Preferences()},
    ):
        seen.append(refusal_of(draft(**faulty), settings).code)
        faulty |= better
    seen.append(refusal_of(draft(**faulty), settings).code)
    assert seen == [
        Code.BAD,
        Code.ALL_DUPLICATES,
        Code.BOTH_SIDES,
        Code.PIN_OR_NUMBER_TAKEN,
        Code.REGION,
        Code.FLOW,
    ]


@pytest.mark.parametrize(
    ("flows", "flow_id", "is_refused"),
    [((), "any", False), (("1", "2"), "2", False), (("1",), None, False), (("1", "2"), "3", True)],
)
def test_a_flow_is_one_that_the_tenant_knows(
    flows: tuple[str, ...], flow_id: str | None, is_refused: bool
) -> None:
    settings = TenantSettings(flows=flows)
    if is_refused:
        assert refusal_of(draft(flow_id=flow_id), settings).code is Code.FLOW
    else:
        assert proposed(draft(flow_id=flow_id), settings).flow_id == flow_id


@pytest.mark.parametrize(
    ("preferences", "settings", "chosen"),
    [
        (Preferences(), {}, DL_LINE),
        (Preferences(pin_code="560041"), {}, KA_LINE),
        (Preferences(pin_code="110001", region="KA"), {}, KA_LINE),
        (Preferences(pin_code="900001"), {}, DL_LINE),
        (Preferences(), {"default_region": "KA"}, KA_LINE),
        # Army post has no region, and says at least that the default is not meant.
        (Preferences(pin_code="900001"), {"default_region": "KA"}, DL_LINE),
        (Preferences(region="TN"), {"default_region": "KA"}, DL_LINE),
        (Preferences(pin_code="900001", is_strict=True), {}, DL_LINE),
        (Preferences("08000000010"), {}, KA_LINE),
        (Preferences(type="mobile"), {}, KA_LINE),
    ],
)
def test_preferences_lead_to_a_vn(preferences: Preferences, settings: dict[str, Any], chosen: E164) -> None:
    standing = proposed(draft(preferences=preferences), TenantSettings(**settings))
    assert standing.allocation.a.virtual_numbers == (chosen,)


def test_without_a_free_vn_there_is_none() -> None:
    pool = POOL.but(occupied=frozenset({(KA_LINE, E164(BEENA))}), held=frozenset({(DL_LINE, PIN_A)}))
    assert refusal_of(draft(), pool=pool).code is Code.NOTHING_FREE
    assert proposed(draft(a=GreenVnParty([ANNE])), pool=pool).allocation.a.virtual_numbers == (DL_LINE,)


# ── changes ──────────────────────────────────────────────────────────────────


def revised(asked: GreenVnDraft, current: Standing | None = None) -> Standing:
    return revise_parties(current or proposed(draft()), asked, TenantSettings(), POOL, NOW_US + 5)


def test_lists_replace_and_the_rest_stays() -> None:
    current = proposed(draft(flow_id="1", duration_s=60))
    becomes = revised(
        GreenVnDraft(a=GreenVnParty([ARUN]), b=GreenVnParty(None, ()), usage=Usage.ONEWAY), current
    )
    was = current.allocation
    expected = was._replace(
        usage=Usage.ONEWAY, a=was.a._replace(numbers=(E164(ARUN),)), b=was.b._replace(pins=())
    )
    assert becomes == replace(current, allocation=expected, version=2, updated_at_us=NOW_US + 5)


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        (GreenVnDraft(usage=Usage.ONEWAY), Code.MISSING, "aparty_numbers"),
        (GreenVnDraft(a=GreenVnParty([])), Code.MISSING, "aparty_numbers"),
        (GreenVnDraft(a=GreenVnParty(["12"])), Code.BAD_NUMBER, "aparty_numbers"),
        (GreenVnDraft(a=GreenVnParty([BEENA])), Code.BOTH_SIDES, "bparty_numbers"),
        (GreenVnDraft(a=GreenVnParty([ANNE], (PIN_B,))), Code.PIN_OR_NUMBER_TAKEN, "bparty_pins"),
    ],
)
def test_a_change_of_parties_obeys_the_same_rules(asked: GreenVnDraft, code: Code, field: str) -> None:
    with pytest.raises(Unacceptable) as refused:
        revised(asked)
    assert (refused.value.fault.code, refused.value.fault.field) == (code, field)


def swapped(preferences: Preferences, pool: ListedPool = POOL, *faults: Fault) -> Standing:
    current = proposed(draft())
    return revise_virtual_number(current, preferences, faults, TenantSettings(), pool, region_of, NOW_US + 5)


def test_a_swap_takes_another_vn_and_keeps_everything_else() -> None:
    current = proposed(draft())
    was = current.allocation
    expected = was._replace(
        a=was.a._replace(virtual_numbers=(KA_LINE,)), b=was.b._replace(virtual_numbers=(KA_LINE,))
    )
    assert swapped(Preferences()) == replace(
        current, allocation=expected, version=2, updated_at_us=NOW_US + 5
    )
    assert swapped(Preferences(DL_LINE.plus)).allocation == was


@pytest.mark.parametrize(
    ("preferences", "code"),
    [
        (Preferences(region="DL", is_strict=True), Code.NOTHING_FREE),
        (Preferences(region="XX"), Code.REGION),
        (Preferences("x"), Code.BAD_NUMBER),
    ],
)
def test_a_swap_may_be_refused(preferences: Preferences, code: Code) -> None:
    with pytest.raises(Unacceptable) as refused:
        swapped(preferences)
    assert refused.value.fault.code is code


def test_a_swap_needs_another_vn_that_is_free() -> None:
    for pool in (POOL.but(vns=POOL.vns[1:]), POOL.but(held=frozenset({(KA_LINE, PIN_B)}))):
        with pytest.raises(Unacceptable) as refused:
            swapped(Preferences(), pool)
        assert refused.value.fault.code is Code.NOTHING_FREE


def test_no_number_and_no_pin_is_written_out() -> None:
    pool = POOL.but(vns=())
    for asked in (
        draft(),
        draft(b=GreenVnParty([ANNE], (PIN_A,))),
        draft(a=GreenVnParty(["12", ANNE + "9"])),
    ):
        message = refusal_of(asked, pool=pool).message
        assert ANNE[4:] not in message
        assert PIN_A.digits not in message
