"""The board in LMDB: one environment a node, written by one applier from the feed, read by every worker.

Each read transaction is one consistent snapshot, and the position of every cell's feed is stored with
the rows, so that what is read and how far it has come can never disagree (architecture.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import add
from pathlib import Path
from typing import Final, assert_never, cast

import lmdb

from cordboard.routing.changes import (
    WINDOW_KINDS,
    AllocationReleased,
    AllocationStands,
    Change,
    FeedRow,
    KnownRow,
    MemberLeft,
    MemberStands,
    PinFailed,
    TenantGone,
    TenantStands,
    ThrottleCleared,
    VirtualNumberGone,
    VirtualNumberStands,
    decode,
    encode,
)
from cordboard.routing.model import (
    Allocation,
    AllocationId,
    AllocationOnBoard,
    AllocationRef,
    Party,
    PinHolder,
    Route,
    Side,
    UsablePin,
)
from cordboard.routing.numbers import E164, PIN_DIGITS_MAX, Pin
from cordboard.routing.pins import pins_on
from cordboard.tables import records
from cordboard.tables.records import (
    CELL_SHIFT,
    LINE_OF_KEY,
    Line,
    StoredAllocation,
    VirtualNumberState,
    pack_caller_key,
    route_of,
)

# Address space, not memory: ten million allocations are some 10 GB, and growing a map stops its readers.
MAP_BYTES_MAX: Final = 64 << 30
# One slot a reading thread: 256 workers with a few threads each.
READERS_MAX: Final = 1024
# Behind whatever follows a prefix: a load and a line at most.
_AFTER_LINES: Final = b"\xff" * 9
# As many as BoardTables opens.
TABLES: Final = 15
# Wrong PINs that a reading process may be behind, some 200 bytes each: a minute of 150 a second, and it
# looks every 20 ms.
WINDOW_ROWS_MAX: Final = 10_000


class FeedGap(Exception):
    """The feed does not continue where the board stands; the board must be loaded anew."""

    def __init__(self, cell: int, position: int, found: int) -> None:
        self.cell = cell
        super().__init__(f"cell {cell}: the board stands at {position}, the feed continues at {found}")


class BoardReader:
    """One tenant's rows in one read transaction; `routing.board.Board` says what each answer is.

    Use as a context manager and never across an `await`: an old snapshot pins pages.
    """

    # What every call looks up has a name of its own here: a name less on the way is 3 % of a decision.
    # `get` takes its table by place and not by name (`None` is its default) for the same reason.
    __slots__ = (
        "_allocations",
        "_begin",
        "_cell",
        "_cell_bits",
        "_lines",
        "_routes",
        "_tables",
        "_tenant_no",
        "_txn",
    )

    def __init__(self, tables: BoardTables, cell: int, tenant_no: int) -> None:
        self._tables = tables
        self._routes = tables.routes
        self._allocations = tables.allocations
        self._begin = tables.env.begin
        self._cell = cell
        self._cell_bits = cell << CELL_SHIFT
        self._tenant_no = tenant_no
        # A line is the tenant's for ever, so what was found once need not be looked up again.
        self._lines: dict[E164, Line] = {}

    def __enter__(self) -> BoardReader:
        self._txn = self._begin()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._txn.abort()
        # LMDB gives the slot in its table of readers back with the last name of the transaction only, and
        # a reader is kept for each tenant.
        del self._txn

    def has_virtual_number(self, virtual_number: E164) -> bool:
        owner = self._txn.get(records.number_key(virtual_number), None, self._tables.virtual_numbers)
        return owner is not None and owner == self._line(virtual_number)

    def is_provisioned(self, number: E164) -> bool:
        """Whether any tenant has this number as a VN."""
        return self._txn.get(records.number_key(number), None, self._tables.virtual_numbers) is not None

    def routes(self, virtual_number: E164, caller: E164) -> Sequence[Route]:
        line = self._lines.get(virtual_number) or self._line(virtual_number)
        if line is None:
            return ()
        # As records.caller_key has it; the call of a function would be another 3 %.
        key = pack_caller_key(self._cell_bits | caller, line)
        first = self._txn.get(key, None, self._routes)
        if first is None:
            return ()
        route = (_, _, needs_pin, _) = route_of(first)
        if not needs_pin:
            # It sorts first, and the database lets no other route stand beside it.
            return (route,)
        with self._txn.cursor(db=self._routes) as cursor:
            cursor.set_key(key)
            return tuple(map(route_of, cursor.iternext_dup()))

    def pin_holders(self, virtual_number: E164, pin: Pin) -> Sequence[PinHolder]:
        line = self._line(virtual_number)
        if line is None:
            return ()
        record = self._txn.get(records.pin_key(self._cell, pin, line), None, self._tables.pins)
        return () if record is None else (records.pin_holder_of(record),)

    def usable_pins(self, virtual_number: E164, now_us: int) -> Iterator[UsablePin]:
        line = self._line(virtual_number)
        if line is None:
            return
        # Without a `with`: it is closed with the iterator, which seldom comes to its end.
        cursor = self._txn.cursor(self._tables.usable_pins)
        is_there = cursor.set_range(line)
        while is_there and (key := cursor.key()).startswith(line):
            length, expires_at_us, ref, side = records.usable_pin_of(key)
            if expires_at_us <= now_us:
                is_there = cursor.set_range(records.usable_pin_seek(line, length, now_us))
                continue
            yield UsablePin(length, ref, side)
            is_there = cursor.next()

    def allocation(self, ref: AllocationRef) -> StoredAllocation | None:
        record = self._txn.get(ref, None, self._allocations)
        return None if record is None else StoredAllocation(ref, record)

    def allocation_by_id(self, allocation_id: AllocationId) -> StoredAllocation | None:
        ref = self._txn.get(
            records.id_key(self._cell, self._tenant_no, allocation_id), None, self._tables.ids
        )
        return None if ref is None else self.allocation(AllocationRef(ref))

    def member_side(self, allocation: AllocationOnBoard, number: E164) -> Side | None:
        record = self._txn.get(
            records.membership_key(_ref_of(allocation), number), None, self._tables.memberships
        )
        return None if record is None else records.membership_side_of(record)

    def members(self, allocation: AllocationOnBoard, side: Side) -> tuple[E164, ...]:
        prefix = records.member_prefix(_ref_of(allocation), side)
        found: list[E164] = []
        with self._txn.cursor(self._tables.members) as cursor:
            is_there = cursor.set_range(prefix)
            while is_there and (key := cursor.key()).startswith(prefix):
                found.append(records.member_number_of(key))
                is_there = cursor.next()
        return tuple(found)

    # ── for choosing a VN ────────────────────────────────────────────────────

    def virtual_number(self, virtual_number: E164) -> VirtualNumberState | None:
        """A VN of the tenant's pool."""
        line = self._line(virtual_number)
        state = None if line is None else self._state(line)
        return state if state is not None and state.in_pool else None

    # An agent may have a thousand routes and a PIN be taken on a thousand lines, so these three loops leave
    # the stepping to lmdb and call nothing else: a choice took three times as long otherwise.

    def occupied_by(self, number: E164) -> set[Line]:
        """The lines on which a number has a route, other tenants' of the cell among them."""
        prefix = records.caller_prefix(self._cell, number)
        end = prefix + _AFTER_LINES
        found: set[bytes] = set()
        with self._txn.cursor(db=self._tables.routes) as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext_nodup(keys=True, values=False):
                    if key > end:
                        break
                    found.add(key[LINE_OF_KEY])
        return cast("set[Line]", found)

    def holding(self, pin: Pin) -> set[Line]:
        """The lines on which a PIN is taken, other tenants' of the cell among them."""
        prefix = records.pin_prefix(self._cell, pin)
        end = prefix + _AFTER_LINES
        found: set[bytes] = set()
        with self._txn.cursor(db=self._tables.pins) as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if key > end:
                        break
                    found.add(key[LINE_OF_KEY])
        return cast("set[Line]", found)

    def occupied_at(self, number: E164, now_us: int) -> set[Line]:
        """As `occupied_by`, but only by allocations that are live then: each of them is looked at."""
        prefix = records.caller_prefix(self._cell, number)
        found: set[Line] = set()
        with self._txn.cursor(db=self._tables.routes) as cursor:
            is_there = cursor.set_range(prefix)
            while is_there and (key := cursor.key()).startswith(prefix):
                ref, *_ = route_of(cursor.value())
                if self._is_live(ref, now_us):
                    found.add(records.line_of_caller_key(key))
                is_there = cursor.next()
        return found

    def held_at(self, pin: Pin, now_us: int) -> set[Line]:
        """As `holding`, but only by allocations that are live then."""
        prefix = records.pin_prefix(self._cell, pin)
        found: set[Line] = set()
        with self._txn.cursor(db=self._tables.pins) as cursor:
            is_there = cursor.set_range(prefix)
            while is_there and (key := cursor.key()).startswith(prefix):
                if self._is_live(records.pin_holder_of(cursor.value()).ref, now_us):
                    found.add(records.line_of_caller_key(key))
                is_there = cursor.next()
        return found

    def _is_live(self, ref: AllocationRef, now_us: int) -> bool:
        allocation = self.allocation(ref)
        return allocation is not None and allocation.is_live(now_us)

    def line(self, virtual_number: E164) -> Line | None:
        return self._line(virtual_number)

    def open_kinds(self) -> Iterator[tuple[str | None, str | None]]:
        """The regions and types, in pairs, of which VNs may be picked."""
        tenant = records.tenant_prefix(self._cell, self._tenant_no)
        with self._txn.cursor(db=self._tables.open_numbers) as cursor:
            is_there = cursor.set_range(tenant)
            while is_there and (key := cursor.key()).startswith(tenant):
                kind = records.open_kind_of(key)
                yield kind
                is_there = cursor.set_range(
                    records.open_prefix(self._cell, self._tenant_no, *kind) + b"\xff" * 8
                )

    def open_numbers(
        self, kind: tuple[str | None, str | None], blocked: AbstractSet[bytes] = frozenset()
    ) -> Iterator[tuple[int, bytes, E164]]:
        """(load, line, VN) of those of a region and type that may be picked, the least loaded first,
        without the `blocked` lines."""
        prefix = records.open_prefix(self._cell, self._tenant_no, *kind)
        end = prefix + _AFTER_LINES
        with self._txn.cursor(db=self._tables.open_numbers) as cursor:
            if cursor.set_range(prefix):
                for key in cursor.iternext(keys=True, values=False):
                    if key > end:
                        break
                    if (line := key[LINE_OF_KEY]) not in blocked:
                        number = E164(int.from_bytes(cursor.value(), "big"))
                        yield records.open_load_of(key), line, number

    def pool(self, after: E164 | None = None) -> Iterator[VirtualNumberState]:
        """The VNs of the tenant's pool by number, those behind `after`."""
        prefix = records.tenant_prefix(self._cell, self._tenant_no)
        start = prefix if after is None else records.line_key(self._cell, self._tenant_no, E164(after + 1))
        with self._txn.cursor(db=self._tables.lines) as cursor:
            is_there = cursor.set_range(start)
            while is_there and cursor.key().startswith(prefix):
                state = self._state(Line(cursor.value()))
                if state.in_pool:
                    yield state
                is_there = cursor.next()

    def _line(self, virtual_number: E164) -> Line | None:
        line = self._lines.get(virtual_number)
        if line is None:
            key = records.line_key(self._cell, self._tenant_no, virtual_number)
            found = self._txn.get(key, None, self._tables.lines)
            if found is None:
                return None
            line = self._lines[virtual_number] = Line(found)
        return line

    def _state(self, line: Line) -> VirtualNumberState:
        record = self._txn.get(line, None, self._tables.line_states)
        assert record is not None, "a line has a state from its first day"
        return records.vn_state_of(record)


