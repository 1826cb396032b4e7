"""When an event is sent again: the schedule, and what receivers may ask for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.clock import SECOND_US, to_datetime
from cordboard.webhooks.schedule import (
    ASKED_WAIT_S_MAX,
    DEAD_AFTER_S,
    JITTER,
    WAITS_S,
    asked_wait_us,
    next_attempt_us,
)

from .outbox import NOW_US


def test_the_waits_grow_as_promised() -> None:
    now_us, attempts, waits = NOW_US, 0, []
    while True:
        attempts += 1
        due_us = next_attempt_us(NOW_US, attempts, now_us, lambda: 0.5)
        if due_us is None:
            break
        waits.append((due_us - now_us) // SECOND_US)
        now_us = due_us
    assert waits == [1, 5, 30, 120, 600, 1_800, 3_600, 7_200] + [14_400] * 5
    assert attempts == 14
    assert sum(waits) < DEAD_AFTER_S <= sum(waits) + 14_400


@given(attempts=st.integers(1, 100), roll=st.floats(0, 1, exclude_max=True), age_s=st.integers(0, 100_000))
def test_no_wait_is_far_from_its_place_in_the_schedule(attempts: int, roll: float, age_s: int) -> None:
    now_us = NOW_US + age_s * SECOND_US
    wait_s = WAITS_S[min(attempts, len(WAITS_S)) - 1]
    due_us = next_attempt_us(NOW_US, attempts, now_us, lambda: roll)
    if due_us is None:
        assert age_s + wait_s * (1 + JITTER) >= DEAD_AFTER_S
    else:
        assert wait_s * (1 - JITTER) - 1 <= (due_us - now_us) / SECOND_US <= wait_s * (1 + JITTER)
        assert due_us - NOW_US < DEAD_AFTER_S * SECOND_US


@given(
    attempts=st.integers(1, 100),
    roll=st.floats(0, 1, exclude_max=True),
    age_s=st.integers(0, 100_000),
    asked_s=st.integers(0, 2 * ASKED_WAIT_S_MAX),
)
def test_nothing_is_sent_before_it_was_asked_for_nor_put_off_without_end(
    attempts: int, roll: float, age_s: int, asked_s: int
) -> None:
    now_us = NOW_US + age_s * SECOND_US
    by_schedule_us = next_attempt_us(NOW_US, attempts, now_us, lambda: roll)
    due_us = next_attempt_us(NOW_US, attempts, now_us, lambda: roll, asked_wait_us=asked_s * SECOND_US)
    if by_schedule_us is None or due_us is None:
        assert due_us is by_schedule_us, "asking neither ends an event nor keeps one"
        return
    last_us = NOW_US + DEAD_AFTER_S * SECOND_US - 1
    bounded_s = min(asked_s, ASKED_WAIT_S_MAX)
    assert due_us >= by_schedule_us
    assert due_us >= min(now_us + bounded_s * SECOND_US, last_us)
    assert due_us <= max(by_schedule_us, now_us + bounded_s * (1 + JITTER) * SECOND_US)
    assert due_us <= last_us


def test_an_event_is_tried_right_before_its_end_if_it_was_asked_to_wait_beyond_it() -> None:
    short_s, asked_us = 600.0, 1_200 * SECOND_US
    due_us = next_attempt_us(NOW_US, 1, NOW_US, lambda: 0.5, short_s, asked_us)
    assert due_us == NOW_US + 600 * SECOND_US - 1
    assert next_attempt_us(NOW_US, 2, due_us, lambda: 0.5, short_s, asked_us) is None


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        (None, 0),
        ("0", 0),
        (" 7 ", 7),
        ("Tue, 09 Nov 2021 04:39:25 GMT", 10),
        ("Tuesday, 09-Nov-21 04:39:25 GMT", 10),
        ("Tue Nov  9 04:39:25 2021", 10),
        ("Tue, 09 Nov 2021 10:09:25 +0530", 10),
        ("Tue, 09 Nov 2021 04:39:25 -0000", 10),
        # Past.
        ("Tue, 09 Nov 2021 04:39:05 GMT", 0),
        ("", 0),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
        ("9" * 5_000, 0),
        ("Tue, 99 Nov 2021 04:39:25 GMT", 0),
        ("Tue, 09 Nov 2021 04:39:25 +99999999999999", 0),
    ],
)
def test_seconds_and_dates_are_read_and_anything_else_asks_for_nothing(text: str | None, wait_s: int) -> None:
    assert asked_wait_us(text, NOW_US) == wait_s * SECOND_US


@given(text=st.text(st.characters(codec="latin-1"), max_size=60))
def test_no_header_is_too_strange(text: str) -> None:
    assert asked_wait_us(text, NOW_US) >= 0


@given(seconds=st.integers(0, 10**9))
def test_a_date_and_its_seconds_ask_for_the_same(seconds: int) -> None:
    moment = to_datetime(NOW_US) + timedelta(seconds=seconds)
    assert isinstance(moment, datetime)
    date = format_datetime(moment.astimezone(UTC), usegmt=True)
    assert asked_wait_us(date, NOW_US) == asked_wait_us(str(seconds), NOW_US) == seconds * SECOND_US
