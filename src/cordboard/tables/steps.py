"""How far the loading of a board is. Apart from `loading`, which needs numpy: few starts load anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Step(NamedTuple):
    """What has been done, in words for a person, and how much of it."""

    what: str
    done: int
    # None: nobody knows.
    of: int | None


OnLoad = Callable[[Step], None]
"""Hears of each step, some hundred milliseconds after the one before."""
