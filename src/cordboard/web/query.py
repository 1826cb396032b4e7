"""The query of a request: its keys known, each given once and none blank (exotel.md 11.1)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import orjson
from multidict import MultiMapping
from pydantic import BaseModel

from cordboard.routing.allocate import Code
from cordboard.routing.model import State
from cordboard.routing.numbers import E164, Pin, parse_number
from cordboard.routing.tenant import TenantSettings
from cordboard.storage.listing import Span
from cordboard.storage.outcomes import WITHHELD
from cordboard.web.account_time import parse_instants
from cordboard.web.errors import Refused
from cordboard.web.schemas import parse_id

LIMIT_DEFAULT: Final = 50
# Some 500 kB of answer and 20 ms of the database.
LIMIT_MAX: Final = 1_000
# 1970 to 9998: what the tables can have, with room for an offset.
LATEST_US: Final = 253_370_764_800_000_000
# How a caller without a number is asked for.
WITHHELD_WORD: Final = "withheld"

_KEY = re.compile(r"[a-z][a-z_.\-]{0,39}", re.ASCII | re.IGNORECASE)

Key = TypeVar("Key")


class Queried(Protocol):
    """A request, or a form that was read out of its body."""

    @property
    def query(self) -> MultiMapping[str]: ...


class Query:
    """What a request asks for in its query; `known` is the model that the document shows of it.

    Everything here raises Refused, with a message that names the key and quotes no value.
    """

    def __init__(self, request: Queried, settings: TenantSettings, known: type[BaseModel]) -> None:
        given = request.query
        self._country, self._timezone = settings.country, settings.timezone
        for key in given:
            if key not in known.model_fields:
                # A key of another form may be anything, a number among it.
                named = f"{key} is" if _KEY.fullmatch(key) else "One of the keys is"
                there_are = ", ".join(known.model_fields)
                raise Refused(Code.UNSUPPORTED_FILTER, f"{named} not supported here; there are {there_are}.")
        for key, value in given.items():
            if len(given.getall(key)) > 1:
                raise Refused(Code.BAD, f"{key} must be given once.")
            if not value.strip():
                raise Refused(Code.BAD, f"{key} must not be blank.")
        self._given = given

    def text(self, key: str) -> str | None:
        value = self._given.get(key)
        if value is not None and not is_storable(value):
            raise Refused(Code.BAD, f"{key} must be text without the character U+0000.")
        return value

    def word(self, key: str, words: Iterable[str]) -> str | None:
        value = self._given.get(key)
        if value is not None and value not in words:
            raise Refused(Code.BAD, f"{key} must be one of {', '.join(words)}.")
        return value

    def state(self, key: str) -> State | None:
        word = self.word(key, [state.value for state in State])
        return None if word is None else State(word)

    def number(self, key: str) -> E164 | None:
        value = self._given.get(key)
        if value is None:
            return None
        number = parse_number(value, self._country)
        if number is None:
            raise Refused(Code.BAD_NUMBER, f"{key} is not a telephone number.")
        return number

    def caller(self, key: str) -> int | None:
        """The number, or WITHHELD."""
        return WITHHELD if self._given.get(key) == WITHHELD_WORD else self.number(key)

    def must_have(self, key: str) -> None:
        if key not in self._given:
            raise Refused(Code.MISSING, f"{key} must be given.")

    def flag(self, key: str) -> bool:
        return self.word(key, ("true", "false")) == "true"

    def pin(self, key: str) -> Pin | None:
        value = self._given.get(key)
        if value is None:
            return None
        pin = Pin.parse(value)
        if pin is None:
            raise Refused(Code.BAD, f"{key} must be 1 to 9 digits.")
        return pin

    def instant_us(self, key: str) -> int | None:
        """The first instant of what `key` names."""
        instants = self._instants(key)
        return None if instants is None else min(max(instants.start, 0), LATEST_US)

    def id(self, key: str) -> UUID | None:
        value = self._given.get(key)
        if value is None:
            return None
        id = parse_id(value)
        if id is None:
            raise Refused(Code.BAD, f"{key} must be a UUID.")
        return id

    def span(self) -> Span:
        """From the first instant of what `from_date` names until the last of `to_date`."""
        return span_of(self._given.get("from_date"), self._given.get("to_date"), self._timezone)

    def _instants(self, key: str) -> range | None:
        return _instants_of(key, self._given.get(key), self._timezone)

    def limit(self) -> int:
        value = self._given.get("limit")
        if value is None:
            return LIMIT_DEFAULT
        is_short_number = value.isascii() and value.isdigit() and len(value) <= len(str(LIMIT_MAX))
        limit = int(value) if is_short_number else 0
        if not 1 <= limit <= LIMIT_MAX:
            raise Refused(Code.BAD, f"limit must be a whole number from 1 to {LIMIT_MAX}.")
        return limit

    def after(self, key_of: Callable[[Any], Key]) -> Key | None:
        """Where the page begins, as `key_of` reads it out of the parts of a cursor."""
        cursor = self._given.get("cursor")
        if cursor is None:
            return None
        try:
            return key_of(orjson.loads(base64.b64decode(cursor, altchars=b"-_", validate=True)))
        except (binascii.Error, ValueError, TypeError):
            message = "cursor must be the next_cursor of a page before, of the same list and filters."
            raise Refused(Code.BAD, message) from None


def span_of(from_date: str | None, to_date: str | None, zone: str) -> Span:
    """From the first instant of what `from_date` names until the last of `to_date`. Raises Refused."""
    begin, end = _instants_of("from_date", from_date, zone), _instants_of("to_date", to_date, zone)
    from_us = 0 if begin is None else begin.start
    before_us = LATEST_US if end is None else end.stop
    if begin is not None and end is not None and from_us >= before_us:
        raise Refused(Code.DATE_RANGE, "from_date is later than to_date.")
    return Span(min(max(from_us, 0), LATEST_US), min(max(before_us, 0), LATEST_US))


def _instants_of(key: str, text: str | None, zone: str) -> range | None:
    if text is None:
        return None
    instants = parse_instants(text, zone)
    if instants is None:
        raise Refused(Code.BAD, f"{key} must be YYYY-MM-DD, YYYY-MM-DD HH:mm:ss or ISO 8601 with an offset.")
    return instants


def is_storable(text: str) -> bool:
    """Whether PostgreSQL could have this text at all: it has no U+0000 and no lone surrogates."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def cursor_of(key: Iterable[object]) -> str:
    """The key at which a page ended, as JSON in base64; `Query.after` reads it back."""
    return base64.urlsafe_b64encode(orjson.dumps(list(key))).decode()
