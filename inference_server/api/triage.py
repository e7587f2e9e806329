"""POST /triage: a question in, an answer out, whole or as it is written."""

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from inference_server.api.answering import Answering
from inference_server.api.config import ApiConfig
from inference_server.api.errors import ProblemError, problem
from inference_server.api.schemas import TriageRequest, TriageResponse, UsageBody, problem_responses
from inference_server.api.sse import NOT_KEPT, frame, streamed
from inference_server.engine.protocol import (
    EngineInfo,
    Event,
    Finished,
    GenerationRequest,
    Message,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Usage,
)
from inference_server.telemetry.logs import request_id_var
from inference_server.triage.prompt import with_system_prompt
from inference_server.triage.safe_text import CUT_TEXT

_STREAM = (
    "With `stream`: events `delta` and `reasoning` ({text}), then one `done` (the fields of the JSON answer, without "
    "`response`) or one `error` (a problem document). Lines that begin with a colon are to be ignored."
)


def add_triage(app: FastAPI, answering: Answering) -> None:
    @app.post(
        "/triage",
        tags=["triage"],
        response_model=TriageResponse,
        responses=streamed(_STREAM) | problem_responses(400, 401, 413, 415, 422, 429, 500, 503, 504),
    )
    async def triage(body: TriageRequest, request: Request) -> Response:
        """Answer a patient's question. An answer is generated text: it does not replace a clinician."""
        generation = _generation(body, answering)
        info = answering.lifecycle.engine.info
        if body.stream:
            return await answering.stream(generation, request, _TriageEvents(info, generation.request_id))
        answer = await answering.complete(generation, request)
        end = Finished(answer.finish_reason, answer.usage, answer.thinking_truncated)
        reply = TriageResponse(
            response=answer.text + _note(end),
            reasoning=answer.reasoning if body.include_reasoning else None,
            **_end(end, info, generation.request_id),
        )
        # Written here: FastAPI would check once more what was just made.
        unset = None if body.include_reasoning else {"reasoning"}
        return Response(reply.model_dump_json(exclude=unset), media_type="application/json", headers=NOT_KEPT)


def _generation(body: TriageRequest, answering: Answering) -> GenerationRequest:
    return GenerationRequest(
        request_id_var.get() or "",
        with_system_prompt(answering.config.system_prompt, (Message("user", _question(body, answering.config)),)),
        Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            seed=body.seed,
            max_new_tokens=body.max_new_tokens,
            thinking_budget=body.thinking_budget,
        ),
        include_reasoning=body.include_reasoning,
        deadline_seconds=answering.deadline(body.timeout_seconds),
    )


def _question(body: TriageRequest, config: ApiConfig) -> str:
    """The medical record number goes no further than this, unless the settings say so."""
    if config.include_patient_mrn:
        return f"Medical record number: {body.patient_mrn}\n\n{body.query}"
    return body.query


def _is_cut(end: Finished) -> bool:
    return end.reason != "stop"


def _note(end: Finished) -> str:
    return CUT_TEXT if _is_cut(end) else ""


def _end(end: Finished, info: EngineInfo, request_id: str) -> dict[str, Any]:
    return {
        "incomplete": _is_cut(end),
        "mode": info.mode,
        "model": info.model,
        "revision": info.revision,
        "finish_reason": end.reason,
        "usage": end.usage and _usage(end.usage),
        "thinking_truncated": end.thinking_truncated,
        "request_id": request_id,
    }


def _usage(usage: Usage) -> UsageBody:
    return UsageBody(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        answer_tokens=max(usage.completion_tokens - usage.reasoning_tokens, 0),
    )


class _TriageEvents:
    """The stream of /triage; see docs/inference-server.md."""

    def __init__(self, info: EngineInfo, request_id: str) -> None:
        self._info = info
        self._request_id = request_id

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text):
                return frame({"text": text}, event="delta")
            case ReasoningDelta(text=text):
                return frame({"text": text}, event="reasoning")
            case Finished():
                end = _end(event, self._info, self._request_id)
                usage = event.usage and _usage(event.usage).model_dump()
                note = frame({"text": _note(event)}, event="delta") if _is_cut(event) else b""
                return note + frame({**end, "usage": usage}, event="done")
            case _:
                return b""

    def error(self, error: ProblemError) -> bytes:
        return frame(problem(error), event="error")
