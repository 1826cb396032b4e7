"""Traces, as a collector gets them: over OTLP, from a real engine."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cordboard.settings import Settings
from cordboard.simulator.client import Client
from cordboard.simulator.engine import EngineProcess
from cordboard.simulator.receiver import Receiver
from cordboard.tracing import STANDARD_ENDPOINTS, TracingUnavailable, tracing_of

from .conftest import MakeEngine
from .test_request_ids import id_of
from .world import PIN, a_person, make_tenant


@asynccontextmanager
async def collector(spans: list[Span]) -> AsyncIterator[str]:
    """Takes spans as a collector does; its address."""

    async def take(request: web.Request) -> web.Response:
        said = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in said.resource_spans:
            names = {pair.key: pair.value.string_value for pair in of_resource.resource.attributes}
            assert names["service.name"] == "cordboard"
            for of_scope in of_resource.scope_spans:
                spans.extend(of_scope.spans)
        return web.Response()

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def attributes(span: Span) -> Mapping[str, str | int]:
    return {
        pair.key.removeprefix("cordboard."): pair.value.string_value or pair.value.int_value
        for pair in span.attributes
    }


async def test_a_collector_gets_hops_decisions_commits_and_deliveries(
    fresh_engine: MakeEngine,
    session: aiohttp.ClientSession,
    receiver: Receiver,
    at: Callable[[EngineProcess], Client],
) -> None:
    spans: list[Span] = []
    async with collector(spans) as url:
        engine = fresh_engine(CORDBOARD_OTEL_ENDPOINT=url)
        await engine.start()
        tenant = await make_tenant(at(engine), session, receiver)
        agent, stranger = a_person(), a_person()
        await tenant.allocate([agent], [a_person()])
        plain = id_of(await tenant.call(agent).passthru())
        call = tenant.call(stranger)
        await call.gather()
        verified = id_of(await call.passthru(PIN))
        await tenant.all_events()
        # What waits to be sent is sent before the end.
        assert await engine.stop() == 0
    by_name: dict[str, list[Span]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    assert set(by_name) == {"hop", "decision", "commit", "webhook attempt"}
    hops = {attributes(span)["request_id"]: span for span in by_name["hop"]}
    assert attributes(hops[plain]) == {
        "request_id": plain,
        "tenant": tenant.id,
        "call_sid": attributes(hops[plain])["call_sid"],
        "applet": "passthru",
        "decision": "connect",
        "reason": "listed",
    }
    parents = [span.parent_span_id for span in by_name["decision"]]
    assert parents.count(hops[plain].span_id) == 1
    assert parents.count(hops[verified].span_id) == 2, "once with the PIN, and once by what is on record"
    [told] = map(attributes, by_name["webhook attempt"])
    assert (told["event_kind"], told["result"], told["status"]) == ("verified", "delivered", 200)
    assert told["request_id"] == verified
    for span in spans:
        assert span.end_time_unix_nano > span.start_time_unix_nano
        said = str(attributes(span).values())
        assert not any(secret in said for secret in (agent[3:], stranger[3:], f"'{PIN}'"))


async def test_without_a_collector_there_is_nothing_to_trace_with(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in STANDARD_ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    async with tracing_of(Settings()) as tracing:
        assert tracing is None
    monkeypatch.setenv(STANDARD_ENDPOINTS[0], "http://127.0.0.1:9")
    async with tracing_of(Settings()) as tracing:
        assert tracing is not None


async def test_whoever_asks_for_traces_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # As where the extra is not installed.
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(TracingUnavailable, match=r"cordboard\[otel\]"):
        async with tracing_of(Settings(otel_endpoint="http://127.0.0.1:4318")):
            pass
    monkeypatch.setenv(STANDARD_ENDPOINTS[0], "http://127.0.0.1:4318")
    async with tracing_of(Settings()) as tracing:
        assert tracing is None, "the standard's setting may be meant for others"
