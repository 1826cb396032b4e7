"""Fills an empty board with everything that stands, millions of allocations in minutes.

One change after another, each row finds its place in a tree of its own: 180 µs an allocation. Here the rows
of each table are made by the hundred thousand, sorted, and appended. What does not fit into memory waits in
files beside the board: first what was given, parted by allocation into ranges; then the rows of those tables
whose order is another one.

`tables/board.py` says what the rows are; the tests hold both to the same board.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from struct import Struct
from typing import Any, Final, NamedTuple

import lmdb
import numpy as np

from cordboard.routing.model import AllocationRef, Side
from cordboard.routing.numbers import E164, PIN_DIGITS_MAX
from cordboard.tables import records
from cordboard.tables.board import BoardTables
from cordboard.tables.records import Line
from cordboard.tables.sorting import (
    Bytes,
    Numbers,
    Parted,
    Rows,
    Unsorted,
    big_endian,
    bytes_of,
    counted_up,
    each_of,
    numbers_of,
    side_by_side,
    starts_of,
    texts_of,
)
from cordboard.tables.steps import Step

# Some 100 MB while their rows are made.
ALLOCATIONS_PER_PART: Final = 100_000
# Some 15 MB of one table; sorted and put in one transaction.
ROWS_PER_PART: Final = 500_000
# Some 100 ms of rows that find their own place.
LINES_PER_STEP: Final = 5_000

_OWNER_BYTES: Final = 17
_REF_BYTES: Final = 6
_LINE_BYTES: Final = 4
_HEAD: Final = np.dtype(list(records.ALLOCATION_HEAD))
_LINE_KEY: Final = np.dtype([("cell", "u1"), ("tenant_no", ">u4"), ("number", ">u8")])
_LATEST: Final = np.uint64(2**64 - 1)
# A PIN with the 1 before it has one digit more.
_FIRST_OF_LENGTH: Final = 10 ** np.arange(1, PIN_DIGITS_MAX + 1)

# What an allocation lists, in the order of its record: A's numbers and VNs, B's, and the PINs of both.
_A_NUMBERS, _A_VNS, _B_NUMBERS, _B_VNS, _A_PINS, _B_PINS = range(6)
_NUMBERS: Final = (_A_NUMBERS, _B_NUMBERS)
_VNS: Final = (_A_VNS, _B_VNS)
_PINS: Final = (_A_PINS, _B_PINS)
_KINDS: Final = 6
# A list has ten numbers, or fifty VNs, at most (routing/allocate.py).
_PLACES: Final = 256


class _Width(NamedTuple):
    """Bytes of a row of a table that is sorted here."""

    key: int
    value: int


_SORTED: Final = {
    "ids": _Width(21, 6),
    "routes": _Width(12, 7),
    "pins": _Width(9, 7),
    "usable_pins": _Width(20, 0),
}


class BoardLoad:
    """`add` everything that stands, then walk through `steps`; both take their time and wait for nobody.

    The tenants and VNs stand on the board already. Kinds of rows and their fields: `storage/snapshot.py`.
    A board on which this was begun and not ended is worth nothing.
    """

    def __init__(
        self,
        tables: BoardTables,
        allocations_by_cell: Mapping[int, int],
        *,
        allocations_per_part: int = ALLOCATIONS_PER_PART,
        rows_per_part: int = ROWS_PER_PART,
    ) -> None:
        self._tables = tables
        self._directory = directory = tables.directory / "loading"
        self._allocations = sum(allocations_by_cell.values())
        directory.mkdir(mode=0o700)
        self._owner_bounds = _owner_bounds(allocations_by_cell, allocations_per_part)
        self._given: dict[str, Parted] = {}
        self._unsorted = {name: Unsorted(directory / name, sum(width)) for name, width in _SORTED.items()}
        self._rows_per_part = rows_per_part
        self._lines = _Lines(tables)
        self._serials = dict.fromkeys(allocations_by_cell, 0)

    def add(self, kind: str, rows: Rows) -> None:
        parted = self._given.get(kind)
        if parted is None:
            parted = self._given[kind] = Parted(self._directory / kind, self._owner_bounds, rows.dtype)
        parted.add(rows, rows["owner"])

    def steps(self) -> Iterator[Step]:
        """Each step when it is done."""
        done = 0
        for part in range(len(self._owner_bounds) + 1):
            done += self._build(part)
            yield Step("placing allocations", done, self._allocations)
        self._put_serials()
        done, of = 0, sum(unsorted.count for unsorted in self._unsorted.values())
        for name, width in _SORTED.items():
            for rows, count in self._unsorted[name].sorted_parts(width.key, self._rows_per_part):
                self._put_rows(name, width, rows)
                if name == "routes":
                    self._lines.count_callers(rows)
                elif name == "pins":
                    self._lines.count_pins(rows)
                done += count
                yield Step("sorting indexes", done, of)
        yield from self._lines.put_states()
        shutil.rmtree(self._directory)

    # ── what is in the order of allocations ──────────────────────────────────

    def _build(self, part: int) -> int:
        """Put the allocations of a part and their members, and note their other rows; how many they are."""
        given = {kind: parted.take(part) for kind, parted in self._given.items()}
        allocations = given.get("allocations")
        if allocations is None or not len(allocations):
            return 0
        allocations = allocations[np.argsort(allocations["owner"], kind="stable")]
        owners = _Owners(allocations, self._refs(allocations["owner"]))
        listed = _Listed(owners, given)
        lines = self._lines.of(owners, listed.owner, listed.value, listed.is_virtual_number)
        members = _Members.of(owners, given.get("member_routes"))
        with self._tables.env.begin(write=True) as txn:
            values = _allocation_records(owners, listed, members, given.get("custom_fields"))
            _put(txn, self._tables.allocations, zip(each_of(owners.refs), values, strict=True))
            if members is not None:
                _put(txn, self._tables.members, zip(each_of(members.keys()), repeat(b"")))
                _put(txn, self._tables.memberships, members.memberships())
        add = self._unsorted
        add["ids"].add(owners.id_rows())
        for rows in _listed_routes(owners, listed, lines):
            add["routes"].add(rows)
        if members is not None:
            theirs = self._lines.of(owners, members.owner, members.virtual_number)
            add["routes"].add(members.routes(theirs))
        for pins, usable in _pins(owners, listed, lines):
            add["pins"].add(pins)
            add["usable_pins"].add(usable)
        self._lines.count_allocations(owners, listed, lines)
        return len(allocations)

    def _refs(self, owners: Rows) -> Bytes:
        """The next of each cell, in the order of the owners."""
        cells = bytes_of(owners)[:, 0]
        refs = np.empty((len(owners), _REF_BYTES), dtype=np.uint8)
        refs[:, 0] = cells
        for cell, count in zip(*np.unique(cells, return_counts=True), strict=True):
            last = self._serials.get(int(cell), 0)
            self._serials[int(cell)] = last + int(count)
            serials = np.arange(last + 1, last + int(count) + 1)
            refs[cells == cell, 1:] = big_endian(serials, _REF_BYTES - 1)
        return refs

    def _put_serials(self) -> None:
        with self._tables.env.begin(write=True) as txn:
            for cell, serial in self._serials.items():
                key = records.cell_key(cell) + b"allocation"
                txn.put(key, records.serial_record(serial), db=self._tables.serials)

    # ── what is in an order of its own ───────────────────────────────────────

    def _put_rows(self, name: str, width: _Width, rows: Bytes) -> None:
        """Leave a quarter of each page free: later rows fall between these, and full pages would all be split
        by the first hundredth of them. Appending two of three fills pages, the third then halves each."""
        pairs = Struct(f"{width.key}s{width.value}s")
        is_third = np.arange(len(rows)) % 3 == 2
        with self._tables.env.begin(write=True) as txn:
            for some, is_appended in ((rows[~is_third], True), (rows[is_third], False)):
                _put(
                    txn,
                    getattr(self._tables, name),
                    pairs.iter_unpack(some.tobytes()),
                    is_appended=is_appended,
                )


class _Owners:
    """The allocations of a part in the order of their cells and ids; others name them by their place."""

    def __init__(self, rows: Rows, refs: Bytes) -> None:
        self.rows = rows
        self.refs = refs
        self.count = len(rows)
        self.keys = rows["owner"].copy()
        self.cells = bytes_of(self.keys)[:, 0]

    def places(self, rows: Rows) -> Numbers:
        """Whose rows these are."""
        places = np.searchsorted(self.keys, rows["owner"])
        assert (self.keys[np.minimum(places, self.count - 1)] == rows["owner"]).all(), "of one snapshot"
        return places

    def id_rows(self) -> Bytes:
        tenants = big_endian(self.rows["tenant_no"], 4)
        return side_by_side(self.cells, tenants, bytes_of(self.keys)[:, 1:], self.refs)

    def needs_pin(self, side: Side) -> Rows:
        return self.rows["b_listed_need_pin" if side else "a_listed_need_pin"]


class _Listed:
    """Numbers, VNs and PINs of allocations in the order of their records.

    `counts` and `firsts` are asked by (owner, kind): how many there are, and where the first is.
    """

    def __init__(self, owners: _Owners, given: Mapping[str, Rows]) -> None:
        rows, all_of_them = owners.rows, np.arange(owners.count)
        # (owner, kind, place in the list, value)
        found: list[tuple[Numbers, Any, Any, Any]] = [
            (all_of_them, _A_VNS, 0, rows["a_virtual_number"]),
            (all_of_them, _B_VNS, 0, rows["b_virtual_number"]),
        ]
        for pin_kind, pins in ((_A_PINS, rows["a_pin"]), (_B_PINS, rows["b_pin"])):
            has_one = np.flatnonzero(pins)
            found.append((has_one, pin_kind, 0, pins[has_one]))
        for name, kinds in (
            ("numbers", _NUMBERS),
            ("further_virtual_numbers", _VNS),
            ("further_pins", _PINS),
        ):
            more = given.get(name)
            if more is not None and len(more):
                kind_of = np.where(more["is_b"], kinds[1], kinds[0])
                found.append((owners.places(more), kind_of, more["list_position"], more["number"]))
        owner = np.concatenate([row[0] for row in found])
        kind = np.concatenate([np.broadcast_to(row[1], len(row[0])) for row in found])
        place = np.concatenate([np.broadcast_to(row[2], len(row[0])) for row in found])
        value = np.concatenate([row[3].astype(np.int64) for row in found])
        slot: Numbers = owner * _KINDS + kind
        order = np.argsort(slot * _PLACES + place, kind="stable")
        self.owner: Numbers = owner[order]
        self.kind: Numbers = kind[order]
        self.value: Numbers = value[order]
        counts = np.bincount(slot, minlength=owners.count * _KINDS)
        self.firsts: Numbers = starts_of(counts).reshape(-1, _KINDS)
        self.counts: Numbers = counts.reshape(-1, _KINDS)
        self.is_virtual_number = np.isin(self.kind, _VNS)

    def pairs(self, one: int, other: int, where: Rows | None = None) -> tuple[Numbers, Numbers, Numbers]:
        """Each of a kind with each of another: (owner, place of the one, place of the other)."""
        owner, within = counted_up(
            self.counts[:, one] * self.counts[:, other] * (1 if where is None else where)
        )
        first, second = np.divmod(within, np.maximum(self.counts[owner, other], 1))
        return owner, self.firsts[owner, one] + first, self.firsts[owner, other] + second


class _Members:
    """The members of a part's allocations, and their routes, by allocation, number and VN."""

    def __init__(self, owners: _Owners, rows: Rows) -> None:
        places = owners.places(rows)
        order = np.lexsort((rows["virtual_number"], rows["number"], places))
        self._rows = rows = rows[order]
        self._owners = owners
        self.owner: Numbers = places[order]
        self.virtual_number: Numbers = rows["virtual_number"].astype(np.int64)
        is_first = np.ones(len(rows), dtype=bool)
        is_first[1:] = (self.owner[1:] != self.owner[:-1]) | (rows["number"][1:] != rows["number"][:-1])
        self._first = np.flatnonzero(is_first)
        self._member_of_row = np.cumsum(is_first) - 1
        self._needs_pin = np.logical_or.reduceat(rows["needs_pin"], self._first)

    @classmethod
    def of(cls, owners: _Owners, rows: Rows | None) -> _Members | None:
        return None if rows is None or not len(rows) else cls(owners, rows)

    def keys(self) -> Bytes:
        """Of the table `members`, in its order."""
        rows = self._rows[self._first]
        keys = side_by_side(
            self._owners.refs[self.owner[self._first]],
            rows["is_b"],
            big_endian(_LATEST - rows["joined_at_us"].astype(np.uint64), 8),
            big_endian(_LATEST - rows["number"].astype(np.uint64), 8),
        )
        return bytes_of(np.sort(texts_of(keys)))

    def memberships(self) -> Iterator[tuple[bytes, bytes]]:
        refs = list(each_of(self._owners.refs))
        ends = np.append(self._first[1:], len(self._rows))
        for first, end, needs_pin in zip(self._first, ends, self._needs_pin, strict=True):
            row = self._rows[first]
            key = records.membership_key(AllocationRef(refs[self.owner[first]]), E164(row["number"]))
            numbers = tuple(map(E164, self.virtual_number[first:end]))
            side = Side(int(row["is_b"]))
            yield (
                key,
                records.membership_record(side, bool(needs_pin), int(row["joined_at_us"]), numbers),
            )

    def routes(self, lines: Numbers) -> Bytes:
        flags = (
            records.ROUTE_NEEDS_PIN * self._needs_pin[self._member_of_row]
            | records.ROUTE_SIDE_B * self._rows["is_b"]
            | records.ROUTE_IS_MEMBER
        )
        return _route_rows(self._owners, self.owner, self._rows["number"], lines, flags)


