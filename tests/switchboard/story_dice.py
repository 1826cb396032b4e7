"""The dice of the stories: few people, PINs and VNs, so that requests collide in nearly every story.

Hypothesis likes what stands first, so what is refused for its form alone stands last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from cordboard.routing.greenvn import GreenVnDraft, GreenVnParty, Preferences
from cordboard.routing.model import Product, Usage
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.second_generation import SecondDraft
from cordboard.routing.tenant import VnChoice, VnSharing
from tests.switchboard.plain_model import FOREIGN, NONSENSE, Flags, Line

PEOPLE: Final = tuple(E164(919800000021 + n) for n in range(4))
OUTSIDER: Final = E164(919800000099)  # listed by nobody, but may join.
CALLERS: Final = (*PEOPLE, OUTSIDER, None)
PINS: Final = (Pin("1"), Pin("2"), Pin("01"), Pin("12"))
ENTRIES: Final = ("", "1", "2", "01", "12", "9", "1234567890")
CLIENT_IDS: Final = ("ORD-1", "ORD-2", "ORD-3", "ORD-4")
SIDS: Final = ("sid-1", "sid-2", "sid-3")

# The tenant's pool, by place; of other numbers, 9 is the VN of another tenant and 8 no number at all.
POOL: Final = (
    Line(region="KA", type="mobile"),
    Line(region="KA", type="landline"),
    Line(region="MU", type="mobile"),
)
NO_NUMBER: Final = 8
THEIR_VN: Final = 9
# What stands for a VN in a list of people, until the story puts in its own.
A_VN: Final = "a VN"
A_VN_OF_THEIRS: Final = "their VN"

# ── people ───────────────────────────────────────────────────────────────────

_odd_names = st.sampled_from(
    [
        [PEOPLE[0].plus, PEOPLE[0].plus],
        [NONSENSE],
        [FOREIGN],
        [PEOPLE[1].plus, NONSENSE],
        [A_VN],
        [A_VN_OF_THEIRS],
    ]
)
_names = st.lists(st.sampled_from(PEOPLE), max_size=2, unique=True).map(lambda many: [n.plus for n in many])
_one_name = st.sampled_from(PEOPLE).map(lambda number: [number.plus])
_numbers = st.integers(0, 19).flatmap(
    lambda dice: _one_name if dice < 12 else _names if dice < 19 else _odd_names
)


def _people(usual: tuple[E164, ...]) -> st.SearchStrategy[list[str]]:
    """Mostly of those whom this side usually has, so that not every other request has one on both."""
    one = st.sampled_from(usual).map(lambda number: [number.plus])
    two = st.lists(st.sampled_from(usual), min_size=2, max_size=2, unique=True)
    two_names = two.map(lambda many: [number.plus for number in many])
    return st.sampled_from([*[one] * 13, *[two_names] * 5, _names, _odd_names]).flatmap(lambda kind: kind)


_a_people = _people((PEOPLE[0], PEOPLE[1], PEOPLE[0], PEOPLE[2]))
_b_people = _people((PEOPLE[3], PEOPLE[2], PEOPLE[3], PEOPLE[1]))

_nobody: st.SearchStrategy[list[str]] = st.just([])

usages = st.sampled_from([None, None, Usage.TWOWAY, Usage.ONEWAY])
durations = st.sampled_from([5, 30, 60, 600, None])
new_durations = st.sampled_from([None, None, 30, 600])

# ── GreenPin, first generation ───────────────────────────────────────────────

_places = st.sampled_from([[0], [0], [1], [0, 1], [1, 0], [2], [0], [1], [THEIR_VN], [0, NO_NUMBER]])
_maybe_pin = st.sampled_from([*PINS, *PINS, None, None, None])
_maybe_length = st.sampled_from([None, None, None, 2, 2, 3])


@dataclass(frozen=True)
class Asked:
    """A party of a request before the story's numbers are put in."""

    numbers: list[str] | None
    places: list[int] | None
    pin: Pin | None
    pin_length: int | None


new_parties = st.builds(Asked, _numbers, st.one_of(_places, st.none()), _maybe_pin, _maybe_length)
changed_parties = st.builds(
    Asked,
    st.one_of(st.none(), st.none(), _numbers),
    st.one_of(st.none(), st.none(), _places),
    st.one_of(st.none(), _maybe_pin),
    st.one_of(st.none(), _maybe_length),
)

# ── GreenVN, first generation ────────────────────────────────────────────────

