"""The table of postal codes and regions, read from its file once, at the start.

Good: a first line `prefix,area,region`, then for instance `400,Mumbai,MU`, `40,Maharashtra,MH` and
`9,Army post,` (served by nobody). Bad: `0,…`, `4000000,…`, a prefix twice, `40,Pune,PN`, a missing column,
no rows at all. What the area says is for people.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Final

from cordboard.routing.regions import BadPostalRow, PostalRegions

COLUMNS: Final = ("prefix", "area", "region")


class BadPostalTable(Exception):
    """A file that is no table of postal regions; the text names the file, the line and what is wrong."""


def load_postal_regions(path: Path | None) -> PostalRegions:
    """The table in the file at `path`; the one of this package, if that is None.

    Raises BadPostalTable, OSError (the file cannot be read).
    """
    source = files("cordboard") / "data" / "postal_regions.csv" if path is None else path
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise BadPostalTable(f"{source}: not UTF-8") from None
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    rows: list[tuple[str, str | None]] = []
    lines: list[int] = []
    try:
        for columns in reader:
            values = tuple(value.strip() for value in columns)
            if reader.line_num == 1:
                if values != COLUMNS:
                    raise BadPostalTable(f"{source}, line 1: must be {','.join(COLUMNS)}")
            elif values:
                if len(values) != len(COLUMNS):
                    raise BadPostalTable(
                        f"{source}, line {reader.line_num}: must have {len(COLUMNS)} columns"
                    )
                prefix, _area, region = values
                rows.append((prefix, region or None))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise BadPostalTable(f"{source}, line {reader.line_num}: {error}") from None
    if not rows:
        raise BadPostalTable(f"{source}, line {reader.line_num + 1}: there must be at least one row")
    try:
        return PostalRegions(rows)
    except BadPostalRow as bad:
        raise BadPostalTable(f"{source}, line {lines[bad.place]}: {bad}") from None