def _ref_of(allocation: AllocationOnBoard) -> AllocationRef:
    assert isinstance(allocation, StoredAllocation), "boards are asked about their own allocations"
    return allocation.ref


class BoardTables:
    """The environment: opened once a process, as LMDB demands; one process of a node writes."""

    def __init__(self, directory: Path, *, is_read_only: bool = False) -> None:
        """Raises lmdb.Error where a board that is only read is not there (any more)."""
        if not is_read_only:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.env = lmdb.open(
            str(directory),
            map_size=MAP_BYTES_MAX,
            mode=0o600,
            readonly=is_read_only,
            create=not is_read_only,
            max_dbs=TABLES,
            max_readers=READERS_MAX,
            # It lives in tmpfs and is never trusted after a reboot: there is no disk to wait for.
            sync=False,
            metasync=False,
            writemap=False,
        )
        self.directory = directory
        self._readers: dict[int, BoardReader] = {}
        self.positions = self.env.open_db(b"positions")
        self.serials = self.env.open_db(b"serials")
        self.tenants = self.env.open_db(b"tenants")
        self.virtual_numbers = self.env.open_db(b"virtual_numbers")
        self.lines = self.env.open_db(b"lines")
        self.line_states = self.env.open_db(b"line_states")
        self.open_numbers = self.env.open_db(b"open_numbers")
        self.ids = self.env.open_db(b"ids")
        self.allocations = self.env.open_db(b"allocations")
        self.routes = self.env.open_db(b"routes", dupsort=True, dupfixed=True)
        self.pins = self.env.open_db(b"pins")
        self.usable_pins = self.env.open_db(b"usable_pins")
        self.members = self.env.open_db(b"members")
        self.memberships = self.env.open_db(b"memberships")
        self.window_rows = self.env.open_db(b"window_rows")

    def close(self) -> None:
        self.env.close()

    def reader(self, cell: int, tenant_no: int) -> BoardReader:
        """The tenant's reader, one for all its decisions: they do not overlap, for none waits."""
        reader = self._readers.get(tenant_no)
        if reader is None:
            reader = self._readers[tenant_no] = BoardReader(self, cell, tenant_no)
        return reader

    def tenant(self, tenant_id: str) -> bytes | None:
        """The tenant's record as `tenant_of` reads it; equal bytes mean an unchanged tenant."""
        with self.env.begin() as txn:
            record: bytes | None = txn.get(tenant_id.encode(), db=self.tenants)
            return record

    def tenants_by_id(self) -> Iterator[tuple[str, bytes]]:
        """Tenant id → record, for who walks over all of them."""
        with self.env.begin() as txn, txn.cursor(db=self.tenants) as cursor:
            yield from [(bytes(key).decode(), bytes(record)) for key, record in cursor]

    def tenant_count(self) -> int:
        with self.env.begin() as txn:
            return int(txn.stat(db=self.tenants)["entries"])

    def allocation_count(self) -> int:
        """Allocations on the board, those past their end and not yet swept among them."""
        with self.env.begin() as txn:
            return int(txn.stat(db=self.allocations)["entries"])

    def size_bytes(self) -> int:
        """What the pages in use take."""
        info = self.env.info()
        return int((info["last_pgno"] + 1) * self.env.stat()["psize"])

    def position(self, cell: int) -> int:
        """How far the board has come in that cell."""
        with self.env.begin() as txn:
            stored = txn.get(records.cell_key(cell), db=self.positions)
            return 0 if stored is None else records.position_of(stored)[0]

    def window_rows_after(self, serial: int) -> list[tuple[int, FeedRow]]:
        """What the feed told the windows of wrong PINs after that serial number, the oldest first.

        Numbers go up by one; where the first is not the next one, what lay between is dropped already.
        """
        with self.env.begin() as txn, txn.cursor(db=self.window_rows) as cursor:
            if not cursor.set_range(records.window_row_key(serial + 1)):
                return []
            return [
                (records.window_serial_of(bytes(key)), records.feed_row_of(bytes(value)))
                for key, value in cursor
            ]

    def give_back_dead_readers(self) -> int:
        """Free what killed processes read: their snapshots would keep pages for ever. How many."""
        return int(self.env.reader_check())

    def positions_by_cell(self) -> dict[int, tuple[int, int]]:
        """How far the board has come: cell → (n, tag of that row)."""
        with self.env.begin() as txn, txn.cursor(db=self.positions) as cursor:
            return {key[0]: records.position_of(value) for key, value in cursor}

    def apply(self, rows: Sequence[FeedRow]) -> None:
        """Apply feed rows, in order, in one write transaction.

        Raises FeedGap, with nothing applied, if a row is not the next one of its cell.
        """
        with self.env.begin(write=True) as txn:
            for row in rows:
                self._check_next(txn, row.cell, row.n)
                self._apply_one(txn, row.cell, decode(row.kind, row.body))
                if row.kind in WINDOW_KINDS:
                    self._pass_on(txn, row)
                self._set_position(txn, row)

    def apply_known(self, rows: Sequence[KnownRow]) -> None:
        """As `apply`, of rows of one cell, one after the other, that need not be decoded."""
        first, last = rows[0], rows[-1]
        assert last.n - first.n == len(rows) - 1
        with self.env.begin(write=True) as txn:
            self._check_next(txn, first.cell, first.n)
            for row in rows:
                self._apply_one(txn, row.cell, row.change)
            self._set_position(txn, last)

    def _check_next(self, txn: lmdb.Transaction, cell: int, n: int) -> None:
        """Raises FeedGap."""
        stored = _get(txn, records.cell_key(cell), self.positions)
        position = 0 if stored is None else records.position_of(stored)[0]
        if n != position + 1:
            raise FeedGap(cell, position, n)

    def _set_position(self, txn: lmdb.Transaction, row: FeedRow | KnownRow) -> None:
        txn.put(records.cell_key(row.cell), records.position_record(row.n, row.tag), db=self.positions)

    def load(self, cell: int, changes: Iterable[Change]) -> None:
        """Put the rows of a snapshot; `set_positions` makes them count."""
        with self.env.begin(write=True) as txn:
            for change in changes:
                self._apply_one(txn, cell, change)

    def add_lines(self, lines: Iterable[tuple[int, int, E164]]) -> None:
        """For (cell, tenant_no, VN) each, where there is none yet."""
        with self.env.begin(write=True) as txn:
            for cell, tenant_no, virtual_number in lines:
                self._line(txn, cell, tenant_no, virtual_number)

    def count_on_lines(self, stands: Iterable[tuple[Line, int, int, int, tuple[int, ...]]]) -> None:
        """What stands where nothing stood: (line, load, exclusive, callers, PINs by length - 1)."""
        with self.env.begin(write=True) as txn:
            for line, load, exclusive, callers, pins in stands:
                was = self._state(txn, line)
                becomes = was._replace(load=load, exclusive=exclusive, callers=callers, pins=pins)
                self._set_state(txn, line[0], line, was, becomes)

    def set_positions(self, positions: dict[int, tuple[int, int]]) -> None:
        with self.env.begin(write=True) as txn:
            for cell, (n, tag) in positions.items():
                txn.put(records.cell_key(cell), records.position_record(n, tag), db=self.positions)

    def _apply_one(self, txn: lmdb.Transaction, cell: int, change: Change) -> None:
        match change:
            case AllocationStands():
                self._put_allocation(txn, cell, change)
            case AllocationReleased(tenant_no, version, allocation_id):
                self._release(txn, cell, tenant_no, version, allocation_id)
            case MemberStands():
                self._put_member(txn, cell, change)
            case MemberLeft(tenant_no, allocation_id, number):
                self._drop_member(txn, cell, tenant_no, allocation_id, number)
            case VirtualNumberStands():
                self._put_virtual_number(txn, cell, change)
            case VirtualNumberGone(tenant_no, number):
                self._take_from_pool(txn, cell, tenant_no, number)
            case TenantStands():
                txn.put(change.tenant_id.encode(), encode(change)[1].encode(), db=self.tenants)
            case TenantGone(tenant_id):
                txn.delete(tenant_id.encode(), db=self.tenants)
            case PinFailed() | ThrottleCleared():
                pass  # For the windows (switchboard/throttle.py), which `apply` passes it on to.
            case unmatched:
                assert_never(unmatched)

    def _pass_on(self, txn: lmdb.Transaction, row: FeedRow) -> None:
        with txn.cursor(db=self.window_rows) as cursor:
            serial = records.window_serial_of(bytes(cursor.key())) + 1 if cursor.last() else 1
        txn.put(records.window_row_key(serial), records.feed_row_record(row), db=self.window_rows)
        if serial > WINDOW_ROWS_MAX:
            txn.delete(records.window_row_key(serial - WINDOW_ROWS_MAX), db=self.window_rows)

    # ── VNs ──────────────────────────────────────────────────────────────────

    def _put_virtual_number(self, txn: lmdb.Transaction, cell: int, change: VirtualNumberStands) -> None:
        line = self._line(txn, cell, change.tenant_no, change.number)
        txn.put(records.number_key(change.number), line, db=self.virtual_numbers)
        was = self._state(txn, line)
        becomes = was._replace(
            in_pool=True,
            region=change.region,
            type=change.type,
            is_reserved=change.is_reserved,
            is_drained=change.is_drained,
        )
        self._set_state(txn, cell, line, was, becomes)

    def _take_from_pool(self, txn: lmdb.Transaction, cell: int, tenant_no: int, number: E164) -> None:
        line = self._line(txn, cell, tenant_no, number)
        key = records.number_key(number)
        # Another tenant, of another cell, may have it already: cells are told of in no order.
        if txn.get(key, db=self.virtual_numbers) == line:
            txn.delete(key, db=self.virtual_numbers)
        was = self._state(txn, line)
        self._set_state(txn, cell, line, was, was._replace(in_pool=False))

    def _line(self, txn: lmdb.Transaction, cell: int, tenant_no: int, virtual_number: E164) -> Line:
        key = records.line_key(cell, tenant_no, virtual_number)
        found = _get(txn, key, self.lines)
        if found is not None:
            return Line(found)
        line = records.line_of(cell, self._next_serial(txn, cell, b"line"))
        txn.put(key, line, db=self.lines)
        state = VirtualNumberState(virtual_number, tenant_no)
        txn.put(line, records.vn_state_record(state), db=self.line_states)
        return line

    def _next_serial(self, txn: lmdb.Transaction, cell: int, what: bytes) -> int:
        key = records.cell_key(cell) + what
        serial = records.serial_of(_get(txn, key, self.serials)) + 1
        txn.put(key, records.serial_record(serial), db=self.serials)
        return serial

    def _state(self, txn: lmdb.Transaction, line: Line) -> VirtualNumberState:
        record = _get(txn, line, self.line_states)
        assert record is not None, "a line has a state from its first day"
        return records.vn_state_of(record)

    def _set_state(
        self,
        txn: lmdb.Transaction,
        cell: int,
        line: Line,
        was: VirtualNumberState,
        becomes: VirtualNumberState,
    ) -> None:
        """Change what is known of a VN, and its place among those that may be picked."""
        if becomes == was:
            return
        txn.put(line, records.vn_state_record(becomes), db=self.line_states)
        if was.is_open:
            txn.delete(records.open_key(cell, was, line), db=self.open_numbers)
        if becomes.is_open:
            number = records.number_key(becomes.number)
            txn.put(records.open_key(cell, becomes, line), number, db=self.open_numbers)

    def _count_caller(self, txn: lmdb.Transaction, cell: int, line: Line, by: int) -> None:
        was = self._state(txn, line)
        self._set_state(txn, cell, line, was, was._replace(callers=was.callers + by))

    def _count_on_lines(
        self,
        txn: lmdb.Transaction,
        cell: int,
        lines: Mapping[E164, Line],
        allocation: Allocation,
        callers: Mapping[Line, int],
        by: int,
    ) -> None:
        """Count an allocation on its lines, with its PINs and the callers who came or went with it."""
        exclusive = by if allocation.is_exclusive else 0
        pins = {line: [0] * PIN_DIGITS_MAX for line in lines.values()}
        for virtual_number, pin, _ in pins_on(allocation):
            pins[lines[virtual_number]][len(pin) - 1] += by
        for line, lengths in pins.items():
            was = self._state(txn, line)
            becomes = was._replace(
                load=was.load + by,
                exclusive=was.exclusive + exclusive,
                callers=was.callers + callers.get(line, 0),
                pins=tuple(map(add, was.pins, lengths)),
            )
            self._set_state(txn, cell, line, was, becomes)

    def _put_route(self, txn: lmdb.Transaction, caller: bytes, route: bytes) -> int:
        """How many callers the line has more for it: 1 if it is the caller's first route there."""
        is_first = _get(txn, caller, self.routes) is None
        txn.put(caller, route, db=self.routes)
        return int(is_first)

    def _delete_route(self, txn: lmdb.Transaction, caller: bytes, route: bytes) -> int:
        """How many callers the line has less for it."""
        was_there = txn.delete(caller, route, db=self.routes)
        return int(was_there and _get(txn, caller, self.routes) is None)

    # ── allocations ──────────────────────────────────────────────────────────

    def _put_allocation(self, txn: lmdb.Transaction, cell: int, change: AllocationStands) -> None:
        allocation = change.allocation
        id_key = records.id_key(cell, change.tenant_no, allocation.id)
        found = _get(txn, id_key, self.ids)
        if found is None:
            ref = records.ref_of(cell, self._next_serial(txn, cell, b"allocation"))
            txn.put(id_key, ref, db=self.ids)
        else:
            ref = AllocationRef(found)
            stored = _get(txn, ref, self.allocations)
            assert stored is not None, "an id leads to an allocation"
            if records.allocation_version_of(stored) >= change.version:
                return
            was = records.allocation_of(stored)
            self._delete_listed(txn, cell, change.tenant_no, ref, was)
            allocation = allocation._replace(has_members=was.has_members)
        txn.put(ref, records.allocation_record(allocation, change.version), db=self.allocations)
        lines = self._lines_of(txn, cell, change.tenant_no, allocation)
        callers: Counter[Line] = Counter()
        for caller, route in _listed_routes(cell, ref, lines, allocation):
            callers[records.line_of_caller_key(caller)] += self._put_route(txn, caller, route)
        self._count_on_lines(txn, cell, lines, allocation, callers, 1)
        for virtual_number, pin, holder in pins_on(allocation):
            key = records.pin_key(cell, pin, lines[virtual_number])
            txn.put(key, records.pin_holder_record(ref, holder), db=self.pins)
        for usable in _usable_pin_keys(ref, lines, allocation):
            txn.put(usable, b"", db=self.usable_pins)

    def _delete_listed(
        self,
        txn: lmdb.Transaction,
        cell: int,
        tenant_no: int,
        ref: AllocationRef,
        allocation: Allocation,
    ) -> None:
        lines = self._lines_of(txn, cell, tenant_no, allocation)
        callers: Counter[Line] = Counter()
        for caller, route in _listed_routes(cell, ref, lines, allocation):
            callers[records.line_of_caller_key(caller)] -= self._delete_route(txn, caller, route)
        self._count_on_lines(txn, cell, lines, allocation, callers, -1)
        for virtual_number, pin, _ in pins_on(allocation):
            txn.delete(records.pin_key(cell, pin, lines[virtual_number]), db=self.pins)
        for usable in _usable_pin_keys(ref, lines, allocation):
            txn.delete(usable, db=self.usable_pins)

    def _lines_of(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, allocation: Allocation
    ) -> dict[E164, Line]:
        virtual_numbers = dict.fromkeys((*allocation.a.virtual_numbers, *allocation.b.virtual_numbers))
        return {number: self._line(txn, cell, tenant_no, number) for number in virtual_numbers}

    def _release(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, version: int, allocation_id: AllocationId
    ) -> None:
        id_key = records.id_key(cell, tenant_no, allocation_id)
        found = _get(txn, id_key, self.ids)
        if found is None:
            return
        ref = AllocationRef(found)
        stored = _get(txn, ref, self.allocations)
        assert stored is not None, "an id leads to an allocation"
        if records.allocation_version_of(stored) >= version:
            return
        allocation = records.allocation_of(stored)
        self._delete_listed(txn, cell, tenant_no, ref, allocation)
        if allocation.has_members:
            for member in list(_keys(txn, self.memberships, ref)):
                self._delete_member(txn, cell, tenant_no, ref, records.membership_number_of(member))
        txn.delete(ref, db=self.allocations)
        txn.delete(id_key, db=self.ids)

    # ── members ──────────────────────────────────────────────────────────────

    def _put_member(self, txn: lmdb.Transaction, cell: int, change: MemberStands) -> None:
        tenant_no, number = change.tenant_no, change.number
        ref = _get(txn, records.id_key(cell, tenant_no, change.allocation_id), self.ids)
        if ref is None:
            # The allocation was released meanwhile, and its members with it.
            return
        ref = AllocationRef(ref)
        self._delete_member(txn, cell, tenant_no, ref, number)
        txn.put(
            records.membership_key(ref, number),
            records.membership_record(
                change.side, change.needs_pin, change.joined_at_us, change.virtual_numbers
            ),
            db=self.memberships,
        )
        txn.put(records.member_key(ref, change.side, change.joined_at_us, number), b"", db=self.members)
        route = records.route_record(ref, change.side, needs_pin=change.needs_pin, is_member=True)
        for virtual_number in change.virtual_numbers:
            line = self._line(txn, cell, tenant_no, virtual_number)
            come = self._put_route(txn, records.caller_key(cell, number, line), route)
            self._count_caller(txn, cell, line, come)
        self._note_members(txn, ref)

    def _drop_member(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, allocation_id: AllocationId, number: E164
    ) -> None:
        ref = _get(txn, records.id_key(cell, tenant_no, allocation_id), self.ids)
        if ref is not None:
            self._delete_member(txn, cell, tenant_no, AllocationRef(ref), number)
            self._note_members(txn, AllocationRef(ref))

    def _delete_member(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, ref: AllocationRef, number: E164
    ) -> None:
        key = records.membership_key(ref, number)
        stored = _get(txn, key, self.memberships)
        if stored is None:
            return
        txn.delete(key, db=self.memberships)
        side, needs_pin, joined_at_us, virtual_numbers = records.membership_of(stored)
        txn.delete(records.member_key(ref, side, joined_at_us, number), db=self.members)
        route = records.route_record(ref, side, needs_pin=needs_pin, is_member=True)
        for virtual_number in virtual_numbers:
            line = self._line(txn, cell, tenant_no, virtual_number)
            gone = self._delete_route(txn, records.caller_key(cell, number, line), route)
            self._count_caller(txn, cell, line, -gone)

    def _note_members(self, txn: lmdb.Transaction, ref: AllocationRef) -> None:
        """Keep the record's `has_members` true to the members."""
        stored = _get(txn, ref, self.allocations)
        assert stored is not None, "an id leads to an allocation"
        allocation = records.allocation_of(stored)
        has_members = any(True for _ in _keys(txn, self.memberships, ref))
        if allocation.has_members != has_members:
            version = records.allocation_version_of(stored)
            record = records.allocation_record(allocation._replace(has_members=has_members), version)
            txn.put(ref, record, db=self.allocations)


