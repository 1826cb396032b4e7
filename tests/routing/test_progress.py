"""Calls from hop to hop, as conversations: what the platform sends, and what it is told."""

from __future__ import annotations

from typing import assert_never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordboard.routing.decide import decide
from cordboard.routing.model import (
    NEVER_US,
    NEW_CALL,
    NOT_EXCEEDED,
    Admission,
    Allocation,
    AskPin,
    Call,
    CallRules,
    Connect,
    Decision,
    EmptyEntry,
    Exceeded,
    LastEntry,
    Matched,
    NoEntry,
    Outcome,
    Party,
    PinEntry,
    Product,
    Progress,
    Reason,
    Refuse,
    RightPin,
    Side,
    Usage,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import (
    DIGEST_BYTES,
    Hop,
    after,
    clean_digits,
    digest_of,
    entry_of,
    with_outcome,
)

from .naive_model import (
    NOW_US,
    NUMBERS,
    OUTSIDER,
    VNS,
    ListBoard,
    Row,
    World,
    allocation_id,
    worlds,
)

VN, OTHER_VN, _ = VNS
AGENT, CUSTOMER, FRIEND, _ = NUMBERS
ID = allocation_id(1)

# A's PIN is 11, B's is 22; everybody is asked.
ASKING = Allocation(
    ID,
    Product.GREENPIN,
    Usage.TWOWAY,
    NEVER_US,
    Party((AGENT,), (VN,), (Pin("11"),), listed_need_pin=True),
    Party((CUSTOMER,), (VN,), (Pin("22"),), listed_need_pin=True),
    common_pin=False,
    has_members=False,
)
# Nobody is asked, and there is nothing that could be entered.
OPEN = ASKING._replace(
    a=Party((AGENT,), (VN,), (), listed_need_pin=False),
    b=Party((CUSTOMER,), (VN,), (), listed_need_pin=False),
)
ONEWAY = ASKING._replace(usage=Usage.ONEWAY)


class Conversation:
    """One call on a world that stands still; what is recorded of it is kept as the engine keeps it."""

    def __init__(
        self,
        world: World,
        caller: E164 | None,
        vn: E164 = VN,
        exceeded: Exceeded = NOT_EXCEEDED,
        rules: CallRules = CallRules(),  # noqa: B008 - a tuple
    ) -> None:
        self.world = world
        self.caller = caller
        self.vn = vn
        self.exceeded = exceeded
        self.rules = rules
        self.progress = NEW_CALL
        self.outcomes: list[Outcome] = []

    def hears(self, hop: Hop, digits: str | None = None) -> Decision:
        entry = entry_of(self.progress, clean_digits(digits), hop)
        call = Call(self.vn, self.caller, entry, self.progress, self.exceeded, self.rules)
        decision = decide(call, ListBoard(self.world), NOW_US)
        if decision.outcome is not None:
            self._record(decision.outcome)
        self.progress = after(self.progress, entry, decision, hop)
        return decision

    def gather(self, digits: str | None = None) -> Decision:
        return self.hears(Hop.PROMPT, digits)

    def passthru(self, digits: str | None = None) -> Decision:
        return self.hears(Hop.DECISION, digits)

    def greeting(self, digits: str | None = None) -> Decision:
        return self.hears(Hop.DEAF, digits)

    @property
    def failures(self) -> int:
        return sum(isinstance(outcome, WrongPin) for outcome in self.outcomes)

    def _record(self, outcome: Outcome) -> None:
        digests = [recorded.digest for recorded in self.outcomes]
        assert outcome.digest not in digests, "one outcome per (call, digits)"
        self.outcomes.append(outcome)
        self.progress = with_outcome(self.progress, outcome, self.failures)


def _stage(*allocations: Allocation) -> World:
    return World(frozenset(VNS), tuple(Row(allocation) for allocation in allocations))


def _stranger() -> Conversation:
    return Conversation(_stage(ASKING), OUTSIDER)


def _asked(left: int, last: LastEntry) -> AskPin:
    return AskPin(2, left, last)


def _wrong(digits: str, left: int) -> AskPin:
    return AskPin(2, left, LastEntry.WRONG, WrongPin(digest_of(digits)))


def _joined(digits: str = "22") -> Connect:
    right = RightPin(digest_of(digits), Admission(ID, Side.B), is_stranger=True)
    return Connect(ID, Product.GREENPIN, Side.B, (AGENT,), VN, Matched.PIN, right)


VERIFIED = Connect(ID, Product.GREENPIN, Side.B, (AGENT,), VN, Matched.VERIFIED_BEFORE)
FIRST_TIME = _asked(3, LastEntry.NONE)


# ── conversations ────────────────────────────────────────────────────────────


def test_a_stranger_is_asked_enters_the_pin_and_is_connected() -> None:
    call = _stranger()
    assert call.passthru() == FIRST_TIME
    assert call.gather() == FIRST_TIME
    assert call.passthru("22") == _joined()
    assert call.passthru("22") == VERIFIED
    assert call.outcomes == [_joined().outcome]


def test_a_wrong_pin_is_told_asked_again_and_forgiven_by_the_right_one() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("99") == _wrong("99", 2)
    assert call.gather("99") == _asked(2, LastEntry.WRONG)
    assert call.passthru("22") == _joined()


def test_three_wrong_pins_end_the_call_and_the_right_one_comes_too_late() -> None:
    call = _stranger()
    for digits, answer in (("97", _wrong("97", 2)), ("98", _wrong("98", 1))):
        call.gather()
        assert call.passthru(digits) == answer
    call.gather()
    assert call.passthru("99") == Refuse(Reason.WRONG_PIN, outcome=WrongPin(digest_of("99")))
    assert call.passthru("22") == Refuse(Reason.WRONG_PIN)
    assert call.gather() == Refuse(Reason.WRONG_PIN)
    assert call.failures == 3


def test_a_repeated_wrong_pin_burns_one_attempt() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("99") == _wrong("99", 2)
    for _ in range(5):
        assert call.passthru("99") == _asked(2, LastEntry.WRONG)
    assert call.failures == 1
    assert call.progress.empty_entries == 0


def test_a_repeated_right_pin_makes_one_outcome() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("22") == _joined()
    for _ in range(3):
        assert call.passthru("22") == VERIFIED
    assert len(call.outcomes) == 1


def test_an_older_request_that_comes_late_gets_the_last_answer() -> None:
    call = _stranger()
    call.gather()
    call.passthru("97")
    call.gather()
    assert call.passthru("98") == _wrong("98", 1)
    assert call.passthru("97") == _asked(1, LastEntry.WRONG)
    assert call.failures == 2
    assert call.progress.empty_entries == 0


def test_wrong_digits_that_come_after_the_right_ones_do_not_end_the_call() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("22") == _joined()
    assert call.passthru("99") == VERIFIED
    assert call.failures == 0


def test_digits_that_reach_us_twice_in_the_other_order_are_two_entries() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("99") == _wrong("99", 2)
    assert call.passthru("98") == _wrong("98", 1)
    assert call.passthru("99") == _asked(1, LastEntry.WRONG)
    assert call.passthru("98") == _asked(1, LastEntry.WRONG)


@pytest.mark.parametrize("digits", ["22", '"22"', "22#", '"22#"', ' "22" ', ' " 22 " ', "22##"])
def test_the_pin_is_read_through_quotes_and_a_finishing_key(digits: str) -> None:
    call = _stranger()
    call.gather()
    assert call.passthru(digits) == _joined()


def test_one_entry_in_two_spellings_is_one_entry() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru('"99"') == _wrong("99", 2)
    assert call.passthru("99#") == _asked(2, LastEntry.WRONG)
    assert call.failures == 1


@pytest.mark.parametrize("nothing", [None, "", "null", '"null"', '""', "#", '"#"', " ", '" "'])
def test_two_empty_entries_end_the_call_without_burning_an_attempt(nothing: str | None) -> None:
    call = _stranger()
    assert call.gather(nothing) == FIRST_TIME
    assert call.passthru(nothing) == _asked(3, LastEntry.EMPTY)
    assert call.gather(nothing) == _asked(3, LastEntry.EMPTY)
    assert call.passthru(nothing) == Refuse(Reason.NO_INPUT)
    assert call.outcomes == []


def test_after_two_empty_entries_not_even_the_right_pin_connects() -> None:
    call = _stranger()
    for _ in range(2):
        call.gather()
        call.passthru()
    assert call.gather() == Refuse(Reason.NO_INPUT)
    assert call.passthru("22") == Refuse(Reason.NO_INPUT)
    assert call.outcomes == []


def test_empty_entries_need_not_follow_each_other() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru() == _asked(3, LastEntry.EMPTY)
    call.gather()
    assert call.passthru("99") == _wrong("99", 2)
    call.gather()
    assert call.passthru() == Refuse(Reason.NO_INPUT)


def test_a_repeated_empty_entry_is_one_empty_entry() -> None:
    call = _stranger()
    call.gather()
    for _ in range(4):
        assert call.passthru() == _asked(3, LastEntry.EMPTY)
    assert call.progress.empty_entries == 1


def test_a_prompt_fetched_twice_is_answered_once() -> None:
    call = _stranger()
    for _ in range(4):
        assert call.gather() == FIRST_TIME
    assert call.passthru() == _asked(3, LastEntry.EMPTY)
    assert call.progress.empty_entries == 1


def test_no_digits_before_any_prompt_are_no_empty_entry() -> None:
    call = _stranger()
    for _ in range(4):
        assert call.passthru() == FIRST_TIME
    assert call.progress.empty_entries == 0


def test_old_digits_after_a_new_prompt_are_an_empty_entry() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("99") == _wrong("99", 2)
    assert call.gather("99") == _asked(2, LastEntry.WRONG)
    assert call.passthru("99") == _asked(2, LastEntry.EMPTY)
    assert call.gather("99") == _asked(2, LastEntry.EMPTY)
    assert call.passthru("99") == Refuse(Reason.NO_INPUT)
    assert call.failures == 1


def test_new_digits_on_the_fetch_of_the_next_prompt_are_an_entry() -> None:
    """A flow of prompts alone: each brings the digits of the one before it."""
    call = _stranger()
    assert call.gather() == FIRST_TIME
    assert call.gather("99") == _wrong("99", 2)
    assert call.gather("99") == _asked(2, LastEntry.WRONG)
    assert call.gather("22") == _joined()


def test_a_prompt_that_says_the_pin_was_wrong_is_a_prompt_to_be_answered() -> None:
    call = _stranger()
    call.gather()
    assert call.gather("99") == _wrong("99", 2)
    assert call.passthru("99") == _asked(2, LastEntry.EMPTY)


def test_a_fetch_that_was_refused_prompted_for_nothing() -> None:
    call = Conversation(_stage(ONEWAY), CUSTOMER)
    assert call.gather() == Refuse(Reason.DIRECTION)
    assert call.passthru() == Refuse(Reason.DIRECTION)
    assert call.progress == NEW_CALL


def test_a_greeting_does_not_hear_digits() -> None:
    call = _stranger()
    assert call.greeting("22") == FIRST_TIME
    assert call.greeting("99") == FIRST_TIME
    assert call.progress == NEW_CALL


def test_a_greeting_between_prompt_and_answer_changes_nothing() -> None:
    call = _stranger()
    call.gather()
    assert call.greeting() == FIRST_TIME
    assert call.greeting("99") == FIRST_TIME
    assert call.passthru() == _asked(3, LastEntry.EMPTY)


def test_the_keys_of_a_menu_do_not_disturb_a_listed_caller() -> None:
    call = Conversation(_stage(OPEN), AGENT)
    listed = Connect(ID, Product.GREENPIN, Side.A, (CUSTOMER,), VN, Matched.LISTED)
    for digits in ("1", "1", None, "2"):
        assert call.gather(digits) == listed
        assert call.passthru(digits) == listed
    assert call.progress == NEW_CALL


def test_the_pin_of_a_forbidden_side_burns_nothing_however_often() -> None:
    call = Conversation(_stage(ONEWAY), OUTSIDER)
    call.gather()
    for _ in range(5):
        assert call.passthru("22") == Refuse(Reason.DIRECTION)
    assert call.outcomes == []
    assert call.passthru("11").outcome == RightPin(digest_of("11"), Admission(ID, Side.A), is_stranger=True)


def test_the_first_outcome_of_some_digits_stands_though_the_pin_changes_to_them() -> None:
    call = _stranger()
    call.gather()
    assert call.passthru("33") == _wrong("33", 2)
    call.world = _stage(ASKING._replace(b=ASKING.b._replace(pins=(Pin("33"),))))
    assert call.passthru("33") == _asked(2, LastEntry.WRONG)
    call.gather()
    assert call.passthru("33") == _asked(2, LastEntry.EMPTY)
    assert call.failures == 1


def test_a_changed_pin_does_not_end_a_call_already_verified() -> None:
    call = _stranger()
    call.gather()
    call.passthru("22")
    call.world = _stage(ASKING._replace(b=ASKING.b._replace(pins=(Pin("33"),))))
    assert call.passthru("22") == VERIFIED
    call.world = _stage(ASKING._replace(expires_at_us=NOW_US))
    assert call.passthru("22") == Refuse(Reason.NO_ALLOCATION)


def test_throttled_entries_are_not_remembered_and_may_be_tried_again() -> None:
    call = _stranger()
    call.gather()
    call.exceeded = Exceeded(shared=True)
    assert call.passthru("22") == Refuse(Reason.THROTTLED)
    call.exceeded = NOT_EXCEEDED
    assert call.passthru("22") == _joined()


# ── repeats ──────────────────────────────────────────────────────────────────


def _heard(decision: Decision) -> Decision:
    """The answer as the platform and the parties know it, without how it came about."""
    match decision:
        case Connect():
            return decision._replace(matched=Matched.VERIFIED_BEFORE, outcome=None)
        case AskPin() | Refuse():
            return decision._replace(outcome=None)
        case unmatched:
            assert_never(unmatched)


Said = tuple[Hop, str | None]

_hops: st.SearchStrategy[list[Said]] = st.lists(
    st.tuples(
        st.sampled_from([Hop.PROMPT, Hop.DECISION, Hop.DECISION, Hop.DEAF]),
        st.sampled_from([None, "null", '"1"', "1", "2#", "01", "12", "9", "8", "1234567890"]),
    ),
    min_size=1,
    max_size=8,
)
_conversations = st.builds(
    Conversation,
    worlds(),
    st.sampled_from([*NUMBERS, OUTSIDER, None]),
    st.sampled_from(VNS),
    st.builds(Exceeded, *[st.sampled_from([False] * 5 + [True])] * 2),
    st.builds(CallRules, st.sampled_from([3, 2, 1]), st.just(False)),
)


@settings(max_examples=800, deadline=None)
@given(_conversations, _hops)
def test_a_repeated_hop_burns_no_attempt_and_is_no_empty_entry(call: Conversation, hops: list[Said]) -> None:
    for hop, digits in hops:
        call.hears(hop, digits)
        outcomes, progress = list(call.outcomes), call.progress
        for _ in range(2):
            call.hears(hop, digits)
            assert call.outcomes == outcomes
            assert call.progress == progress


@settings(max_examples=800, deadline=None)
@given(_conversations, _hops)
def test_a_repeated_hop_gets_the_same_answer(call: Conversation, hops: list[Said]) -> None:
    for hop, digits in hops:
        answer = call.hears(hop, digits)
        for _ in range(2):
            assert _heard(call.hears(hop, digits)) == _heard(answer)


@settings(max_examples=500, deadline=None)
@given(_conversations, _hops, st.integers(0, 7))
def test_an_older_hop_that_is_repeated_burns_no_attempt(call: Conversation, hops: list[Said], n: int) -> None:
    for hop, digits in hops:
        call.hears(hop, digits)
    outcomes = list(call.outcomes)
    call.hears(*hops[n % len(hops)])
    # Digits that were throttled or not listened to may be looked at later; what was counted is not
    # counted again.
    digests = [outcome.digest for outcome in call.outcomes]
    assert len(set(digests)) == len(digests)
    assert call.outcomes[: len(outcomes)] == outcomes


@settings(max_examples=500, deadline=None)
@given(_conversations, _hops)
def test_nobody_gets_more_attempts_or_empty_entries_than_the_rules_allow(
    call: Conversation, hops: list[Said]
) -> None:
    for hop, digits in hops:
        answer = call.hears(hop, digits)
        assert call.failures <= call.rules.pin_attempts_max
        assert call.failures == call.progress.failures
        if call.progress.empty_entries >= 2:
            assert not isinstance(answer, AskPin)
        if isinstance(answer, AskPin):
            assert answer.attempts_left == call.rules.pin_attempts_max - call.failures


# ── the two functions themselves ─────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (None, ""),
        ("", ""),
        ("null", ""),
        (" null ", ""),
        ('"null"', ""),
        ("0042", "0042"),
        ('"0042"', "0042"),
        ('"0042#"', "0042"),
        ("0042#", "0042"),
        ("#", ""),
        ("4#2", "4#2"),
        ("#42", "#42"),
        ("*42", "*42"),
        ("NULL", "NULL"),
    ],
)
def test_digits_are_cleaned_of_what_the_platform_adds(text: str | None, clean: str) -> None:
    assert clean_digits(text) == clean


