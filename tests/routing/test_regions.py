"""Which region serves a postal code: the longest prefix wins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cordboard.routing.regions import REGIONS, BadPostalRow, PostalRegions, is_postal_code

TABLE = PostalRegions([("40", "MH"), ("400", "MU"), ("4", "MP"), ("9", None), ("400001", None), ("99", "WB")])


@pytest.mark.parametrize(
    ("postal_code", "region"),
    [
        ("411001", "MP"),
        ("401001", "MH"),
        ("400002", "MU"),
        ("400001", None),
        ("900001", None),
        ("990001", "WB"),
        ("560041", None),
    ],
)
def test_the_longest_prefix_wins(postal_code: str, region: str | None) -> None:
    assert TABLE.region_of(postal_code) == region


@pytest.mark.parametrize("text", ["560041", "110001", "999999"])
def test_a_postal_code_has_six_digits(text: str) -> None:
    assert is_postal_code(text)


@pytest.mark.parametrize(
    "text", ["", "56004", "5600411", "056004", "56 0041", " 560041", "560041\n", "56004x", "५६००४१", "-60041"]
)
def test_other_texts_are_no_postal_codes(text: str) -> None:
    assert not is_postal_code(text)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("", "KA"), "1 to 6 digits"),
        (("05", "KA"), "1 to 6 digits"),
        (("5600411", "KA"), "1 to 6 digits"),
        (("5x", "KA"), "1 to 6 digits"),
        (("५६", "KA"), "1 to 6 digits"),
        (("40", "MH"), "40 stands twice"),
        (("56", "ka"), "one of DL, MU"),
        (("56", ""), "one of DL, MU"),
        (("56", "Karnataka"), "one of DL, MU"),
    ],
)
def test_a_bad_row_is_named_by_its_place(row: tuple[str, str | None], words: str) -> None:
    with pytest.raises(BadPostalRow, match=words) as refused:
        PostalRegions([("40", "MH"), ("9", None), row, ("10", "DL")])
    assert refused.value.place == 2


prefixes = st.text("125", min_size=1, max_size=6)


@given(st.dictionaries(prefixes, st.sampled_from([*REGIONS, None])), st.text("125", min_size=6, max_size=6))
def test_a_table_agrees_with_looking_at_every_row(table: dict[str, str | None], postal_code: str) -> None:
    fitting = [prefix for prefix in table if postal_code.startswith(prefix)]
    region = table[max(fitting, key=len)] if fitting else None
    assert PostalRegions(table.items()).region_of(postal_code) == region
