"""POST /v1/chat/completions: the same answers for OpenAI's clients and for load generators."""

import time
from typing import Any, Literal

from fastapi import FastAPI, Request
from starlette.responses import Response

from inference_server.api.answering import Answering
from inference_server.api.chat_schemas import (
    ChatAnswer,
    ChatChoice,
    ChatCompletion,
    ChatDetails,
    ChatMessage,
    ChatRequest,
    ChatUsage,
    ChatUsageDetails,
    refused_field,
)
from inference_server.api.errors import ProblemError, openai_error
from inference_server.api.models import require_model
from inference_server.api.schemas import MAX_SEED, openai_responses
from inference_server.api.sse import NOT_KEPT, frame, streamed
from inference_server.engine.answer import Answer
from inference_server.engine.protocol import (
    EngineInfo,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    Message,
    ReasoningDelta,
    Sampling,
    TextDelta,
    Usage,
)
from inference_server.telemetry.logs import request_id_var
from inference_server.triage.prompt import with_system_prompt

_STREAM = "With `stream`: chunks as OpenAI sends them (`chat.completion.chunk`), then `[DONE]`."


def add_chat(app: FastAPI, answering: Answering) -> None:
    @app.post(
        "/v1/chat/completions",
        tags=["openai"],
        response_model=ChatCompletion,
        responses=streamed(_STREAM) | openai_responses(400, 401, 404, 413, 415, 429, 500, 503, 504),
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Go on with a conversation. Without a system message of its own it gets the server's."""
        info = answering.lifecycle.engine.info
        require_model(body.model, info)
        if refused := refused_field(body):
            raise ProblemError(422, "NotSupported", refused[1], param=refused[0])
        generation = _generation(body, answering)
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return await answering.stream(generation, request, _ChatChunks(info, generation.request_id, usage))
        answer = await answering.complete(generation, request)
        unset = None if body.include_reasoning else {"choices": {0: {"message": {"reasoning_content"}}}}
        completion = _completion(answer, info, generation.request_id)
        return Response(completion.model_dump_json(exclude=unset), media_type="application/json", headers=NOT_KEPT)


def _generation(body: ChatRequest, answering: Answering) -> GenerationRequest:
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    return GenerationRequest(
        request_id_var.get() or "",
        with_system_prompt(answering.config.system_prompt, tuple(_message(message) for message in body.messages)),
        Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=_seed(body.seed),
            max_new_tokens=body.max_completion_tokens or body.max_tokens,
            thinking_budget=body.reasoning_tokens,
            stop=stop,
        ),
        include_reasoning=bool(body.include_reasoning),
        deadline_seconds=answering.deadline(body.timeout_seconds),
    )


def _seed(asked: int | None) -> int | None:
    """-1 is what clients of other servers send for a random one. An engine's own are not negative."""
    return None if asked in {None, -1} else asked & MAX_SEED


def _message(message: ChatMessage) -> Message:
    content = message.content
    text = content if isinstance(content, str) else "".join(part.text for part in content or ())
    return Message("system" if message.role == "developer" else message.role, text)


def _completion(answer: Answer, info: EngineInfo, request_id: str) -> ChatCompletion:
    return ChatCompletion(
        id=f"chatcmpl-{request_id}",
        created=int(time.time()),
        model=info.model,
        system_fingerprint=info.revision,
        choices=[
            ChatChoice(
                message=ChatAnswer(content=answer.text, reasoning_content=answer.reasoning),
                finish_reason=_finish_reason(answer.finish_reason),
            )
        ],
        usage=answer.usage and _usage(answer.usage),
        llm_server=_details(Finished(answer.finish_reason, answer.usage, answer.thinking_truncated), info, request_id),
    )


def _details(end: Finished, info: EngineInfo, request_id: str) -> ChatDetails:
    return ChatDetails(
        mode=info.mode,
        revision=info.revision,
        finish_reason=end.reason,
        thinking_truncated=end.thinking_truncated,
        request_id=request_id,
    )


def _usage(usage: Usage) -> ChatUsage:
    return ChatUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        completion_tokens_details=ChatUsageDetails(reasoning_tokens=usage.reasoning_tokens),
    )


def _finish_reason(reason: FinishReason) -> Literal["stop", "length"]:
    """OpenAI's clients know no other way to be cut."""
    return "stop" if reason == "stop" else "length"


class _ChatChunks:
    """The stream of /v1/chat/completions."""

    def __init__(self, info: EngineInfo, request_id: str, include_usage: bool) -> None:
        self._info = info
        self._request_id = request_id
        self._include_usage = include_usage
        self._begun = False
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": info.model,
            "system_fingerprint": info.revision,
        }

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta(text=text):
                return self._begin() + self._chunk({"content": text})
            case ReasoningDelta(text=text):
                return self._begin() + self._chunk({"reasoning_content": text})
            case Finished():
                return self._begin() + self._end(event)
            case _:
                return self._begin()

    def error(self, error: ProblemError) -> bytes:
        return frame(openai_error(error))

    def _begin(self) -> bytes:
        """The first chunk tells who speaks."""
        if self._begun:
            return b""
        self._begun = True
        return self._chunk({"role": "assistant", "content": ""})

    def _end(self, end: Finished) -> bytes:
        details = _details(end, self._info, self._request_id).model_dump()
        last = self._chunk({}, _finish_reason(end.reason), llm_server=details)
        if self._include_usage:
            last += frame({**self._head, "choices": [], "usage": end.usage and _usage(end.usage).model_dump()})
        return last + frame("[DONE]")

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return frame({**self._head, "choices": [choice], **usage, **more})
