"""The simulator against a scripted engine: it asks, and reads replies, as exotel.md says platforms do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from cordboard.simulator.platform import (
    HANG_UP,
    Applet,
    Callee,
    Connected,
    Failed,
    Flow,
    HungUp,
    KeyPlace,
    Platform,
    Refused,
    Shape,
    SimulatedCaller,
    Traits,
    Transcript,
    applet_url,
    random_call_sid,
)
from cordboard.simulator.receiver import EventKind, NeverCame, Receiver, is_event, kind_of
from cordboard.simulator.replies import (
    Destinations,
    Prompt,
    Reply,
    Speech,
    Unusable,
    read_plain,
    read_programmable,
    read_prompt,
    read_select,
    read_speech,
)
from cordboard.simulator.wire import CallFacts, Leg, LegEnd, NumberStyle, after_dial, basic

VN = "+918000000010"
CALLER = "+919800000021"
CALLEE = "+919800000022"
OTHER_CALLEE = "+919800000023"
PLAIN_CALLER = SimulatedCaller(CALLER, VN)
NO_TRAITS = Traits()
CALL_SID = "0f3a5c7e9b1d2f4a6c8e0a2c4e6a8c1p"
# 5 January 2026, 10:00:01 in India.
STARTED_US = 1_767_587_401_000_000


class StoppedClock:
    def now_us(self) -> int:
        return STARTED_US


@dataclass(frozen=True)
class Scripted:
    status: int = 200
    body: str = ""
    content_type: str = "text/plain"
    headers: dict[str, str] = field(default_factory=dict)


def as_json(document: object) -> Scripted:
    return Scripted(body=orjson.dumps(document).decode(), content_type="application/json")


def select(case: str, status: int = 200) -> Scripted:
    return Scripted(status, f'{{"select": "{case}"}}')


def dialling(*numbers: str, **more: object) -> Scripted:
    return as_json({"destination": {"numbers": list(numbers)}, "outgoing_phone_number": VN, **more})


PROMPT = as_json({"gather_prompt": {"text": "Your PIN?"}, "max_input_digits": 4})
GREETING = Scripted(body="Goodbye.")
CONNECT_NOW = select("connect")
ASK = select("pin", 302)


@dataclass(frozen=True)
class Asked:
    method: str
    applet: str
    path: str
    query: str
    parameters: dict[str, str]
    headers: dict[str, str]

    @property
    def keys(self) -> list[str]:
        return list(self.parameters)


class ScriptedEngine:
    """Answers each applet with its list of replies, the last of them for ever."""

    def __init__(self, **script: list[Scripted]) -> None:
        self.asked: list[Asked] = []
        self.base_url = ""
        self._script = {"greeting": [GREETING], **script}

    def of(self, applet: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.applet == applet]

    async def answer(self, request: web.Request) -> web.Response:
        applet = request.path.rpartition("/")[2]
        raw = request.raw_path.partition("?")[2]
        self.asked.append(
            Asked(
                request.method, applet, request.path, raw, dict(request.query.items()), dict(request.headers)
            )
        )
        replies = self._script[applet]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        return web.Response(
            status=reply.status, text=reply.body, content_type=reply.content_type, headers=reply.headers
        )


@asynccontextmanager
async def listening(engine: ScriptedEngine) -> AsyncIterator[ScriptedEngine]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", engine.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        engine.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield engine
    finally:
        await runner.cleanup()


def flow_of(engine: ScriptedEngine, shape: Shape = Shape.BRANCHES, **more: Any) -> Flow:
    return Flow.wired(engine.base_url, "acme1m", "s3cret", shape, **more)


async def place(
    engine: ScriptedEngine,
    caller: SimulatedCaller = PLAIN_CALLER,
    *,
    shape: Shape = Shape.BRANCHES,
    flow: Flow | None = None,
    traits: Traits = NO_TRAITS,
) -> Transcript:
    async with aiohttp.ClientSession() as session:
        platform = Platform(session, StoppedClock(), lambda: CALL_SID, traits=traits)
        return await platform.place(caller, flow or flow_of(engine, shape))


async def converse(caller: SimulatedCaller, shape: Shape, **script: list[Scripted]) -> Transcript:
    async with listening(ScriptedEngine(**script)) as engine:
        return await place(engine, caller, shape=shape)


def applets(transcript: Transcript) -> list[str]:
    return [f"{hop.request_line.partition(' ')[0]} {hop.applet.value}" for hop in transcript.hops]


# What is sent


async def test_before_the_dial_the_parameters_come_in_the_order_of_production() -> None:
    async with listening(
        ScriptedEngine(passthru=[ASK, CONNECT_NOW], gather=[PROMPT], connect=[dialling()])
    ) as engine:
        await place(engine, SimulatedCaller(CALLER, VN, keys=("482#",)))
    asked = engine.of("passthru")[1]
    assert asked.query == (
        f"key=s3cret&CallSid={CALL_SID}&CallFrom=09800000021&CallTo=08000000010&Direction=incoming"
        "&Created=Mon%2C+05+Jan+2026+10%3A00%3A01&DialCallDuration=0&StartTime=2026-01-05+10%3A00%3A01"
        "&EndTime=1970-01-01+05%3A30%3A00&CallType=call-attempt&DialWhomNumber=&flow_id=40021&tenant_id=9107"
        "&From=09800000021&To=08000000010&CurrentTime=2026-01-05+10%3A00%3A07&digits=%22482%22"
    )


async def test_after_the_dial_the_parameters_come_in_the_order_of_production() -> None:
    async with listening(
        ScriptedEngine(passthru=[CONNECT_NOW], connect=[dialling(CALLEE, record=True)])
    ) as engine:
        await place(engine, SimulatedCaller(CALLER, VN, callees=(Callee(ring_s=4, talk_s=17),)))
    after = engine.of("passthru")[-1]
    assert after.parameters == {
        "key": "s3cret",
        "CallSid": CALL_SID,
        "CallFrom": "09800000021",
        "CallTo": "08000000010",
        "Direction": "incoming",
        "ForwardedFrom": "null",
        "Created": "Mon, 05 Jan 2026 10:00:01",
        "DialCallDuration": "21",
        "RecordingUrl": f"https://recordings.example.net/{CALL_SID}.mp3",
        "StartTime": "2026-01-05 10:00:01",
        "EndTime": "1970-01-01 05:30:00",
        "DialCallStatus": "completed",
        "CallType": "completed",
        "DialWhomNumber": "09800000022",
        "ProcessStatus": "null",
        "flow_id": "40021",
        "tenant_id": "9107",
        "From": "09800000021",
        "To": "08000000010",
        "RecordingAvailableBy": "Mon, 05 Jan 2026 10:05:22",
        "CurrentTime": "2026-01-05 10:00:22",
        "OutgoingPhoneNumber": "08000000010",
        "Legs[0][Number]": "09800000022",
        "Legs[0][Type]": "single",
        "Legs[0][OnCallDuration]": "17",
        "Legs[0][CallerId]": "08000000010",
        "Legs[0][CauseCode]": "NORMAL_CLEARING",
        "Legs[0][Cause]": "16",
    }
    expected = (
        "CallSid, CallFrom, CallTo, Direction, ForwardedFrom, Created, DialCallDuration, RecordingUrl, "
        "StartTime, EndTime, DialCallStatus, CallType, DialWhomNumber, ProcessStatus, flow_id, tenant_id, "
        "From, To, RecordingAvailableBy, CurrentTime, OutgoingPhoneNumber, Legs[0][Number], Legs[0][Type], "
        "Legs[0][OnCallDuration], Legs[0][CallerId], Legs[0][CauseCode], Legs[0][Cause]"
    )
    assert after.keys[1:] == expected.split(", ")
    assert "Legs%5B0%5D%5BNumber%5D=09800000022" in after.query


async def test_only_programmable_applets_send_a_version() -> None:
    script = {"passthru": [ASK, CONNECT_NOW], "gather": [PROMPT], "connect": [dialling()]}
    async with listening(ScriptedEngine(**script)) as engine:
        await place(engine)
    versions = {asked.applet: asked.headers.get("Exotel-Version") for asked in engine.asked}
    assert versions == {"passthru": None, "gather": "1.0", "connect": "1.0", "greeting": None}


async def test_a_plain_connect_sends_no_version() -> None:
    async with listening(ScriptedEngine(passthru=[CONNECT_NOW], connect=[Scripted(body=CALLEE)])) as engine:
        transcript = await place(engine, flow=flow_of(engine, is_connect_programmable=False))
    [asked] = engine.of("connect")
    assert "Exotel-Version" not in asked.headers
    assert transcript.result == Connected((CALLEE,), VN, CALLEE)


async def test_gather_and_connect_tell_whether_the_first_leg_is_up() -> None:
    script = {"passthru": [ASK, CONNECT_NOW], "gather": [PROMPT], "connect": [dialling()]}
    async with listening(ScriptedEngine(**script)) as engine:
        await place(engine)
    assert [asked.parameters.get("CallStatus") for asked in engine.asked[:4]] == [
        *(None, "ringing", None, "in-progress")
    ]


async def test_a_greeting_is_asked_for_with_four_parameters() -> None:
    async with listening(ScriptedEngine(passthru=[select("reject")])) as engine:
        await place(engine, shape=Shape.SWITCH)
    for asked in engine.of("greeting"):
        assert asked.keys == ["key", "CallSid", "From", "To", "DialWhomNumber"]


@pytest.mark.parametrize(
    ("style", "caller", "written"),
    [
        (NumberStyle.NATIONAL, CALLER, "09800000021"),
        (NumberStyle.NATIONAL, "+14155550123", "+14155550123"),
        (NumberStyle.PLUS, CALLER, CALLER),
        (NumberStyle.BARE, CALLER, "919800000021"),
        (NumberStyle.LOST_PLUS, CALLER, " 919800000021"),
        (NumberStyle.NATIONAL, None, "anonymous"),
    ],
)
async def test_numbers_are_written_as_the_platform_does(
    style: NumberStyle, caller: str | None, written: str
) -> None:
    async with listening(ScriptedEngine(passthru=[CONNECT_NOW], connect=[dialling()])) as engine:
        await place(engine, SimulatedCaller(caller, VN), traits=Traits(numbers=style))
    assert engine.asked[0].parameters["CallFrom"] == written


async def test_the_configured_query_stays_and_the_platforms_follows() -> None:
    async with listening(ScriptedEngine(passthru=[CONNECT_NOW], connect=[dialling()])) as engine:
        flow = flow_of(engine)
        await place(engine, flow=replace(flow, passthru=f"{flow.passthru}&mark=%22a%22+b&digits=ignore"))
    assert engine.asked[0].query.startswith(
        f"key=s3cret&mark=%22a%22+b&digits=ignore&CallSid={CALL_SID}&CallFrom="
    )


async def test_a_gather_url_may_lose_its_query() -> None:
    script = {"passthru": [ASK, CONNECT_NOW], "gather": [PROMPT], "connect": [dialling()]}
    async with listening(ScriptedEngine(**script)) as engine:
        await place(engine, traits=Traits(gather_loses_query=True))
    assert ["key" in asked.parameters for asked in engine.asked[:4]] == [True, False, True, True]


@pytest.mark.parametrize("key_in", KeyPlace)
async def test_the_key_travels_where_it_was_configured_and_is_in_no_transcript(key_in: KeyPlace) -> None:
    script = {"passthru": [ASK, CONNECT_NOW], "gather": [PROMPT], "connect": [dialling(CALLEE)]}
    async with listening(ScriptedEngine(**script)) as engine:
        transcript = await place(engine, flow=flow_of(engine, key_in=key_in, greets_first=True))
    for asked in engine.asked:
        assert (asked.parameters.get("key") == "s3cret") == (key_in is KeyPlace.QUERY)
        assert ("/exotel/k/s3cret/" in asked.path) == (key_in is KeyPlace.PATH)
        is_basic = asked.headers.get("Authorization") == basic("acme1m", "s3cret")
        assert is_basic == (key_in is KeyPlace.BASIC)
    assert len(transcript.hops) == len(engine.asked)
    assert "s3cret" not in repr(transcript)
    assert CALL_SID in transcript.hops[0].request_line


def test_an_applet_url_with_basic_authentication_holds_the_user_and_the_password() -> None:
    url = applet_url("https://calls.example.com", "acme1m", "t/k", Applet.GATHER, KeyPlace.BASIC)
    assert url == "https://acme1m:t%2Fk@calls.example.com/v1/tenants/acme1m/exotel/gather"


def test_a_call_sid_is_32_characters_of_which_not_all_are_hexadecimal() -> None:
    sids = {random_call_sid() for _ in range(50)}
    assert len(sids) == 50
    assert {len(sid) for sid in sids} == {32}
    assert all(sid.isalnum() and sid.islower() for sid in sids)


# The flow of branches


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_everything_but_200_is_the_other_branch(status: int) -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN),
        Shape.BRANCHES,
        passthru=[select("connect", status), CONNECT_NOW],
        gather=[PROMPT],
        connect=[dialling(CALLEE)],
    )
    assert applets(transcript) == [
        "GET passthru",
        "GET gather",
        "GET passthru",
        "GET connect",
        "GET passthru",
    ]


async def test_a_redirect_is_not_followed() -> None:
    moved = Scripted(302, headers={"Location": "/elsewhere/connect"})
    transcript = await converse(
        SimulatedCaller(CALLER, VN), Shape.BRANCHES, passthru=[moved], gather=[PROMPT], connect=[dialling()]
    )
    assert applets(transcript).count("GET connect") == 0


async def test_after_the_last_prompt_the_caller_hears_the_refusal() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN, keys=("1#", "2#", "3#", "4#")),
        Shape.BRANCHES,
        passthru=[ASK],
        gather=[PROMPT],
    )
    assert applets(transcript) == [
        *("GET passthru", "GET gather") * 3,
        *("GET passthru", "HEAD greeting", "GET greeting"),
    ]
    assert transcript.result == Refused("Goodbye.")


# The flow with a SwitchCase


async def test_a_switch_goes_where_the_engine_says() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN, keys=("1111#", "4821#")),
        Shape.SWITCH,
        passthru=[select("pin"), select("pin"), select("connect")],
        gather=[PROMPT],
        connect=[dialling(CALLEE)],
    )
    assert applets(transcript) == [
        *("GET passthru", "GET gather", "GET passthru", "GET gather"),
        *("GET passthru", "GET connect", "GET passthru"),
    ]
    assert "switch=1" in transcript.hops[0].request_line
    assert "switch=1" not in transcript.hops[-1].request_line
    assert transcript.result == Connected((CALLEE,), VN, CALLEE)


async def test_a_switch_without_that_case_hangs_up() -> None:
    transcript = await converse(SimulatedCaller(CALLER, VN), Shape.SWITCH, passthru=[select("vip")])
    assert transcript.result == Failed("the SwitchCase has no case 'vip'")


async def test_a_switch_that_gets_no_200_refuses() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN), Shape.SWITCH, passthru=[select("connect", 302)], connect=[dialling()]
    )
    assert transcript.result == Refused("Goodbye.")


async def test_a_flow_that_goes_in_circles_is_a_failure() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN), Shape.SWITCH, passthru=[select("pin")], gather=[PROMPT]
    )
    assert transcript.result == Failed("still asks for a PIN after 10 prompts")


# What the caller keys in


async def digits_of_passthrus(keys: tuple[Any, ...], traits: Traits = NO_TRAITS) -> list[str | None]:
    script = {"passthru": [ASK], "gather": [PROMPT]}
    async with listening(ScriptedEngine(**script)) as engine:
        await place(engine, SimulatedCaller(CALLER, VN, keys=keys), traits=traits)
    return [asked.parameters.get("digits") for asked in engine.of("passthru")]


async def test_digits_stay_until_others_take_their_place() -> None:
    assert await digits_of_passthrus(("11#", "", "3333")) == [None, '"11"', '"11"', '"3333"']


async def test_a_platform_may_forget_digits() -> None:
    assert await digits_of_passthrus(("11#", "", "3333"), Traits(keeps_digits=False)) == [
        *(None, '"11"', None, '"3333"')
    ]


async def test_no_more_digits_are_taken_than_were_asked_for() -> None:
    assert (await digits_of_passthrus(("123456",)))[1] == '"1234"'


async def test_who_hangs_up_at_a_prompt_is_asked_nothing_more() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN, keys=(HANG_UP,)), Shape.BRANCHES, passthru=[ASK], gather=[PROMPT]
    )
    assert applets(transcript) == ["GET passthru", "GET gather"]
    assert transcript.result == HungUp()


async def test_an_unusable_prompt_is_not_heard() -> None:
    async with listening(ScriptedEngine(passthru=[ASK], gather=[Scripted(503, "no"), PROMPT])) as engine:
        await place(engine, SimulatedCaller(CALLER, VN, keys=("11#",)))
    assert [asked.parameters.get("digits") for asked in engine.of("passthru")] == [
        *(None, None, '"11"', '"11"')
    ]


# Dialling


async def test_nobody_answers() -> None:
    async with listening(
        ScriptedEngine(passthru=[CONNECT_NOW], connect=[dialling(CALLEE, OTHER_CALLEE)])
    ) as engine:
        transcript = await place(
            engine,
            SimulatedCaller(CALLER, VN, callees=(Callee(LegEnd.BUSY, 2, 0), Callee(LegEnd.NO_ANSWER, 99, 0))),
        )
    after = engine.of("passthru")[-1].parameters
    assert transcript.result == Connected((CALLEE, OTHER_CALLEE), VN, None)
    assert (after["CallType"], after["DialCallStatus"]) == ("incomplete", "no-answer")
    assert after["DialCallDuration"] == "32", "a number rings for 30 s where the reply does not say"
    assert (after["Legs[0][CauseCode]"], after["Legs[1][CauseCode]"]) == ("USER_BUSY", "NO_ANSWER")


async def test_the_second_number_answers() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN, callees=(Callee(LegEnd.BUSY, 2, 0), Callee())),
        Shape.BRANCHES,
        passthru=[CONNECT_NOW],
        connect=[dialling(CALLEE, OTHER_CALLEE)],
    )
    assert transcript.result == Connected((CALLEE, OTHER_CALLEE), VN, OTHER_CALLEE)


async def test_a_caller_who_gives_up_while_it_rings_is_reported() -> None:
    async with listening(ScriptedEngine(passthru=[CONNECT_NOW], connect=[dialling(CALLEE)])) as engine:
        transcript = await place(
            engine, SimulatedCaller(CALLER, VN, callees=(Callee(LegEnd.CALLER_GAVE_UP, 3, 0),))
        )
    after = engine.of("passthru")[-1].parameters
    assert transcript.result == HungUp()
    assert (after["CallType"], after["DialCallStatus"]) == ("client-hangup", "canceled")


async def test_where_asked_to_the_platform_fetches_again_after_an_attempt() -> None:
    first = dialling(CALLEE, fetch_after_attempt="true")
    async with listening(
        ScriptedEngine(passthru=[CONNECT_NOW], connect=[first, dialling(OTHER_CALLEE)])
    ) as engine:
        transcript = await place(
            engine, SimulatedCaller(CALLER, VN, callees=(Callee(LegEnd.BUSY, 2, 0), Callee()))
        )
    second = engine.of("connect")[1].parameters
    assert (second["DialCallStatus"], second["Legs[0][Number]"]) == ("busy", "09800000022")
    assert transcript.result == Connected((CALLEE, OTHER_CALLEE), VN, OTHER_CALLEE)


async def test_a_plain_connect_is_fetched_again_until_it_repeats_itself() -> None:
    async with listening(ScriptedEngine(passthru=[CONNECT_NOW], connect=[Scripted(body=CALLEE)])) as engine:
        flow = flow_of(engine, is_connect_programmable=False)
        transcript = await place(
            engine, SimulatedCaller(CALLER, VN, callees=(Callee(LegEnd.BUSY, 2, 0),)), flow=flow
        )
    assert len(engine.of("connect")) == 2
    assert transcript.result == Connected((CALLEE,), VN, None)


async def test_an_empty_destination_dials_nobody() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN), Shape.BRANCHES, passthru=[CONNECT_NOW], connect=[dialling()]
    )
    assert applets(transcript) == ["GET passthru", "GET connect", "HEAD greeting", "GET greeting"]
    assert transcript.result == Refused("Goodbye.")


async def test_a_connect_that_fails_takes_its_fallback() -> None:
    async with listening(
        ScriptedEngine(passthru=[CONNECT_NOW], connect=[Scripted(503), dialling(CALLEE)])
    ) as engine:
        flow = flow_of(engine)
        transcript = await place(engine, flow=replace(flow, connect_fallback=flow.connect))
    assert transcript.result == Connected((CALLEE,), VN, CALLEE)


async def test_a_connect_that_fails_without_a_fallback_says_why() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN), Shape.BRANCHES, passthru=[CONNECT_NOW], connect=[Scripted(503)]
    )
    assert transcript.result == Failed("nobody could be dialled: status 503")


# Greetings


async def test_a_greeting_that_knows_no_head_is_got_all_the_same() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN),
        Shape.SWITCH,
        passthru=[select("reject")],
        greeting=[Scripted(405), GREETING],
    )
    assert transcript.result == Refused("Goodbye.")


async def test_a_greeting_that_fails_is_skipped() -> None:
    transcript = await converse(
        SimulatedCaller(CALLER, VN), Shape.SWITCH, passthru=[select("reject")], greeting=[Scripted(500)]
    )
    assert applets(transcript) == ["GET passthru", "HEAD greeting"]
    assert transcript.result == Refused("")


# What platforms get wrong


async def test_a_platform_may_make_every_request_twice() -> None:
    async with listening(ScriptedEngine(passthru=[CONNECT_NOW], connect=[dialling(CALLEE)])) as engine:
        transcript = await place(engine, traits=Traits(times_each=2))
    assert applets(transcript) == [*["GET passthru"] * 2, *["GET connect"] * 2, *["GET passthru"] * 2]


class SilentEngine(ScriptedEngine):
    """Answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()

    async def answer(self, _: web.Request) -> web.Response:
        await self.let_go.wait()
        return web.Response()


