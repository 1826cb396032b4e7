"""What the process that keeps the board tells those that only read it: sixteen bytes that they all map.

Each number is eight aligned bytes, which a processor writes and reads at once: no reader sees half of one.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

_BYTES: Final = 16
_GENERATION: Final = 0
_EQUAL_AT: Final = 1


class Pulse:
    """`generation` of the board in use (0: none yet), and when it was last equal to the database."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "pulse", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < _BYTES:
                os.ftruncate(descriptor, _BYTES)
            self._map = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("q")

    def close(self) -> None:
        self._words.release()
        self._map.close()

    @property
    def generation(self) -> int:
        return self._words[_GENERATION]

    @generation.setter
    def generation(self, generation: int) -> None:
        self._words[_GENERATION] = generation

    @property
    def equal_at_us(self) -> int:
        return self._words[_EQUAL_AT]

    @equal_at_us.setter
    def equal_at_us(self, equal_at_us: int) -> None:
        self._words[_EQUAL_AT] = equal_at_us