def _listed_routes(
    cell: int, ref: AllocationRef, lines: Mapping[E164, Line], allocation: Allocation
) -> Iterator[tuple[bytes, bytes]]:
    """(key, record) of each route of the listed numbers."""
    for side in Side:
        party = allocation.party(side)
        route = records.route_record(ref, side, needs_pin=party.listed_need_pin, is_member=False)
        for number in party.numbers:
            prefix = records.caller_prefix(cell, number)
            for virtual_number in party.virtual_numbers:
                yield prefix + lines[virtual_number], route


def _usable_pin_keys(
    ref: AllocationRef, lines: Mapping[E164, Line], allocation: Allocation
) -> Iterator[bytes]:
    for virtual_number, pin, holder in pins_on(allocation):
        sides = Side if holder is None else (holder,)
        if any(_may_call(allocation, side, virtual_number) for side in sides):
            yield records.usable_pin_key(
                lines[virtual_number], len(pin), allocation.expires_at_us, ref, holder
            )


def _may_call(allocation: Allocation, side: Side, virtual_number: E164) -> bool:
    party: Party = allocation.party(side)
    return allocation.permits(side) and virtual_number in party.virtual_numbers


def _get(txn: lmdb.Transaction, key: bytes, db: lmdb._Database) -> bytes | None:
    record = txn.get(key, db=db)
    assert not isinstance(record, memoryview), "transactions are opened with buffers=False"
    return record


def _keys(txn: lmdb.Transaction, db: lmdb._Database, prefix: bytes) -> Iterator[bytes]:
    with txn.cursor(db=db) as cursor:
        is_there = cursor.set_range(prefix)
        while is_there and (key := bytes(cursor.key())).startswith(prefix):
            yield key
            is_there = cursor.next()
