"""The table of postal regions: what comes with the package, and files of an operator's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cordboard.postal_table import BadPostalTable, load_postal_regions
from cordboard.routing.regions import REGIONS

# The rows of exotel.md 8.11, with a code of each end.
DOCUMENTED = {
    "DL": "110001 121001 136999 140001 160017 171001 180001 194101 201301 219999 248001 250001 263001 281001",
    "RJ": "301001 345999",
    "GJ": "360001 396999",
    "MU": "400001 400104",
    "MH": "401101 403001 411001 444999",
    "MP": "450001 488999 490001 497999 226001 231001 273001",
    "AP": "500001 509999 510001 535999 760001",
    "KA": "560041 591999",
    "TN": "600001 605001 643999",
    "KL": "670001 682555 695999",
    "WB": "700001 737101 744101 751001 770001 781001 799999 800001 834001 855999",
}


def test_the_table_of_the_package_is_the_documented_one() -> None:
    table = load_postal_regions(None)
    assert set(DOCUMENTED) == set(REGIONS)
    for region, codes in DOCUMENTED.items():
        postal_codes = codes.split()
        assert {code: table.region_of(code) for code in postal_codes} == dict.fromkeys(postal_codes, region)


def test_army_post_and_codes_that_nobody_has_are_served_by_none() -> None:
    table = load_postal_regions(None)
    assert {table.region_of(code) for code in ("900001", "999999", "290001", "350001", "860001")} == {None}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "own.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_an_operators_table_takes_the_place_of_ours(tmp_path: Path, start: str, ending: str) -> None:
    lines = ["prefix,area,region", '40,"Pune, and more",MH', "", " 400 , Mumbai , MU ", "41,,"]
    table = load_postal_regions(written(tmp_path, start + ending.join(lines)))
    assert [table.region_of(code) for code in ("401001", "400001", "411001", "560041")] == [
        "MH",
        "MU",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "at least one row"),
        ("prefix,area,region\n", 2, "at least one row"),
        ("prefix,region\n40,MH\n", 1, "must be prefix,area,region"),
        ("40,Maharashtra,MH\n", 1, "must be prefix,area,region"),
        ("prefix,area,region\n40,Maharashtra,MH\n41,MH\n", 3, "3 columns"),
        ("prefix,area,region\n40,Pune, and more,MH\n", 2, "3 columns"),
        ("prefix,area,region\n\n40,Maharashtra,MH\n\n40,Pune,MH\n", 5, "40 stands twice"),
        ("prefix,area,region\n40,Maharashtra,Maharashtra\n", 2, "one of DL, MU"),
        ("prefix,area,region\n4O,Maharashtra,MH\n", 2, "1 to 6 digits"),
        ('prefix,area,region\n40,"Maharashtra,MH\n', 2, "unexpected end of data"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(BadPostalTable) as refused:
        load_postal_regions(path)
    assert str(refused.value).startswith(f"{path}, line {line}: ")
    assert words in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPostalTable, match="not UTF-8"):
        load_postal_regions(written(tmp_path, b"prefix,area,region\n40,P\xfcne,MH\n"))


def test_a_file_that_is_not_there_is_the_worlds_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_postal_regions(tmp_path / "missing.csv")
