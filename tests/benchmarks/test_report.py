from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import orjson
import pytest

from benchmarks.figures import Figure, ratio_figure, skipped
from benchmarks.latency import latency_of
from benchmarks.page import write_page
from benchmarks.plots import Axis, Bar, Line, bar_plot, line_plot
from benchmarks.report import Run, print_report, time_text, value_text, write_json
from benchmarks.targets import TARGETS, BadLimits, Outcome, read_limits, results

LATENCY = latency_of([4_000, 5_000, 6_000, 90_000])

FIGURES = (
    Figure("floor", "as fast as it can, 32 connections", per_second=60_000.0),
    Figure("floor", "5,000/s due", per_second=4_999.0, latency=LATENCY, generator_late_p99_us=3.0),
    *(
        Figure("decide", "listed", allocations=size, latency=LATENCY)
        for size in (1_000, 1_000_000, 10_000_000)
    ),
    Figure("size", "board, an allocation", allocations=10_000_000, value=612.0, unit="B"),
    Figure("size", "board, an allocation", allocations=1_000, value=400.0, unit="B"),
    Figure("beside", "passthru: cordboard", per_second=9_000.0, latency=LATENCY),
    Figure("beside", "passthru: bare aiohttp", per_second=10_000.0, latency=LATENCY),
    ratio_figure("beside", "passthru: requests/s against bare aiohttp", [0.7, 0.9, 0.95]),
    Figure("beside", "passthru: cordboard at half of bare aiohttp", latency=LATENCY),
    Figure("beside", "passthru: bare aiohttp at half of it", latency=LATENCY),
    Figure("endurance", "p99.9", ratio=1.1, course=((0.0, 3.0), (1.0, 4.0)), unit="ms"),
    skipped("workers", "this <machine> has one core & no more"),
)
LIMITS = {"board-size": "A key is 12 B & there are 13 of them <each>."}


def outcomes() -> dict[str, Outcome]:
    return {result.target.id: result.outcome for result in results(FIGURES, LIMITS)}


def the_run() -> Run:
    return Run(
        is_quick=True,
        began="2026-01-05 10:00 UTC",
        took_s=180.0,
        machine={"cpu": "some <cpu>"},
        figures=FIGURES,
        results=results(FIGURES, LIMITS),
    )


def test_a_target_is_met_missed_or_not_measured() -> None:
    said = outcomes()
    # The median of the rounds, not their mean; and at the size that the target names.
    assert said["passthru-bare-rate"] is Outcome.MET
    assert said["board-size"] is Outcome.MISSED
    assert said["decide-1m"] is Outcome.MISSED
    assert said["decide-10m"] is Outcome.MET
    assert said["decide-growth"] is Outcome.MET
    assert said["workers"] is Outcome.NOT_MEASURED
    # 60,000 against the 10,000 of the fastest, which is not ours.
    assert said["generator"] is Outcome.MET


@pytest.mark.parametrize("value", [499.0, 500.0, 501.0])
def test_a_value_that_is_just_the_aim_meets_it(value: float) -> None:
    figure = Figure("size", "board, an allocation", allocations=10_000_000, value=value, unit="B")
    [result] = [one for one in results([figure], {}) if one.target.id == "board-size"]
    assert (result.outcome is Outcome.MET) == (value <= 500)


def test_targets_have_names_of_their_own() -> None:
    assert len({target.id for target in TARGETS}) == len(TARGETS)


def test_the_limits_that_come_with_the_code_can_be_read() -> None:
    assert read_limits().keys() <= {target.id for target in TARGETS}


@pytest.mark.parametrize(
    ("text", "named"), [('nothing = "Why."', "nothing"), ('create = ""', "create"), ("create = 3", "create")]
)
def test_a_limit_of_nothing_and_an_empty_one_are_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "limits.toml").write_text(text)
    with pytest.raises(BadLimits, match=named):
        read_limits(tmp_path / "limits.toml")


def test_the_page_fetches_nothing_and_says_everything(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", the_run())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=|@import|url\(|<script|<link", page)
    assert "prefers-color-scheme: dark" in page
    text = _text_of(page)
    for said in (
        "quick run",
        "612 B",
        "✗ missed",
        "– not measured",
        "A key is 12 B & there are 13 of them <each>.",
        "this <machine> has one core & no more",
        "some <cpu>",
        "generator late by 3.00 µs",
        "0.70 to 0.95 in 3 rounds",
        "The passthru hop at half of what bare aiohttp can do",
        "A decision by board size",
    ):
        assert said in text, said


def _text_of(page: str) -> str:
    class Text(HTMLParser):
        said = ""

        def handle_data(self, data: str) -> None:
            self.said += data

    text = Text()
    text.feed(page)
    text.close()
    return text.said


def test_a_run_that_was_ended_at_once_has_a_page_all_the_same(tmp_path: Path) -> None:
    run = Run(False, "2026-01-05 10:00 UTC", 0.0, {}, (), results((), {}))
    write_page(tmp_path / "report.html", run)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("not measured") == len(TARGETS)


def test_the_json_has_every_row_with_its_histogram(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", the_run())
    report = orjson.loads((tmp_path / "report.json").read_bytes())
    assert len(report["figures"]) == len(FIGURES)
    assert sum(count for _, count in report["figures"][1]["latency"]["histogram"]) == 4
    assert report["figures"][9]["ratios"] == [0.7, 0.9, 0.95]
    missed = [target for target in report["targets"] if target["id"] == "board-size"]
    assert missed == [
        {
            "id": "board-size",
            "what": "board, an allocation, at 10,000,000",
            "bound": "≤",
            "aim": 500,
            "unit": "B",
            "value": 612.0,
            "outcome": "missed",
            "limit": LIMITS["board-size"],
        }
    ]


def test_the_table_names_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(the_run())
    [line] = [line for line in capsys.readouterr().out.splitlines() if "an allocation, at" in line]
    assert "612 B" in line
    assert "MISSED" in line


@pytest.mark.parametrize(
    ("us", "text"), [(4.312, "4.31 µs"), (115.4, "115 µs"), (3_200.0, "3.20 ms"), (1_500_000.0, "1.50 s")]
)
def test_times_are_read_in_the_unit_that_suits_them(us: float, text: str) -> None:
    assert time_text(us) == text


@pytest.mark.parametrize(("value", "text"), [(0.858, "0.858 ×"), (1356.4, "1,356 ×"), (None, "")])
def test_values_have_three_digits_and_their_unit(value: float | None, text: str) -> None:
    assert value_text(value, "×") == text


def test_points_lie_where_their_values_are() -> None:
    svg = line_plot([Line("a <b>", [(1, 0), (100, 5)])], Axis("x", is_logarithmic=True), Axis("y"))
    [points] = re.findall(r'polyline class="line c0" points="([^"]*)"', svg)
    (left, bottom), (right, top) = (map(float, point.split(",")) for point in points.split())
    assert left < right
    # Up is less in SVG.
    assert top < bottom
    assert "a &lt;b&gt;" in svg
    assert svg.count("<circle") == 2


def test_a_bar_is_as_long_as_its_share_of_the_longest() -> None:
    svg = bar_plot([Bar("ours", 100.0, "100", 0), Bar("theirs", 25.0, "25", 1)], "requests/s")
    ours, theirs = map(float, re.findall(r'class="bar c[01]"[^>]* width="([0-9.]+)"', svg))
    assert theirs == pytest.approx(ours / 4, rel=0.01)
