"""What is kept of events that were told, and of entries whose call is over: nothing that a dump would tell.

With a data key the facts of a finished event are sealed, and a dead or delivered one can be told again.
Without one they are masked when it is delivered; a dead one stays whole for some days, to be told again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from cordboard.clock import SECOND_US, to_datetime
from cordboard.routing.numbers import E164
from cordboard.storage.database import Connection
from cordboard.storage.queries import load
from cordboard.storage.sealing import SEALED, DataKeys

_SQL: Final = load("resting")

# One transaction: some 20 ms.
ROWS_PER_COMMIT_MAX: Final = 500
# As long as the progress of a call is kept: until then its record tells which of its entries are new.
DIGITS_KEPT_US: Final = 4 * 3_600 * SECOND_US
DAY_US: Final = 86_400 * SECOND_US

_NUMBERS: Final = frozenset({"caller", "called", "numbers"})
_PINS: Final = frozenset({"pin", "pins"})
# The client's own text may say anything, and whoever has the address may have the recording.
_HIDDEN: Final = frozenset({"custom_field", "recording_url"})
_MASK: Final = "****"


class Resting(NamedTuple):
    """Facts as they are kept, and what is said of them in `event`."""

    facts: Mapping[str, Any]
    facts_are: str
    sealed_with: str | None


def at_rest(event_id: UUID, facts: Mapping[str, Any], keys: DataKeys, *, may_be_told_again: bool) -> Resting:
    """How the facts of a finished event are kept."""
    if keys and SEALED not in facts:
        key_id, sealed = keys.seal_facts(event_id, facts)
        return Resting(sealed, "sealed", key_id)
    if may_be_told_again:
        return Resting(facts, "whole", None)
    return Resting(masked_facts(facts), "masked", None)


def masked_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers to their last two digits, PINs whole; what is left names no one and cannot be worded again.

    >>> masked_facts({"caller": 919800000021, "pin": "4821", "a": {"numbers": [919800000022], "pins": []}})
    {'caller': '…21', 'pin': '****', 'a': {'numbers': ['…22'], 'pins': []}}
    """
    return {key: _masked(key, value) for key, value in facts.items() if key != SEALED}


def _masked(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return masked_facts(value)
    if isinstance(value, list):
        return [_masked(key, item) for item in value]
    if value is None:
        return None
    if key in _NUMBERS:
        return str(E164(value))
    return _MASK if key in _PINS or key in _HIDDEN else value


def with_stand_ins(masked: Mapping[str, Any]) -> dict[str, Any]:
    """Masked facts that can be worded once more, for a body that is masked in its turn and for nothing else.

    >>> with_stand_ins({"caller": "…21", "pin": "****", "a": {"numbers": ["…22"], "pins": []}})
    {'caller': 21, 'pin': '0', 'a': {'numbers': [22], 'pins': []}}
    """
    return {key: _stand_in(key, value) for key, value in masked.items()}


def _stand_in(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_stand_ins(value)
    if isinstance(value, list):
        return [_stand_in(key, item) for item in value]
    if value is None:
        return None
    if key in _NUMBERS:
        return int(value.removeprefix("…"))
    return "0" if key in _PINS else value


def mentions(facts: object, number: E164) -> bool:
    """Whether the number stands anywhere in these facts, by itself or inside a text."""
    if isinstance(facts, Mapping):
        return any(mentions(value, number) for value in facts.values())
    if isinstance(facts, list):
        return any(mentions(value, number) for value in facts)
    if isinstance(facts, str):
        return number.plus[1:] in facts
    return not isinstance(facts, bool) and facts == int(number)


async def cells_to_rest(
    connection: Connection, keys: DataKeys, dead_letter_days: int, now_us: int
) -> list[int]:
    """Cells with finished events that are still whole and should not be, or with digests of old entries."""
    rows = await connection.fetch(
        _SQL["cells_to_rest"],
        to_datetime(_dead_before_us(keys, dead_letter_days, now_us)),
        to_datetime(now_us - DIGITS_KEPT_US),
    )
    return [row["cell"] for row in rows]


async def rest_events(
    connection: Connection, cell: int, keys: DataKeys, dead_letter_days: int, now_us: int
) -> int:
    """Seal or mask a batch of what is past delivery and still whole; returns how many.

    Dead ones without a key once they are old; delivered ones only after an engine before this rule.
    """
    rows = await connection.fetch(
        _SQL["whole_events"],
        cell,
        to_datetime(_dead_before_us(keys, dead_letter_days, now_us)),
        ROWS_PER_COMMIT_MAX,
    )
    await keep(
        connection,
        cell,
        {row["id"]: at_rest(row["id"], row["facts"], keys, may_be_told_again=False) for row in rows},
    )
    return len(rows)


async def forget_digits(connection: Connection, cell: int, now_us: int) -> int:
    """Put chance in the place of a batch of digests, of which anybody could find the digits."""
    before = to_datetime(now_us - DIGITS_KEPT_US)
    return count_of(await connection.execute(_SQL["forget_digits"], cell, before, ROWS_PER_COMMIT_MAX))


async def keep(connection: Connection, cell: int, resting: Mapping[UUID, Resting]) -> None:
    """Keep the facts of these events, which are locked, as it says."""
    await connection.execute(
        _SQL["keep"],
        cell,
        list(resting),
        [rest.facts for rest in resting.values()],
        [rest.facts_are for rest in resting.values()],
        [rest.sealed_with for rest in resting.values()],
    )


def count_of(status: str) -> int:
    """How many rows a statement says that it changed: `DELETE 3`."""
    return int(status.rpartition(" ")[2])


def _dead_before_us(keys: DataKeys, dead_letter_days: int, now_us: int) -> int:
    return now_us if keys else now_us - dead_letter_days * DAY_US
