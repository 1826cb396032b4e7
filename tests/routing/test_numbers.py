"""Numbers and PINs: read as phonenumbers reads them, and never shown."""

from __future__ import annotations

import logging
from collections.abc import Callable

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cordboard.routing.model import (
    NEVER_US,
    NEW_CALL,
    NOT_EXCEEDED,
    Admission,
    Allocation,
    AllocationId,
    Call,
    CallRules,
    Connect,
    Matched,
    Party,
    PinEntry,
    Product,
    RightPin,
    Side,
    Usage,
)
from cordboard.routing.numbers import (
    E164,
    E164_DIGITS_MAX,
    PIN_DIGITS_MAX,
    Pin,
    country_calls,
    country_is_known,
    parse_number,
)

COUNTRIES = ("IN", "US", "GB", "DE", "IT", "SG", "ID")


def by_phonenumbers(text: str, country: str) -> str | None:
    """What phonenumbers makes of a text that looks like a telephone number."""
    text = text.rstrip()
    if text.startswith(" "):
        text = "+" + text.lstrip()
    body = text.removeprefix("+")
    if not 3 <= len(body) <= 31 or not set(body) <= set("0123456789 ().-") or body[0] in " ().-":
        return None
    try:
        number = phonenumbers.parse(text, country)
    except phonenumbers.NumberParseException:
        return None
    # "Possible" alone would accept numbers that can only be dialled within one town.
    reason = phonenumbers.is_possible_number_with_reason(number)
    if reason != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return written if len(written) <= len("+") + 15 else None


def assert_read_alike(text: str, country: str) -> None:
    number = parse_number(text, country)
    assert (number and number.plus) == by_phonenumbers(text, country)


# ── reading numbers ──────────────────────────────────────────────────────────

_digits = st.text("0123456789", min_size=10, max_size=10)
_few_or_many_digits = st.text("0123456789", min_size=1, max_size=16)
_countries = st.sampled_from(COUNTRIES)


@pytest.mark.parametrize(
    "prefix", ["0", "+91", " 91", "91", "", "+", " ", "00", "0091", "091", "+910", "  91", "-"]
)
@settings(max_examples=150)
@given(digits=_digits, country=_countries)
def test_ten_digits_are_read_as_phonenumbers_reads_them(prefix: str, digits: str, country: str) -> None:
    assert_read_alike(prefix + digits, country)
    assert_read_alike(prefix + digits, "IN")


@pytest.mark.parametrize("shape", ["0{}", "+91{}", " 91{}", "91{}", "{}"])
def test_every_start_of_an_indian_number_is_read_as_phonenumbers_reads_it(shape: str) -> None:
    for start in range(1000):
        for rest in ("0000000", "1234567"):
            assert_read_alike(shape.format(f"{start:03d}{rest}"), "IN")


@settings(max_examples=500)
@given(st.sampled_from(["0", "+91", " 91", "91", "", "+", " "]), _few_or_many_digits, _countries)
def test_digits_of_any_length_are_read_as_phonenumbers_reads_them(
    prefix: str, digits: str, country: str
) -> None:
    assert_read_alike(prefix + digits, country)


@settings(max_examples=500)
@given(st.text("+0123456789 ().-", max_size=20), _countries)
def test_what_people_write_in_a_number_is_read_as_phonenumbers_reads_it(text: str, country: str) -> None:
    assert_read_alike(text, country)


@settings(max_examples=500)
@given(st.text() | st.text("09+१٣²a #\n", max_size=14), _countries)
@example("०9800000001", "IN")
@example("0९800000001", "IN")
@example("98000००001", "IN")
@example("+91980000000²", "IN")
@example("+919800000001\n", "IN")
def test_any_text_is_read_as_phonenumbers_reads_it_or_not_at_all(text: str, country: str) -> None:
    assert_read_alike(text, country)


