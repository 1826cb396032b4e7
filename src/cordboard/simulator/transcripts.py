"""How a simulated call is told: a table of its hops and a sentence for people, JSON for programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, assert_never

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cordboard.simulator.platform import (
    Applet,
    CallResult,
    Connected,
    Failed,
    Hop,
    HungUp,
    Refused,
    Transcript,
)

# Telephone numbers and nothing shorter: durations, counts of digits and times stay.
_NUMBER: Final = re.compile(r"\+?[0-9]{6,13}([0-9]{2})(?![0-9])")


def plain_table(*columns: str) -> Table:
    """Columns by their headings; one that begins with `>` is set to the right."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, header_style="dim", expand=True)
    for column in columns:
        table.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left")
    return table


def hop_table(hops: Sequence[Hop]) -> Table:
    table = plain_table()
    # Of one width in all calls, so that the eye can go down the page.
    for heading, width in (("request", 13), ("sent", 15), ("decision", 8), ("reply", None)):
        table.add_column(heading, width=width, ratio=None if width else 1)
    table.add_column("ms", width=5, justify="right")
    for hop in hops:
        table.add_row(
            Text(f"{_method(hop)} {hop.applet.value}"),
            Text(_sent(hop), style="dim"),
            Text(_decision(hop), style="bold"),
            _reply(hop),
            f"{hop.elapsed_ms:.1f}",
        )
    return table


def result_text(result: CallResult) -> Text:
    match result:
        case Connected(numbers, caller_id, answered_by):
            talked = "" if answered_by else ", who did not answer"
            return Text(f"connected to {', '.join(numbers)}, who sees {caller_id}{talked}", style="green")
        case Refused(sentence):
            return Text(f"refused: “{sentence}”" if sentence else "refused without a word", style="yellow")
        case HungUp():
            return Text("hung up", style="yellow")
        case Failed(why):
            return Text(f"failed: {why}", style="red")
        case unmatched:
            assert_never(unmatched)


def ending_text(result: CallResult) -> Text:
    """`result_text` in short."""
    match result:
        case Connected(answered_by=str(number)):
            return Text(f"connected to {number}", style="green")
        case Refused():
            return Text("refused", style="yellow")
        case _:
            return result_text(result)


def masked(transcript: Transcript) -> Transcript:
    """The same call with numbers down to their last two digits, and without what was keyed in."""
    hops = tuple(
        replace(
            hop,
            # The rest of it are the parameters.
            request_line=hop.request_line.partition("?")[0],
            parameters={name: _hidden_parameter(name, value) for name, value in hop.parameters.items()},
            reply=_hidden(hop.reply),
        )
        for hop in transcript.hops
    )
    return Transcript(transcript.call_sid, hops, _masked_result(transcript.result))


def transcript_json(transcript: Transcript) -> dict[str, Any]:
    return {
        "call_sid": transcript.call_sid,
        "hops": [
            {
                "applet": hop.applet.value,
                "method": _method(hop),
                "parameters": dict(hop.parameters),
                "status": hop.status,
                "decision": _decision(hop) or None,
                "reply": hop.reply,
                "ms": round(hop.elapsed_ms, 3),
                "request_id": hop.request_id,
            }
            for hop in transcript.hops
        ],
        "result": _result_json(transcript.result),
    }


def _result_json(result: CallResult) -> dict[str, Any]:
    match result:
        case Connected(numbers, caller_id, answered_by):
            return {
                "ended": "connected",
                "dialled": list(numbers),
                "caller_id": caller_id,
                "answered_by": answered_by,
            }
        case Refused(sentence):
            return {"ended": "refused", "heard": sentence}
        case HungUp():
            return {"ended": "hung_up"}
        case Failed(why):
            return {"ended": "failed", "why": why}
        case unmatched:
            assert_never(unmatched)


def _masked_result(result: CallResult) -> CallResult:
    match result:
        case Connected(numbers, caller_id, answered_by):
            answered = None if answered_by is None else _hidden(answered_by)
            return Connected(tuple(map(_hidden, numbers)), _hidden(caller_id), answered)
        case Refused() | HungUp() | Failed():
            return result
        case unmatched:
            assert_never(unmatched)


def _hidden_parameter(name: str, value: str) -> str:
    match name:
        case "digits":
            return "****"
        case "CallSid":
            # What one looks for in records and the log; some digits of it may look like a number.
            return value
        case _:
            return _hidden(value)


def _hidden(text: str) -> str:
    return _NUMBER.sub(r"…\1", text)


def _method(hop: Hop) -> str:
    return hop.request_line.partition(" ")[0]


def _sent(hop: Hop) -> str:
    """What of the parameters decides: the digits, or how the call ended."""
    if hop.applet is Applet.GREETING:
        return ""
    if "DialCallStatus" in hop.parameters:
        return f"{hop.parameters['CallType']}, {hop.parameters['DialCallDuration']} s"
    return f"digits={hop.parameters['digits']}" if "digits" in hop.parameters else ""


def _decision(hop: Hop) -> str:
    """The engine's word, where a reply has one."""
    return hop.reply if hop.applet is Applet.PASSTHRU and hop.status is not None else ""


def _reply(hop: Hop) -> Text:
    style = "red" if hop.status is None or hop.status >= 400 else "green" if hop.status == 200 else "yellow"
    status = Text("none" if hop.status is None else str(hop.status), style=style)
    return status if _decision(hop) else Text.assemble(status, " ", hop.reply)
