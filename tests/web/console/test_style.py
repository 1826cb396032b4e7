"""The colours of the console: WCAG AA for every pair that meets on a page, in the light and in the dark."""

from __future__ import annotations

import re

import pytest

from cordboard.web.console.frame import STYLE

TEXT_AA, EDGE_AA = 4.5, 3.0

_VARIABLE = re.compile(r"--([\w-]+): light-dark\((#\w+), (#\w+)\)")
_PAIRS = [
    *((text, ground) for text in ("text", "quiet", "link") for ground in ("ground", "raised")),
    *((tone, f"{tone}-ground") for tone in ("good", "ask", "bad")),
    *((text, f"{tone}-ground") for text in ("text", "quiet", "link") for tone in ("good", "ask", "bad")),
    ("main-text", "main"),
]
_EDGES = [
    ("edge", "ground"),
    ("edge", "raised"),
    ("focus", "ground"),
    ("focus", "raised"),
    ("main", "ground"),
]


def colours() -> dict[str, tuple[str, str]]:
    return {name: (light, dark) for name, light, dark in _VARIABLE.findall(STYLE.decode())}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_measure_is_that_of_wcag() -> None:
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "ground", "least"),
    [(*pair, TEXT_AA) for pair in _PAIRS] + [(*pair, EDGE_AA) for pair in _EDGES],
)
def test_every_pair_of_colours_can_be_told_apart(front: str, ground: str, least: float, scheme: int) -> None:
    known = colours()
    assert contrast(known[front][scheme], known[ground][scheme]) >= least
