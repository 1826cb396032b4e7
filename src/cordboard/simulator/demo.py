"""`cordboard demo`: a real engine, a tenant, allocations, five calls, and what everybody was told.

Nothing is acted but the people and the telephony platform: the engine is a process of its own over a
database of its own in a temporary directory, and every word goes over HTTP. All numbers are made up, which
is why they are shown whole; keys and tokens are not shown.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cordboard.clock import SystemClock
from cordboard.simulator.client import Client, Credentials, Unexpected
from cordboard.simulator.engine import EngineDidNotStart, EngineProcess
from cordboard.simulator.platform import (
    CallResult,
    Connected,
    Flow,
    Platform,
    Refused,
    Shape,
    SimulatedCaller,
    Transcript,
)
from cordboard.simulator.receiver import Event, EventKind, NeverCame, Receiver, is_event
from cordboard.simulator.transcripts import ending_text, hop_table, plain_table, result_text

WIDTH: Final = 100

TENANT: Final = "acme1m"
SHOP_LINE: Final = "+918000000010"
COURIER_LINE: Final = "+918000000011"

AGENT: Final = "+919800000021"
CUSTOMER: Final = "+919800000022"
COURIER: Final = "+919800000031"
RECIPIENT: Final = "+919800000032"
LATE_AGENT: Final = "+919800000041"
LATE_CUSTOMER: Final = "+919800000042"
NEIGHBOUR: Final = "+919800000051"
GUESSER: Final = "+919800000061"

ORDER_PIN: Final = "4821"
REFUSAL: Final = "Sorry, this call cannot be connected."

SETTINGS: Final = {
    # Listed A numbers, the shop's own people, are connected without a PIN.
    "aparty_pin_enabled": "false",
    "prompt_pin": "Please key in your PIN.",
    "prompt_pin_again": "Once more, your PIN.",
    "greeting_refused": REFUSAL,
}

EVENT_ENDPOINTS: Final = (
    "greenpin_call_complete_event_endpoint",
    "verified_caller_event_endpoint",
    "failed_verification_event_endpoint",
    "deallocation_callback_event_endpoint",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One call, and how it must end."""

    title: str
    story: str
    caller: SimulatedCaller
    shape: Shape
    ends: Connected | Refused
    # The events that the call gives rise to, each kind as often as it comes.
    events: tuple[EventKind, ...] = ()


SCENES: Final = (
    Scene(
        "A listed caller",
        "The agent is on the A list of the order, whose PIN is off: connected at the first hop.",
        SimulatedCaller(AGENT, SHOP_LINE),
        Shape.BRANCHES,
        Connected((CUSTOMER,), SHOP_LINE, CUSTOMER),
        (EventKind.CALL_COMPLETED,),
    ),
    Scene(
        "A stranger with the right PIN",
        "A neighbour takes the parcel and rings the shop: the order's PIN makes him one of side B.",
        SimulatedCaller(NEIGHBOUR, SHOP_LINE, keys=(f"{ORDER_PIN}#",)),
        Shape.SWITCH,
        Connected((AGENT,), SHOP_LINE, AGENT),
        (EventKind.VERIFIED, EventKind.CALL_COMPLETED),
    ),
    Scene(
        "A guesser",
        "Three PINs that belong to nobody: each is recorded, and the third is the last.",
        SimulatedCaller(GUESSER, SHOP_LINE, keys=("1111#", "2222#", "3333#")),
        Shape.SWITCH,
        Refused(REFUSAL),
        (EventKind.VERIFICATION_FAILED,) * 3,
    ),
    Scene(
        "A B caller on a oneway allocation",
        "The courier may ring the recipient, and not the other way round.",
        SimulatedCaller(RECIPIENT, COURIER_LINE),
        Shape.SWITCH,
        Refused(REFUSAL),
    ),
    Scene(
        "An expired allocation",
        "It was made for one second, and its end has been announced: even its agent is nobody now.",
        SimulatedCaller(LATE_AGENT, COURIER_LINE),
        Shape.SWITCH,
        Refused(REFUSAL),
    ),
)


