"""Everything that stands, copied out of PostgreSQL for a board that is made anew.

Row by row as records of the driver, ten million allocations would take half an hour. COPY in binary form
gives rows of one width, which numpy reads as they are; whoever takes them sorts and joins them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cordboard.routing.model import NEVER_US
from cordboard.storage.database import Connection
from cordboard.storage.queries import load

_SQL: Final = {name: text.removesuffix(";") for name, text in load("snapshot").items()}

Rows = NDArray[Any]
"""Of one kind, each with named fields. All begin with `owner`, 17 bytes: the cell and the allocation's id.

`allocations`: tenant_no, version, expires_at_us, ten booleans, a_virtual_number, b_virtual_number, and a_pin
and b_pin as the decimal digits behind a 1, 0 for none. `numbers`, `further_virtual_numbers`, `further_pins`:
is_b, list_position, number. `member_routes`: is_b, number, joined_at_us, needs_pin, virtual_number.
`custom_fields`: position, length, piece; the pieces of a text in UTF-8."""

Take = Callable[[str, Rows], Awaitable[None]]
"""Takes rows of a kind, as they come: in no order."""

# Tens of thousands of rows: enough that nothing is paid by the row, and little memory.
BYTES_PER_STEP: Final = 8 << 20
# A hundred million allocations: what is copied is not stuck only because there is much of it.
COPY_TIMEOUT_S: Final = 3_600.0
# For the join of numbers with ten million allocations: a handful of batches instead of a hundred.
_WORK_MEM: Final = "64MB"
# Most texts are an order's name.
PIECE_BYTES: Final = 32

_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_OWNER_BYTES: Final = 17
# Timestamps are microseconds since 2000, infinity is the largest.
_SINCE_2000_US: Final = 946_684_800_000_000
_INFINITY: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Kind:
    """The columns of a query behind cell and id: name → type in COPY, and those that are timestamps."""

    columns: dict[str, str]
    instants: tuple[str, ...] = ()

    @property
    def copied(self) -> np.dtype[Any]:
        """A row of COPY: how many columns, and for each its length and its bytes."""
        columns = {"cell": ">i2", "id": "V16", **self.columns}
        fields: list[tuple[str, str]] = [("width", ">i2")]
        for name, form in columns.items():
            fields += [(f"length of {name}", ">i4"), (name, form)]
        return np.dtype(fields)

    @property
    def given(self) -> np.dtype[Any]:
        return np.dtype([("owner", f"S{_OWNER_BYTES}"), *self.columns.items()])


_LISTED: Final = _Kind({"is_b": "?", "list_position": ">i2", "number": ">i8"})
_KINDS: Final = {
    "allocations": _Kind(
        {
            "tenant_no": ">i4",
            "version": ">i8",
            "expires_at_us": ">i8",
            "is_greenvn": "?",
            "is_twoway": "?",
            "a_listed_need_pin": "?",
            "b_listed_need_pin": "?",
            "common_pin": "?",
            "is_exclusive": "?",
            "is_locked": "?",
            "record": "?",
            "has_custom_field": "?",
            "a_virtual_number": ">i8",
            "b_virtual_number": ">i8",
            "a_pin": ">i4",
            "b_pin": ">i4",
        },
        ("expires_at_us",),
    ),
    "numbers": _LISTED,
    "further_virtual_numbers": _LISTED,
    "further_pins": _LISTED,
    "member_routes": _Kind(
        {"is_b": "?", "number": ">i8", "joined_at_us": ">i8", "needs_pin": "?", "virtual_number": ">i8"},
        ("joined_at_us",),
    ),
}
_PIECES: Final = np.dtype(
    [
        ("owner", f"S{_OWNER_BYTES}"),
        ("position", "u1"),
        ("length", "u1"),
        ("piece", f"V{PIECE_BYTES}"),
    ]
)


async def counts(connection: Connection) -> dict[int, int]:
    """Cell → allocations that stand there."""
    return {row["cell"]: row["allocations"] for row in await connection.fetch(_SQL["counts"])}


async def copy_out(connection: Connection, take: Take) -> None:
    """Give `take` everything that stands on virtual numbers, one kind after the other.

    In a transaction that sees one instant. Nothing but the rows of a step is held in memory.
    """
    await connection.execute("SELECT set_config('work_mem', $1, true)", _WORK_MEM)
    for name, kind in _KINDS.items():
        await _copy(connection, name, take, partial(_rows_of, kind))
    await _copy(connection, "custom_fields", take, _pieces_of)


async def _copy(
    connection: Connection, name: str, take: Take, parse: Callable[[bytearray], tuple[Rows, int]]
) -> None:
    """`parse` makes rows of the bytes that are there, and says of how many bytes."""
    waiting = bytearray()
    header: bytes | None = None

    async def hand_over() -> None:
        rows, end = parse(waiting)
        del waiting[:end]
        if len(rows):
            await take(name, rows)

    async def hear(data: bytes) -> None:
        nonlocal header
        waiting.extend(data)
        if header is None and len(waiting) >= len(_HEADER):
            header = bytes(waiting[: len(_HEADER)])
            del waiting[: len(_HEADER)]
        if len(waiting) >= BYTES_PER_STEP:
            await hand_over()

    await connection.copy_from_query(_SQL[name], output=hear, format="binary", timeout=COPY_TIMEOUT_S)
    assert header == _HEADER, "PostgreSQL speaks another COPY"
    await hand_over()
    assert waiting == _TRAILER, f"{name} has rows of another form"


def _rows_of(kind: _Kind, data: bytearray) -> tuple[Rows, int]:
    form = kind.copied
    count = len(data) // form.itemsize
    # A copy, because the buffer goes on to be filled.
    copied = np.frombuffer(bytes(data[: count * form.itemsize]), dtype=form)
    columns = {"cell": copied["cell"], "id": copied["id"]} | {name: copied[name] for name in kind.columns}
    assert (copied["width"] == len(columns)).all(), "a query has another number of columns"
    for name in columns:
        expected = form[name].itemsize
        assert (copied[f"length of {name}"] == expected).all(), f"{name} is NULL or of another type"
    rows = np.empty(count, dtype=kind.given)
    owners = np.empty((count, _OWNER_BYTES), dtype=np.uint8)
    owners[:, 0] = copied["cell"]
    owners[:, 1:] = copied["id"].copy().view(np.uint8).reshape(count, 16)
    rows["owner"] = owners.view(f"S{_OWNER_BYTES}").ravel()
    for name in kind.columns:
        rows[name] = copied[name]
    for name in kind.instants:
        instants = rows[name]
        instants[...] = np.where(instants == _INFINITY, NEVER_US, instants + _SINCE_2000_US)
    return rows, count * form.itemsize


# How many columns; length and cell; length and id; length of the text.
_TEXT_HEAD: Final = Struct(">hihi16si")


def _pieces_of(data: bytearray) -> tuple[Rows, int]:
    pieces: list[tuple[bytes, int, int, bytes]] = []
    end = 0
    while end + _TEXT_HEAD.size <= len(data):
        _, _, cell, _, id, length = _TEXT_HEAD.unpack_from(data, end)
        start = end + _TEXT_HEAD.size
        if start + length > len(data):
            break
        end = start + length
        owner = bytes((cell,)) + id
        for position, at in enumerate(range(start, end, PIECE_BYTES)):
            piece = bytes(data[at : min(at + PIECE_BYTES, end)])
            pieces.append((owner, position, len(piece), piece.ljust(PIECE_BYTES, b"\0")))
    return np.array(pieces, dtype=_PIECES), end
