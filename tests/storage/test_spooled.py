"""What goes through the spool comes out as it went in, as far as the database and the events need it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.routing.model import (
    Admission,
    AllocationId,
    CallRules,
    Connect,
    Matched,
    Product,
    Reason,
    Refuse,
    RightPin,
    Side,
    WrongPin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.progress import digest_of
from cordboard.routing.tenant import (
    DEFAULTS,
    CallbackTimeFormat,
    CallbackTo,
    MissingRecording,
    TenantSettings,
)
from cordboard.storage.calls import CallRow, CallType, KeptRow, NewEnd, row_columns
from cordboard.storage.facts import Insights
from cordboard.storage.outcomes import CallKey, NewOutcome
from cordboard.storage.spooled import Spooled, from_bytes, to_bytes

# What an event is not worded by is not kept.
wordings = st.builds(
    TenantSettings,
    timezone=st.sampled_from(["IST", "UTC"]),
    callback_time_format=st.sampled_from(CallbackTimeFormat),
    missing_recording=st.sampled_from(MissingRecording),
    callback_to=st.sampled_from(CallbackTo),
    tag_enabled=st.booleans(),
    a_tag=st.text(st.characters(codec="utf-8"), max_size=3),
)
texts = st.text(st.characters(codec="utf-8"), max_size=5)
numbers = st.sampled_from([E164(919800000021), E164(14155550100)])
allocation_ids = st.binary(min_size=16, max_size=16).map(AllocationId)
calls = st.builds(CallKey, texts, texts, numbers, st.none() | numbers)
digests = texts.map(digest_of)
right_pins = st.builds(
    RightPin,
    digests,
    st.builds(Admission, allocation_ids, st.sampled_from(Side)),
    st.booleans(),
    st.booleans(),
)
wrong_pins = st.builds(WrongPin, digests, st.none() | allocation_ids)
new_outcomes = st.builds(
    NewOutcome,
    call=calls,
    outcome=right_pins | wrong_pins,
    digits=texts.map(Pin),
    start_time=st.none() | texts,
    settings=wordings,
    at_us=st.integers(0, 2**53),
)
connects = st.builds(
    Connect,
    allocation_id=allocation_ids,
    product=st.sampled_from(Product),
    side=st.sampled_from(Side),
    targets=st.tuples(numbers),
    caller_id=numbers,
    matched=st.sampled_from(Matched),
    outcome=st.none(),
)
refusals = st.builds(
    Refuse, reason=st.sampled_from(Reason), allocation_id=st.none() | allocation_ids, outcome=st.none()
)
rows = st.builds(CallRow, calls, connects | refusals, st.integers(0, 2**53))
new_ends = st.builds(
    NewEnd,
    tenant_id=texts,
    call_sid=texts,
    settings=wordings,
    call_type=st.sampled_from(CallType),
    dial_call_status=st.none() | texts,
    dialled=st.none() | numbers,
    dial_call_duration_s=st.integers(0, 2**31 - 1),
    on_call_duration_s=st.integers(0, 2**31 - 1),
    recording_url=st.none() | texts,
    start_time=st.none() | texts,
    at_us=st.integers(0, 2**53),
    insights=st.none() | st.builds(Insights, status=texts),
    waiting=st.none() | rows,
    derived=st.none() | rows,
)


@given(cell=st.integers(0, 255), new=new_outcomes)
def test_an_outcome_comes_out_as_it_went_in(cell: int, new: NewOutcome) -> None:
    assert from_bytes(to_bytes(Spooled(cell, new))) == Spooled(cell, new)


@given(cell=st.integers(0, 255), new=new_ends)
def test_an_end_comes_out_with_the_columns_of_its_call(cell: int, new: NewEnd) -> None:
    cell_out, end = from_bytes(to_bytes(Spooled(cell, new)))
    assert isinstance(end, NewEnd)
    assert cell_out == cell
    assert replace(end, waiting=None, derived=None) == replace(new, waiting=None, derived=None)
    for out, went_in in ((end.waiting, new.waiting), (end.derived, new.derived)):
        if went_in is None:
            assert out is None
        else:
            assert isinstance(out, KeptRow)
            assert (out.call, dict(out.columns)) == (went_in.call, dict(row_columns(went_in)))
    # Drained twice, it is written twice.
    assert to_bytes(Spooled(cell, end)) == to_bytes(Spooled(cell, new))


def test_settings_that_word_nothing_are_not_kept() -> None:
    new = NewOutcome(
        CallKey("acme", "sid", E164(918000000010), None),
        WrongPin(digest_of("1")),
        Pin("1"),
        None,
        replace(DEFAULTS, call_rules=CallRules(9)),
        0,
    )
    _, out = from_bytes(to_bytes(Spooled(0, new)))
    assert out.settings == DEFAULTS


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"kind": "other"}', b'{"kind": "end", "cell": 1}']
)
def test_what_nobody_wrote_is_refused(body: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_bytes(body)
