"""Traces for OpenTelemetry: spans of hops, decisions, commits and attempts to deliver events.

An optional extra (`pip install 'cordboard[otel]'`), decided on once, at the start: whoever may be traced
takes a `Tracing | None`, and without one runs the very functions that it would run if there were no such
thing as traces. With one, hops take longer, for the fast lane is left to aiohttp.

No attribute is a number, a PIN or an address; the request id leads from a span to the log and the records.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from functools import wraps
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from cordboard.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Attributes = Mapping[str, str | int | None]
"""Without the prefix `cordboard.`; what is None is left out."""

# The standard's own settings, of which the exporter reads all.
STANDARD_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
TRACES_PATH: Final = "/v1/traces"


class TracingUnavailable(Exception):
    """Traces were asked for, and the extra is not installed."""


class Tracing:
    """Makes spans. Which of them are kept is the SDK's to say (OTEL_TRACES_SAMPLER)."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import trace

        self._current_span = trace.get_current_span
        self._tracer = provider.get_tracer("cordboard")

    def span(self, name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
        # The text of an exception may quote what must not leave this machine.
        return self._tracer.start_as_current_span(
            name, attributes=_named(attributes or {}), record_exception=False, set_status_on_exception=False
        )

    def describe(self, attributes: Attributes) -> None:
        """Say more of the span that is under way."""
        self._current_span().set_attributes(_named(attributes))

    def traced(self, name: str, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @wraps(function)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with self.span(name):
                return function(*args, **kwargs)

        return run

    def traced_async(
        self, name: str, function: Callable[Parameters, Awaitable[Result]]
    ) -> Callable[Parameters, Awaitable[Result]]:
        @wraps(function)
        async def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            with self.span(name):
                return await function(*args, **kwargs)

        return run


@asynccontextmanager
async def tracing_of(settings: Settings) -> AsyncIterator[Tracing | None]:
    """What the settings ask for; spans that wait are sent before the end. Raises TracingUnavailable."""
    if settings.otel_endpoint is None and not any(map(os.environ.get, STANDARD_ENDPOINTS)):
        yield None
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        if settings.otel_endpoint is None:
            # The standard's setting may be there for other programs.
            yield None
            return
        raise TracingUnavailable(
            "CORDBOARD_OTEL_ENDPOINT is set, but the extra is not installed: pip install 'cordboard[otel]'"
        ) from None
    endpoint = settings.otel_endpoint and settings.otel_endpoint.rstrip("/") + TRACES_PATH
    name = os.environ.get("OTEL_SERVICE_NAME", "cordboard")
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    try:
        yield Tracing(provider)
    finally:
        # It waits for whoever takes the spans.
        await asyncio.to_thread(provider.shutdown)


def _named(attributes: Attributes) -> dict[str, str | int]:
    return {f"cordboard.{name}": value for name, value in attributes.items() if value is not None}