async def test_who_answers_too_late_has_not_answered() -> None:
    engine = SilentEngine()
    async with listening(engine), aiohttp.ClientSession() as session:
        platform = Platform(session, StoppedClock(), lambda: CALL_SID, fetch_budget_s=0.05)
        transcript = await platform.place(PLAIN_CALLER, flow_of(engine, Shape.SWITCH))
        engine.let_go.set()
    assert transcript.hops[0].reply == "no reply within 0.05 s"
    assert transcript.hops[0].status is None
    assert transcript.result == Refused("")


async def test_an_engine_that_is_away_is_no_exception() -> None:
    async with listening(ScriptedEngine()) as engine:
        pass
    transcript = await place(engine, shape=Shape.SWITCH)
    assert transcript.result == Refused("")
    assert transcript.hops[0].reply.startswith("no reply: ")


# How replies are read


def reply(body: str, content_type: str = "application/json", status: int = 200) -> Reply:
    return Reply(status, content_type, body.encode())


@pytest.mark.parametrize(
    ("body", "case"),
    [
        ('{"select": "pin"}', "pin"),
        (' {"select":"pin","content-type":"text/plain"}\n', "pin"),
        ("pin\n", "pin"),
        ('"pin"', "pin"),
        ('{"select": 1}', None),
        ("{}", None),
        ("{broken", None),
        ("[]", None),
        ("", None),
    ],
)
def test_a_switch_reads_json_or_a_bare_word(body: str, case: str | None) -> None:
    assert read_select(reply(body, "text/html")) == case


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        ("+919800000022", (CALLEE,)),
        ('"+919800000022"\n', (CALLEE,)),
        ("+919800000022, 09800000023", (CALLEE, "09800000023")),
        ("+919800000022\r\n\r\n+919800000023\n", (CALLEE, OTHER_CALLEE)),
        ("", ()),
        (" \n", ()),
        ('{"destination": {"numbers": ["+919800000022"]}}', (CALLEE,)),
    ],
)
def test_a_plain_connect_reads_numbers_however_they_are_separated(
    body: str, numbers: tuple[str, ...]
) -> None:
    assert read_plain(reply(body, "text/plain")) == Destinations(numbers)


