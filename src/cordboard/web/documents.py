"""What answers look like, as models for the document of the API.

Nothing is made from them: handlers write the keys of the pages in their order. tests/web hold the answers to
them, and no key may come that is not here.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from cordboard.routing.explain import Relation, Verdict
from cordboard.routing.model import Reason
from cordboard.web.greenvn_bodies import GreenVnBody
from cordboard.web.schemas import GreenPinBody, Region, TenantId
from cordboard.web.second_schemas import CallPartyBody as CallPartyBodyOfSecond
from cordboard.web.second_schemas import SecondGreenPinBody
from cordboard.web.second_schemas import VirtualNumberBody as VirtualNumberBodyOfSecond

IsoTime = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
PlainTime = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$",
        description="In the tenant's time zone.",
    ),
]
E164Text = Annotated[str, Field(pattern=r"^\+[1-9][0-9]{1,14}$")]
PinDigits = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
Secret = Annotated[str, Field(description="Shown only in this answer.")]


class _Answer(BaseModel):
    """Keys with a default are those that may be absent."""

    model_config = ConfigDict(extra="forbid")


class Envelope(BaseModel):
    """Around every answer of the REST API and every refusal."""

    success: bool
    status: int
    code: int | None
    message: str | None
    data: Any
    request_id: str
    method: str


# ── GreenPin ─────────────────────────────────────────────────────────────────


class PartyData(_Answer):
    vns: list[E164Text]
    numbers: list[E164Text]
    pin: PinDigits = Field(default_factory=str, description="Only of a side that has one.")


class GreenPinData(_Answer):
    transaction_id: str
    greenpin_id: UUID
    a: PartyData
    b: PartyData
    usage: Literal["oneway", "twoway"]
    state: Literal["active", "vault"]
    deallocation_time: PlainTime | None


class GreenPinItemBody(GreenPinBody):
    """One change of a bulk update."""

    greenpin_id: str


class GreenPinItemsBody(BaseModel):
    """As many items as the installation allows, 100 unless it says otherwise."""

    greenpins: Annotated[list[GreenPinItemBody], Field(min_length=1)]


class GreenPinsBody(BaseModel):
    """As many items as the installation allows, 1,000 unless it says otherwise."""

    greenpins: Annotated[list[GreenPinBody], Field(min_length=1)]


class GreenPinItemData(_Answer):
    """What became of one item; `data` of a refused one is null."""

    greenpin_id: str | None
    success: bool
    status: int
    code: int | None
    message: str | None
    data: GreenPinData | None


class MemberData(_Answer):
    number: E164Text
    side: Literal["a", "b"]
    joined_at: IsoTime


class MembersData(_Answer):
    members: list[MemberData]


# ── GreenVN ──────────────────────────────────────────────────────────────────


class GreenVnData(_Answer):
    connection_id: str
    aparty_numbers: list[E164Text]
    bparty_numbers: list[E164Text]
    aparty_pins: list[int]
    bparty_pins: list[int]
    usage: Literal["oneway", "twoway"]
    state: Literal["active", "vault"]
    greenvn_id: UUID
    greenvn: E164Text
    green_vn: Annotated[E164Text, Field(description="`greenvn` once more: the vendor's page has both.")]
    flow_id: Annotated[str, Field(description="Only if it was given.")] = ""


class GreenVnsBody(BaseModel):
    """As many items as the installation allows, 1,000 unless it says otherwise."""

    greenvns: Annotated[list[GreenVnBody], Field(min_length=1)]


class GreenVnItemData(_Answer):
    """What became of one item; `data` of a refused one is null."""

    greenvn_id: str | None
    success: bool
    status: int
    code: int | None
    message: str | None
    data: GreenVnData | None


# ── the second generation ────────────────────────────────────────────────────


class SecondGreenVnData(_Answer):
    greenvn_id: Annotated[str, Field(pattern="^gvn_[0-9a-f]{32}$")]
    virtual_number: E164Text
    from_: Annotated[list[E164Text], Field(alias="from")]
    to: list[E164Text]
    status: Literal["active", "deleted"]
    record: bool
    custom_field: str | None
    created_at: IsoTime
    expires_at: IsoTime


class SecondGreenVnShown(SecondGreenVnData):
    call_count: int


class SecondGreenVnUpdated(SecondGreenVnData):
    updated_at: IsoTime


class SecondGreenVnDeleted(_Answer):
    greenvn_id: str
    status: Literal["deleted"]
    deleted_at: IsoTime


class SecondCallPartyBody(CallPartyBodyOfSecond):
    """`from` or `to`, or both; not `caller_id_number`."""


class SecondVirtualNumberBody(VirtualNumberBodyOfSecond):
    """`caller_id_number` must be given."""


class SecondGreenPinData(_Answer):
    greenpin_id: Annotated[str, Field(pattern="^gp_[0-9a-f]{32}$")]
    virtual_number: E164Text
    pin: PinDigits
    from_: Annotated[list[E164Text], Field(alias="from")]
    to: list[E164Text]
    status: Literal["active", "expired", "deleted"]
    record: bool
    created_at: IsoTime
    expires_at: IsoTime
    custom_field: str | None


class SecondGreenPinShown(SecondGreenPinData):
    call_count: int


class SecondGreenPinUpdated(SecondGreenPinData):
    updated_at: IsoTime


class SecondGreenPinDeleted(_Answer):
    greenpin_id: str
    status: Literal["deleted"]
    deleted_at: IsoTime


class SecondGreenPinChangeBody(SecondGreenPinBody):
    """At least one of its keys, and not `caller_id_number`."""


class SecondGreenPinItemBody(SecondGreenPinChangeBody):
    """One change of a bulk update, whose body is a bare array."""

    greenpin_id: str


class SecondItemData(_Answer):
    greenpin_id: str | None
    status: Literal["updated", "failed"]
    code: Annotated[int, Field(description="Only of one that failed.")] = 0
    message: Annotated[str, Field(description="Only of one that failed.")] = ""


class SecondMemberData(_Answer):
    number: E164Text
    joined_at: IsoTime


class SecondMembersData(_Answer):
    members: list[SecondMemberData]


# ── lists ────────────────────────────────────────────────────────────────────

Dated = Annotated[
    str,
    Field(
        description=(
            "`YYYY-MM-DD` or `YYYY-MM-DD HH:mm:ss` in the tenant's time zone, or ISO 8601 with an offset;"
            " both ends are included."
        )
    ),
]
NumberText = Annotated[str, Field(description="In E.164, or as it is dialled in the tenant's country.")]


class ListQuery(BaseModel):
    """What every list takes."""

    from_date: Dated | None = None
    to_date: Dated | None = None
    limit: Annotated[int, Field(ge=1, le=1000, description="50 unless given.")] | None = None
    cursor: Annotated[str, Field(description="`next_cursor` of the page before.")] | None = None


class _AllocationListQuery(ListQuery):
    vn: NumberText | None = None
    number: Annotated[str, Field(description="Listed or joined.")] | None = None
    state: Literal["active", "vault"] | None = None


class GreenPinListQuery(_AllocationListQuery):
    transaction_id: str | None = None


class GreenVnListQuery(_AllocationListQuery):
    connection_id: str | None = None


class _CallsQuery(ListQuery):
    call_sid: str | None = None
    caller: Annotated[str, Field(description="A number, or `withheld`.")] | None = None
    vn: NumberText | None = None
    allocation_id: UUID | None = None


class CallListQuery(_CallsQuery):
    decision: Literal["connect", "ask_pin", "refuse"] | None = None


class VerificationListQuery(_CallsQuery):
    outcome: Literal["success", "failure"] | None = None


ItemData = TypeVar("ItemData")


class PageOf(_Answer, Generic[ItemData]):
    items: list[ItemData]
    next_cursor: Annotated[str | None, Field(description="Null on the last page.")]


class CallEndData(_Answer):
    call_type: Literal["completed", "incomplete", "client-hangup", "voicemail", "unknown"]
    dial_call_status: str | None
    dial_call_duration: int | None
    on_call_duration: int | None
    recording_url: str | None
    start_time: str | None
    ended_at: IsoTime
    request_id: Annotated[str | None, Field(description="Of the request that reported it.")]


class CallData(_Answer):
    call_sid: str
    vn: E164Text
    caller: E164Text | None
    decision: Literal["connect", "ask_pin", "refuse"]
    reason: str | None
    matched: str | None
    allocation_id: UUID | None
    product: Literal["greenvn", "greenpin"] | None
    side: Literal["a", "b"] | None
    to: E164Text | None
    first_hop_at: IsoTime
    last_hop_at: IsoTime
    request_id: Annotated[str | None, Field(description="Of the hop with the last decision.")]
    end: CallEndData | None


class VerificationData(_Answer):
    call_sid: str
    vn: E164Text
    caller: E164Text | None
    outcome: Literal["success", "failure"]
    reason: Literal["right_pin", "wrong_pin"]
    allocation_id: UUID | None
    side: Literal["a", "b"] | None
    verified_at: IsoTime
    request_id: Annotated[str | None, Field(description="Of the hop that brought the digits first.")]


# ── events ───────────────────────────────────────────────────────────────────

EventKindWord = Literal["call_completed", "deallocated", "verified", "verification_failed"]
EventStateWord = Literal["pending", "delivered", "dead"]


class EventListQuery(ListQuery):
    state: EventStateWord | None = None
    kind: EventKindWord | None = None


class EventData(_Answer):
    id: Annotated[UUID, Field(description="The `webhook-id` of its deliveries.")]
    kind: EventKindWord
    product: Literal["greenvn", "greenpin"]
    subject: Annotated[str, Field(description="What is told of in order: an allocation, else a CallSid.")]
    seq: Annotated[int, Field(description="Its number in its subject: `cordboard-sequence`.")]
    state: EventStateWord
    attempts: Annotated[int, Field(description="Begun so far.")]
    endpoint: Annotated[str | None, Field(description="Host and port that it goes to.")]
    due_at: Annotated[IsoTime | None, Field(description="Null behind an earlier event of its subject.")]
    created_at: IsoTime
    replayed_at: IsoTime | None
    finished_at: IsoTime | None
    last_result: str | None
    request_id: Annotated[
        str | None,
        Field(description="Of what brought it about: `cordboard-request-id`; null: nothing did."),
    ]


class AttemptData(_Answer):
    attempt: int
    at: IsoTime
    status: Annotated[int | None, Field(description="Of the answer, if there was one.")]
    ms: int
    error: (
        Literal["refused", "timed_out", "unreachable", "forbidden", "bad_endpoint", "not_worded", "expired"]
        | None
    )


class EventShownData(EventData):
    attempt_log: Annotated[list[AttemptData], Field(description="The last 100, the latest first.")]
    body: Annotated[
        dict[str, Any] | None,
        Field(description="Numbers and PINs masked, unless revealed; null if its data key is missing."),
    ]


class EventQuery(BaseModel):
    reveal: (
        Annotated[Literal["true", "false"], Field(description="Numbers and PINs whole, for tokens that may.")]
        | None
    ) = None


class EventsReplayedData(_Answer):
    replayed: Annotated[int, Field(description="How many events are pending again; masked ones stay.")]


class WebhookSecretMade(_Answer):
    secret_id: UUID
    webhook_secret: Annotated[Secret, Field(pattern="^whsec_")]


class WebhookSecretShown(_Answer):
    secret_id: UUID
    created_at: IsoTime
    retired_at: Annotated[IsoTime | None, Field(description="Null while events are signed with it.")]


class WebhookSecretsShown(_Answer):
    webhook_secrets: list[WebhookSecretShown]


class WebhookSecretDeleted(_Answer):
    secret_id: UUID


# ── explain and pool ─────────────────────────────────────────────────────────


class ExplainQuery(BaseModel):
    vn: Annotated[str, Field(description="The virtual number dialled.")]
    caller: Annotated[str, Field(description="A number; `withheld`, or none: it is not shown.")] | None = None
    pin: Annotated[str, Field(description="What is entered.", pattern="^[0-9]{1,9}$")] | None = None
    at: Annotated[str, Field(description="The instant; now, unless given.")] | None = None
    reveal: (
        Annotated[Literal["true", "false"], Field(description="Numbers and PINs whole, for tokens that may.")]
        | None
    ) = None


class ConnectData(_Answer):
    decision: Literal["connect"]
    matched: Literal["listed", "member", "pin", "verified_before"]
    allocation_id: UUID
    product: Literal["greenvn", "greenpin"]
    side: Literal["a", "b"]
    targets: list[str]
    caller_id: E164Text
    record: bool


class AskPinData(_Answer):
    decision: Literal["ask_pin"]
    digits_max: int
    attempts_left: int
    last_entry: Literal["none", "wrong", "empty"]


class RefuseData(_Answer):
    decision: Literal["refuse"]
    reason: Reason
    allocation_id: UUID | None


class ThrottledData(_Answer):
    caller: Annotated[bool, Field(description="Too many wrong PINs by this caller.")]
    shared: Annotated[bool, Field(description="Too many on this number or of this tenant.")]


class ThrottlesQuery(BaseModel):
    reveal: Annotated[Literal["true", "false"], Field(description="Callers' numbers whole.")] | None = None


class ThrottlesClearQuery(BaseModel):
    caller: Annotated[str, Field(description="Lift what stands against this caller.")] | None = None
    vn: (
        Annotated[
            str, Field(description="Lift what stands on this virtual number, also for withheld callers.")
        ]
        | None
    ) = None
    all: Annotated[Literal["true", "false"], Field(description="Lift everything of the tenant.")] | None = (
        None
    )


class ThrottleWindow(_Answer):
    scope: Annotated[
        Literal["caller", "vn", "tenant"], Field(description="Withheld callers share one window for each VN.")
    ]
    caller: Annotated[str | None, Field(description="Masked unless revealed.")]
    vn: E164Text | None
    failures: Annotated[int, Field(description="Wrong PINs inside the window now.")]
    limit: Annotated[str, Field(description="As in the settings: `60/1h`.")]
    full_until: Annotated[IsoTime | None, Field(description="When entries are taken again; null: they are.")]


class ThrottlesShown(_Answer):
    windows: Annotated[list[ThrottleWindow], Field(description="The full ones first; at most 1,000.")]


class ThrottlesCleared(_Answer):
    id: TenantId
    scope: Literal["caller", "vn", "tenant", "all"]


class CandidateData(_Answer):
    """A side that the call could have been about."""

    allocation_id: UUID
    product: Literal["greenvn", "greenpin"]
    side: Literal["a", "b"]
    relation: Relation
    verdict: Verdict
    rule: Annotated[str, Field(description="The verdict, as a sentence.")]
    numbers: list[str]
    pins: list[str]
    ends_at: IsoTime | None


class ExplanationData(_Answer):
    vn: E164Text
    caller: str | None
    at: IsoTime
    board_age_s: float
    throttled: ThrottledData
    decision: ConnectData | AskPinData | RefuseData
    candidates: list[CandidateData]


class PoolQuery(BaseModel):
    vn: NumberText | None = None
    limit: Annotated[int, Field(ge=1, le=1000, description="50 unless given.")] | None = None
    cursor: Annotated[str, Field(description="`next_cursor` of the page before.")] | None = None


class PooledNumberData(_Answer):
    vn: E164Text
    region: Region | None
    type: Literal["mobile", "landline"] | None
    state: Annotated[
        Literal["open", "reserved", "drained", "exclusive"],
        Field(description="Whether the engine may pick it, or why not."),
    ]
    allocations: Annotated[int, Field(description="Live ones that stand on it.")]
    numbers: Annotated[int, Field(description="That have a route on it.")]
    free_pins: Annotated[dict[str, int], Field(description="By length, 1 to 9 digits.")]


# ── credentials ──────────────────────────────────────────────────────────────


class AppletKeyMade(_Answer):
    key_id: UUID
    applet_key: Secret


class AppletKeyShown(_Answer):
    key_id: UUID
    created_at: IsoTime


class AppletKeysShown(_Answer):
    applet_keys: list[AppletKeyShown]


class AppletKeyDeleted(_Answer):
    key_id: UUID


class TokenMade(_Answer):
    token_id: UUID
    api_token: Secret


class TokenShown(_Answer):
    token_id: UUID
    reveal: Annotated[bool, Field(description="Whether it is shown numbers and PINs whole.")]
    created_at: IsoTime


class TokensShown(_Answer):
    tokens: list[TokenShown]


class TokenDeleted(_Answer):
    token_id: UUID


# ── administration ───────────────────────────────────────────────────────────


class TenantMade(_Answer):
    id: TenantId
    api_token: Secret
    applet_key: Secret
    webhook_secret: Annotated[Secret, Field(pattern="^whsec_")]


class TenantInList(_Answer):
    id: TenantId
    cell: int
    vns: Annotated[int, Field(description="How many it has.")]
    created_at: IsoTime


class TenantsShown(_Answer):
    tenants: list[TenantInList]


class TenantShown(_Answer):
    id: TenantId
    cell: int
    settings: Annotated[dict[str, Any], Field(description="Those that were set.")]
    created_at: IsoTime


class PersonErased(_Answer):
    """How many of each kind; a second time nothing is left."""

    memberships: int
    allocations_updated: int
    allocations_released: int
    vaulted_allocations: int
    cooling_numbers: int
    calls: int
    call_ends: int
    verifications: int
    events_masked: int
    events_masked_after_delivery: int
    event_keys: int
    idempotent_answers: int
    lifted_throttles: int


class TenantDeleted(_Answer):
    id: TenantId


class VirtualNumberShown(_Answer):
    number: E164Text
    region: Region | None
    type: Literal["mobile", "landline"] | None
    flow_id: str | None
    reserved: Annotated[bool, Field(description="Given by name only.")]
    drained: Annotated[bool, Field(description="Gets no new allocations.")]
    created_at: IsoTime


class VirtualNumbersShown(_Answer):
    vns: list[VirtualNumberShown]


class VirtualNumberDeleted(_Answer):
    number: E164Text


# ── applets ──────────────────────────────────────────────────────────────────


class AppletQuery(BaseModel):
    """What the engine reads of a platform's parameters (exotel.md 2); it ignores all others."""

    CallSid: Annotated[str, Field(description="The call; the same for all its hops.")] | None = None
    CallFrom: Annotated[str, Field(description="Who calls; empty when withheld.")] | None = None
    CallTo: Annotated[str, Field(description="The virtual number that was dialled.")] | None = None
    From: Annotated[str, Field(description="In place of CallFrom, where there is no CallTo.")] | None = None
    To: Annotated[str, Field(description="In place of CallTo.")] | None = None
    Direction: Annotated[str, Field(description="Calls that are not `incoming` are refused.")] | None = None
    digits: (
        Annotated[str, Field(description='What was entered, in double quotes; `ignore`: "these are no PIN".')]
        | None
    ) = None


