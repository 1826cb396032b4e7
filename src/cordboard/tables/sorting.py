"""Rows of bytes that wait in files to be had in order: as many as there are, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]
"""One axis; what a row is, its type says."""
Bytes = NDArray[np.uint8]
"""Rows of bytes: the first axis counts the rows."""
Numbers = NDArray[np.int64]

# So many of each part are looked at to find where the parts should meet.
_SAMPLED_PER_PART: Final = 256


class Parted:
    """Rows in files, one for each range of keys; each file is taken once."""

    def __init__(self, directory: Path, bounds: Rows, form: np.dtype[Any]) -> None:
        directory.mkdir(mode=0o700)
        self._directory = directory
        self._bounds = bounds
        self._form = form
        self.count = len(bounds) + 1

    def add(self, rows: Rows, keys: Rows) -> None:
        parts = np.searchsorted(self._bounds, keys, side="right").astype(np.uint16)
        rows = rows[np.argsort(parts, kind="stable")]
        counts = np.bincount(parts)
        for part, start, count in zip(range(len(counts)), starts_of(counts), counts, strict=True):
            if count:
                with self._file(part).open("ab") as file:
                    file.write(rows[start : start + count].tobytes())

    def take(self, part: int) -> Rows:
        file = self._file(part)
        if not file.exists():
            return np.empty(0, dtype=self._form)
        rows = np.fromfile(file, dtype=self._form)
        file.unlink()
        return rows

    def _file(self, part: int) -> Path:
        return self._directory / str(part)


class Unsorted:
    """Rows of bytes in a file, of any number, to be had sorted once."""

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._form = np.dtype(f"S{width}")
        self.count = 0

    def add(self, rows: Bytes) -> None:
        with self._path.open("ab") as file:
            file.write(rows.tobytes())
        self.count += len(rows)

    def sorted_parts(self, key_bytes: int, rows_per_part: int) -> Iterator[tuple[Bytes, int]]:
        """(rows, each once, and how many there were); all with the same key are in one part."""
        parts = -(-self.count // rows_per_part)
        if not parts:
            return
        if parts == 1:
            rows = np.fromfile(self._path, dtype=self._form)
            self._path.unlink()
            yield _sorted_once(rows), len(rows)
            return
        parted = self._parted(parts, key_bytes, rows_per_part)
        for part in range(parted.count):
            rows = parted.take(part)
            if len(rows):
                yield _sorted_once(rows), len(rows)

    def _parted(self, parts: int, key_bytes: int, rows_per_step: int) -> Parted:
        every = max(self.count // (parts * _SAMPLED_PER_PART), 1)
        sample = np.sort(np.concatenate([rows[::every] for rows in self._read(rows_per_step)]))
        bounds = sample[len(sample) // parts :: -(-len(sample) // parts)]
        parted = Parted(
            self._path.with_suffix(".parts"), texts_of(bytes_of(bounds)[:, :key_bytes]), self._form
        )
        for rows in self._read(rows_per_step):
            parted.add(rows, rows)
        self._path.unlink()
        return parted

    def _read(self, rows_per_step: int) -> Iterator[Rows]:
        for start in range(0, self.count, rows_per_step):
            yield np.fromfile(
                self._path, dtype=self._form, count=rows_per_step, offset=start * self._form.itemsize
            )


def _sorted_once(rows: Rows) -> Bytes:
    rows = np.sort(rows)
    is_new = np.ones(len(rows), dtype=bool)
    is_new[1:] = rows[1:] != rows[:-1]
    return bytes_of(rows[is_new])


# ── rows as numpy has them ─────────────────────────────────────────────────────


def counted_up(counts: Numbers) -> tuple[Numbers, Numbers]:
    """(0, 0), (0, 1), … (1, 0), …: each place as often as it counts, and how often it came before."""
    places = np.repeat(np.arange(len(counts)), counts)
    return places, np.arange(len(places)) - np.repeat(starts_of(counts), counts)


def starts_of(lengths: Numbers) -> Numbers:
    """Where each begins if they lie one behind the other."""
    starts = np.zeros(len(lengths), dtype=np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return starts


def bytes_of(rows: Rows) -> Bytes:
    """Rows of whatever type as they lie in memory."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.itemsize)


def texts_of(rows: Bytes) -> Rows:
    """Rows of bytes as what numpy compares byte by byte."""
    return np.ascontiguousarray(rows).view(f"S{rows.shape[1]}").ravel()


def each_of(rows: Bytes) -> Iterator[bytes]:
    return (row for (row,) in Struct(f"{rows.shape[1]}s").iter_unpack(rows.tobytes()))


def numbers_of(rows: Bytes) -> Numbers:
    """Of 4 bytes each."""
    return np.ascontiguousarray(rows).view(">u4").ravel().astype(np.int64)


def big_endian(numbers: Rows, width: int) -> Bytes:
    return bytes_of(numbers.astype(">u8"))[:, 8 - width :]


def side_by_side(*columns: Rows) -> Bytes:
    """Rows of all these bytes; a column of one axis is a byte."""
    parts = [column if column.ndim == 2 else column[:, None] for column in columns]
    rows = np.empty((len(parts[0]), sum(part.shape[1] for part in parts)), dtype=np.uint8)
    at = 0
    for part in parts:
        rows[:, at : at + part.shape[1]] = part
        at += part.shape[1]
    return rows
