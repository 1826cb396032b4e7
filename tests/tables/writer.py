"""Applies a made-up feed until it is killed: `python -m tests.tables.writer DIRECTORY SEED ROWS`."""

from __future__ import annotations

import sys
from pathlib import Path

from cordboard.tables.board import BoardTables
from tests.tables.history import history


def main(directory: str, seed: str, length: str) -> None:
    tables = BoardTables(Path(directory))
    rows = history(int(seed), int(length))
    for start in range(0, len(rows), 5):
        tables.apply(rows[start : start + 5])
    tables.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
