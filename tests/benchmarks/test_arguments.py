from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import FULL, QUICK, SCENARIOS, Where, arguments
from benchmarks.engine import has_workers


def test_a_run_measures_everything_unless_it_is_quick_or_told_parts(tmp_path: Path) -> None:
    plan, parts, _ = arguments(["--output", str(tmp_path)])
    assert plan == FULL
    assert parts == tuple(scenario.name for scenario in SCENARIOS)
    plan, parts, _ = arguments(["--quick", "--output", str(tmp_path)])
    assert plan == QUICK
    assert "beside" in parts
    assert "endurance" not in parts
    _, parts, _ = arguments(["--quick", "endurance", "--output", str(tmp_path)])
    assert parts == ("endurance",)
    plan, _, _ = arguments(["--rounds", "3", "--output", str(tmp_path)])
    assert plan.rounds == 3


def test_the_main_size_is_one_of_the_sizes(tmp_path: Path) -> None:
    plan, _, _ = arguments(["--sizes", "1_000,200000", "--output", str(tmp_path)])
    assert (plan.sizes, plan.main_size) == ((1_000, 200_000), 200_000)
    plan, _, _ = arguments(["--sizes", "1000,100000", "--main-size", "1000", "--output", str(tmp_path)])
    assert plan.main_size == 1_000
    assert all(plan.main_size in plan.sizes for plan in (FULL, QUICK))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nothing"], "nothing"),
        (["--sizes", "many"], "--sizes"),
        (["--sizes", "150"], "--sizes"),
        (["--sizes", "0"], "--sizes"),
        (["--sizes", "1000", "--main-size", "2000"], "--main-size"),
        *([] if has_workers() else [(["--workers", "1"], "--workers")]),
    ],
)
def test_a_bad_word_is_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(words)
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_the_directory_of_the_report_is_there_before_anything_is_measured(tmp_path: Path) -> None:
    _, _, output = arguments(["--output", str(tmp_path / "a" / "b")])
    assert output.is_dir()


def test_a_world_has_its_board_before_anything_else_looks_at_it() -> None:
    [first, *_] = [scenario for scenario in SCENARIOS if scenario.where is not Where.ALONE]
    assert first.name == "starts"