@pytest.mark.parametrize(
    "text", ["+919800000001", " 919800000001", "919800000001", "09800000001", "9800000001", "+91 98000-00001"]
)
def test_one_number_has_many_spellings(text: str) -> None:
    assert parse_number(text, "IN") == E164(919800000001)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "+",
        "null",
        "anonymous",
        "Anonymous",
        "restricted",
        "unknown",
        "sip:agent7",
        "sip:919800000001@example.net",
        "tel:+919800000001",
        "agent7",
        "1800FLOWERS",
        "+919800000001;ext=5",
        "+919800000001 x5",
        "++919800000001",
        "९८०००००००१",
        "0",
        "112",
    ],
)
def test_a_text_that_is_no_number_is_a_withheld_number(text: str) -> None:
    assert parse_number(text, "IN") is None


@pytest.mark.parametrize("country", COUNTRIES)
def test_an_international_number_is_the_same_from_every_country(country: str) -> None:
    assert parse_number("+6591234567", country) == E164(6591234567)


def test_a_local_number_depends_on_the_country() -> None:
    assert parse_number("020 7946 0000", "GB") == E164(442079460000)
    assert parse_number("(020) 79460000", "GB") is None  # it begins with no digit
    assert parse_number("2015550123", "US") == E164(12015550123)
    assert parse_number("2015550123", "IN") == E164(912015550123)


def test_a_zero_that_belongs_to_the_number_is_kept() -> None:
    assert parse_number("06 12345678", "IT") == E164(390612345678)


@pytest.mark.parametrize(
    ("digits", "is_number"),
    [(E164_DIGITS_MAX - 1, True), (E164_DIGITS_MAX, True), (E164_DIGITS_MAX + 1, False)],
)
def test_a_number_has_at_most_fifteen_digits(digits: int, is_number: bool) -> None:
    assert E164_DIGITS_MAX == 15
    # German numbers may be longer than E.164 allows.
    text = "+49" + "1" * (digits - 2)
    assert phonenumbers.is_possible_number(phonenumbers.parse(text)), "else this test shows nothing"
    assert parse_number(text, "IN") == (E164(text) if is_number else None)


@pytest.mark.parametrize(("digits", "is_number"), [(7, False), (8, True), (9, False)])
def test_too_few_and_too_many_digits_are_no_number(digits: int, is_number: bool) -> None:
    text = "+65" + "91234567890"[:digits]
    assert (parse_number(text, "IN") is not None) == is_number


@given(st.integers(1, 10**15 - 1))
def test_the_wire_shows_the_whole_number(number: int) -> None:
    assert E164(number).plus == f"+{number}"


@pytest.mark.parametrize(
    ("country", "number", "belongs"),
    [
        ("IN", 919800000001, True),
        ("US", 919800000001, False),
        ("US", 12015550123, True),
        ("CA", 12015550123, True),  # one numbering plan
        ("SG", 6591234567, True),
        ("IN", 6591234567, False),
        ("XX", 919800000001, False),
        ("", 919800000001, False),
    ],
)
def test_a_number_belongs_to_a_country_by_its_code(country: str, number: int, belongs: bool) -> None:
    assert country_calls(country, E164(number)) is belongs


@pytest.mark.parametrize(
    ("country", "is_known"),
    [("IN", True), ("US", True), ("in", False), ("XX", False), ("", False), ("IND", False)],
)
def test_a_country_is_known_by_its_two_capital_letters(country: str, is_known: bool) -> None:
    assert country_is_known(country) is is_known


# ── reading PINs ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["0", "7", "00", "0042", "42", "000000000", "123456789"])
def test_a_pin_is_one_to_nine_digits_and_keeps_its_zeros(text: str) -> None:
    pin = Pin.parse(text)
    assert pin is not None
    assert pin.digits == text
    assert type(pin.digits) is str


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234567890",
        "0123456789",
        "12a4",
        "abcd",
        "4 2",
        " 42",
        "42 ",
        "42\n",
        "-42",
        "+42",
        "4.2",
        "42#",
        "*42",
    ],
)
def test_what_is_not_one_to_nine_digits_is_no_pin(text: str) -> None:
    assert Pin.parse(text) is None


