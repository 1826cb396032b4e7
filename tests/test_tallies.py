"""What processes are started with, so that they may share their counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cordboard.tallies import sharing_environment

PRINT_SLOT = "from cordboard.tallies import SLOT; print(SLOT)"


def started(tmp_path: Path, slot: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | sharing_environment(tmp_path, slot)
    return subprocess.run(
        [sys.executable, "-c", PRINT_SLOT], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("slot", ["node", "worker-0", "worker-12"])
def test_a_process_knows_its_slot(tmp_path: Path, slot: str) -> None:
    assert started(tmp_path, slot).stdout == f"{slot}\n"


@pytest.mark.parametrize("slot", ["", "worker_0", "../node", "Worker-0"])
def test_a_slot_that_cannot_name_files_is_refused_by_name(tmp_path: Path, slot: str) -> None:
    ended = started(tmp_path, slot)
    assert ended.returncode == 1
    assert f"CORDBOARD_SLOT must be a word like node or worker-0, not {slot!r}" in ended.stderr
