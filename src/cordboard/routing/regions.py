"""The regions that virtual numbers belong to, and which of them serves a postal code (exotel.md 8.11)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

REGIONS: Final = ("DL", "MU", "MH", "WB", "AP", "TN", "GJ", "KA", "KL", "RJ", "MP")
"""Delhi, Mumbai, Maharashtra, West Bengal, Andhra Pradesh, Tamil Nadu, Gujarat, Karnataka, Kerala,
Rajasthan, Madhya Pradesh."""

POSTAL_CODE_DIGITS: Final = 6

_POSTAL_CODE: Final = re.compile(r"[1-9][0-9]{5}", re.ASCII)
_PREFIX: Final = re.compile(r"[1-9][0-9]{0,5}", re.ASCII)


class BadPostalRow(ValueError):
    """A row that no table can have; `place` counts the rows from 0, the text says what is wrong with it."""

    def __init__(self, place: int, words: str) -> None:
        super().__init__(words)
        self.place = place


class PostalRegions:
    """Which region serves a postal code: that of the longest prefix which the table has of it."""

    def __init__(self, rows: Iterable[tuple[str, str | None]]) -> None:
        """(prefix of 1 to 6 digits, region) in any order; a region of None serves nobody there.

        Raises BadPostalRow.
        """
        self._regions: dict[str, str | None] = {}
        for place, (prefix, region) in enumerate(rows):
            if not _PREFIX.fullmatch(prefix):
                raise BadPostalRow(place, "a prefix must be 1 to 6 digits, the first not 0")
            if prefix in self._regions:
                raise BadPostalRow(place, f"the prefix {prefix} stands twice")
            if region is not None and region not in REGIONS:
                raise BadPostalRow(place, f"a region must be empty or one of {', '.join(REGIONS)}")
            self._regions[prefix] = region

    def region_of(self, postal_code: str) -> str | None:
        """The region whose numbers suit `postal_code`; None: none is near, so there is no preference."""
        assert is_postal_code(postal_code), "checked where it came in"
        for length in range(POSTAL_CODE_DIGITS, 0, -1):
            prefix = postal_code[:length]
            if prefix in self._regions:
                return self._regions[prefix]
        return None


def is_postal_code(text: str) -> bool:
    """Whether it has the form of an Indian postal code, `560041`; not whether anybody lives there."""
    return _POSTAL_CODE.fullmatch(text) is not None