class _Lines:
    """The lines of the board, and what comes to stand on each of them.

    Others name a line by its 4 bytes read as a number.
    """

    def __init__(self, tables: BoardTables) -> None:
        self._tables = tables
        self._load: Counter[int] = Counter()
        self._exclusive: Counter[int] = Counter()
        self._callers: Counter[int] = Counter()
        # By line and length.
        self._pins: Counter[int] = Counter()
        self._read()

    def _read(self) -> None:
        with self._tables.env.begin() as txn, txn.cursor(db=self._tables.lines) as cursor:
            rows = b"".join(bytes(key) + bytes(line) for key, line in cursor)
        table = np.frombuffer(rows, dtype=np.uint8).reshape(-1, _LINE_KEY.itemsize + _LINE_BYTES)
        self._keys = texts_of(table[:, : _LINE_KEY.itemsize])
        self._line_of_key = numbers_of(table[:, _LINE_KEY.itemsize :])

    def of(
        self, owners: _Owners, owner: Numbers, virtual_number: Numbers, where: Rows | None = None
    ) -> Numbers:
        """The owners' lines to these VNs; 0 elsewhere than `where`."""
        lines = np.zeros(len(owner), dtype=np.int64)
        asked = np.arange(len(owner)) if where is None else np.flatnonzero(where)
        keys = np.empty(len(asked), dtype=_LINE_KEY)
        keys["cell"] = owners.cells[owner[asked]]
        keys["tenant_no"] = owners.rows["tenant_no"][owner[asked]]
        keys["number"] = virtual_number[asked]
        places, is_missing = self._find(keys)
        if is_missing.any():
            # The tenant of an allocation may have lost the VN while it was being made.
            self._tables.add_lines(
                (int(key["cell"]), int(key["tenant_no"]), E164(key["number"])) for key in keys[is_missing]
            )
            self._read()
            places, _ = self._find(keys)
        lines[asked] = self._line_of_key[places]
        return lines

    def _find(self, keys: Rows) -> tuple[Numbers, Rows]:
        """Where they are, and which of them are not there."""
        texts = keys.view(f"S{_LINE_KEY.itemsize}")
        places = np.searchsorted(self._keys, texts)
        if not len(self._keys):
            return places, np.ones(len(keys), dtype=bool)
        return places, self._keys[np.minimum(places, len(self._keys) - 1)] != texts

    def count_allocations(self, owners: _Owners, listed: _Listed, lines: Numbers) -> None:
        """An allocation counts once on a line, also where both its sides have it."""
        on_lines = listed.is_virtual_number
        stands = np.unique(listed.owner[on_lines] << 32 | lines[on_lines])
        line = stands & 0xFFFF_FFFF
        _count(self._load, line)
        _count(self._exclusive, line[owners.rows["is_exclusive"][stands >> 32]])

    def count_callers(self, routes: Bytes) -> None:
        """Of a sorted part, which has all routes of a caller on a line, one behind the other."""
        keys = texts_of(routes[:, : _SORTED["routes"].key])
        is_first = np.ones(len(keys), dtype=bool)
        is_first[1:] = keys[1:] != keys[:-1]
        _count(self._callers, numbers_of(routes[is_first, 8:12]))

    def count_pins(self, pins: Bytes) -> None:
        _count(self._pins, numbers_of(pins[:, 5:9]) << 8 | _pin_lengths(numbers_of(pins[:, 1:5])))

    def put_states(self) -> Iterator[Step]:
        """What stands on each line."""
        lines = sorted(self._load.keys() | self._callers.keys())
        for start in range(0, len(lines), LINES_PER_STEP):
            self._tables.count_on_lines(
                (
                    Line(line.to_bytes(_LINE_BYTES, "big")),
                    self._load[line],
                    self._exclusive[line],
                    self._callers[line],
                    tuple(self._pins[line << 8 | length] for length in range(1, PIN_DIGITS_MAX + 1)),
                )
                for line in lines[start : start + LINES_PER_STEP]
            )
            yield Step("counting on virtual numbers", min(start + LINES_PER_STEP, len(lines)), len(lines))


