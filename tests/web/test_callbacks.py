"""From the platform's requests to the subscriber's mail: what each product tells, over real HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from yarl import URL

from cordboard.node import Node
from cordboard.simulator.platform import Applet, KeyPlace, applet_url, random_call_sid
from cordboard.simulator.receiver import Event, EventKind, Receiver
from cordboard.simulator.wire import (
    CallFacts,
    Leg,
    LegEnd,
    NumberStyle,
    Query,
    after_dial,
    aimed,
    as_start_time,
    before_dial,
    written,
)
from cordboard.storage.database import Connection

from .conftest import MakeShop
from .shop import AGENT, CUSTOMER, Shop

ENDPOINTS = (
    "greenpin_call_complete_event_endpoint",
    "greencall_complete_event_endpoint",
    "verified_caller_event_endpoint",
    "failed_verification_event_endpoint",
    "deallocation_callback_event_endpoint",
)
STRANGER = "+919800000099"
AGENT_PIN = "71"
PIN = "0482"


@dataclass(frozen=True)
class Story:
    """A tenant, the platform that it rents, and the subscriber that it told us of."""

    shop: Shop
    session: aiohttp.ClientSession
    receiver: Receiver
    node_url: str

    @property
    def line(self) -> str:
        return self.shop.lines[0]

    async def allocate(self, *, is_greenvn: bool = True) -> str:
        """The agent and the customer on one VN, each side with its PIN."""
        made = await self.shop.make(a__vns=[self.line], b__vns=[self.line], a__pin=AGENT_PIN, b__pin=PIN)
        id: str = made["greenpin_id"]

        async def set_product(connection: Connection) -> None:
            await connection.execute(
                "UPDATE allocation SET product = $2 WHERE id = $1",
                UUID(id),
                "greenvn" if is_greenvn else "greenpin",
            )

        # What an event says of an allocation is read here, and no request makes a GreenVN yet.
        await self.shop.switchboard.database.write(set_product)
        return id

    def facts(self, caller: str = AGENT) -> CallFacts:
        return CallFacts(
            random_call_sid(),
            written(caller, NumberStyle.NATIONAL),
            written(self.line, NumberStyle.NATIONAL),
            self.shop.clock.now_us(),
        )

    async def passthru(self, query: Query, reencode: Callable[[str], str] = str) -> int:
        credentials = self.shop.credentials
        configured = applet_url(
            self.node_url, self.shop.id, credentials.applet_key, Applet.PASSTHRU, KeyPlace.QUERY, "switch=1"
        )
        url = URL(reencode(aimed(configured, query).url), encoded=True)
        async with self.session.get(url) as answer:
            await answer.read()
            return answer.status

    async def enter(self, facts: CallFacts, digits: str) -> None:
        query = before_dial(facts, self.shop.clock.now_us(), digits=digits)
        assert await self.passthru(query) == 200

    async def talk(
        self,
        facts: CallFacts,
        *more: tuple[str, str],
        digits: str = AGENT_PIN,
        reencode: Callable[[str], str] = str,
        has_insights: bool = False,
    ) -> None:
        """A call that connects, and its end."""
        await self.enter(facts, digits)
        leg = Leg(written(CUSTOMER, NumberStyle.NATIONAL), facts.virtual_number, LegEnd.TALKED, 4, 17)
        query = after_dial(facts, self.shop.clock.now_us(), [leg], has_insights=has_insights)
        assert await self.passthru((*query, *more), reencode) == 200

    async def told(self, kind: EventKind) -> Event:
        return await self.receiver.wait_for(
            lambda event: event.path == f"/{self.shop.id}" and event.kind is kind
        )


MakeStory = Callable[..., Awaitable[Story]]


@pytest.fixture
def make_story(
    make_shop: MakeShop, node: Node, session: aiohttp.ClientSession, receiver: Receiver
) -> MakeStory:
    async def make(**settings: Any) -> Story:
        shop = await make_shop(settings)
        endpoints = dict.fromkeys(ENDPOINTS, receiver.url(f"/{shop.id}"))
        assert (await shop.ask("PUT", "/settings", endpoints)).status == 200
        return Story(shop, session, receiver, node.url)

    return make


async def test_a_greenvn_call_is_told_with_the_insights_of_the_call(make_story: MakeStory) -> None:
    story = await make_story()
    id = await story.allocate()
    facts = story.facts()
    await story.talk(facts, has_insights=True)
    body = dict((await story.told(EventKind.CALL_COMPLETED)).body)
    assert body.pop("current_time").endswith("+05:30")
    assert list(body.items()) == [
        ("start_time", as_start_time(facts.started_us).replace(" ", "T") + "+05:30"),
        (
            "insights",
            {
                "DisconnectedBy": "Caller",
                "Status": "completed",
                "DetailedStatus": "CALL_COMPLETED",
                "RingingDuration": "4.00",
            },
        ),
        ("direction", "incoming"),
        ("source", "exotel"),
        ("dial_call_duration", "21"),
        ("connection_id", "order"),
        ("dial_call_status", "completed"),
        ("greenvn", story.line),
        ("on_call_duration", 17),
        ("recording_url", "null"),
        ("greenvn_id", id),
        ("call_type", "completed"),
        ("call_sid", facts.call_sid),
        ("to", CUSTOMER),
        ("from", AGENT),
    ]


async def test_brackets_need_not_be_encoded(make_story: MakeStory) -> None:
    story = await make_story()
    await story.allocate()

    def with_brackets(url: str) -> str:
        assert "Insights%5BStatus%5D" in url
        return url.replace("%5B", "[").replace("%5D", "]")

    await story.talk(story.facts(), has_insights=True, reencode=with_brackets)
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    assert (body["insights"]["Status"], body["on_call_duration"]) == ("completed", 17)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ((), None),
        ((("Insights[Status]", "null"), ("Insights[DisconnectedBy]", "")), None),
        # Of a leg, and nothing of the call.
        ((("Legs[0][Insights][Status]", "completed"),), None),
        ((("Insights", "completed"), ("Insights[]", "x"), ("Insights[Price]", "1")), None),
        ((("Insights[Status]", "no-answer"),), {"Status": "no-answer"}),
        (
            (
                ("Insights[Status]", "x" * 64),
                ("Insights[DetailedStatus]", "x" * 65),
                ("Insights[DisconnectedBy]", "Caller\0"),
                ("Insights[RingingDuration]", "4.5.8"),
            ),
            {"Status": "x" * 64},
        ),
        (
            (
                ("Insights[Status]", "+919800000021"),
                ("Insights[DetailedStatus]", "कॉल"),
                ("Insights[DisconnectedBy]", "NA"),
                ("Insights[RingingDuration]", "-1"),
            ),
            {"DisconnectedBy": "NA"},
        ),
        ((("Insights[RingingDuration]", "4"),), {"RingingDuration": "4"}),
        ((("Insights[RingingDuration]", "9" * 10),), None),
        ((("Insights[Status]", "failed"), ("Insights[Status]", "busy")), {"Status": "busy"}),
    ],
)
async def test_odd_insights_are_dropped_and_the_end_is_told(
    make_story: MakeStory, sent: Query, told: dict[str, str] | None
) -> None:
    story = await make_story()
    await story.allocate()
    await story.talk(story.facts(), *sent)
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    nothing = dict.fromkeys(("DisconnectedBy", "Status", "DetailedStatus", "RingingDuration"))
    assert body.get("insights") == (None if told is None else nothing | told)
    assert ("insights" in body) == (told is not None)


async def test_a_greenpin_call_is_told_as_its_page_has_it_whatever_the_platform_adds(
    make_story: MakeStory,
) -> None:
    story = await make_story()
    await story.allocate(is_greenvn=False)
    await story.talk(story.facts(), has_insights=True)
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    assert list(body)[:2] == ["transaction_id", "call_sid"]
    assert "insights" not in body


async def test_settings_word_the_event(make_story: MakeStory) -> None:
    story = await make_story(
        tag_enabled="true",
        bparty_tag="customer",
        callback_time_format="plain",
        missing_recording="null",
        callback_to="masked",
        timezone="UTC",
    )
    await story.allocate()
    facts = story.facts()
    await story.talk(facts)
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    assert body["start_time"] == as_start_time(facts.started_us)
    assert (body["recording_url"], body["to"]) == (None, story.line)
    assert list(body.items())[-2:] == [("aparty_tag", "aparty"), ("bparty_tag", "customer")]


async def test_a_strangers_wrong_and_right_pin_are_told_in_greenvns_form(make_story: MakeStory) -> None:
    story = await make_story()
    id = await story.allocate()
    facts = story.facts(STRANGER)
    await story.enter(facts, "9999")
    await story.enter(facts, PIN)
    start_time = as_start_time(facts.started_us).replace(" ", "T") + "+05:30"
    assert list((await story.told(EventKind.VERIFICATION_FAILED)).body.items()) == [
        ("start_time", start_time),
        ("caller", STRANGER),
        ("greenvn", story.line),
        ("call_sid", facts.call_sid),
        ("pin", "9999"),
    ]
    assert list((await story.told(EventKind.VERIFIED)).body.items()) == [
        ("caller", STRANGER),
        ("greenvn_id", id),
        ("greenvn", story.line),
        ("connection_id", "order"),
        ("pin", PIN),
    ]
