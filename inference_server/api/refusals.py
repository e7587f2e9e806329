"""What went wrong between a request and its answer, as an error for the client. Pure; used by answers and streams."""

import math

from inference_server.api.connected import Aborted, Disconnected
from inference_server.api.error_bodies import ProblemError
from inference_server.api.problems import client_left
from inference_server.api.safe_text import SAFE_TEXT
from inference_server.engine.protocol import EngineBusy, EngineUnavailable, GenerationFailed, PromptTooLong
from inference_server.generations import EngineStalled, NoAnswer, PromptTooLarge
from inference_server.lifecycle import Lifecycle

_RETRY_SECONDS = 2
EXPECTED = (EngineBusy, EngineUnavailable, PromptTooLong, GenerationFailed, NoAnswer, Disconnected, Aborted)


def refusal(error: Exception, lifecycle: Lifecycle) -> ProblemError:
    """`error` is one of EXPECTED."""
    match error:
        case EngineBusy(retry_after_seconds=seconds):
            detail = "As many requests wait as may wait, or as can be answered in time. Try again later."
            return _later(429, "QueueFull", detail, seconds)
        case EngineUnavailable():
            why = "its engine has ended" if lifecycle.accepting else f"it is {lifecycle.phase}"
            detail = f"The server takes no requests now: {why}."
            return _later(503, "NotReady", detail, _RETRY_SECONDS)
        case PromptTooLarge(tokens=characters, limit=limit):
            detail = f"The prompt has {characters} characters; at most {limit} can fit. Send a shorter one."
            return ProblemError(422, "PromptTooLong", detail, param="messages")
        case PromptTooLong(tokens=tokens, limit=limit):
            detail = f"The prompt has {tokens} tokens; at most {limit} fit beside an answer. Send a shorter one."
            return ProblemError(422, "PromptTooLong", detail, param="messages")
        case NoAnswer():
            return _no_answer(error)
        case Disconnected():
            return client_left()
        case Aborted():
            return shutting_down()
        case EngineStalled():
            detail = "The engine does not answer any more. The server is restarted when that goes on."
            return _later(503, "EngineStalled", detail, _RETRY_SECONDS)
        case _ if math.isinf(lifecycle.engine.heartbeat()):
            return _later(
                503, "EngineDied", "The engine ended at this answer. The server is restarted.", _RETRY_SECONDS
            )
        case _:
            return ProblemError(500, "GenerationFailed", "The engine failed at this answer.")


def shutting_down() -> ProblemError:
    return _later(503, "ShuttingDown", "The server had to stop before the answer was ready.", _RETRY_SECONDS)


def _no_answer(error: NoAnswer) -> ProblemError:
    match error.reason:
        case "shutdown":
            return shutting_down()
        case "deadline":
            why = "it waited for its turn" if error.waited else "the model had not come to an answer"
            detail = f"There is no answer: the time of the request was over while {why}. {SAFE_TEXT}"
            return _later(504, "DeadlineExceeded", detail, _RETRY_SECONDS)
        case _:
            detail = f"There is no answer: the model ended without a word of it. {SAFE_TEXT}"
            return ProblemError(500, "EmptyAnswer", detail)


def internal_error() -> ProblemError:
    return ProblemError(500, "InternalError", "The server failed. Its log has more under this request id.")


def _later(status: int, reason: str, detail: str, seconds: float) -> ProblemError:
    whole = math.ceil(min(max(seconds, 1), 3600))
    return ProblemError(status, reason, detail, headers={"Retry-After": str(whole)})