_pin_lists = st.sampled_from(
    [None, None, (), *((pin,) for pin in PINS), (PINS[0], PINS[2]), (PINS[1], PINS[3]), (PINS[0], PINS[0])]
)
_wishes = st.builds(
    Preferences,
    # Places still, as text.
    virtual_number=st.sampled_from([None, None, None, "0", "1", "2", str(THEIR_VN)]),
    region=st.sampled_from([None, None, None, "KA", "MU", "MU", "DL"]),
    type=st.sampled_from([None, None, None, "mobile", "landline"]),
    is_strict=st.booleans(),
)
_odd_wishes = st.sampled_from([Preferences(virtual_number=str(NO_NUMBER)), Preferences(region="XX")])
preferences = st.integers(0, 19).flatmap(
    lambda dice: st.just(Preferences()) if dice < 10 else _wishes if dice < 19 else _odd_wishes
)
greenvn_drafts = st.builds(
    GreenVnDraft,
    a=st.builds(GreenVnParty, _a_people, _pin_lists),
    b=st.builds(GreenVnParty, _b_people, _pin_lists),
    usage=st.sampled_from([*[Usage.TWOWAY] * 6, *[Usage.ONEWAY] * 3, None]),
    preferences=preferences,
    duration_s=durations,
)
call_parties = st.builds(
    GreenVnDraft,
    a=st.builds(GreenVnParty, st.one_of(st.none(), _a_people), st.one_of(st.none(), _pin_lists)),
    b=st.builds(GreenVnParty, st.one_of(_b_people, st.none()), st.one_of(st.none(), _pin_lists)),
    usage=usages,
)

# ── the second generation ────────────────────────────────────────────────────

# Places still, as text.
_line_texts = st.sampled_from(["0", "1", "2", "0", "1", "2", "0", "1", str(THEIR_VN), str(NO_NUMBER)])
_maybe_to = st.sampled_from([*[_b_people] * 6, st.none(), _nobody]).flatmap(lambda kind: kind)
_records = st.sampled_from([None, None, True, False])
_custom_fields = st.sampled_from([None, None, "order 7"])
_attempts = st.sampled_from([None, 1, 2, 2, 3, 11])
second_drafts = st.builds(
    SecondDraft,
    caller_id_number=_line_texts,
    from_numbers=_a_people,
    to_numbers=_maybe_to,
    duration_s=st.sampled_from([300, 300, 600, None, None, 5]),
    record=_records,
    custom_field=_custom_fields,
    pin_attempts_max=_attempts,
)
second_updates = st.builds(
    SecondDraft,
    from_numbers=st.one_of(st.none(), st.none(), _a_people),
    to_numbers=st.one_of(st.none(), _b_people, _b_people, _nobody),
    duration_s=st.sampled_from([None, None, 300, 600, 5]),
    record=_records,
    custom_field=_custom_fields,
    pin_attempts_max=_attempts,
)
second_call_parties = st.builds(
    SecondDraft,
    from_numbers=st.one_of(st.none(), _a_people),
    to_numbers=st.one_of(st.none(), _b_people),
)
second_swaps = st.builds(SecondDraft, caller_id_number=_line_texts)

# ── how a story opens ────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Opening:
    """One of the rules that allocate, and what it is given."""

    rule: str
    given: dict[str, Any]


def _opening(rule: str, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Opening]:
    return st.fixed_dictionaries(given).map(lambda drawn: Opening(rule, drawn))


# Else every other story would be about hardly anything: half of its rules are switched off by lot.
openings = st.lists(
    st.one_of(
        _opening("allocate_greenvn", client_id=st.sampled_from(CLIENT_IDS), asked=greenvn_drafts),
        _opening("allocate_second", product=st.sampled_from(Product), asked=second_drafts),
        _opening(
            "allocate",
            client_id=st.sampled_from(CLIENT_IDS),
            a=new_parties,
            b=new_parties,
            usage=usages,
            duration_s=durations,
        ),
    ),
    min_size=3,
    max_size=6,
)

# ── tenants ──────────────────────────────────────────────────────────────────

flags = st.builds(
    Flags,
    a_pin=st.sampled_from([True, True, False]),
    b_pin=st.sampled_from([True, True, False]),
    common_pin=st.sampled_from([False, False, False, True]),
    cool_off_s=st.sampled_from([0, 0, 20]),
    vn_sharing=st.sampled_from(VnSharing),
    vn_choice=st.sampled_from(VnChoice),
)
