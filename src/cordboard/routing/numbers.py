"""Telephone numbers and PINs: parsed once, and shy of being printed.

A value of type `E164` or `Pin` has passed the test; no other module checks again.
Both print masked everywhere (`str`, `repr`, f-strings, `%s`), so that a careless log
line leaks nothing; the two properties `plus` and `digits` are the only ways out.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Self

import phonenumbers
from phonenumbers import ValidationResult

# ITU-T E.164: country code and national number together have at most 15 digits.
E164_DIGITS_MAX = 15

# A number with all its blanks; a longer text is none, and is neither looked at nor remembered.
NUMBER_CHARACTERS_MAX = 40

PIN_DIGITS_MIN = 1
PIN_DIGITS_MAX = 9

# What people and platforms write in a number. Anything else (letters, extensions, SIP
# addresses) is not a number to us, although phonenumbers would make one of it.
_NUMBER_TEXT = re.compile(r"\+?[0-9][0-9 ().\-]{2,30}", re.ASCII)
_PIN_TEXT = re.compile(rf"[0-9]{{{PIN_DIGITS_MIN},{PIN_DIGITS_MAX}}}", re.ASCII)

_INDIA = 91_00000_00000
_LEADING = "123456789"


class E164(int):
    """A telephone number in E.164, held as its digits without the plus.

    An int, because tables and the board key by it and four of them fit where one text would.
    """

    __slots__ = ()

    @property
    def plus(self) -> str:
        """The number as the wire shows it, `+919800000001`. Never for logs."""
        return "+" + int.__repr__(self)

    def __repr__(self) -> str:
        return f"E164({self})"

    def __str__(self) -> str:
        """Masked to the last two digits, which is enough to tell two parties of one call apart."""
        return f"…{int(self) % 100:02d}"

    def __format__(self, format_spec: str) -> str:
        # Whatever is asked for: `d` would print the number.
        return str(self)


class Pin(str):
    """1 to 9 digits as text, because leading zeros count."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The PIN, or None when `text` is not 1 to 9 ASCII digits."""
        return cls(text) if _PIN_TEXT.fullmatch(text) else None

    @property
    def digits(self) -> str:
        """The PIN itself. Never for logs."""
        return str.__str__(self)

    def __repr__(self) -> str:
        return f"Pin({self})"

    def __str__(self) -> str:
        """Masked whole: even its length would help a guesser."""
        return "****"

    def __format__(self, format_spec: str) -> str:
        return str(self)


def parse_number(text: str, country: str) -> E164 | None:
    """The number that `text` names for somebody in `country`, or None if it names none.

    `text` is `+91…`, `91…`, `0…`, local, or begins with a blank where a query string's plus
    was lost; `country` is ISO 3166-1 alpha-2. A number passes if phonenumbers calls it
    possible and dialable from abroad (exotel.md 8.7).
    """
    if country == "IN" and text.isascii():
        # Nearly every request of a platform in India has one of these three shapes, and phonenumbers
        # takes 30 µs for each. tests/routing/test_numbers.py holds them to what it would say.
        length = len(text)
        if length == 11 and text[0] == "0" and text[1] in _LEADING and text.isdigit():
            return E164(_INDIA + int(text))
        if (
            length == 13
            and text[0] in "+ "
            and text[1:3] == "91"
            and text[3] in _LEADING
            and text[1:].isdigit()
        ):
            return E164(text[1:])
        if length == 10 and text[0] in _LEADING and text.isdigit():
            return E164(_INDIA + int(text))
    return _parse_any(text, country) if len(text) <= NUMBER_CHARACTERS_MAX else None


# 4,096 texts of about 300 bytes: the numbers of other shapes that one busy hour repeats.
@lru_cache(maxsize=4096)
def _parse_any(text: str, country: str) -> E164 | None:
    written = text.rstrip()
    written = "+" + written.lstrip() if written.startswith(" ") else written
    if not _NUMBER_TEXT.fullmatch(written):
        return None
    try:
        number = phonenumbers.parse(written, country)
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(number) != ValidationResult.IS_POSSIBLE:
        return None
    digits = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:]
    return E164(digits) if len(digits) <= E164_DIGITS_MAX else None


def country_calls(country: str, number: E164) -> bool:
    """Whether `number` belongs to `country`'s numbering plan (by country code, as exotel.md 8.7 needs)."""
    code = _calling_code(country)
    return bool(code) and int.__repr__(number).startswith(code)


# As many as there are countries.
@cache
def _calling_code(country: str) -> str:
    """Its digits; none for a country that nobody knows."""
    return str(phonenumbers.country_code_for_region(country) or "")


def country_is_known(country: str) -> bool:
    """Whether numbering plans know this ISO 3166-1 alpha-2 code."""
    return country in phonenumbers.SUPPORTED_REGIONS
