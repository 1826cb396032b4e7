"""What decisions and changes ask of the board that stands, whoever keeps it."""

from __future__ import annotations

from typing import Protocol

from cordboard.storage.feed import Position, Written
from cordboard.tables.board import BoardTables


class BoardSource(Protocol):
    """`BoardKeeper` in a process that applies the feed itself, `BoardFollower` in one that only reads."""

    @property
    def tables(self) -> BoardTables:
        """Those in use now; not to be kept across an `await`."""

    def age_s(self) -> float:
        """Seconds since the board was last seen to be equal to the database."""

    def hand_over(self, written: Written) -> None:
        """What this process has committed, so that the board need not be told by the feed."""

    async def wait_for(self, position: Position, timeout_s: float) -> bool:
        """Whether this node routes by that change, waited for if it need be."""
