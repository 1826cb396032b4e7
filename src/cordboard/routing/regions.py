"""The regions that a VN can be asked for (exotel.md 8.11)."""

from typing import Final

REGIONS: Final = ("DL", "MU", "MH", "WB", "AP", "TN", "GJ", "KA", "KL", "RJ", "MP")
