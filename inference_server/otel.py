"""The tracer that speaks OpenTelemetry. The one module that imports it; see `tracing`."""

import threading
from collections.abc import Callable

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import Scope

from inference_server import __version__
from inference_server.engine.protocol import EngineInfo, Finished, GenerationRequest
from inference_server.tracing import Span

_FIELDS = ("traceparent", "tracestate")
_DEFAULT_SERVICE = "llm-server"
_CLOSE_SECONDS = 2.0


class OtelTracer:
    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("inference_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def attach(self, scope: Scope) -> Callable[[], None]:
        headers = Headers(scope=scope)
        carrier = {name: value for name in _FIELDS if (value := headers.get(name)) is not None}
        token = context.attach(self._propagator.extract(carrier))
        return lambda: context.detach(token)

    def begin(self, request: GenerationRequest, info: EngineInfo) -> Span:
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
        return OtelSpan(self._tracer.start_span(f"chat {info.model}", kind=SpanKind.SERVER, attributes=known), info)

    def close(self) -> None:
        """Waits no longer than it must: where nobody takes the spans the exporter would try for many seconds."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_CLOSE_SECONDS)


class OtelSpan:
    def __init__(self, span: trace.Span, info: EngineInfo) -> None:
        self._span = span
        self._info = info

    def finished(self, event: Finished) -> None:
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


def exporting_tracer() -> OtelTracer:
    """Sends in the background, to where the OTEL_ variables say."""
    return OtelTracer(OTLPSpanExporter())


def _resource() -> Resource:
    """OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    found = Resource.create({"service.version": __version__})
    if str(found.attributes["service.name"]).startswith("unknown_service"):
        return found.merge(Resource({"service.name": _DEFAULT_SERVICE}))
    return found