# ── rows as board.py makes them one by one ────────────────────────────────────


def _allocation_records(
    owners: _Owners, listed: _Listed, members: _Members | None, pieces: Rows | None
) -> list[bytes]:
    rows = owners.rows
    flags = np.zeros(owners.count, dtype=np.uint16)
    for name, flag in records.ALLOCATION_FLAGS.items():
        if name != "has_members":
            flags |= rows[name] * np.uint16(flag)
    if members is not None:
        flags[members.owner] |= np.uint16(records.ALLOCATION_FLAGS["has_members"])
    heads = np.empty(owners.count, dtype=_HEAD)
    heads["version"] = rows["version"]
    heads["expires_at_us"] = rows["expires_at_us"]
    heads["flags"] = flags
    heads["counts"] = listed.counts[:, [_A_NUMBERS, _A_VNS, _A_PINS, _B_NUMBERS, _B_VNS, _B_PINS]]
    heads["id"] = bytes_of(owners.keys)[:, 1:].copy().view("V16").ravel()

    numbers = listed.counts[:, :_A_PINS].sum(axis=1)
    lengths = _HEAD.itemsize + 8 * numbers + 4 * listed.counts[:, _A_PINS:].sum(axis=1)
    starts = starts_of(lengths)
    data = np.empty(int(lengths.sum()), dtype=np.uint8)
    data[starts[:, None] + np.arange(_HEAD.itemsize)] = bytes_of(heads)
    place = np.arange(len(listed.owner)) - listed.firsts[listed.owner, 0]
    is_pin = listed.kind >= _A_PINS
    body = starts[listed.owner] + _HEAD.itemsize
    for chosen, width in ((~is_pin, 8), (is_pin, 4)):
        # The numbers before the PINs are twice as wide.
        wider = 0 if width == 8 else 4 * numbers[listed.owner[chosen]]
        at = body[chosen] + width * place[chosen] + wider
        data[at[:, None] + np.arange(width)] = big_endian(listed.value[chosen], width)
    text = data.tobytes()
    ends = starts + lengths
    values = [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    if pieces is not None:
        owner = owners.places(pieces)
        for at in np.lexsort((pieces["position"], owner)):
            piece = pieces[at]
            values[owner[at]] += bytes(piece["piece"])[: int(piece["length"])]
    return values


def _listed_routes(owners: _Owners, listed: _Listed, lines: Numbers) -> Iterator[Bytes]:
    for side in Side:
        owner, number, virtual_number = listed.pairs(_NUMBERS[side], _VNS[side])
        flags = records.ROUTE_NEEDS_PIN * owners.needs_pin(side) | records.ROUTE_SIDE_B * bool(side)
        yield _route_rows(owners, owner, listed.value[number], lines[virtual_number], flags[owner])


def _route_rows(owners: _Owners, owner: Numbers, caller: Rows, lines: Numbers, flags: Rows) -> Bytes:
    return side_by_side(
        owners.cells[owner], big_endian(caller, 7), big_endian(lines, 4), flags, owners.refs[owner]
    )


def _pins(owners: _Owners, listed: _Listed, lines: Numbers) -> Iterator[tuple[Bytes, Bytes]]:
    """(PINs, those that may be used to call).

    A common PIN stands on the VNs of both sides; on one that both have it comes twice here.
    """
    is_common = owners.rows["common_pin"]
    for pins, side, where in (
        (_A_PINS, Side.A, is_common),
        (_A_PINS, Side.B, is_common),
        (_A_PINS, Side.A, ~is_common),
        (_B_PINS, Side.B, ~is_common),
    ):
        owner, pin, virtual_number = listed.pairs(pins, _VNS[side], where)
        holder = np.where(is_common[owner], records.PIN_OF_BOTH_SIDES, side).astype(np.uint8)
        code, line, refs = listed.value[pin], big_endian(lines[virtual_number], 4), owners.refs[owner]
        may_call = np.ones(len(owner), dtype=bool) if side is Side.A else owners.rows["is_twoway"][owner]
        usable = side_by_side(
            line,
            PIN_DIGITS_MAX - _pin_lengths(code),
            big_endian(owners.rows["expires_at_us"][owner], 8),
            refs,
            holder,
        )
        yield (
            side_by_side(owners.cells[owner], big_endian(code, 4), line, holder, refs),
            usable[may_call],
        )


def _pin_lengths(codes: Numbers) -> Numbers:
    return np.searchsorted(_FIRST_OF_LENGTH, codes, side="right")


def _owner_bounds(allocations_by_cell: Mapping[int, int], per_part: int) -> Rows:
    """Where parts of some `per_part` allocations begin, in the order of cells and ids; ids are random."""
    bounds: list[bytes] = []
    waiting = 0
    for cell, allocations in sorted(allocations_by_cell.items()):
        if waiting and waiting + allocations > per_part:
            bounds.append(bytes((cell,)))
            waiting = 0
        waiting += allocations
        if allocations > per_part:
            parts = -(-allocations // per_part)
            bounds += [
                bytes((cell,)) + (part * 2**64 // parts).to_bytes(8, "big") for part in range(1, parts)
            ]
            waiting = allocations // parts
    return np.array(bounds, dtype=f"S{_OWNER_BYTES}")


def _put(
    txn: lmdb.Transaction,
    db: lmdb._Database,
    rows: Iterable[tuple[bytes, bytes]],
    *,
    is_appended: bool = True,
) -> None:
    with txn.cursor(db=db) as cursor:
        given, added = cursor.putmulti(rows, append=is_appended)
    assert given == added, "sorted, and each of them once"


def _count(counter: Counter[int], values: Numbers) -> None:
    found, counts = np.unique(values, return_counts=True)
    counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