@pytest.mark.parametrize("text", ["٤٢", "४२", "４２", "4²", "①"])
def test_digits_of_other_scripts_are_no_pin(text: str) -> None:
    assert Pin.parse(text) is None


@given(st.text("0123456789", max_size=PIN_DIGITS_MAX + 2))
def test_digits_are_a_pin_by_their_length_alone(text: str) -> None:
    pin = Pin.parse(text)
    assert (pin and pin.digits) == (text if 1 <= len(text) <= 9 else None)


def test_pins_differ_by_their_leading_zeros() -> None:
    assert len({Pin("42"), Pin("042"), Pin("0042")}) == 3
    assert Pin.parse("0042") == Pin("0042")


# ── hiding ───────────────────────────────────────────────────────────────────

PRINTERS: dict[str, Callable[[object], str]] = {
    "str": str,
    "repr": repr,
    "ascii": ascii,
    "format": format,
    "format to a width": lambda value: format(value, ">30"),
    "f-string": lambda value: f"{value}",
    "f-string !r": lambda value: f"{value!r}",
    "f-string !s": lambda value: f"{value!s}",
    "str.format": "{}".format,
    "%s": lambda value: "%s" % (value,),  # noqa: UP031 - what a log call does
    "%r": lambda value: "%r" % (value,),  # noqa: UP031 - what a log call does
    "in a list": lambda value: str([value]),
    "in a dict": lambda value: str({value: value}),
    "a log record": lambda value: logging.LogRecord(
        "cordboard", logging.INFO, __file__, 1, "caller %s", (value,), None
    ).getMessage(),
}

# Of seven digits and more: `ascii` writes the ellipsis with some.
_numbers = st.integers(10**6, 10**15 - 1).map(E164)
_pins = st.text("0123456789", min_size=1, max_size=9).map(Pin)


@pytest.mark.parametrize("how", PRINTERS)
@given(number=_numbers)
def test_a_printed_number_shows_its_last_two_digits_at_most(how: str, number: E164) -> None:
    shown = PRINTERS[how](number)
    assert str(int(number)) not in shown
    # The print of any other number with that ending is the same: nothing else can have been told.
    assert shown == PRINTERS[how](E164(int(number) % 100))


@pytest.mark.parametrize("how", PRINTERS)
@given(pin=_pins)
def test_a_printed_pin_shows_nothing_not_even_its_length(how: str, pin: Pin) -> None:
    assert PRINTERS[how](pin) == PRINTERS[how](Pin("0"))
    assert "****" in PRINTERS[how](pin)


@given(st.lists(_numbers, min_size=6, max_size=6), st.text("0123456789", min_size=4, max_size=9).map(Pin))
def test_nothing_that_holds_a_number_or_a_pin_prints_it(numbers: list[E164], pin: Pin) -> None:
    a, b, vn, other_vn, caller, member = numbers
    id_ = AllocationId(bytes(16))
    party = Party((a,), (vn,), (pin,), listed_need_pin=True)
    allocation = Allocation(
        id_,
        Product.GREENPIN,
        Usage.TWOWAY,
        NEVER_US,
        party,
        Party((b,), (other_vn,), (pin,), listed_need_pin=True),
        common_pin=False,
        has_members=False,
    )
    # The digest is none of the PIN here: this is about what prints, not about what could be tried.
    new = PinEntry(pin, b"")
    call = Call(vn, caller, new, NEW_CALL, NOT_EXCEEDED, CallRules())
    right = RightPin(b"", Admission(id_, Side.A), is_stranger=True)
    connect = Connect(id_, Product.GREENPIN, Side.A, (b, member), other_vn, Matched.PIN, right)
    whole = [str(int(number)) for number in numbers] + [pin.digits]
    # What any print has that holds no number at all, such as the instant that means never.
    innocent = repr(allocation._replace(a=party._replace(pins=(), numbers=()), b=party._replace(pins=())))
    for printed in map(repr, (allocation, party, call, new, connect)):
        for secret in whole:
            assert secret not in printed or secret in innocent