async def run(console: Console | None = None) -> int:
    """The whole demo; 0 if every call ended as it should. Leaves nothing running and nothing behind."""
    out = console or _console()
    directory = Path(tempfile.mkdtemp(prefix="cordboard-demo-"))
    admin_token = secrets.token_urlsafe(24)
    engine = EngineProcess(
        directory / "data",
        {
            "CORDBOARD_ADMIN_TOKEN": admin_token,
            # Events may not go to this machine otherwise.
            "CORDBOARD_CALLBACK_ALLOW": "127.0.0.1",
        },
    )
    is_well = False
    termination = _Termination()
    try:
        async with termination, Receiver() as receiver, aiohttp.ClientSession() as session:
            out.print(f"Starting an engine and its PostgreSQL in {directory} …", style="dim")
            await engine.start()
            out.print(f"It listens on {engine.base_url}", style="dim")
            client = Client(session, engine.base_url, admin_token)
            is_well = await _Demo(out, client, Platform(session, SystemClock()), receiver).play()
    except EngineDidNotStart as error:
        out.print(Text(str(error), style="red"))
    except (Unexpected, NeverCame, aiohttp.ClientError, TimeoutError) as error:
        out.print(Text(f"The demo could not go on: {type(error).__name__}: {error}", style="red"))
        _print_log(out, engine)
    except asyncio.CancelledError:
        # Ctrl-C is whoever runs the loop's to report.
        if not termination.came:
            raise
    except BaseException:
        _print_log(out, engine)
        raise
    finally:
        await engine.clear_away()
        shutil.rmtree(directory, ignore_errors=True)
    out.print("The engine is stopped and its directory removed.", style="dim")
    return 0 if is_well else 1


class _Termination:
    """Lets SIGTERM end the demo as Ctrl-C does: an engine of its own session would outlive it."""

    def __init__(self) -> None:
        self.came = False
        self._task: asyncio.Task[object] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._cancel)

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        if self.came and self._task is not None:
            self._task.uncancel()

    def _cancel(self) -> None:
        self.came = True
        if self._task is not None:
            self._task.cancel()


