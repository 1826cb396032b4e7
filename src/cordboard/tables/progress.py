"""What each call has done so far: a small LMDB environment a node, written before each reply.

Beside the progress of a call stands its way in: a greeting names a call by its CallSid alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

import lmdb

from cordboard.routing.model import Admission, AllocationId, LastEntry, Progress, Side
from cordboard.routing.numbers import E164
from cordboard.routing.progress import DIGEST_BYTES

# A call that nobody has heard of for this long is over (routing.md, The progress of a call).
PROGRESS_KEPT_US: Final = 4 * 3_600 * 1_000_000
# 200 calls/s × 4 h × 200 bytes are 600 MB; address space, not memory.
MAP_BYTES_MAX: Final = 8 << 30
# One step of the sweep, some 5 ms.
SWEEP_CALLS_MAX: Final = 1_000
# LMDB's keys end at 511 bytes; a CallSid is 32 characters (exotel.md 1.2).
CALL_SID_BYTES_MAX: Final = 128

_KEY = Struct(">IQQ")
_TENANT = Struct(">I")
_AGE = Struct(">Q")
# last hop, failures, empty entries, prompt open, last entry, admitted side (2: none), allocation
_RECORD = Struct(">QHHBBB16s")
_WAY_IN = Struct(">QQQ")
_NOT_ADMITTED = 2
_LAST_ENTRIES = tuple(LastEntry)


class WayIn(NamedTuple):
    """Which VN was dialled, and by whom."""

    virtual_number: E164
    caller: E164 | None


class ProgressRow(NamedTuple):
    """What a hop leaves behind of its call."""

    tenant_no: int
    call_sid: bytes
    virtual_number: E164
    caller: E164 | None
    progress: Progress
    # Of the hop.
    at_us: int


class ProgressTables:
    """Calls of all tenants, by (tenant, VN, caller, CallSid)."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._env = lmdb.open(
            str(directory),
            map_size=MAP_BYTES_MAX,
            mode=0o600,
            max_dbs=3,
            max_readers=1024,
            # It survives a killed process, which is all it is for; records are in PostgreSQL.
            sync=False,
            metasync=False,
        )
        self._calls = self._env.open_db(b"calls")
        self._ways_in = self._env.open_db(b"ways_in")
        self._ages = self._env.open_db(b"ages")

    def close(self) -> None:
        self._env.close()

    def get(
        self, tenant_no: int, call_sid: bytes, virtual_number: E164, caller: E164 | None
    ) -> Progress | None:
        """None for a call that is unknown here."""
        with self._env.begin() as txn:
            record = txn.get(_key(tenant_no, call_sid, virtual_number, caller), db=self._calls)
        return None if record is None else _progress_of(bytes(record))

    def put(
        self,
        tenant_no: int,
        call_sid: bytes,
        virtual_number: E164,
        caller: E164 | None,
        progress: Progress,
        now_us: int,
    ) -> None:
        self.put_all([ProgressRow(tenant_no, call_sid, virtual_number, caller, progress, now_us)])

    def put_all(self, rows: Iterable[ProgressRow]) -> None:
        """All in one transaction. Raises lmdb.Error, and has then written nothing."""
        with self._env.begin(write=True) as txn:
            for tenant_no, call_sid, virtual_number, caller, progress, now_us in rows:
                key = _key(tenant_no, call_sid, virtual_number, caller)
                way_in = _WAY_IN.pack(now_us, virtual_number, caller or 0)
                txn.put(key, _record(progress, now_us), db=self._calls)
                txn.put(_way_in_key(tenant_no, call_sid), way_in, db=self._ways_in)
                txn.put(_AGE.pack(now_us) + key, b"", db=self._ages)

    def way_in(self, tenant_no: int, call_sid: bytes) -> WayIn | None:
        """The VN and caller of the latest hop that was kept for this CallSid."""
        with self._env.begin() as txn:
            record = txn.get(_way_in_key(tenant_no, call_sid), db=self._ways_in)
        if record is None:
            return None
        _, virtual_number, caller = _WAY_IN.unpack(bytes(record))
        return WayIn(E164(virtual_number), E164(caller) if caller else None)

    def sweep(self, now_us: int) -> int:
        """Drop what has aged, a step at a time; returns how many entries were looked at."""
        until = _AGE.pack(max(now_us - PROGRESS_KEPT_US, 0))
        with self._env.begin(write=True) as txn, txn.cursor(db=self._ages) as cursor:
            aged: list[bytes] = []
            for age_key in cursor.iternext(keys=True, values=False):
                if age_key[: _AGE.size] >= until or len(aged) == SWEEP_CALLS_MAX:
                    break
                aged.append(bytes(age_key))
            for age_key in aged:
                written_at, key = age_key[: _AGE.size], age_key[_AGE.size :]
                way_in = key[: _TENANT.size] + key[_KEY.size :]
                for table, place in ((self._calls, key), (self._ways_in, way_in)):
                    record = txn.get(place, db=table)
                    # A later hop has left an age of its own.
                    if record is not None and record[: _AGE.size] == written_at:
                        txn.delete(place, db=table)
                txn.delete(age_key, db=self._ages)
        return len(aged)


def _way_in_key(tenant_no: int, call_sid: bytes) -> bytes:
    return _TENANT.pack(tenant_no) + call_sid


def _key(tenant_no: int, call_sid: bytes, virtual_number: E164, caller: E164 | None) -> bytes:
    return _KEY.pack(tenant_no, virtual_number, caller or 0) + call_sid


def _record(progress: Progress, now_us: int) -> bytes:
    admission = progress.admission
    head = _RECORD.pack(
        now_us,
        progress.failures,
        progress.empty_entries,
        progress.prompt_open,
        _LAST_ENTRIES.index(progress.last_entry),
        _NOT_ADMITTED if admission is None else admission.side,
        b"" if admission is None else admission.allocation_id,
    )
    return head + b"".join(progress.tried)


def _progress_of(record: bytes) -> Progress:
    _, failures, empty_entries, prompt_open, last_entry, side, allocation_id = _RECORD.unpack_from(record)
    tried = record[_RECORD.size :]
    return Progress(
        failures=failures,
        empty_entries=empty_entries,
        prompt_open=bool(prompt_open),
        last_entry=_LAST_ENTRIES[last_entry],
        tried=frozenset(tried[start : start + DIGEST_BYTES] for start in range(0, len(tried), DIGEST_BYTES)),
        admission=None if side == _NOT_ADMITTED else Admission(AllocationId(allocation_id), Side(side)),
    )
