"""Spans: numbers and names, the caller's trace, and no text."""

import json

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference_server.telemetry.tracing import choose_tracing, exporting
from tests.unit.server.engines import CountingEngine, CrashingEngine
from tests.unit.server.running import an_app

CANARY = "Zyxwv"
QUESTION = {"patient_mrn": CANARY, "query": f"{CANARY} has chest pain", "temperature": 0.5, "seed": 3}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def spans_of(engine: CountingEngine | CrashingEngine, headers: dict[str, str]) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    async with an_app(engine, tracing=exporting(exporter)) as app:
        await app.client.post("/triage", json=QUESTION, headers=headers)
        await app.client.post("/triage", json={**QUESTION, "stream": True}, headers=headers)
    return exporter.get_finished_spans()


async def test_a_span_has_the_numbers_of_its_answer_and_continues_the_callers_trace() -> None:
    spans = await spans_of(CountingEngine(), {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert len(spans) == 2
    for span in spans:
        assert span.name == "chat Qwen/Qwen3-4B-Thinking-2507"
        assert span.attributes is not None
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "Qwen/Qwen3-4B-Thinking-2507",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.seed": 3,
            "gen_ai.response.finish_reasons": ("length",),
            "gen_ai.usage.input_tokens": 12,
            "gen_ai.usage.output_tokens": 3,
        }
        assert expected.items() <= dict(span.attributes).items()
        assert span.context is not None
        assert span.parent is not None
        assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
        assert CANARY not in span.to_json()


async def test_a_failure_is_a_failed_span_without_its_message() -> None:
    for span in await spans_of(CrashingEngine(), {"traceparent": CANARY, "tracestate": f"a={CANARY}"}):
        assert json.loads(span.to_json())["status"]["status_code"] == "ERROR"
        assert dict(span.attributes or {})["error.type"] == "failed"
        assert CANARY not in span.to_json()


def test_nothing_is_traced_unless_somebody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert not choose_tracing().exports
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing = choose_tracing()
    assert tracing.exports
    tracing.close()