def test_a_programmable_connect_reads_texts_as_numbers_and_flags_and_clamps() -> None:
    body = (
        '{"destination": {"numbers": "+919800000022"}, "record": "true", "fetch_after_attempt": "false",'
        ' "max_ringing_duration": "90", "max_conversation_duration": 99999, "unheard_of": 1}'
    )
    assert read_programmable(reply(body)) == Destinations(
        (CALLEE,), is_recorded=True, ringing_s_max=60, conversation_s_max=4500
    )


@pytest.mark.parametrize(
    "unusable",
    [
        reply('{"destination": {"numbers": []}}', "text/plain"),
        reply('{"destination": {"numbers": []}}', status=503),
        reply("{"),
        reply("[]"),
        reply("{}"),
        reply('{"destination": {}}'),
        reply('{"destination": {"numbers": [1]}}'),
        reply('{"destination": {"numbers": []}, "record": "perhaps"}'),
        reply('{"destination": {"numbers": []}, "max_ringing_duration": true}'),
        reply('{"destination": {"numbers": []}, "outgoing_phone_number": 1}'),
    ],
)
def test_a_programmable_connect_that_breaks_the_schema_is_unusable(unusable: Reply) -> None:
    assert isinstance(read_programmable(unusable), Unusable)


def test_a_prompt_has_its_defaults() -> None:
    assert read_prompt(reply('{"gather_prompt": {"text": "PIN?"}}')) == Prompt("PIN?", "PIN?", 255, "#", 5, 0)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"gather_prompt": {}}',
        '{"gather_prompt": {"text": "a", "audio_url": "b"}}',
        '{"gather_prompt": {"text": "a"}, "finish_on_key": "##"}',
        '{"gather_prompt": {"text": "a"}, "max_input_digits": "four"}',
        '{"gather_prompt": {"text": "a"}, "repeat_gather_prompt": "a"}',
    ],
)
def test_a_prompt_that_breaks_the_schema_is_unusable(body: str) -> None:
    assert isinstance(read_prompt(reply(body)), Unusable)


