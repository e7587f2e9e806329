"""Spans for OpenTelemetry: one per request to the engine, with numbers and names, never a text.

opentelemetry-api alone does nothing. Spans are exported where OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `otel`
is installed; the exporter reads its own settings (OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER,
…). Attributes have the names of OpenTelemetry's conventions for generative AI.
"""

from __future__ import annotations

import logging
import os
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from inference_server import __version__
from inference_server.engine.protocol import EngineInfo, Finished, GenerationRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FIELDS = ("traceparent", "tracestate")
_DEFAULT_SERVICE = "llm-server"
_CLOSE_SECONDS = 2.0


class Tracing:
    """Makes the spans; without a provider they cost next to nothing and go nowhere."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        named = ("inference_server", __version__)
        self._tracer: trace.Tracer = NoOpTracer() if provider is None else provider.get_tracer(*named)

    @property
    def exports(self) -> bool:
        """Whether anybody gets the spans."""
        return self._provider is not None

    def begin(self, request: GenerationRequest, info: EngineInfo) -> GenerationSpan:
        """The span of one request to the engine."""
        if not self.exports:
            return GenerationSpan(trace.INVALID_SPAN, info)
        sampling = request.sampling
        attributes: dict[str, str | int | float | None] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "llm_server",
            "gen_ai.request.model": info.model,
            "gen_ai.request.max_tokens": sampling.max_new_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
            "gen_ai.request.top_k": sampling.top_k,
            "gen_ai.request.seed": sampling.seed,
            "llm_server.request_id": request.request_id,
        }
        known = {name: value for name, value in attributes.items() if value is not None}
        span = self._tracer.start_span(f"chat {info.model}", kind=SpanKind.SERVER, attributes=known)
        return GenerationSpan(span, info)

    def close(self) -> None:
        """Send what is left. Waits no longer than it must: where nobody takes spans the exporter tries for long."""
        if self._provider is None:
            return
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_CLOSE_SECONDS)


class GenerationSpan:
    """One request to the engine, as a trace shows it."""

    def __init__(self, span: trace.Span, info: EngineInfo) -> None:
        self._span = span
        self._info = info

    def finished(self, event: Finished) -> None:
        if not self._span.is_recording():
            return
        self._span.set_attribute("gen_ai.response.finish_reasons", (event.reason,))
        self._span.set_attribute("gen_ai.response.model", self._info.model)
        self._span.set_attribute("llm_server.thinking_truncated", event.thinking_truncated)
        if event.usage is not None:
            self._span.set_attribute("gen_ai.usage.input_tokens", event.usage.prompt_tokens)
            self._span.set_attribute("gen_ai.usage.output_tokens", event.usage.completion_tokens)
            self._span.set_attribute("gen_ai.usage.reasoning.output_tokens", event.usage.reasoning_tokens)

    def failed(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        self._span.end()


class ContinuesTheTrace:
    """Middleware: what follows belongs to the caller's trace (W3C traceparent). Only where spans are exported."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        carrier = {name: value for name in _FIELDS if (value := headers.get(name)) is not None}
        token = context.attach(self._propagator.extract(carrier))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)


def choose_tracing() -> Tracing:
    """The one that exports, if somebody wants the spans and its packages are here."""
    if not any(os.environ.get(name) for name in _ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return Tracing()
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        remedy = "pip install 'llm-operator[server,otel]'; in a clone: make setup"
        logger.warning("tracing_not_installed", extra={"fields": {"remedy": remedy}})
        return Tracing()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return exporting(OTLPSpanExporter())


def exporting(exporter: SpanExporter) -> Tracing:
    """Sends in the background."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)


def _resource() -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    from opentelemetry.sdk.resources import Resource

    found = Resource.create({"service.version": __version__})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        return found.merge(Resource({"service.name": _DEFAULT_SERVICE}))
    return found