TRIED = Progress(tried=frozenset([digest_of("99")]))
ASKED = NEW_CALL._replace(prompt_open=True)
ASKED_AGAIN = TRIED._replace(prompt_open=True)
NEW = PinEntry(Pin("22"), digest_of("22"))


@pytest.mark.parametrize(
    ("progress", "digits", "hop", "entry"),
    [
        pytest.param(NEW_CALL, "22", Hop.PROMPT, NEW, id="new digits on a prompt"),
        pytest.param(NEW_CALL, "22", Hop.DECISION, NEW, id="new digits on a decision"),
        pytest.param(ASKED, "22", Hop.DECISION, NEW, id="new digits for a prompt"),
        pytest.param(ASKED, "22", Hop.DEAF, NoEntry(), id="new digits that are to be ignored"),
        pytest.param(ASKED, "", Hop.DECISION, EmptyEntry(), id="nothing for a prompt"),
        pytest.param(ASKED, "", Hop.PROMPT, NoEntry(), id="nothing on the next prompt"),
        pytest.param(ASKED, "", Hop.DEAF, NoEntry(), id="nothing on a greeting"),
        pytest.param(NEW_CALL, "", Hop.DECISION, NoEntry(), id="nothing, unprompted"),
        pytest.param(ASKED_AGAIN, "99", Hop.DECISION, EmptyEntry(), id="old digits for a prompt"),
        pytest.param(ASKED_AGAIN, "99", Hop.PROMPT, NoEntry(), id="old digits on the next prompt"),
        pytest.param(TRIED, "99", Hop.DECISION, NoEntry(), id="old digits, unprompted"),
        pytest.param(
            NEW_CALL,
            "4#2",
            Hop.DECISION,
            PinEntry(None, digest_of("4#2")),
            id="what no PIN looks like is an entry",
        ),
    ],
)
def test_a_hop_brings_an_entry(
    progress: Progress, digits: str, hop: Hop, entry: NoEntry | EmptyEntry | PinEntry
) -> None:
    brought = entry_of(progress, digits, hop)
    # Two empty NamedTuples of different types are equal.
    assert type(brought) is type(entry)
    assert brought == entry