def test_a_greeting_of_urls_is_a_playlist() -> None:
    body = "https://media.example.com/a.wav\nhttps://media.example.com/b.wav\n"
    playlist = ("https://media.example.com/a.wav", "https://media.example.com/b.wav")
    assert read_speech(reply(body, "text/plain")) == Speech("", playlist)
    assert read_speech(reply("See https://example.com", "text/plain")) == Speech("See https://example.com")
    assert isinstance(read_speech(reply("text", "text/html")), Unusable)


# The receiver


CALL_BODY = {"greenpin_id": "x", "call_type": "completed", "from": CALLER}
VERIFIED_BODY = {"greenpin_id": "x", "caller": CALLER, "pin": "1"}
FAILED_BODY = {"caller": CALLER, "start_time": "2026-01-05T10:00:01+05:30", "pin": "1"}
DEALLOCATED_BODY = {"greenpin_id": "x", "state": "vault"}


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (CALL_BODY, EventKind.CALL_COMPLETED),
        (VERIFIED_BODY, EventKind.VERIFIED),
        (FAILED_BODY, EventKind.VERIFICATION_FAILED),
        (DEALLOCATED_BODY, EventKind.DEALLOCATED),
        ({}, EventKind.UNKNOWN),
    ],
)
def test_an_event_is_told_by_its_keys(body: dict[str, str], kind: EventKind) -> None:
    assert kind_of(body) is kind


