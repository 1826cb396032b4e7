"""The board in LMDB: one environment a node, written by one applier from the feed, read by every worker.

Each read transaction is one consistent snapshot, and the position of every cell's feed is stored with
the rows, so that what is read and how far it has come can never disagree (architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, assert_never

import lmdb

from cordboard.routing.changes import (
    AllocationReleased,
    AllocationStands,
    Change,
    FeedRow,
    MemberLeft,
    MemberStands,
    TenantGone,
    TenantStands,
    VirtualNumberGone,
    VirtualNumberStands,
    decode,
    encode,
)
from cordboard.routing.model import (
    Allocation,
    AllocationId,
    Party,
    PinHolder,
    Route,
    Side,
    UsablePin,
)
from cordboard.routing.numbers import E164, Pin
from cordboard.routing.pins import pins_on
from cordboard.tables import records
from cordboard.tables.records import StoredAllocation, allocation_key, caller_key, route_of

# Address space, not memory: ten million allocations are some 10 GB, and growing a map stops its readers.
MAP_BYTES_MAX: Final = 64 << 30
# One slot a reading thread: 256 workers with a few threads each.
READERS_MAX: Final = 1024


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
    __slots__ = ("_allocations", "_begin", "_cell", "_get", "_routes", "_tables", "_tenant_no", "_txn")

    def __init__(self, tables: BoardTables, cell: int, tenant_no: int) -> None:
        self._tables = tables
        self._routes = tables.routes
        self._allocations = tables.allocations
        self._begin = tables.env.begin
        self._cell = cell
        self._tenant_no = tenant_no

    def __enter__(self) -> BoardReader:
        self._txn = txn = self._begin()
        self._get = txn.get
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._txn.abort()

    def has_virtual_number(self, virtual_number: E164) -> bool:
        owner = self._get(records.number_key(virtual_number), db=self._tables.virtual_numbers)
        return owner is not None and records.tenant_no_of(owner) == self._tenant_no

    def is_provisioned(self, number: E164) -> bool:
        """Whether any tenant has this number as a VN."""
        return self._get(records.number_key(number), db=self._tables.virtual_numbers) is not None

    def routes(self, virtual_number: E164, caller: E164) -> Sequence[Route]:
        key = caller_key(self._cell, self._tenant_no, virtual_number, caller)
        first = self._get(key, db=self._routes)
        if first is None:
            return ()
        route = route_of(first)
        if not route.needs_pin:
            # It sorts first, and the database lets no other route stand beside it.
            return (route,)
        with self._txn.cursor(db=self._routes) as cursor:
            cursor.set_key(key)
            return tuple(map(route_of, cursor.iternext_dup()))

    def pin_holders(self, virtual_number: E164, pin: Pin) -> Sequence[PinHolder]:
        key = records.pin_key(self._cell, self._tenant_no, virtual_number, pin)
        record = self._get(key, db=self._tables.pins)
        return () if record is None else (PinHolder(*records.pin_holder_of(record)),)

    def usable_pins(self, virtual_number: E164, now_us: int) -> Iterator[UsablePin]:
        prefix = records.vn_prefix(self._cell, self._tenant_no, virtual_number)
        with self._txn.cursor(db=self._tables.usable_pins) as cursor:
            is_there = cursor.set_range(prefix)
            while is_there and (key := cursor.key()).startswith(prefix):
                length, expires_at_us, allocation_id, side = records.usable_pin_of(key)
                if expires_at_us <= now_us:
                    is_there = cursor.set_range(records.usable_pin_seek(prefix, length, now_us))
                    continue
                yield UsablePin(length, allocation_id, side)
                is_there = cursor.next()

    def allocation(self, allocation_id: AllocationId) -> StoredAllocation | None:
        record = self._get(allocation_key(self._cell, self._tenant_no, allocation_id), db=self._allocations)
        return None if record is None else StoredAllocation(allocation_id, record)

    def member_side(self, allocation_id: AllocationId, number: E164) -> Side | None:
        key = records.membership_key(self._cell, self._tenant_no, allocation_id, number)
        record = self._get(key, db=self._tables.memberships)
        return None if record is None else records.membership_side_of(record)

    def members(self, allocation_id: AllocationId, side: Side) -> tuple[E164, ...]:
        prefix = records.member_prefix(self._cell, self._tenant_no, allocation_id, side)
        return tuple(records.member_number_of(key) for key in _keys(self._txn, self._tables.members, prefix))


class BoardTables:
    """The environment: opened once a process, as LMDB demands."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.env = lmdb.open(
            str(directory),
            map_size=MAP_BYTES_MAX,
            mode=0o600,
            max_dbs=9,
            max_readers=READERS_MAX,
            # It lives in tmpfs and is never trusted after a reboot: there is no disk to wait for.
            sync=False,
            metasync=False,
            writemap=False,
        )
        self._readers: dict[int, BoardReader] = {}
        self.positions = self.env.open_db(b"positions")
        self.tenants = self.env.open_db(b"tenants")
        self.virtual_numbers = self.env.open_db(b"virtual_numbers")
        self.allocations = self.env.open_db(b"allocations")
        self.routes = self.env.open_db(b"routes", dupsort=True, dupfixed=True)
        self.pins = self.env.open_db(b"pins")
        self.usable_pins = self.env.open_db(b"usable_pins")
        self.members = self.env.open_db(b"members")
        self.memberships = self.env.open_db(
            b"memberships",
        )

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
                cell = records.cell_key(row.cell)
                stored = txn.get(cell, db=self.positions)
                position = 0 if stored is None else records.position_of(stored)[0]
                if row.n != position + 1:
                    raise FeedGap(row.cell, position, row.n)
                self._apply_one(txn, row.cell, decode(row.kind, row.body))
                txn.put(cell, records.position_record(row.n, row.tag), db=self.positions)

    def load(self, cell: int, changes: Iterable[Change]) -> None:
        """Put the rows of a snapshot; `set_positions` makes them count."""
        with self.env.begin(write=True) as txn:
            for change in changes:
                self._apply_one(txn, cell, change)

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
                self._delete_member(txn, cell, tenant_no, allocation_id, number)
                self._note_members(txn, cell, tenant_no, allocation_id)
            case VirtualNumberStands(tenant_no, number):
                txn.put(
                    records.number_key(number),
                    records.tenant_no_record(tenant_no),
                    db=self.virtual_numbers,
                )
            case VirtualNumberGone(number):
                txn.delete(records.number_key(number), db=self.virtual_numbers)
            case TenantStands():
                txn.put(change.tenant_id.encode(), encode(change)[1].encode(), db=self.tenants)
            case TenantGone(tenant_id):
                txn.delete(tenant_id.encode(), db=self.tenants)
            case unmatched:
                assert_never(unmatched)

    def _put_allocation(self, txn: lmdb.Transaction, cell: int, change: AllocationStands) -> None:
        allocation = change.allocation
        key = records.allocation_key(cell, change.tenant_no, allocation.id)
        stored = _get(txn, key, self.allocations)
        if stored is not None:
            if records.allocation_version_of(stored) >= change.version:
                return
            was = records.allocation_of(allocation.id, stored)
            self._delete_listed(txn, cell, change.tenant_no, was)
            allocation = allocation._replace(has_members=was.has_members)
        txn.put(key, records.allocation_record(allocation, change.version), db=self.allocations)
        for side in Side:
            party = allocation.party(side)
            route = records.route_record(Route(allocation.id, side, party.listed_need_pin, is_member=False))
            for virtual_number in party.virtual_numbers:
                for number in party.numbers:
                    caller = records.caller_key(cell, change.tenant_no, virtual_number, number)
                    txn.put(caller, route, db=self.routes)
        for virtual_number, pin, holder in pins_on(allocation):
            txn.put(
                records.pin_key(cell, change.tenant_no, virtual_number, pin),
                records.pin_holder_record(allocation.id, holder),
                db=self.pins,
            )
        for usable in _usable_pin_keys(cell, change.tenant_no, allocation):
            txn.put(usable, b"", db=self.usable_pins)

    def _delete_listed(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, allocation: Allocation
    ) -> None:
        for side in Side:
            party = allocation.party(side)
            route = records.route_record(Route(allocation.id, side, party.listed_need_pin, is_member=False))
            for virtual_number in party.virtual_numbers:
                for number in party.numbers:
                    caller = records.caller_key(cell, tenant_no, virtual_number, number)
                    txn.delete(caller, route, db=self.routes)
        for virtual_number, pin, _ in pins_on(allocation):
            txn.delete(records.pin_key(cell, tenant_no, virtual_number, pin), db=self.pins)
        for usable in _usable_pin_keys(cell, tenant_no, allocation):
            txn.delete(usable, db=self.usable_pins)

    def _release(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, version: int, allocation_id: AllocationId
    ) -> None:
        key = records.allocation_key(cell, tenant_no, allocation_id)
        stored = _get(txn, key, self.allocations)
        if stored is None or records.allocation_version_of(stored) >= version:
            return
        allocation = records.allocation_of(allocation_id, stored)
        self._delete_listed(txn, cell, tenant_no, allocation)
        if allocation.has_members:
            for member in list(_keys(txn, self.memberships, key)):
                self._delete_member(txn, cell, tenant_no, allocation_id, records.membership_number_of(member))
        txn.delete(key, db=self.allocations)

    def _put_member(self, txn: lmdb.Transaction, cell: int, change: MemberStands) -> None:
        tenant_no, allocation_id, number = change.tenant_no, change.allocation_id, change.number
        self._delete_member(txn, cell, tenant_no, allocation_id, number)
        txn.put(
            records.membership_key(cell, tenant_no, allocation_id, number),
            records.membership_record(
                change.side, change.needs_pin, change.joined_at_us, change.virtual_numbers
            ),
            db=self.memberships,
        )
        txn.put(
            records.member_key(cell, tenant_no, allocation_id, change.side, change.joined_at_us, number),
            b"",
            db=self.members,
        )
        route = records.route_record(Route(allocation_id, change.side, change.needs_pin, is_member=True))
        for virtual_number in change.virtual_numbers:
            caller = records.caller_key(cell, tenant_no, virtual_number, number)
            txn.put(caller, route, db=self.routes)
        self._note_members(txn, cell, tenant_no, allocation_id)

    def _delete_member(
        self,
        txn: lmdb.Transaction,
        cell: int,
        tenant_no: int,
        allocation_id: AllocationId,
        number: E164,
    ) -> None:
        key = records.membership_key(cell, tenant_no, allocation_id, number)
        stored = _get(txn, key, self.memberships)
        if stored is None:
            return
        txn.delete(key, db=self.memberships)
        side, needs_pin, joined_at_us, virtual_numbers = records.membership_of(stored)
        txn.delete(
            records.member_key(cell, tenant_no, allocation_id, side, joined_at_us, number),
            db=self.members,
        )
        route = records.route_record(Route(allocation_id, side, needs_pin, is_member=True))
        for virtual_number in virtual_numbers:
            caller = records.caller_key(cell, tenant_no, virtual_number, number)
            txn.delete(caller, route, db=self.routes)

    def _note_members(
        self, txn: lmdb.Transaction, cell: int, tenant_no: int, allocation_id: AllocationId
    ) -> None:
        """Keep the record's `has_members` true to the members."""
        key = records.allocation_key(cell, tenant_no, allocation_id)
        stored = _get(txn, key, self.allocations)
        if stored is None:
            return
        allocation = records.allocation_of(allocation_id, stored)
        has_members = any(True for _ in _keys(txn, self.memberships, key))
        if allocation.has_members != has_members:
            version = records.allocation_version_of(stored)
            record = records.allocation_record(allocation._replace(has_members=has_members), version)
            txn.put(key, record, db=self.allocations)


def _usable_pin_keys(cell: int, tenant_no: int, allocation: Allocation) -> Iterator[bytes]:
    for virtual_number, pin, holder in pins_on(allocation):
        sides = Side if holder is None else (holder,)
        if any(_may_call(allocation, side, virtual_number) for side in sides):
            yield records.usable_pin_key(
                cell,
                tenant_no,
                virtual_number,
                len(pin),
                allocation.expires_at_us,
                allocation.id,
                holder,
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
