"""What a board holds, byte by byte."""

from __future__ import annotations

from cordboard.tables.board import BoardTables

TABLES = (
    "tenants",
    "virtual_numbers",
    "serials",
    "lines",
    "line_states",
    "open_numbers",
    "ids",
    "allocations",
    "routes",
    "pins",
    "usable_pins",
    "members",
    "memberships",
)


def contents_of(tables: BoardTables) -> dict[str, list[tuple[bytes, bytes]]]:
    """All tables but the positions: key and value of every row, in order."""
    with tables.env.begin() as txn:
        contents = {}
        for name in TABLES:
            with txn.cursor(db=getattr(tables, name)) as cursor:
                contents[name] = [(bytes(key), bytes(value)) for key, value in cursor]
        return contents