async def test_the_receiver_keeps_what_came_and_wakes_who_waits() -> None:
    async with Receiver() as receiver, aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(receiver.wait_for(is_event(EventKind.CALL_COMPLETED, from_=CALLER)))
        for body in (VERIFIED_BODY, CALL_BODY):
            async with session.post(receiver.url("/calls"), json=body) as response:
                assert response.status == 200
        event = await waiting
        assert (event.path, event.body) == ("/calls", CALL_BODY)
        assert event.headers["Content-Type"] == "application/json"
        assert len(receiver.of_kind(EventKind.VERIFIED)) == 1


async def test_a_receiver_in_trouble_refuses_so_many_times() -> None:
    async with Receiver() as receiver, aiohttp.ClientSession() as session:
        receiver.fail_next(2, status=500)
        statuses = []
        for _ in range(3):
            async with session.post(receiver.url(), json=CALL_BODY) as response:
                statuses.append(response.status)
        assert statuses == [500, 500, 200]
        assert (len(receiver.refused), len(receiver.events)) == (2, 1)


async def test_an_event_that_does_not_come_is_missed() -> None:
    async with Receiver() as receiver:
        with pytest.raises(NeverCame, match="these came: none"):
            await receiver.wait_for(lambda _: True, within_s=0.01)


# ── Call Insights ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("end", "talk_s", "said"),
    [
        (LegEnd.TALKED, 17, ("completed", "CALL_COMPLETED", "4.00", "Caller")),
        (LegEnd.CALLER_GAVE_UP, 0, ("canceled", "FAILED_UNKNOWN_ERROR", "4.00", "Caller")),
        (LegEnd.BUSY, 0, ("busy", "FAILED_UNKNOWN_ERROR", "4.00", "NA")),
    ],
)
def test_a_subscriber_gets_insights_of_each_leg_and_of_the_call(
    end: LegEnd, talk_s: int, said: tuple[str, ...]
) -> None:
    facts = CallFacts(CALL_SID, CALLER, VN, STARTED_US)
    legs = [Leg(OTHER_CALLEE, VN, LegEnd.NO_ANSWER, 20, 0), Leg(CALLEE, VN, end, 4, talk_s)]
    plain = after_dial(facts, STARTED_US, legs)
    keys = ("Status", "DetailedStatus", "RingingDuration", "DisconnectedBy")
    added = dict(after_dial(facts, STARTED_US, legs, has_insights=True))
    assert [added.pop(f"Insights[{key}]") for key in keys] == list(said)
    assert [added.pop(f"Legs[1][Insights][{key}]") for key in keys] == list(said)
    assert [added.pop(f"Legs[0][Insights][{key}]") for key in keys][::3] == ["no-answer", "NA"]
    assert tuple(added.items()) == plain
    assert dict(after_dial(facts, STARTED_US, [], has_insights=True)) == dict(
        after_dial(facts, STARTED_US, [])
    )
