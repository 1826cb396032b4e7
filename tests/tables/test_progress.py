"""What is known of a call comes back as it was put, and goes when nobody has heard of the call for long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cordboard.routing.model import NEW_CALL, Admission, AllocationId, LastEntry, Progress, Side
from cordboard.routing.numbers import E164
from cordboard.routing.progress import DIGEST_BYTES
from cordboard.tables.progress import PROGRESS_KEPT_US, SWEEP_CALLS_MAX, ProgressTables, WayIn

VN, OTHER_VN = E164(918000000010), E164(918000000011)
CALLER = E164(919800000021)
NOW_US = 1_767_225_600_000_000


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[ProgressTables]:
    tables = ProgressTables(tmp_path / "progress")
    yield tables
    tables.close()


@pytest.fixture(scope="module")
def shared_tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProgressTables]:
    tables = ProgressTables(tmp_path_factory.mktemp("progress"))
    yield tables
    tables.close()


progresses = st.builds(
    Progress,
    failures=st.integers(0, 2**16 - 1),
    empty_entries=st.integers(0, 2**16 - 1),
    prompt_open=st.booleans(),
    last_entry=st.sampled_from(LastEntry),
    tried=st.frozensets(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES), max_size=5),
    admission=st.none()
    | st.builds(Admission, st.binary(min_size=16, max_size=16).map(AllocationId), st.sampled_from(Side)),
)
keys = st.tuples(
    st.sampled_from([1, 2]),
    st.sampled_from([b"sid", b"sid-2", b"s" * 128]),
    st.sampled_from([VN, OTHER_VN]),
    st.sampled_from([CALLER, None]),
)


@settings(max_examples=100, deadline=None)
@given(kept=st.dictionaries(keys, progresses, max_size=6))
def test_each_call_comes_back_as_it_was_put(
    shared_tables: ProgressTables, kept: dict[tuple[int, bytes, E164, E164 | None], Progress]
) -> None:
    for key, progress in kept.items():
        shared_tables.put(*key, NEW_CALL, NOW_US)
        shared_tables.put(*key, progress, NOW_US)
    for key, progress in kept.items():
        assert shared_tables.get(*key) == progress


def test_what_was_never_put_is_unknown(tables: ProgressTables) -> None:
    tables.put(1, b"sid", VN, CALLER, NEW_CALL, NOW_US)
    assert tables.get(1, b"sid", VN, CALLER) == NEW_CALL
    for other in (
        (2, b"sid", VN, CALLER),
        (1, b"sid", VN, None),
        (1, b"sid", OTHER_VN, CALLER),
        (1, b"si", VN, CALLER),
    ):
        assert tables.get(*other) is None


def test_it_survives_a_restart(tmp_path: Path) -> None:
    tables = ProgressTables(tmp_path / "progress")
    tables.put(1, b"sid", VN, CALLER, NEW_CALL._replace(failures=2), NOW_US)
    tables.close()
    tables = ProgressTables(tmp_path / "progress")
    assert tables.get(1, b"sid", VN, CALLER) == NEW_CALL._replace(failures=2)
    assert tables.way_in(1, b"sid") == WayIn(VN, CALLER)
    tables.close()


def test_the_way_in_is_that_of_the_latest_hop(tables: ProgressTables) -> None:
    assert tables.way_in(1, b"sid") is None
    tables.put(1, b"sid", VN, CALLER, NEW_CALL, NOW_US)
    assert tables.way_in(1, b"sid") == WayIn(VN, CALLER)
    tables.put(1, b"sid", OTHER_VN, None, NEW_CALL, NOW_US + 1)
    assert tables.way_in(1, b"sid") == WayIn(OTHER_VN, None)
    assert tables.way_in(2, b"sid") is None
    assert tables.way_in(1, b"si") is None


@pytest.mark.parametrize(("age_us", "is_kept"), [(PROGRESS_KEPT_US, True), (PROGRESS_KEPT_US + 1, False)])
def test_a_call_is_dropped_four_hours_after_its_last_hop(
    tables: ProgressTables, age_us: int, is_kept: bool
) -> None:
    tables.put(1, b"sid", VN, CALLER, NEW_CALL, NOW_US)
    assert tables.sweep(NOW_US + age_us) == (0 if is_kept else 1)
    assert (tables.get(1, b"sid", VN, CALLER) is not None) is is_kept
    assert (tables.way_in(1, b"sid") is not None) is is_kept


def test_a_later_hop_keeps_the_call(tables: ProgressTables) -> None:
    tables.put(1, b"sid", VN, CALLER, NEW_CALL, NOW_US)
    tables.put(1, b"sid", VN, CALLER, NEW_CALL._replace(failures=1), NOW_US + 1)
    assert tables.sweep(NOW_US + PROGRESS_KEPT_US + 1) == 1
    assert tables.get(1, b"sid", VN, CALLER) == NEW_CALL._replace(failures=1)
    assert tables.sweep(NOW_US + PROGRESS_KEPT_US + 2) == 1
    assert tables.get(1, b"sid", VN, CALLER) is None
    assert tables.sweep(2 * NOW_US) == 0


def test_a_way_in_by_another_caller_outlives_the_first(tables: ProgressTables) -> None:
    tables.put(1, b"sid", VN, CALLER, NEW_CALL, NOW_US)
    tables.put(1, b"sid", VN, None, NEW_CALL, NOW_US + 1)
    tables.sweep(NOW_US + PROGRESS_KEPT_US + 1)
    assert tables.get(1, b"sid", VN, CALLER) is None
    assert tables.get(1, b"sid", VN, None) == NEW_CALL
    assert tables.way_in(1, b"sid") == WayIn(VN, None)


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_a_sweep_takes_a_step_at_a_time(tables: ProgressTables, above: int) -> None:
    for n in range(SWEEP_CALLS_MAX + above):
        tables.put(1, b"sid-%d" % n, VN, CALLER, NEW_CALL, NOW_US + n)
    later_us = NOW_US + PROGRESS_KEPT_US + 2 * SWEEP_CALLS_MAX
    steps = [tables.sweep(later_us) for _ in range(3)]
    assert steps == [SWEEP_CALLS_MAX + min(above, 0), max(above, 0), 0]


def test_a_clock_near_the_epoch_sweeps_nothing(tables: ProgressTables) -> None:
    tables.put(1, b"sid", VN, CALLER, NEW_CALL, 5)
    assert tables.sweep(10) == 0
