"""What the pages and the files for deployment name is there: settings, commands, files."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from cordboard.cli import app
from cordboard.settings import Settings

TOP = Path(__file__).parents[1]
DOCS = TOP / "docs"
PAGES = [TOP / "README.md", *sorted(DOCS.glob("*.md"))]
DEPLOYED = sorted(path for path in (DOCS / "deploy").iterdir() if path.is_file())


def commands(group: typer.core.TyperGroup) -> set[str]:
    return set(group.commands)


@pytest.mark.parametrize("path", [*PAGES, *DEPLOYED], ids=lambda path: path.name)
def test_every_setting_that_is_named_is_one(path: Path) -> None:
    # Of the console script, and of the processes of a node among themselves.
    others = {"APPLET_KEY", "SLOT"}
    named = set(re.findall(r"\bCORDBOARD_([A-Z_]+)", path.read_text()))
    assert {name.lower() for name in named - others} <= set(Settings.model_fields)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_that_is_shown_is_one(path: Path) -> None:
    known = commands(typer.main.get_group(app))
    shown = set(
        re.findall(r"^cordboard ([a-z][a-z-]*)|`cordboard ([a-z][a-z-]*)", path.read_text(), re.MULTILINE)
    )
    assert {first or second for first, second in shown} <= known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_that_is_linked_is_there(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_unit_is_one_that_systemd_reads(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd on this machine")
    # What it starts is not installed here.
    unit = tmp_path / "cordboard.service"
    text = (DOCS / "deploy" / "cordboard.service").read_text()
    unit.write_text(text.replace("/opt/cordboard/bin/cordboard serve", "/bin/true"))
    verified = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