class _Demo:
    def __init__(self, out: Console, client: Client, platform: Platform, receiver: Receiver) -> None:
        self._out = out
        self._client = client
        self._platform = platform
        self._receiver = receiver

    async def play(self) -> bool:
        """Whether everything came as it should."""
        credentials = await self._provision()
        await self._allocate(credentials)
        faults: list[list[str]] = []
        transcripts: list[Transcript] = []
        for number, scene in enumerate(SCENES, start=1):
            self._heading(f"{number}  {scene.title}", scene.story)
            transcript = await self._call(scene, credentials)
            transcripts.append(transcript)
            faults.append(
                [*_mismatch(scene.ends, transcript.result), *await self._events_of(scene, transcript)]
            )
        self._summarise(transcripts, faults)
        return not any(faults)

    async def _provision(self) -> Credentials:
        endpoints = {key: self._receiver.url(f"/{key}") for key in EVENT_ENDPOINTS}
        credentials = await self._client.add_tenant(TENANT, {**SETTINGS, **endpoints})
        await self._client.add_virtual_numbers(TENANT, SHOP_LINE, COURIER_LINE)
        self._heading("Provisioned", f"Tenant {TENANT} with the numbers {SHOP_LINE} and {COURIER_LINE}.")
        return credentials

    async def _allocate(self, credentials: Credentials) -> None:
        self._heading("Allocated", "Three GreenPins over REST.")
        table = plain_table("transaction", "side A", "side B", "dials", "usage", "until")
        for body in (
            {
                "transaction_id": "ORD-7781",
                "a": {"vns": [SHOP_LINE], "numbers": [AGENT]},
                "b": {"numbers": [CUSTOMER], "pin": ORDER_PIN},
                "deallocation_policy": {"duration": "2h"},
            },
            {
                "transaction_id": "PARCEL-12",
                "a": {"vns": [COURIER_LINE], "numbers": [COURIER]},
                "b": {"numbers": [RECIPIENT]},
                "usage": "oneway",
            },
            {
                "transaction_id": "FLASH-1",
                "a": {"vns": [COURIER_LINE], "numbers": [LATE_AGENT]},
                "b": {"numbers": [LATE_CUSTOMER]},
                "deallocation_policy": {"duration": "1s"},
            },
        ):
            data = await self._client.allocate(credentials, body)
            table.add_row(
                data["transaction_id"],
                _party(data["a"]),
                _party(data["b"]),
                ", ".join(data["a"]["vns"]),
                data["usage"],
                data["deallocation_time"],
            )
        self._print_table(table)
        # Its time is not waited for: what ends it says so.
        ended = await self._receiver.wait_for(is_event(EventKind.DEALLOCATED, transaction_id="FLASH-1"))
        self._print_events([ended])

    async def _call(self, scene: Scene, credentials: Credentials) -> Transcript:
        flow = Flow.wired(
            self._client.base_url,
            credentials.tenant_id,
            credentials.applet_key,
            scene.shape,
            greets_first=scene.shape is Shape.BRANCHES,
        )
        transcript = await self._platform.place(scene.caller, flow)
        who = f"{scene.caller.number or 'somebody withheld'} dials {scene.caller.dials}"
        self._out.print(f"   {who}   CallSid {transcript.call_sid}", style="dim")
        self._print_table(hop_table(transcript.hops))
        self._out.print(Text.assemble("   ⇒ ", result_text(transcript.result)))
        return transcript

    async def _events_of(self, scene: Scene, transcript: Transcript) -> list[str]:
        """Wait for the call's events and show them; says what is wrong with them."""
        if scene.events:
            try:
                await self._receiver.wait_for(lambda _: len(self._came(transcript)) >= len(scene.events))
            except NeverCame as error:
                return [str(error)]
        self._print_events(self._came(transcript))
        return self._wrong_events(scene, transcript)

    def _came(self, transcript: Transcript) -> list[Event]:
        return [event for event in self._receiver.events if event.body.get("call_sid") == transcript.call_sid]

    def _wrong_events(self, scene: Scene, transcript: Transcript) -> list[str]:
        kinds = sorted(event.kind.value for event in self._came(transcript))
        expected = sorted(kind.value for kind in scene.events)
        return [] if kinds == expected else [f"events {kinds} in place of {expected}"]

    def _heading(self, title: str, story: str) -> None:
        self._out.print()
        self._out.rule(Text(title, style="bold"), align="left", style="cyan")
        self._out.print(f"   {story}")

    def _print_events(self, events: Sequence[Event]) -> None:
        for event in events:
            self._out.print(
                Text.assemble(("   event  ", "magenta"), (event.kind.value, "bold"), *_told(event))
            )

    def _summarise(self, transcripts: Sequence[Transcript], faults: Sequence[Sequence[str]]) -> None:
        self._heading("Summary", f"{len(SCENES)} calls, {len(self._receiver.events)} events.")
        table = plain_table("call", "ended", ">hops", ">ms", "as it should")
        for scene, transcript, wrong in zip(SCENES, transcripts, faults, strict=True):
            table.add_row(
                scene.title,
                ending_text(transcript.result),
                str(len(transcript.hops)),
                f"{sum(hop.elapsed_ms for hop in transcript.hops):.1f}",
                Text("no: " + "; ".join(wrong), style="red") if wrong else Text("yes", style="green"),
            )
        self._print_table(table)

    def _print_table(self, table: Table) -> None:
        self._out.print()
        self._out.print(Padding(table, (0, 0, 0, 2)))
        self._out.print()


def _mismatch(expected: CallResult, result: CallResult) -> list[str]:
    if result == expected:
        return []
    return [f"expected: {result_text(expected)}"]


_SHOWN_OF_EVENTS: Final = {
    EventKind.CALL_COMPLETED: ("transaction_id", "from", "to"),
    EventKind.DEALLOCATED: ("transaction_id", "state"),
    EventKind.VERIFIED: ("transaction_id", "caller", "pin"),
    EventKind.VERIFICATION_FAILED: ("caller", "vn", "pin"),
    EventKind.UNKNOWN: (),
}


def _told(event: Event) -> list[tuple[str, str]]:
    return [(f"  {key}={event.body.get(key)}", "dim") for key in _SHOWN_OF_EVENTS[event.kind]]


def _party(party: dict[str, object]) -> str:
    numbers = party["numbers"]
    assert isinstance(numbers, list)
    pin = f"PIN {party['pin']}" if "pin" in party else "no PIN"
    return f"{', '.join(numbers)}\n{pin}"


def _console() -> Console:
    console = Console(highlight=False, emoji=False)
    # A pipe has no width, and lines longer than this are hard to read.
    if not console.is_terminal or console.width > WIDTH:
        console.width = WIDTH
    return console


def _print_log(out: Console, engine: EngineProcess) -> None:
    if lines := engine.last_log_lines():
        out.print("The engine's last words:", style="red")
        out.print(Text(lines, style="dim"))
