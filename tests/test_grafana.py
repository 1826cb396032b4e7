"""Dashboards and rules ask for what there is, and each alert says what to do."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from cordboard.telemetry import Measured, Metrics

from .grafana import (
    ALERTS,
    DASHBOARDS,
    GRAFANA,
    RULES,
    dashboard,
    of_alerts,
    of_panels,
    of_recording_rules,
    panels,
    rules,
)

DOCS = Path(__file__).parents[1] / "docs"
EXPRESSIONS = [*of_panels(), *of_recording_rules(), *of_alerts()]
COLUMNS = 24

_NAME = re.compile(r"\bcordboard[_:][a-z0-9_:]+")
_BY_TYPE = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def families() -> dict[str, str]:
    """Name → type of all that an engine tells."""
    collected = [*Metrics().registry.collect(), *Measured().collect()]
    return {family.name: family.type for family in collected}


def names_in(text: str) -> set[str]:
    return set(_NAME.findall(text))


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: expression.where)
def test_what_is_asked_for_exists(expression: tuple[str, str]) -> None:
    _, text = expression
    told = {name + suffix for name, type in families().items() for suffix in _BY_TYPE[type]}
    assert names_in(text) - told <= {rule["record"] for rule in rules(RULES)}
    assert "cordboard" in text


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_what_variables_are_filled_from_exists(path: Path) -> None:
    queries = [variable.get("definition", "") for variable in dashboard(path)["templating"]["list"]]
    assert names_in(" ".join(queries)) <= set(families())


def test_each_metric_is_described_and_nothing_else() -> None:
    described = names_in((DOCS / "metrics.md").read_text())
    told = {name + ("_total" if type == "counter" else "") for name, type in families().items()}
    assert described == told


def test_each_metric_is_on_a_dashboard() -> None:
    shown = names_in(" ".join(text for _, text in [*of_panels(), *of_recording_rules()]))
    for name, type in families().items():
        assert shown & {name + suffix for suffix in _BY_TYPE[type]}, name


def test_each_alert_has_its_paragraph_and_each_paragraph_its_alert() -> None:
    headings = re.findall(r"^## (.+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert headings == list(dict.fromkeys(rule["alert"] for rule in rules(ALERTS)))
    for rule in rules(ALERTS):
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_each_alert_is_tested() -> None:
    played = "".join(path.read_text() for path in (ALERTS.parent / "tests").glob("*.yml"))
    for rule in rules(ALERTS):
        assert f'alertname="{rule["alert"]}"' in played


def test_paragraphs_lead_to_paragraphs_that_exist() -> None:
    text = (DOCS / "runbook.md").read_text()
    alerts = {rule["alert"] for rule in rules(ALERTS)}
    assert set(re.findall(r"\bCordboard[A-Z]\w+", text)) == alerts
    shown = " ".join(panel["description"] for path in DASHBOARDS for panel in panels(path))
    assert set(re.findall(r"\bCordboard[A-Z]\w+", shown)) <= alerts


def test_the_dashboards_are_those_of_an_operators_questions() -> None:
    titles = {path.stem: dashboard(path)["title"] for path in DASHBOARDS}
    assert titles == {
        "calls": "Calls",
        "engine": "Engine",
        "pins": "PINs and abuse",
        "pool": "Pool and capacity",
        "webhooks": "Webhooks",
    }
    assert len({dashboard(path)["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


def test_grafana_finds_a_datasource_and_the_dashboards() -> None:
    provisioning = GRAFANA / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "cordboard.yml").read_text())["providers"]
    assert (provider["type"], provider["folder"]) == ("file", "Cordboard")


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_drawn(path: Path) -> None:
    every = dashboard(path)["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for panel in every:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in every], 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_panel_says_what_to_do_and_takes_the_datasource_that_is_chosen(path: Path) -> None:
    read = dashboard(path)
    variables = {variable["name"] for variable in read["templating"]["list"]}
    assert "datasource" in variables
    for panel in panels(path):
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) > 0
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used <= variables | {"__rate_interval"}