@given(st.text("0123456789#*", max_size=10), st.text("0123456789#*", max_size=10))
def test_a_digest_tells_entries_apart(one: str, other: str) -> None:
    assert (digest_of(one) == digest_of(other)) == (one == other)
    assert len(digest_of(one)) == DIGEST_BYTES


def test_a_failure_counted_elsewhere_is_counted_here() -> None:
    """The number of failures is what the outcome's insert returned, not our own sum."""
    progress = with_outcome(NEW_CALL, WrongPin(b"9"), failures=3)
    assert progress == Progress(failures=3, tried=frozenset([b"9"]), last_entry=LastEntry.WRONG)


def test_a_success_is_remembered_with_its_side() -> None:
    admission = Admission(ID, Side.B)
    progress = with_outcome(ASKED_AGAIN, RightPin(b"2", admission, is_stranger=False), failures=1)
    assert progress == Progress(failures=1, tried=frozenset([digest_of("99"), b"2"]), admission=admission)


# ── findings: routing.md says otherwise ──────────────────────────────────────


@pytest.mark.parametrize(
    ("world", "caller"),
    [
        pytest.param(_stage(OPEN), OUTSIDER, id="where there are no PINs at all"),
        pytest.param(_stage(ONEWAY), CUSTOMER, id="where the only route is forbidden"),
        pytest.param(
            _stage(
                ASKING._replace(
                    a=Party((AGENT,), (OTHER_VN,), (), listed_need_pin=False),
                    b=Party((CUSTOMER,), (VN,), (Pin("22"),), listed_need_pin=True),
                )
            ),
            AGENT,
            id="where all PINs are of the opposite side",
        ),
    ],
)
def test_a_repeated_wrong_pin_gets_the_last_answer(world: World, caller: E164) -> None:
    """`without a new gather fetch it repeats the last answer`"""
    call = Conversation(world, caller)
    answer = call.passthru("99")
    assert isinstance(answer, AskPin)
    assert _heard(call.passthru("99")) == _heard(answer)
