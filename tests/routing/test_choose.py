"""Which VN is chosen: a table of the rules one by one, and a scan of the whole pool that must agree.

Few VNs, regions, people and PINs, so that collisions are common.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.routing.choose import Wanted, choose
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.tenant import VnChoice

from .number_pool import ListedPool, Vn

ANNE, BEENA, CARA = (E164(919800000021 + n) for n in range(3))
PIN_1, PIN_2 = Pin("1234"), Pin("2345")
KA_MOBILE, KA_LANDLINE, DL_MOBILE, BUSY_KA_MOBILE, PLAIN, RESERVED, DRAINED, ALONE = (
    E164(918000000010 + n) for n in range(8)
)
FOREIGN = E164(918000000099)
POOL = ListedPool(
    (
        Vn(KA_MOBILE, "KA", "mobile", load=3),
        Vn(KA_LANDLINE, "KA", "landline", load=2),
        Vn(DL_MOBILE, "DL", "mobile", load=1),
        Vn(BUSY_KA_MOBILE, "KA", "mobile", load=9),
        Vn(PLAIN, load=4),
        Vn(RESERVED, "KA", "mobile", is_reserved=True),
        Vn(DRAINED, "KA", "mobile", is_drained=True),
        Vn(ALONE, "KA", "mobile", load=1, exclusive=1),
    )
)


def wanted(**asked: Any) -> Wanted:
    return Wanted(**{"numbers": (ANNE, BEENA), "pins": ()} | asked)


def everywhere(who: E164, *but: E164) -> frozenset[tuple[E164, E164]]:
    return frozenset((vn.number, who) for vn in POOL.vns if vn.number not in but)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        # Least loaded, whatever it is.
        ({}, DL_MOBILE),
        # What meets the most preferences, and of those the least loaded.
        ({"region": "KA"}, KA_LANDLINE),
        ({"region": "KA", "type": "mobile"}, KA_MOBILE),
        ({"region": "DL", "type": "landline"}, DL_MOBILE),
        ({"region": "TN"}, DL_MOBILE),
        ({"type": "landline", "region": "TN"}, KA_LANDLINE),
        # By name: worth as much as any other preference, and the first of equals.
        ({"named": PLAIN}, PLAIN),
        ({"named": PLAIN, "region": "DL"}, PLAIN),
        ({"named": PLAIN, "region": "DL", "type": "mobile"}, DL_MOBILE),
        ({"named": BUSY_KA_MOBILE, "region": "KA", "type": "mobile"}, BUSY_KA_MOBILE),
        ({"named": RESERVED}, RESERVED),
        ({"named": DRAINED}, DL_MOBILE),
        ({"named": ALONE}, DL_MOBILE),
        ({"named": FOREIGN}, DL_MOBILE),
        # All or nothing.
        ({"is_strict": True}, DL_MOBILE),
        ({"is_strict": True, "region": "KA", "type": "landline"}, KA_LANDLINE),
        ({"is_strict": True, "region": "DL", "type": "landline"}, None),
        ({"is_strict": True, "region": "TN"}, None),
        ({"is_strict": True, "named": PLAIN}, PLAIN),
        ({"is_strict": True, "named": PLAIN, "region": "KA"}, None),
        ({"is_strict": True, "named": RESERVED, "region": "KA", "type": "mobile"}, RESERVED),
        ({"is_strict": True, "named": DRAINED}, None),
        ({"is_strict": True, "named": ALONE}, None),
        ({"is_strict": True, "named": FOREIGN}, None),
        # The default region decides between equals and can fail nobody.
        ({"default_region": "KA"}, KA_LANDLINE),
        ({"default_region": "KA", "type": "mobile"}, KA_MOBILE),
        ({"default_region": "TN", "is_strict": True}, DL_MOBILE),
        ({"default_region": "DL", "named": PLAIN}, PLAIN),
        # Leaving a VN: any other, or the same one by name.
        ({"present": DL_MOBILE}, KA_LANDLINE),
        ({"present": DL_MOBILE, "named": DL_MOBILE}, DL_MOBILE),
        ({"present": DL_MOBILE, "region": "DL"}, KA_LANDLINE),
        ({"present": DL_MOBILE, "region": "DL", "is_strict": True}, None),
    ],
)
def test_the_rules_one_by_one(asked: dict[str, Any], chosen: E164 | None) -> None:
    assert choose(wanted(**asked), POOL) == chosen


@pytest.mark.parametrize("who", [ANNE, BEENA])
def test_a_vn_where_a_listed_number_has_a_route_is_not_chosen(who: E164) -> None:
    pool = POOL.but(occupied=frozenset({(DL_MOBILE, who), (KA_LANDLINE, CARA)}))
    assert choose(wanted(), pool) == KA_LANDLINE
    assert choose(wanted(named=DL_MOBILE), pool) == KA_LANDLINE
    assert choose(wanted(named=DL_MOBILE, is_strict=True), pool) is None


def test_a_vn_where_a_pin_is_taken_is_not_chosen() -> None:
    pool = POOL.but(held=frozenset({(DL_MOBILE, PIN_1)}))
    assert choose(wanted(pins=(PIN_2, PIN_1)), pool) == KA_LANDLINE
    assert choose(wanted(pins=(PIN_2,)), pool) == DL_MOBILE


def test_what_earlier_tries_lost_is_avoided() -> None:
    pool = POOL.but(avoided=frozenset({DL_MOBILE, PLAIN}))
    assert choose(wanted(named=PLAIN), pool) == KA_LANDLINE


def test_an_allocation_that_has_ended_gives_way_where_nothing_else_is_free() -> None:
    pool = POOL.but(occupied=everywhere(ANNE), ended=frozenset({(KA_MOBILE, ANNE)}))
    assert choose(wanted(), pool) == KA_MOBILE
    assert choose(wanted(), pool.but(ended=frozenset())) is None


def test_where_the_allocation_stands_its_own_routes_are_not_in_the_way() -> None:
    pool = POOL.but(occupied=frozenset({(KA_MOBILE, ANNE), (KA_MOBILE, BEENA)}))
    assert choose(wanted(present=KA_MOBILE, named=KA_MOBILE, is_strict=True), pool) == KA_MOBILE
    assert choose(wanted(present=KA_MOBILE), pool.but(occupied=everywhere(ANNE))) is None


@pytest.mark.parametrize(
    ("choice", "last", "asked", "chosen"),
    [
        (VnChoice.PREFER_STICKY, PLAIN, {}, PLAIN),
        (VnChoice.PREFER_STICKY, None, {}, DL_MOBILE),
        (VnChoice.PREFER_STICKY, BUSY_KA_MOBILE, {"region": "KA"}, BUSY_KA_MOBILE),
        # Stickiness is for equals only.
        (VnChoice.PREFER_STICKY, PLAIN, {"region": "KA"}, KA_LANDLINE),
        (VnChoice.PREFER_STICKY, PLAIN, {"named": KA_MOBILE}, KA_MOBILE),
        (VnChoice.PREFER_STICKY, RESERVED, {}, DL_MOBILE),
        (VnChoice.PREFER_STICKY, DRAINED, {}, DL_MOBILE),
        (VnChoice.PREFER_STICKY, FOREIGN, {}, DL_MOBILE),
        (VnChoice.PREFER_STICKY, PLAIN, {"present": PLAIN}, DL_MOBILE),
        (VnChoice.AVOID_STICKY, DL_MOBILE, {}, KA_LANDLINE),
        (VnChoice.AVOID_STICKY, PLAIN, {}, DL_MOBILE),
        # Rather the same one than none, or a worse one.
        (VnChoice.AVOID_STICKY, DL_MOBILE, {"region": "DL"}, DL_MOBILE),
        (VnChoice.AVOID_STICKY, DL_MOBILE, {"named": DL_MOBILE}, DL_MOBILE),
        (VnChoice.LEAST_LOADED, PLAIN, {}, DL_MOBILE),
    ],
)
def test_the_vn_that_a_pair_had_before(
    choice: VnChoice, last: E164 | None, asked: dict[str, Any], chosen: E164
) -> None:
    assert choose(wanted(choice=choice, **asked), POOL.but(last_of_pair=last)) == chosen


@pytest.mark.parametrize("choice", [VnChoice.PREFER_STICKY, VnChoice.AVOID_STICKY])
def test_stickiness_does_not_see_through_what_is_blocked(choice: VnChoice) -> None:
    pool = POOL.but(occupied=frozenset({(PLAIN, ANNE)}), last_of_pair=PLAIN)
    assert choose(wanted(choice=choice), pool) == DL_MOBILE


# ── a scan of everything ─────────────────────────────────────────────────────

NUMBERS = (KA_MOBILE, KA_LANDLINE, DL_MOBILE, PLAIN, RESERVED)
regions = st.sampled_from(("KA", "DL", None))
types = st.sampled_from(("mobile", "landline", None))
people = st.sampled_from((ANNE, BEENA, CARA))
pins = st.sampled_from((PIN_1, PIN_2))
places = st.sampled_from(NUMBERS)
maybe_a_place = st.none() | places | st.just(FOREIGN)


@st.composite
def pools(draw: st.DrawFn) -> ListedPool:
    numbers = draw(st.lists(places, unique=True))
    rarely = st.integers(0, 4).map(lambda n: n == 0)
    vns = tuple(
        Vn(
            number,
            draw(regions),
            draw(types),
            draw(st.integers(0, 2)),
            is_reserved=draw(rarely),
            is_drained=draw(rarely),
            exclusive=int(draw(rarely)),
        )
        for number in numbers
    )
    occupied = draw(st.frozensets(st.tuples(places, people), max_size=6))
    held = draw(st.frozensets(st.tuples(places, pins), max_size=3))
    stands: list[tuple[E164, E164 | Pin]] = [*occupied, *held]
    ended = draw(st.frozensets(st.sampled_from(stands), max_size=3)) if stands else frozenset()
    return ListedPool(
        vns,
        occupied,
        held,
        ended,
        draw(st.frozensets(places, max_size=1)),
        draw(maybe_a_place),
    )


requests = st.builds(
    Wanted,
    numbers=st.lists(people, min_size=1, max_size=2, unique=True).map(tuple),
    pins=st.lists(pins, max_size=2, unique=True).map(tuple),
    named=maybe_a_place,
    region=regions,
    type=types,
    is_strict=st.booleans(),
    default_region=regions,
    choice=st.sampled_from(VnChoice),
    present=st.none() | places,
)


def scanned(asked: Wanted, pool: ListedPool, *, ended_give_way: bool) -> list[Vn]:
    """The best VNs, as good as each other in everything that counts."""

    def is_blocked(vn: Vn) -> bool:
        ended = pool.ended if ended_give_way else frozenset()
        here = {(vn.number, who) for who in (*asked.numbers, *asked.pins)}
        return bool((here & (pool.occupied | pool.held)) - ended) or vn.number in pool.avoided

    def is_candidate(vn: Vn) -> bool:
        is_named = vn.number == asked.named
        if vn.number == asked.present:
            return is_named
        may_be_given = vn.is_open or (is_named and not vn.is_drained and not vn.exclusive)
        return may_be_given and not is_blocked(vn)

    def met(vn: Vn) -> tuple[bool, ...]:
        preferences = ((asked.named, vn.number), (asked.region, vn.region), (asked.type, vn.type))
        return tuple(has == wish for wish, has in preferences if wish is not None)

    def goodness(vn: Vn) -> tuple[int, ...]:
        is_last = vn.number == pool.last_of_pair
        sticky = {
            VnChoice.LEAST_LOADED: 0,
            VnChoice.PREFER_STICKY: is_last,
            VnChoice.AVOID_STICKY: not is_last,
        }
        is_default = asked.default_region is not None and vn.region == asked.default_region
        return (sum(met(vn)), vn.number == asked.named, is_default, sticky[asked.choice], -vn.load)

    candidates = [vn for vn in pool.vns if is_candidate(vn) and (all(met(vn)) or not asked.is_strict)]
    best = max(map(goodness, candidates), default=None)
    return [vn for vn in candidates if goodness(vn) == best]


@given(requests, pools())
def test_a_scan_of_the_whole_pool_agrees(asked: Wanted, pool: ListedPool) -> None:
    best = scanned(asked, pool, ended_give_way=False) or scanned(asked, pool, ended_give_way=True)
    chosen = choose(asked, pool)
    assert chosen in [vn.number for vn in best] if best else chosen is None
