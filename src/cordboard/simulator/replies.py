"""What the telephony platform makes of an applet's reply: as tolerant as exotel.md 3.3 to 7.1 says it is.

Pure. A reply that cannot be used is `Unusable` with the reason; what a flow does then is platform.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"

RINGING_S_DEFAULT: Final = 30
RINGING_S_MAX: Final = 60
CONVERSATION_S_DEFAULT: Final = 900
CONVERSATION_S_MAX: Final = 4500
INPUT_DIGITS_DEFAULT: Final = 255
INPUT_TIMEOUT_S_DEFAULT: Final = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; `content_type` is without its parameters."""

    status: int
    content_type: str
    body: bytes
    # What the engine calls the request, if it says so.
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class NoReply:
    """Nothing came back within the budget, or not HTTP."""

    why: str


@dataclass(frozen=True, slots=True)
class Unusable:
    why: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A Gather reply."""

    text: str
    repeat_text: str
    input_digits_max: int
    finish_on_key: str
    input_timeout_s: int
    repeat_menu: int

    def keyed(self, keys: str) -> str:
        """What of `keys` the platform takes: up to the finishing key, and no more than it expects."""
        if self.finish_on_key:
            keys = keys.partition(self.finish_on_key)[0]
        return keys[: self.input_digits_max]


@dataclass(frozen=True, slots=True)
class Destinations:
    """A Connect reply. A `caller_id` of None is the number that the caller dialled."""

    numbers: tuple[str, ...]
    caller_id: str | None = None
    is_recorded: bool = False
    ringing_s_max: int = RINGING_S_DEFAULT
    conversation_s_max: int = CONVERSATION_S_DEFAULT
    # Whether to ask again when nobody of the list answered.
    is_fetched_again: bool = False


@dataclass(frozen=True, slots=True)
class Speech:
    """A greeting's text, or the audio to play in its place, one URL a line."""

    text: str
    playlist: tuple[str, ...] = ()


def read_select(reply: Reply) -> str | None:
    """The case that a SwitchCase takes: `{"select": …}` whatever the content type, or a bare word."""
    text = reply.body.decode("utf-8", "replace").strip()
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text if text and not text.startswith(("{", "[")) else None
    if isinstance(document, dict):
        select = document.get("select")
        return select if isinstance(select, str) else None
    return document if isinstance(document, str) else None


def read_prompt(reply: Reply | NoReply) -> Prompt | Unusable:
    document = _json_object(reply)
    if isinstance(document, Unusable):
        return document
    text = _prompt_text(document.get("gather_prompt"))
    if text is None:
        return Unusable("gather_prompt has not exactly one of text and audio_url")
    again = document.get("repeat_gather_prompt")
    repeat_text = text if again is None else _prompt_text(again)
    finish_on_key = document.get("finish_on_key", "#")
    digits_max = _whole(document.get("max_input_digits", INPUT_DIGITS_DEFAULT))
    timeout_s = _whole(document.get("input_timeout", INPUT_TIMEOUT_S_DEFAULT))
    repeat_menu = _whole(document.get("repeat_menu", 0))
    if repeat_text is None:
        return Unusable("repeat_gather_prompt has not exactly one of text and audio_url")
    if not isinstance(finish_on_key, str) or len(finish_on_key) > 1:
        return Unusable("finish_on_key is not one key")
    if digits_max is None or timeout_s is None or repeat_menu is None:
        return Unusable("max_input_digits, input_timeout or repeat_menu is not a number")
    return Prompt(text, repeat_text, digits_max, finish_on_key, timeout_s, repeat_menu)


def read_programmable(reply: Reply | NoReply) -> Destinations | Unusable:
    """The reply to a Connect that sent `Exotel-Version`."""
    document = _json_object(reply)
    return document if isinstance(document, Unusable) else _destinations(document)


def read_plain(reply: Reply | NoReply) -> Destinations | Unusable:
    """The reply to a "Dial Whom" URL: numbers by commas or lines, quoted or not, or the JSON after all."""
    if isinstance(reply, NoReply):
        return Unusable(reply.why)
    if reply.status != 200:
        return Unusable(f"status {reply.status}")
    text = reply.body.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            document = orjson.loads(text)
        except orjson.JSONDecodeError:
            return Unusable("neither numbers nor JSON")
        return _destinations(document)
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1]
    numbers = (part.strip() for line in text.splitlines() for part in line.split(","))
    return Destinations(tuple(number for number in numbers if number))


def read_speech(reply: Reply | NoReply) -> Speech | Unusable:
    if isinstance(reply, NoReply):
        return Unusable(reply.why)
    if reply.status != 200:
        return Unusable(f"status {reply.status}")
    if reply.content_type != TEXT_TYPE:
        return Unusable(f"content type {reply.content_type}")
    text = reply.body.decode("utf-8", "replace").strip()
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if lines and all(line.startswith(("http://", "https://")) for line in lines):
        return Speech("", lines)
    return Speech(text)


def _destinations(document: Mapping[str, Any]) -> Destinations | Unusable:
    destination = document.get("destination")
    if not isinstance(destination, dict):
        return Unusable("destination is missing")
    numbers = destination.get("numbers")
    if isinstance(numbers, str):
        numbers = [numbers]
    if not isinstance(numbers, list) or not all(isinstance(number, str) for number in numbers):
        return Unusable("destination.numbers is no list of texts")
    caller_id = document.get("outgoing_phone_number")
    if caller_id is not None and not isinstance(caller_id, str):
        return Unusable("outgoing_phone_number is no text")
    is_recorded = _flag(document.get("record", False))
    is_fetched_again = _flag(document.get("fetch_after_attempt", False))
    ringing_s = _whole(document.get("max_ringing_duration", RINGING_S_DEFAULT))
    conversation_s = _whole(document.get("max_conversation_duration", CONVERSATION_S_DEFAULT))
    if is_recorded is None or is_fetched_again is None:
        return Unusable("record or fetch_after_attempt is no flag")
    if ringing_s is None or conversation_s is None:
        return Unusable("max_ringing_duration or max_conversation_duration is not a number")
    return Destinations(
        numbers=tuple(number for number in numbers if number),
        caller_id=caller_id,
        is_recorded=is_recorded,
        ringing_s_max=min(ringing_s, RINGING_S_MAX),
        conversation_s_max=min(conversation_s, CONVERSATION_S_MAX),
        is_fetched_again=is_fetched_again,
    )


def _json_object(reply: Reply | NoReply) -> Mapping[str, Any] | Unusable:
    if isinstance(reply, NoReply):
        return Unusable(reply.why)
    if reply.status != 200:
        return Unusable(f"status {reply.status}")
    if reply.content_type != JSON_TYPE:
        return Unusable(f"content type {reply.content_type}")
    try:
        document = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        return Unusable("not JSON")
    return document if isinstance(document, dict) else Unusable("no JSON object")


def _prompt_text(prompt: object) -> str | None:
    if not isinstance(prompt, dict):
        return None
    given = [prompt[key] for key in ("text", "audio_url") if prompt.get(key) is not None]
    return given[0] if len(given) == 1 and isinstance(given[0], str) else None


def _whole(value: object) -> int | None:
    """A number, also where it arrives as text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else None


def _flag(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value) if isinstance(value, str) else None