class PassthruQuery(AppletQuery):
    switch: (
        Annotated[str, Field(description="Given: always 200, for a SwitchCase that reads the body.")] | None
    ) = None
    CallType: (
        Annotated[str, Field(description="How the call ended: nothing is decided, its end is recorded.")]
        | None
    ) = None
    DialCallStatus: str | None = None
    DialCallDuration: str | None = None
    DialWhomNumber: str | None = None
    RecordingUrl: str | None = None
    StartTime: str | None = None


class Prompt(_Answer):
    text: str


class GatherReply(_Answer):
    gather_prompt: Prompt
    max_input_digits: int
    finish_on_key: str
    input_timeout: int
    repeat_menu: int
    repeat_gather_prompt: Prompt = Field(
        default_factory=lambda: Prompt(text=""), description="Only where a PIN is asked for."
    )


class Destination(_Answer):
    numbers: list[E164Text]


class ConnectReply(_Answer):
    fetch_after_attempt: bool
    destination: Destination
    outgoing_phone_number: E164Text = Field(
        default_factory=str, description="Only where somebody is connected."
    )
    record: bool = Field(default_factory=bool, description="Likewise.")


# ── operation ────────────────────────────────────────────────────────────────


class Readiness(_Answer):
    ready: bool
    board_age_s: float
    database_up: bool
    # Outcomes and ends that wait for the database.
    spool_records: int
