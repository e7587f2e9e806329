"""Spans for OpenTelemetry: one per request to the engine, with numbers and names, never a text.

Off unless OTEL_EXPORTER_OTLP_ENDPOINT is set and the extra `otel` is installed; the exporter reads its own settings
(OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, …). Attributes have the names of OpenTelemetry's
conventions for generative AI.
"""

import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Protocol

from starlette.types import Scope

from inference_server.engine.protocol import EngineInfo, Finished, GenerationRequest

logger = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span(Protocol):
    def finished(self, event: Finished) -> None: ...

    def failed(self, kind: str) -> None: ...

    def end(self) -> None: ...


class Tracer(Protocol):
    def attach(self, scope: Scope) -> Callable[[], None]:
        """Take the caller's trace (W3C traceparent) for what follows; the result undoes that."""
        ...

    def begin(self, request: GenerationRequest, info: EngineInfo) -> Span: ...

    def close(self) -> None:
        """Send what is left. May take seconds."""
        ...


class NoTracer:
    """Does nothing; is its own span."""

    def attach(self, _scope: Scope) -> Callable[[], None]:
        return self.end

    def begin(self, _request: GenerationRequest, _info: EngineInfo) -> Span:
        return self

    def finished(self, event: Finished) -> None: ...

    def failed(self, kind: str) -> None: ...

    def end(self) -> None: ...

    def close(self) -> None: ...


def choose_tracer() -> Tracer:
    """The real one if somebody wants its spans and its packages are here."""
    if not any(os.environ.get(name) for name in _ENDPOINTS) or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return NoTracer()
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter") is None:
        remedy = "pip install 'llm-operator[server,otel]'; in a clone: make setup"
        logger.warning("tracing_not_installed", extra={"fields": {"remedy": remedy}})
        return NoTracer()
    from inference_server.otel import exporting_tracer

    return exporting_tracer()
