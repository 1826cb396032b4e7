"""What a board says, whatever it numbers its lines and allocations: two boards of one database number them
as they came to know them, and one that followed the feed still knows lines that are in no pool any more."""

from __future__ import annotations

from typing import Final

from cordboard.tables import records
from cordboard.tables.board import BoardTables
from tests.tables.contents import contents_of

_LINE, _REF = 4, 6

# Table → where the board's own numbers are in its keys and in its values: (place, length).
_Places = tuple[tuple[int, int], ...]
_NUMBERED: Final[dict[str, tuple[_Places, _Places]]] = {
    "tenants": ((), ()),
    "virtual_numbers": ((), ((0, _LINE),)),
    "line_states": (((0, _LINE),), ()),
    "open_numbers": (((11, _LINE),), ()),
    "allocations": (((0, _REF),), ()),
    "routes": (((8, _LINE),), ((1, _REF),)),
    "pins": (((5, _LINE),), ((1, _REF),)),
    "usable_pins": (((0, _LINE), (13, _REF)), ()),
    "members": (((0, _REF),), ()),
    "memberships": (((0, _REF),), ()),
}


def meaning_of(tables: BoardTables) -> dict[str, list[tuple[bytes, bytes]]]:
    """All tables, with the names of VNs and allocations in the place of the board's own numbers."""
    contents = contents_of(tables)
    names = {number: name for name, number in contents["lines"] + contents["ids"]}
    contents["line_states"] = [row for row in contents["line_states"] if records.vn_state_of(row[1]).in_pool]

    def named(row: bytes, places: _Places) -> bytes:
        for place, length in reversed(places):
            row = row[:place] + names[row[place : place + length]] + row[place + length :]
        return row

    return {
        table: sorted((named(key, in_key), named(value, in_value)) for key, value in contents[table])
        for table, (in_key, in_value) in _NUMBERED.items()
    }
