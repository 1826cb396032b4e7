"""What one request alone can get wrong, and what becomes of one that gets nothing wrong.

Few numbers, VNs and PINs, so that collisions are common.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cordboard.routing.allocate import (
    PRECEDENCE,
    Code,
    Dice,
    Draft,
    Fault,
    PartyDraft,
    Standing,
    Unacceptable,
    draw_pin,
    propose,
    revise,
)
from cordboard.routing.model import NEVER_US, AllocationId, Product, Side, State, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import LIFE_S_MAX, TenantSettings

NOW_US = 1_700_000_000_000_000
ID = AllocationId(bytes(range(16)))

ANNE, ARUN, BEENA, BIJU = (f"+91980000002{n}" for n in range(4))
LINE_1, LINE_2, LINE_3 = (f"+91800000001{n}" for n in range(3))
FOREIGN_LINE = "+918000000099"
AMERICAN = "+14155552671"


def number(text: str) -> E164:
    return E164(text)


@dataclass(frozen=True)
class ListPool:
    """`routing.allocate.Pool` as plain sets."""

    lines: frozenset[E164] = frozenset(map(E164, (LINE_1, LINE_2, LINE_3)))
    others: frozenset[E164] = frozenset({E164(FOREIGN_LINE)})
    drained: frozenset[E164] = frozenset()
    taken: frozenset[tuple[E164, str]] = field(default_factory=frozenset)

    def has_virtual_number(self, virtual_number: E164) -> bool:
        return virtual_number in self.lines

    def is_drained(self, virtual_number: E164) -> bool:
        return virtual_number in self.drained

    def is_provisioned(self, number: E164) -> bool:
        return number in self.lines or number in self.others

    def is_pin_taken(self, virtual_number: E164, pin: Pin) -> bool:
        return (virtual_number, pin.digits) in self.taken


def dice_of(*throws: int) -> Dice:
    """Throws these in turn, then zeros."""
    rest: Iterator[int] = iter(throws)
    return lambda n: next(rest, 0) % n


def draft(a: Mapping[str, Any] | None = None, b: Mapping[str, Any] | None = None, **rest: Any) -> Draft:
    """A good draft, with keys of its parties replaced."""
    a = {"numbers": [ANNE], "virtual_numbers": [LINE_1]} | dict(a or {})
    b = {"numbers": [BEENA], "virtual_numbers": [LINE_2]} | dict(b or {})
    return Draft(PartyDraft(**a), PartyDraft(**b), **rest)


def proposed(
    asked: Draft,
    settings: TenantSettings | None = None,
    pool: ListPool | None = None,
    dice: Dice | None = None,
) -> Standing:
    return propose(
        ID,
        "acme",
        "order-1",
        asked,
        settings or TenantSettings(),
        pool or ListPool(),
        dice or dice_of(),
        NOW_US,
    )


def revised(
    current: Standing,
    asked: Draft,
    settings: TenantSettings | None = None,
    pool: ListPool | None = None,
    dice: Dice | None = None,
    now_us: int = NOW_US,
) -> Standing:
    return revise(current, asked, settings or TenantSettings(), pool or ListPool(), dice or dice_of(), now_us)


def fault_of(call: Any) -> tuple[Code, str]:
    with pytest.raises(Unacceptable) as refused:
        call()
    fault = refused.value.fault
    assert fault.field in fault.message
    return fault.code, fault.field


# ── create ───────────────────────────────────────────────────────────────────


def test_a_good_draft_becomes_an_allocation() -> None:
    asked = draft({"pin": Pin("0123")}, {"pin_length": 6}, usage=Usage.ONEWAY, duration_s=60)
    standing = proposed(asked, TenantSettings(cool_off_s=30), dice=dice_of(42))
    allocation = standing.allocation
    assert standing == Standing(
        "acme", "order-1", allocation, State.ACTIVE, version=1, cool_off_s=30, created_at_us=NOW_US
    )
    assert (allocation.id, allocation.product, allocation.usage) == (ID, Product.GREENPIN, Usage.ONEWAY)
    assert allocation.expires_at_us == NOW_US + 60_000_000
    assert allocation.a == ((number(ANNE),), (number(LINE_1),), (Pin("0123"),), True)
    assert allocation.b == ((number(BEENA),), (number(LINE_2),), (Pin("000042"),), True)
    assert not allocation.common_pin
    assert not allocation.has_members


@pytest.mark.parametrize(
    ("a", "b", "rest", "settings", "expected"),
    [
        # 3
        ({"numbers": None}, {"numbers": None}, {}, {}, (Code.MISSING, "a.numbers")),
        ({"numbers": []}, {"numbers": []}, {}, {}, (Code.MISSING, "a.numbers")),
        ({"virtual_numbers": None}, {"virtual_numbers": []}, {}, {}, (Code.MISSING, "a.vns")),
        ({}, {"numbers": None}, {"usage": Usage.ONEWAY}, {}, (Code.MISSING, "b.numbers")),
        ({"numbers": None}, {}, {}, {"a_pin_enabled": False}, (Code.MISSING, "a.numbers")),
        ({}, {"numbers": []}, {}, {"b_pin_enabled": False}, (Code.MISSING, "b.numbers")),
        # 5
        (
            {"pin": Pin("1")},
            {"pin": Pin("2")},
            {},
            {"common_pin_enabled": True},
            (Code.BAD, "b.pin"),
        ),
        # 16
        ({"numbers": ["12"]}, {}, {}, {}, (Code.BAD_NUMBER, "a.numbers")),
        ({"virtual_numbers": ["12"]}, {}, {}, {}, (Code.BAD_NUMBER, "a.vns")),
        ({}, {"numbers": [AMERICAN]}, {}, {}, (Code.BAD_NUMBER, "b.numbers")),
        ({}, {"numbers": [LINE_3]}, {}, {}, (Code.BAD_NUMBER, "b.numbers")),
        ({}, {"numbers": [FOREIGN_LINE]}, {}, {}, (Code.BAD_NUMBER, "b.numbers")),
        # 8
        ({"virtual_numbers": [LINE_1, FOREIGN_LINE]}, {}, {}, {}, (Code.NOT_PERMITTED, "a.vns")),
        # 13, 14
        ({"numbers": [ANNE, ANNE[3:]]}, {}, {}, {}, (Code.ALL_DUPLICATES, "a.numbers")),
        ({}, {"numbers": [BEENA, ANNE]}, {}, {}, (Code.BOTH_SIDES, "b.numbers")),
        # 19
        (
            {"pin": Pin("1")},
            {"pin": Pin("1"), "virtual_numbers": [LINE_1]},
            {},
            {},
            (Code.PIN_OR_NUMBER_TAKEN, "b.pin"),
        ),
    ],
)
def test_what_a_create_can_get_wrong(
    a: dict[str, Any],
    b: dict[str, Any],
    rest: dict[str, Any],
    settings: dict[str, Any],
    expected: tuple[Code, str],
) -> None:
    assert fault_of(lambda: proposed(draft(a, b, **rest), TenantSettings(**settings))) == expected


@pytest.mark.parametrize(
    ("a", "b", "rest", "settings"),
    [
        ({"numbers": None}, {}, {}, {}),
        ({}, {"numbers": []}, {}, {}),
        ({"numbers": None}, {}, {"usage": Usage.ONEWAY}, {}),
        ({}, {"virtual_numbers": None}, {}, {}),
        ({}, {}, {}, {"a_pin_enabled": False, "b_pin_enabled": False}),
        ({}, {"numbers": None}, {}, {"b_pin_enabled": False, "common_pin_enabled": True}),
        ({"pin": Pin("1")}, {"pin": Pin("1")}, {}, {"common_pin_enabled": True}),
        ({"pin": Pin("1")}, {"pin": Pin("1")}, {}, {}),
        ({"numbers": [ANNE, ANNE, ARUN]}, {}, {}, {}),
        ({}, {"numbers": [AMERICAN]}, {}, {"foreign_numbers_allowed": True}),
    ],
)
def test_what_is_no_mistake(
    a: dict[str, Any], b: dict[str, Any], rest: dict[str, Any], settings: dict[str, Any]
) -> None:
    proposed(draft(a, b, **rest), TenantSettings(**settings), dice=dice_of(0, 1, 2))


def test_a_number_given_twice_is_kept_once_where_it_came_first() -> None:
    party = proposed(draft({"numbers": [ARUN, ANNE, ARUN[3:], "0" + ANNE[3:]]})).allocation.a
    assert party.numbers == (number(ARUN), number(ANNE))


def test_a_wrong_number_is_not_a_missing_one() -> None:
    asked = draft({"numbers": None}, {"numbers": ["12"]}, usage=Usage.ONEWAY)
    assert fault_of(lambda: proposed(asked)) == (Code.BAD_NUMBER, "b.numbers")


@pytest.mark.parametrize(("field", "is_there"), [("a.numbers", True), ("b.numbers", True), ("usage", False)])
def test_a_list_of_wrong_form_is_not_a_missing_one(field: str, is_there: bool) -> None:
    asked = draft({"numbers": None}, {"numbers": None}, faults=(Fault(Code.BAD, field, f"{field}: no."),))
    code, _ = fault_of(lambda: proposed(asked))
    assert code is (Code.BAD if is_there else Code.MISSING)
    lines = draft(
        {"virtual_numbers": None}, {"virtual_numbers": None}, faults=(Fault(Code.BAD, "b.vns", "b.vns: no."),)
    )
    assert fault_of(lambda: proposed(lines)) == (Code.BAD, "b.vns")


def test_of_many_faults_the_first_in_order_is_answered() -> None:
    """3, 5, 16, 8, 13, 14, whatever their order in the request."""
    asked = draft(
        {"numbers": [ANNE, ANNE], "virtual_numbers": [FOREIGN_LINE]},
        {"numbers": [ANNE, "12"]},
        faults=(
            Fault(Code.BAD, "usage", "usage: no."),
            Fault(Code.MISSING, "transaction_id", "transaction_id?"),
        ),
    )
    seen = []
    for _ in range(6):
        code, at = fault_of(lambda asked=asked: proposed(asked))
        seen.append(code)
        match code:
            case Code.MISSING | Code.BAD:
                asked = replace(asked, faults=tuple(f for f in asked.faults if f.code is not code))
            case Code.BAD_NUMBER:
                asked = replace(asked, b=replace(asked.b, numbers=[ANNE]))
            case Code.NOT_PERMITTED:
                asked = replace(asked, a=replace(asked.a, virtual_numbers=[LINE_1]))
            case Code.ALL_DUPLICATES:
                asked = replace(asked, a=replace(asked.a, numbers=[ANNE]))
            case _:
                assert at == "b.numbers"
    assert seen == [code for code in PRECEDENCE if code in (3, 5, 16, 8, 13, 14)]


def test_a_drained_vn_gets_no_new_allocation_and_keeps_those_it_has() -> None:
    pool = ListPool(drained=frozenset({E164(LINE_1), E164(LINE_3)}))
    assert fault_of(lambda: proposed(draft(), pool=pool)) == (Code.NOT_PERMITTED, "a.vns")
    current = proposed(draft())
    becomes = revised(current, Draft(b=PartyDraft(virtual_numbers=[LINE_2, LINE_1])), pool=pool)
    assert becomes.allocation.b.virtual_numbers == (number(LINE_2), number(LINE_1))
    to_another = Draft(b=PartyDraft(virtual_numbers=[LINE_3]))
    assert fault_of(lambda: revised(current, to_another, pool=pool)) == (Code.NOT_PERMITTED, "b.vns")


def test_vns_are_inherited_once_and_in_both_directions() -> None:
    given_a = draft({"virtual_numbers": [LINE_2, LINE_1]}, {"virtual_numbers": None})
    given_b = draft({"virtual_numbers": []}, {"virtual_numbers": [LINE_3]})
    assert proposed(given_a, dice=dice_of(1, 2)).allocation.b.virtual_numbers == (
        number(LINE_2),
        number(LINE_1),
    )
    made = proposed(given_b, dice=dice_of(1, 2))
    assert made.allocation.a.virtual_numbers == (number(LINE_3),)
    later = revised(made, Draft(b=PartyDraft(virtual_numbers=[LINE_2])))
    assert later.allocation.a.virtual_numbers == (number(LINE_3),)
    assert later.allocation.b.virtual_numbers == (number(LINE_2),)


@pytest.mark.parametrize("a_on", [True, False])
@pytest.mark.parametrize("b_on", [True, False])
@pytest.mark.parametrize("common", [True, False])
def test_flags_decide_who_has_a_pin_and_who_enters_it(a_on: bool, b_on: bool, common: bool) -> None:
    settings = TenantSettings(a_pin_enabled=a_on, b_pin_enabled=b_on, common_pin_enabled=common)
    allocation = proposed(draft(), settings, dice=dice_of(1, 2)).allocation
    assert (allocation.a.pin is not None, allocation.b.pin is not None) == (a_on or common, b_on or common)
    assert (allocation.a.listed_need_pin, allocation.b.listed_need_pin) == (a_on, b_on)
    assert (allocation.a.pin == allocation.b.pin) == (common or not (a_on or b_on))


def test_the_lengths_come_from_the_request_else_from_the_settings() -> None:
    settings = TenantSettings(a_pin_length=2, b_pin_length=9, common_pin_length=7)
    plain = proposed(draft(), settings, dice=dice_of(1, 2)).allocation
    assert [len(plain.party(side).pin or "") for side in Side] == [2, 9]
    asked = proposed(draft({"pin_length": 5}), settings, dice=dice_of(1, 2)).allocation
    assert [len(asked.party(side).pin or "") for side in Side] == [5, 9]
    common = replace(settings, common_pin_enabled=True)
    assert len(proposed(draft(), common).allocation.a.pin or "") == 7
    assert len(proposed(draft(b={"pin_length": 3}), common).allocation.a.pin or "") == 3


def test_the_end_is_the_duration_cut_to_the_longest() -> None:
    for duration_s, longest_s, end_us in (
        (60, 3600, NOW_US + 60_000_000),
        (7200, 3600, NOW_US + 3_600_000_000),
        (None, 3600, NOW_US + 3_600_000_000),
        (None, None, NEVER_US),
        (10**15, None, NOW_US + LIFE_S_MAX * 1_000_000),
    ):
        settings = TenantSettings(deallocation_s_max=longest_s)
        assert (
            proposed(draft(duration_s=duration_s), settings, dice=dice_of(1)).allocation.expires_at_us
            == end_us
        )


# ── PINs drawn ───────────────────────────────────────────────────────────────

lines = st.sets(st.sampled_from([E164(LINE_1), E164(LINE_2)]), min_size=1)
digits = st.sampled_from("0123456789")
taken_pins = st.frozensets(st.tuples(st.sampled_from([E164(LINE_1), E164(LINE_2)]), digits), max_size=20)


@given(
    lines,
    taken_pins,
    st.lists(st.one_of(st.none(), digits.map(Pin)), max_size=3),
    st.lists(st.integers(0, 9), max_size=40),
)
@example({E164(LINE_1)}, frozenset((E164(LINE_1), digit) for digit in "012345678"), [], [])
@example({E164(LINE_1)}, frozenset((E164(LINE_1), digit) for digit in "0123456789"), [], [])
def test_a_free_pin_is_found_if_there_is_one(
    on: set[E164],
    taken: frozenset[tuple[E164, str]],
    others: list[Pin | None],
    throws: list[int],
) -> None:
    free = {
        digit
        for digit in "0123456789"
        if Pin(digit) not in others and not any((line, digit) in taken for line in on)
    }
    pool = ListPool(taken=taken)
    if free:
        assert draw_pin(1, on, others, pool, dice_of(*throws), "a.pin").digits in free
    else:
        assert fault_of(lambda: draw_pin(1, on, others, pool, dice_of(*throws), "a.pin")) == (
            Code.NOTHING_FREE,
            "a.pin",
        )


@given(st.integers(1, 9), st.integers(0, 10**9))
def test_a_drawn_pin_is_the_throw_with_its_leading_zeros(length: int, throw: int) -> None:
    pin = draw_pin(length, [E164(LINE_1)], [], ListPool(), dice_of(throw), "a.pin")
    assert pin.digits == str(throw % 10**length).rjust(length, "0")


def test_two_drawn_pins_of_one_allocation_differ() -> None:
    """Also when both sides have the same VNs and the dice fall equal."""
    allocation = proposed(draft(b={"virtual_numbers": [LINE_1]}), dice=dice_of(*[7] * 3, 8)).allocation
    assert allocation.a.pin != allocation.b.pin
    given_b = proposed(
        draft(b={"virtual_numbers": [LINE_1], "pin": Pin("0007")}), dice=dice_of(7, 9)
    ).allocation
    assert (given_b.a.pin, given_b.b.pin) == (Pin("0009"), Pin("0007"))


# ── update ───────────────────────────────────────────────────────────────────

pins = st.sampled_from(["1", "2", "11"]).map(Pin)
few_lines = st.lists(st.sampled_from([LINE_1, LINE_2, LINE_3]), min_size=1, max_size=2)


def party_drafts(*people: str) -> st.SearchStrategy[PartyDraft]:
    numbers = st.lists(st.sampled_from(people), min_size=1, max_size=3, unique=True)
    return st.builds(
        PartyDraft,
        numbers | numbers | st.sampled_from([None, []]),
        few_lines | few_lines | st.none(),
        st.none() | pins,
        st.none() | st.integers(1, 3),
    )


# ARUN on both sides and BEENA in three spellings, now and then.
drafts = st.builds(
    Draft,
    party_drafts(ANNE, ARUN, BIJU),
    party_drafts(BEENA, ARUN[3:], "0" + BEENA[3:], BEENA),
    st.none() | st.sampled_from(Usage),
    st.none() | st.integers(1, 10**6),
)
flags = st.booleans()
tenants = st.builds(
    TenantSettings,
    a_pin_enabled=flags,
    b_pin_enabled=flags,
    common_pin_enabled=flags,
    a_pin_length=st.integers(1, 2),
    deallocation_s_max=st.sampled_from([None, 3600]),
)
throws = st.lists(st.integers(0, 999), max_size=8)


def tried(call: Any) -> Standing | None:
    try:
        standing: Standing = call()
    except Unacceptable:
        return None
    return standing


def assert_sound(standing: Standing) -> None:
    """What routing.md says must hold of every allocation by itself."""
    allocation = standing.allocation
    assert not set(allocation.a.numbers) & set(allocation.b.numbers)
    assert allocation.usage is Usage.TWOWAY or allocation.b.numbers
    assert allocation.a.numbers or allocation.b.numbers
    for side in Side:
        party = allocation.party(side)
        assert party.virtual_numbers
        assert party.numbers or party.pin is not None
        assert party.pin is not None or not party.listed_need_pin
        for numbers in (party.numbers, party.virtual_numbers):
            assert len(set(numbers)) == len(numbers)
    if allocation.common_pin:
        assert allocation.a.pin == allocation.b.pin is not None
    elif set(allocation.a.virtual_numbers) & set(allocation.b.virtual_numbers):
        assert allocation.a.pin is None or allocation.a.pin != allocation.b.pin


@given(drafts, tenants, throws)
def test_whatever_is_proposed_is_sound(asked: Draft, settings: TenantSettings, thrown: list[int]) -> None:
    standing = tried(lambda: proposed(asked, settings, dice=dice_of(*thrown)))
    assume(standing is not None)
    assert standing is not None
    assert_sound(standing)
    for side in Side:
        given_pin = asked.party(side).pin
        party = standing.allocation.party(side)
        if given_pin is not None and party.pin is not None and not settings.common_pin_enabled:
            assert party.pin == given_pin


@given(drafts, drafts, tenants, tenants, throws)
def test_whatever_is_revised_is_sound_and_only_what_is_named_changes(
    first: Draft, change: Draft, settings: TenantSettings, later: TenantSettings, thrown: list[int]
) -> None:
    current = tried(lambda: proposed(first, settings, dice=dice_of(*thrown)))
    assume(current is not None)
    assert current is not None
    becomes = tried(lambda: revised(current, change, later, dice=dice_of(*thrown), now_us=NOW_US + 5))
    assume(becomes is not None)
    assert becomes is not None
    assert_sound(becomes)
    was, now = current.allocation, becomes.allocation
    assert (becomes.version, becomes.client_id, becomes.created_at_us) == (
        current.version + 1,
        current.client_id,
        current.created_at_us,
    )
    assert (now.id, now.common_pin) == (was.id, was.common_pin)
    if change.usage is None:
        assert now.usage is was.usage
    if change.duration_s is None:
        assert now.expires_at_us == was.expires_at_us
    for side in Side:
        asked, before, after = change.party(side), was.party(side), now.party(side)
        assert after.listed_need_pin == before.listed_need_pin
        assert (after.pin is None) == (before.pin is None)
        if asked.numbers is None:
            assert after.numbers == before.numbers
        if not asked.virtual_numbers:
            assert after.virtual_numbers == before.virtual_numbers
        if not was.common_pin and before.pin is not None:
            if asked.pin is not None:
                assert after.pin == asked.pin
            elif asked.pin_length in (None, len(before.pin)):
                assert after.pin == before.pin
            else:
                assert after.pin is not None
                assert len(after.pin) == asked.pin_length


@given(drafts, tenants, tenants, throws)
def test_own_values_again_change_nothing(
    asked: Draft, settings: TenantSettings, later: TenantSettings, thrown: list[int]
) -> None:
    current = tried(lambda: proposed(asked, settings, dice=dice_of(*thrown)))
    assume(current is not None)
    assert current is not None
    allocation = current.allocation
    a, b = (
        PartyDraft(
            [number.plus for number in party.numbers],
            [number.plus for number in party.virtual_numbers],
            party.pin,
            None if party.pin is None else len(party.pin),
        )
        for party in (allocation.a, allocation.b)
    )
    own = Draft(a, b, allocation.usage)
    assert revised(current, own, later).allocation == allocation
    assert revised(current, Draft(), later).allocation == allocation


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Draft(PartyDraft(numbers=[]), PartyDraft(numbers=[])), (Code.MISSING, "a.numbers")),
        (Draft(b=PartyDraft(numbers=[]), usage=Usage.ONEWAY), (Code.MISSING, "b.numbers")),
        (Draft(PartyDraft(numbers=["12"])), (Code.BAD_NUMBER, "a.numbers")),
        (Draft(PartyDraft(numbers=[LINE_1])), (Code.BAD_NUMBER, "a.numbers")),
        (Draft(PartyDraft(virtual_numbers=[FOREIGN_LINE])), (Code.NOT_PERMITTED, "a.vns")),
        (Draft(PartyDraft(numbers=[ARUN, ARUN])), (Code.ALL_DUPLICATES, "a.numbers")),
        (Draft(PartyDraft(numbers=[BEENA])), (Code.BOTH_SIDES, "b.numbers")),
        (
            Draft(b=PartyDraft(virtual_numbers=[LINE_1], pin=Pin("0001"))),
            (Code.PIN_OR_NUMBER_TAKEN, "b.pin"),
        ),
        (
            Draft(usage=Usage.ONEWAY, b=PartyDraft(numbers=[]), faults=(Fault(Code.BAD, "a", "a: no."),)),
            (Code.MISSING, "b.numbers"),
        ),
        (
            Draft(usage=Usage.ONEWAY, faults=(Fault(Code.BAD, "b.numbers", "b.numbers: no."),)),
            (Code.BAD, "b.numbers"),
        ),
    ],
)
def test_what_an_update_can_get_wrong(change: Draft, expected: tuple[Code, str]) -> None:
    current = proposed(draft({"pin": Pin("0001")}, {"pin": Pin("0002")}))
    assert fault_of(lambda: revised(current, change)) == expected


def test_an_update_to_another_length_finds_none_free() -> None:
    current = proposed(draft(), dice=dice_of(1, 2))
    pool = ListPool(taken=frozenset((E164(LINE_1), str(digit)) for digit in range(10)))
    change = Draft(PartyDraft(pin_length=1))
    assert fault_of(lambda: revised(current, change, pool=pool)) == (Code.NOTHING_FREE, "a.pin_length")


def test_two_different_common_pins_are_refused() -> None:
    current = proposed(draft(), TenantSettings(common_pin_enabled=True))
    change = Draft(PartyDraft(pin=Pin("1")), PartyDraft(pin=Pin("2")))
    assert fault_of(lambda: revised(current, change)) == (Code.BAD, "b.pin")


def test_messages_hide_numbers_and_pins() -> None:
    current = proposed(draft({"pin": Pin("4321")}, {"pin": Pin("8765")}))
    for change in (
        Draft(b=PartyDraft(virtual_numbers=[LINE_1], pin=Pin("4321"))),
        Draft(PartyDraft(numbers=[BEENA])),
        Draft(PartyDraft(numbers=[LINE_1])),
        Draft(PartyDraft(virtual_numbers=[FOREIGN_LINE])),
    ):
        with pytest.raises(Unacceptable) as refused:
            revised(current, change)
        for secret in ("4321", "8765", BEENA[3:], LINE_1[3:], FOREIGN_LINE[3:]):
            assert secret not in refused.value.fault.message
