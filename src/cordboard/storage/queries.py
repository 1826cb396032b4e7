"""Named queries out of `sql/queries/*.sql`: each begins with a line `-- name: <name>`."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

# For statements that look at every cell, by their indexes, which begin with it (architecture.md, Cell).
ALL_CELLS: Final = tuple(range(256))

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def sql_directory() -> Traversable:
    """`sql/` inside the installed package, or at the top of a checkout."""
    packaged = files("cordboard") / "sql"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "sql"


def load(topic: str) -> dict[str, str]:
    """Name → text of the queries in `sql/queries/<topic>.sql`."""
    text = (sql_directory() / "queries" / f"{topic}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
