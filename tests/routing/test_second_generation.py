"""The second generation's rules: what one request alone can get wrong, and what becomes of a good one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from cordboard.routing.allocate import Code, Fault, Generation, Standing, Unacceptable
from cordboard.routing.model import AllocationId, CallPolicy, Party, Product, State, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.second_generation import OutOfRange, SecondDraft, propose, revise
from cordboard.routing.tenant import TenantSettings, VnSharing, parse_settings

NOW_US = 1_700_000_000_000_000
HOUR_US = 3_600_000_000
ID = AllocationId(bytes(range(16)))

ANNE, ARUN, BEENA, BIJU = (f"+91980000002{n}" for n in range(4))
LINE, OTHER_LINE, DRAINED_LINE = (f"+91800000001{n}" for n in range(3))
FOREIGN_LINE = "+918000000099"

GREENPIN, GREENVN = Product.GREENPIN, Product.GREENVN
BOTH = pytest.mark.parametrize("product", [GREENPIN, GREENVN])


@dataclass(frozen=True)
class ListPool:
    """`routing.allocate.Pool` as plain sets."""

    lines: frozenset[E164] = frozenset(map(E164, (LINE, OTHER_LINE, DRAINED_LINE)))
    drained: frozenset[E164] = frozenset({E164(DRAINED_LINE)})
    others: frozenset[E164] = frozenset({E164(FOREIGN_LINE)})
    taken: frozenset[str] = field(default_factory=frozenset)

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return virtual_number in self.lines

    def is_drained(self, virtual_number: E164) -> bool:
        return virtual_number in self.drained

    def is_provisioned(self, number: E164) -> bool:
        return number in self.lines or number in self.others

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool:
        return virtual_number == E164(LINE) and pin.digits in self.taken


def draft(**changed: Any) -> SecondDraft:
    good = SecondDraft(caller_id_number=LINE, from_numbers=[ANNE], to_numbers=[BEENA])
    return replace(good, **changed)


def proposed(
    asked: SecondDraft,
    product: Product = GREENPIN,
    settings: TenantSettings | None = None,
    pool: ListPool | None = None,
) -> Standing:
    return propose(
        product, ID, "acme", asked, settings or TenantSettings(), pool or ListPool(), lambda n: 42 % n, NOW_US
    )


def revised(current: Standing, now_us: int = NOW_US + HOUR_US, **asked: Any) -> Standing:
    return revise(current, SecondDraft(**asked), TenantSettings(), ListPool(), now_us)


def fault_of(call: Any) -> Fault:
    with pytest.raises(Unacceptable) as refused:
        call()
    fault = refused.value.fault
    assert fault.field in fault.message
    return fault


# ── create ───────────────────────────────────────────────────────────────────


def test_a_good_draft_becomes_a_greenpin() -> None:
    asked = draft(record=True, custom_field="order_id=12345", pin_attempts_max=5, duration_s=300)
    standing = proposed(
        asked, settings=TenantSettings(cool_off_s=30, a_pin_enabled=False, b_pin_enabled=False)
    )
    allocation = standing.allocation
    assert (allocation.product, allocation.usage) == (GREENPIN, Usage.TWOWAY)
    assert allocation.a == Party((E164(ANNE),), (E164(LINE),), (), False)
    assert allocation.b == Party((E164(BEENA),), (E164(LINE),), (Pin("0042"),), True)
    assert (allocation.is_exclusive, allocation.common_pin) == (True, False)
    assert allocation.policy == CallPolicy(True, "order_id=12345")
    assert allocation.expires_at_us == NOW_US + 300_000_000
    assert (standing.generation, standing.client_id, standing.state) == (
        Generation.SECOND,
        None,
        State.ACTIVE,
    )
    assert (standing.pin_attempts_max, standing.pin_failures, standing.cool_off_s) == (5, 0, 30)


def test_a_good_draft_becomes_a_greenvn_without_a_pin() -> None:
    standing = proposed(draft(), GREENVN)
    assert standing.allocation.a == Party((E164(ANNE),), (E164(LINE),), (), False)
    assert standing.allocation.b == Party((E164(BEENA),), (E164(LINE),), (), False)
    assert standing.allocation.is_exclusive
    assert standing.pin_attempts_max is None


def test_what_is_not_said_has_the_defaults_of_the_page() -> None:
    standing = proposed(draft(to_numbers=None))
    assert standing.allocation.b.numbers == ()
    assert standing.allocation.expires_at_us == NOW_US + 24 * HOUR_US
    assert standing.allocation.policy == CallPolicy(False, None)
    assert standing.pin_attempts_max == 3


def test_the_tenants_longest_life_cuts_nothing() -> None:
    short = TenantSettings(deallocation_s_max=60)
    assert proposed(draft(), settings=short).allocation.expires_at_us == NOW_US + 24 * HOUR_US
    endless = TenantSettings(deallocation_s_max=None)
    assert proposed(draft(), settings=endless).allocation.expires_at_us == NOW_US + 24 * HOUR_US


@BOTH
def test_vn_sharing_by_pin_leaves_room_on_the_vn(product: Product) -> None:
    settings = parse_settings({"vn_sharing": "pin"})
    assert settings.vn_sharing is VnSharing.PIN
    assert not proposed(draft(), product, settings).allocation.is_exclusive


def test_the_pin_is_one_that_is_free_on_the_vn() -> None:
    pool = ListPool(taken=frozenset({"0042", "0043"}))
    assert proposed(draft(), pool=pool).allocation.b.pins == (Pin("0044"),)
    full = ListPool(taken=frozenset(f"{n:04d}" for n in range(10_000)))
    assert fault_of(lambda: proposed(draft(), pool=full)).code is Code.NOTHING_FREE


@BOTH
@pytest.mark.parametrize(
    ("changed", "code", "named"),
    [
        ({"caller_id_number": None}, Code.MISSING, "caller_id_number"),
        ({"from_numbers": None}, Code.MISSING, "from"),
        ({"from_numbers": []}, Code.MISSING, "from"),
        ({"caller_id_number": "12"}, Code.BAD_NUMBER, "caller_id_number"),
        ({"caller_id_number": FOREIGN_LINE}, Code.NOT_PERMITTED, "caller_id_number"),
        ({"caller_id_number": DRAINED_LINE}, Code.NOT_PERMITTED, "caller_id_number"),
        ({"from_numbers": [ANNE, "x"]}, Code.BAD_NUMBER, "from"),
        ({"from_numbers": ["+14155552671"]}, Code.BAD_NUMBER, "from"),
        ({"to_numbers": [LINE]}, Code.BAD_NUMBER, "to"),
        ({"to_numbers": [FOREIGN_LINE]}, Code.BAD_NUMBER, "to"),
        ({"to_numbers": [BEENA, ANNE]}, Code.BOTH_SIDES, "to"),
        ({"to_numbers": [BEENA, BEENA]}, Code.ALL_DUPLICATES, "to"),
    ],
)
def test_a_bad_draft_has_its_code(product: Product, changed: dict[str, Any], code: Code, named: str) -> None:
    fault = fault_of(lambda: proposed(draft(**changed), product))
    assert (fault.code, fault.field, isinstance(fault, OutOfRange)) == (code, named, False)


def test_only_a_greenvn_needs_its_to() -> None:
    for asked in (draft(to_numbers=None), draft(to_numbers=[])):
        assert proposed(asked).allocation.b.numbers == ()
        fault = fault_of(partial(proposed, asked, GREENVN))
        assert (fault.code, fault.field) == (Code.MISSING, "to")


@pytest.mark.parametrize(
    ("changed", "is_good"),
    [
        ({"duration_s": 299}, False),
        ({"duration_s": 300}, True),
        ({"duration_s": 14_688_000}, True),
        ({"duration_s": 14_688_001}, False),
        ({"duration_s": 10**18}, False),
        ({"pin_attempts_max": 0}, False),
        ({"pin_attempts_max": 1}, True),
        ({"pin_attempts_max": 10}, True),
        ({"pin_attempts_max": 11}, False),
        ({"custom_field": "ü" * 256}, True),
        ({"custom_field": ""}, True),
        ({"custom_field": "x" * 257}, False),
    ],
)
def test_values_have_bounds(changed: dict[str, Any], is_good: bool) -> None:
    if is_good:
        proposed(draft(**changed))
        revised(proposed(draft()), **changed)
        return
    for call in (lambda: proposed(draft(**changed)), lambda: revised(proposed(draft()), **changed)):
        fault = fault_of(call)
        assert (fault.code, isinstance(fault, OutOfRange)) == (Code.BAD, True)


def test_a_fault_of_form_is_told_before_a_bound_and_hides_no_missing_key() -> None:
    malformed = Fault(Code.BAD, "from", "from must be a list.")
    fault = fault_of(lambda: proposed(draft(from_numbers=None, duration_s=1, faults=(malformed,))))
    assert fault is malformed
    fault = fault_of(lambda: proposed(draft(caller_id_number=None, faults=(malformed,))))
    assert fault.code is Code.MISSING


@BOTH
def test_a_tenant_may_switch_this_generation_off(product: Product) -> None:
    settings = parse_settings({"generation_2_enabled": "false"})
    fault = fault_of(lambda: proposed(SecondDraft(), product, settings))
    assert fault.code is Code.NOT_PERMITTED


# ── update ───────────────────────────────────────────────────────────────────


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    was = proposed(draft(record=True, custom_field="x", pin_attempts_max=2))
    becomes = revised(was, to_numbers=[BIJU, BEENA])
    party = was.allocation.b._replace(numbers=(E164(BIJU), E164(BEENA)))
    assert becomes == replace(
        was, allocation=was.allocation._replace(b=party), version=2, updated_at_us=NOW_US + HOUR_US
    )


def test_a_duration_counts_from_the_update() -> None:
    becomes = revised(proposed(draft()), duration_s=600)
    assert becomes.allocation.expires_at_us == NOW_US + HOUR_US + 600_000_000


def test_policy_and_attempts_are_changed_one_by_one() -> None:
    was = proposed(draft(record=True, custom_field="x", pin_attempts_max=2))
    assert revised(was, record=False).allocation.policy == CallPolicy(False, "x")
    assert revised(was, custom_field="").allocation.policy == CallPolicy(True, "")
    assert revised(was, pin_attempts_max=7).pin_attempts_max == 7
    assert revised(was, record=False).pin_attempts_max == 2


def test_any_update_unlocks() -> None:
    was = proposed(draft())
    locked = replace(was, allocation=was.allocation._replace(is_locked=True), pin_failures=3)
    becomes = revised(locked, record=False)
    assert (becomes.pin_failures, becomes.allocation.is_locked) == (0, False)


def test_an_update_keeps_the_pin_and_whether_the_vn_is_its_own() -> None:
    was = proposed(draft(), settings=TenantSettings(vn_sharing=VnSharing.PIN))
    becomes = revised(was, to_numbers=[], from_numbers=[ARUN])
    assert becomes.allocation.b == was.allocation.b._replace(numbers=())
    assert not becomes.allocation.is_exclusive


@pytest.mark.parametrize(
    ("product", "asked", "code", "named"),
    [
        (GREENPIN, {"from_numbers": []}, Code.MISSING, "from"),
        (GREENVN, {"from_numbers": []}, Code.MISSING, "from"),
        (GREENVN, {"to_numbers": []}, Code.MISSING, "to"),
        (GREENPIN, {"to_numbers": [ANNE]}, Code.BOTH_SIDES, "to"),
        (GREENPIN, {"from_numbers": ["x"]}, Code.BAD_NUMBER, "from"),
        (GREENVN, {"caller_id_number": DRAINED_LINE}, Code.NOT_PERMITTED, "caller_id_number"),
        (GREENVN, {"caller_id_number": FOREIGN_LINE}, Code.NOT_PERMITTED, "caller_id_number"),
    ],
)
def test_a_bad_update_has_its_code(product: Product, asked: dict[str, Any], code: Code, named: str) -> None:
    fault = fault_of(lambda: revised(proposed(draft(), product), **asked))
    assert (fault.code, fault.field) == (code, named)


def test_sides_can_be_swapped_in_one_update() -> None:
    becomes = revised(proposed(draft()), from_numbers=[BEENA], to_numbers=[ANNE]).allocation
    assert (becomes.a.numbers, becomes.b.numbers) == ((E164(BEENA),), (E164(ANNE),))


def test_a_greenvn_moves_to_another_vn_and_may_stay_on_a_drained_one() -> None:
    was = proposed(draft(), GREENVN)
    moved = revised(was, caller_id_number=OTHER_LINE).allocation
    assert moved.a.virtual_numbers == moved.b.virtual_numbers == (E164(OTHER_LINE),)
    drained = ListPool(drained=frozenset({E164(LINE)}))
    stays = revise(was, SecondDraft(caller_id_number=LINE), TenantSettings(), drained, NOW_US)
    assert stays.allocation == was.allocation
