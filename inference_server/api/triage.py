"""POST /triage: a question in, an answer out."""

from fastapi import APIRouter, Request

from inference_server.api.connected import Aborted, Disconnected, while_connected
from inference_server.api.problems import CLIENT_CLOSED_REQUEST, ProblemError
from inference_server.api.schemas import TriageRequest, TriageResponse, UsageBody, problem_responses
from inference_server.engine.answer import Answer, collect
from inference_server.engine.protocol import EngineUnavailable, GenerationRequest, Message
from inference_server.lifecycle import Lifecycle
from inference_server.logs import request_id_var

RETRY_AFTER_SECONDS = "2"


def triage_router(lifecycle: Lifecycle) -> APIRouter:
    router = APIRouter(tags=["triage"])

    @router.post("/triage", responses=problem_responses(400, 413, 415, 422, 500, 503))
    async def triage(body: TriageRequest, request: Request) -> TriageResponse:
        """Answer a patient's question. An answer is generated text: it does not replace a clinician."""
        request_id = request_id_var.get() or ""
        if not lifecycle.accepting:
            raise _unavailable("NotReady", f"The server is {lifecycle.phase}.")
        # The medical record number goes no further than this function.
        generation = GenerationRequest(request_id, (Message("user", body.query),))
        return _body(lifecycle, await _answer(lifecycle, generation, request), request_id)

    return router


async def _answer(lifecycle: Lifecycle, generation: GenerationRequest, request: Request) -> Answer:
    work = collect(lifecycle.engine, generation)
    try:
        return await while_connected(work, receive=request.receive, aborted=lifecycle.aborted)
    except Disconnected:
        raise ProblemError(CLIENT_CLOSED_REQUEST, "ClientClosedRequest", "The client left.") from None
    except Aborted:
        raise _unavailable("ShuttingDown", "The server had to stop before the answer was ready.") from None
    except EngineUnavailable:
        raise _unavailable("NotReady", "The engine takes no requests now.") from None


def _body(lifecycle: Lifecycle, answer: Answer, request_id: str) -> TriageResponse:
    info, usage = lifecycle.engine.info, answer.usage
    return TriageResponse(
        response=answer.text,
        mode=info.mode,
        model=info.model,
        revision=info.revision,
        finish_reason=answer.finish_reason,
        usage=usage and UsageBody(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens),
        request_id=request_id,
    )


def _unavailable(reason: str, detail: str) -> ProblemError:
    return ProblemError(503, reason, detail, headers={"Retry-After": RETRY_AFTER_SECONDS})
