"""What lies in grafana/, as tests read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml

GRAFANA = Path(__file__).parents[1] / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
RULES = GRAFANA / "rules.yml"
ALERTS = GRAFANA / "alerts.yml"
# What Grafana puts into a rate; here long enough for all that a test does.
RATE_INTERVAL = "10m"


class Expression(NamedTuple):
    """What Prometheus is asked, and by what."""

    where: str
    text: str


def dashboard(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = orjson.loads(path.read_bytes())
    return read


def panels(path: Path) -> list[dict[str, Any]]:
    """Those that show something; rows have only a title."""
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def of_panels() -> Iterator[Expression]:
    """As Prometheus gets them with everything chosen."""
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                text = re.sub(r"\$(tenant|instance)\b", ".+", target["expr"])
                text = text.replace("$__rate_interval", RATE_INTERVAL)
                yield Expression(f"{path.stem}, {panel['title']}", text)


def rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def of_recording_rules() -> Iterator[Expression]:
    for rule in rules(RULES):
        yield Expression(rule["record"], rule["expr"])


def of_alerts() -> Iterator[Expression]:
    for rule in rules(ALERTS):
        yield Expression(rule["alert"], rule["expr"])


def measured_by(alert: Expression) -> Iterator[Expression]:
    """What an alert compares with its limits: there is data also while nothing is wrong."""
    for side in re.split(r"\sand\s", alert.text):
        measured, limit = re.fullmatch(r"(.+?)\s+(?:>|<|==)\s+([0-9.]+)", side, re.DOTALL).groups()  # type: ignore[union-attr]
        assert float(limit) >= 0
        yield Expression(alert.where, measured)
