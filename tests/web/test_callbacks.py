"""From the platform's requests to the subscriber's mail: what each product tells, over real HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
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

from .conftest import MakeShop
from .shop import AGENT, CUSTOMER, OTHER_AGENT, OTHER_CUSTOMER, Shop

ENDPOINTS = (
    "greenpin_call_complete_event_endpoint",
    "greencall_complete_event_endpoint",
    "verified_caller_event_endpoint",
    "failed_verification_event_endpoint",
    "deallocation_callback_event_endpoint",
)
STRANGER = "+919800000099"
AGENT_PIN = "71"
PIN = "4820"


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

    async def allocate(self, **more: Any) -> str:
        """A GreenVN of the agent and the customer, each side with its PIN."""
        body = {
            "connection_id": "order",
            "aparty_numbers": [AGENT],
            "bparty_numbers": [CUSTOMER],
            "aparty_pins": [int(AGENT_PIN)],
            "bparty_pins": [int(PIN)],
            "usage": "twoway",
            "strictness": True,
            "preferences": {"greenvn": self.line},
        }
        answer = await self.shop.ask("POST", "/greenvn", body | more)
        assert answer.status == 200, answer.body
        id: str = answer.data["greenvn_id"]
        return id

    async def allocate_greenpin(self, **changed: Any) -> str:
        """The same two on one VN, where everybody enters a PIN."""
        pins = {"a__pin": AGENT_PIN, "b__pin": PIN}
        made = await self.shop.make(**{"a__vns": [self.line], "b__vns": [self.line], **pins, **changed})
        id: str = made["greenpin_id"]
        return id

    async def allocate_second(self, product: str) -> dict[str, Any]:
        """The answer of the second generation, whose clients enter nothing on the side of the agent."""
        body = {
            "caller_id_number": self.line,
            "from": [AGENT],
            "to": [CUSTOMER],
            "duration": 600,
            "record": True,
            "custom_field": "order_id=12345",
        }
        answer = await self.shop.ask("POST", f"/{product}", body)
        assert answer.status == 201, answer.body
        data: dict[str, Any] = answer.body["response"]
        return data

    async def written(self, kind: str) -> list[dict[str, Any]]:
        """The facts in the outbox, told or not; they are there as soon as the request is answered."""
        rows = map(orjson.loads, (await self.shop.rows())["event"])
        return [row["facts"] for row in rows if row["kind"] == kind]

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

    async def enter(self, facts: CallFacts, digits: str | None) -> None:
        query = before_dial(facts, self.shop.clock.now_us(), digits=digits)
        assert await self.passthru(query) == 200

    async def talk(
        self,
        facts: CallFacts,
        *more: tuple[str, str],
        digits: str | None = None,
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
    await story.allocate_greenpin()
    await story.talk(story.facts(), has_insights=True, digits=AGENT_PIN)
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


async def test_where_a_greenpin_is_on_the_vn_too_a_wrong_pin_is_told_in_greenpins_form(
    make_story: MakeStory,
) -> None:
    story = await make_story()
    await story.allocate()
    await story.allocate_greenpin(
        a__numbers=[OTHER_AGENT], b__numbers=[OTHER_CUSTOMER], a__pin="72", b__pin="73"
    )
    facts = story.facts(STRANGER)
    await story.enter(facts, "9999")
    body = (await story.told(EventKind.VERIFICATION_FAILED)).body
    assert list(body) == ["start_time", "caller", "vn", "call_sid", "pin"]
    assert (body["vn"], body["pin"]) == (story.line, "9999")


async def test_the_tags_of_an_allocation_come_before_the_tenants(make_story: MakeStory) -> None:
    story = await make_story(tag_enabled="true", aparty_tag="seller", bparty_tag="buyer")
    await story.allocate(bparty_tag="tenant 7")
    await story.talk(story.facts())
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    assert list(body.items())[-2:] == [("aparty_tag", "seller"), ("bparty_tag", "tenant 7")]


async def test_the_tags_of_a_greenpin_come_before_the_tenants(make_story: MakeStory) -> None:
    story = await make_story(tag_enabled="true")
    await story.allocate_greenpin(aparty_tag="agent 5")
    await story.talk(story.facts(), digits=AGENT_PIN)
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    assert list(body.items())[-2:] == [("aparty_tag", "agent 5"), ("bparty_tag", "bparty")]


async def test_tags_are_told_only_where_the_tenant_wants_them(make_story: MakeStory) -> None:
    story = await make_story()
    await story.allocate(aparty_tag="seller", bparty_tag="buyer")
    await story.talk(story.facts())
    body = (await story.told(EventKind.CALL_COMPLETED)).body
    assert not {"aparty_tag", "bparty_tag"} & set(body)


async def test_the_end_of_a_greenvn_is_told_when_its_policy_ended_it(make_story: MakeStory) -> None:
    story = await make_story()
    id = await story.allocate(deallocation_policy={"duration": "90s"}, bparty_pins=[])
    story.shop.clock.advance(91)
    assert list((await story.told(EventKind.DEALLOCATED)).body.items()) == [
        ("connection_id", "order"),
        ("aparty_numbers", [AGENT]),
        ("bparty_numbers", [CUSTOMER]),
        ("aparty_pins", [71]),
        ("bparty_pins", [None]),
        ("usage", "twoway"),
        ("state", "vault"),
        ("greenvn", story.line),
        ("greenvn_id", id),
    ]


async def test_the_end_of_a_greenvn_is_not_told_to_the_client_that_ended_it(make_story: MakeStory) -> None:
    story = await make_story()
    id = await story.allocate()
    assert (await story.shop.ask("DELETE", f"/greenvn/{id}")).status == 200
    assert await story.written("deallocated") == []
    # Of a GreenPin it is.
    pinned = await story.allocate_greenpin()
    assert (await story.shop.delete(pinned)).status == 200
    assert [facts["allocation_id"] for facts in await story.written("deallocated")] == [pinned]
    assert (await story.told(EventKind.DEALLOCATED)).body["greenpin_id"] == pinned


# ── the second generation ────────────────────────────────────────────────────

ADDED = {"custom_field": "order_id=12345", "record": True}


async def test_all_of_a_greenpin_of_the_second_generation_is_told_by_its_own_id(
    make_story: MakeStory,
) -> None:
    story = await make_story()
    made = await story.allocate_second("greenpin")
    known = {"greenpin_id": made["greenpin_id"], "transaction_id": None}
    assert made["greenpin_id"].startswith("gp_")

    stranger = story.facts(STRANGER)
    await story.enter(stranger, made["pin"])
    verified = (await story.told(EventKind.VERIFIED)).body
    assert verified == {
        "caller": STRANGER,
        "vn": story.line,
        "pin": made["pin"],
        "call_sid": stranger.call_sid,
        **known,
        **ADDED,
    }

    facts = story.facts()
    await story.talk(facts)
    called = (await story.told(EventKind.CALL_COMPLETED)).body
    assert (called["call_sid"], called["from"], called["to"]) == (facts.call_sid, AGENT, CUSTOMER)
    assert {key: called[key] for key in known} == known
    assert list(called.items())[-2:] == list(ADDED.items())

    assert (await story.shop.ask("DELETE", f"/greenpin/{made['greenpin_id']}")).status == 200
    ended = (await story.told(EventKind.DEALLOCATED)).body
    assert {key: ended[key] for key in known} == known
    assert (ended["aparty_numbers"], ended["bparty_pins"]) == ([AGENT], [made["pin"]])
    assert list(ended.items())[-2:] == list(ADDED.items())
    # What an event names can be asked for.
    shown = await story.shop.ask("GET", f"/greenpin/{ended['greenpin_id']}")
    assert shown.body["response"]["status"] == "deleted"


async def test_all_of_a_greenvn_of_the_second_generation_is_told_by_its_own_id(make_story: MakeStory) -> None:
    story = await make_story()
    made = await story.allocate_second("greenvn")
    known = {"greenvn_id": made["greenvn_id"], "connection_id": None, "greenvn": story.line}
    assert made["greenvn_id"].startswith("gvn_")

    await story.talk(story.facts(), has_insights=True)
    called = (await story.told(EventKind.CALL_COMPLETED)).body
    assert {key: called[key] for key in known} == known
    assert called["insights"]["Status"] == "completed"
    assert list(called.items())[-2:] == list(ADDED.items())

    story.shop.clock.advance(601)
    ended = (await story.told(EventKind.DEALLOCATED)).body
    assert {key: ended[key] for key in known} == known
    assert (ended["aparty_pins"], ended["bparty_pins"]) == ([None], [None])
    assert list(ended.items())[-2:] == list(ADDED.items())


async def test_an_event_tells_what_the_second_generation_said_last(make_story: MakeStory) -> None:
    story = await make_story()
    made = await story.allocate_second("greenpin")
    changed = await story.shop.put(made["greenpin_id"], {"record": False, "custom_field": "order_id=2"})
    assert changed.status == 200
    await story.talk(story.facts())
    told = (await story.told(EventKind.CALL_COMPLETED)).body
    assert (told["custom_field"], told["record"]) == ("order_id=2", False)


async def test_a_greenvn_of_the_second_generation_that_is_deleted_is_not_told_of(
    make_story: MakeStory,
) -> None:
    story = await make_story()
    made = await story.allocate_second("greenvn")
    assert (await story.shop.ask("DELETE", f"/greenvn/{made['greenvn_id']}")).status == 200
    assert await story.written("deallocated") == []
