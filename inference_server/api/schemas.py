"""Request and response bodies. Every field has a description and an example: /docs is the manual."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints, model_validator

from inference_server.api.well_formed import require_well_formed
from inference_server.engine.protocol import MAX_TEMPERATURE, MAX_TOKENS, FinishReason, Mode
from inference_server.lifecycle import Phase

MAX_QUERY_CHARS = 8000
MAX_SEED = 2**63 - 1
MAX_TIMEOUT_SECONDS = 3600

# Not `strict`, a text "5" would be a number, and a number a truth.
Tokens = Annotated[int, Field(strict=True, ge=1, le=MAX_TOKENS)]
Budget = Annotated[int, Field(strict=True, ge=0, le=MAX_TOKENS)]
Temperature = Annotated[float, Field(strict=True, ge=0, le=MAX_TEMPERATURE)]
Probability = Annotated[float, Field(strict=True, gt=0, le=1)]
TimeoutSeconds = Annotated[float, Field(strict=True, gt=0, le=MAX_TIMEOUT_SECONDS)]


class TriageRequest(BaseModel):
    """A patient's question. Unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # repr=False: a repr of this object must not carry patient text into a log.
    patient_mrn: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)] = Field(
        repr=False,
        description="Medical record number of the patient. It never reaches the logs or the response, and the model "
        "only if the server is set to INCLUDE_PATIENT_MRN.",
        examples=["MRN-001"],
    )
    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_CHARS)] = Field(
        repr=False,
        description="The question, in plain words. It reaches the model and nothing else.",
        examples=["What are my current medications?"],
    )
    stream: StrictBool = Field(
        default=False, description="Send the answer as it is written, as server-sent events.", examples=[False]
    )
    max_new_tokens: Tokens | None = Field(
        default=None, description="Most tokens to generate, reasoning and answer together.", examples=[512]
    )
    temperature: Temperature | None = Field(
        default=None, description="0: always the likeliest token; the higher, the more varied.", examples=[0.6]
    )
    top_p: Probability | None = Field(
        default=None, description="Draw from the likeliest tokens that have this share together.", examples=[0.95]
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)] | None = Field(
        default=None, description="The same seed gives the same answer.", examples=[7]
    )
    thinking_budget: Budget | None = Field(
        default=None, description="Most tokens of reasoning before the answer; then it is closed.", examples=[352]
    )
    include_reasoning: StrictBool = Field(
        default=False, description="Send the model's reasoning too. It is no advice.", examples=[False]
    )
    timeout_seconds: TimeoutSeconds | None = Field(
        default=None,
        description="Seconds after which the answer is cut; at most REQUEST_TIMEOUT_SECONDS of the server.",
        examples=[60],
    )

    _well_formed = model_validator(mode="before")(require_well_formed)


class UsageBody(BaseModel):
    """Tokens counted by the model's own tokenizer."""

    prompt_tokens: int = Field(description="Tokens of the prompt.", examples=[58])
    completion_tokens: int = Field(description="Tokens generated.", examples=[212])
    reasoning_tokens: int = Field(description="Of these: reasoning.", examples=[140])
    answer_tokens: int = Field(description="Of these: answer.", examples=[72])


class TriageResponse(BaseModel):
    """A generated answer and where it came from."""

    response: str = Field(
        description="The answer; never empty. Where it is incomplete, a fixed text at its end says so.",
        examples=["[MOCK RESPONSE] This text is hard-coded. …"],
    )
    incomplete: bool = Field(
        description="Whether the answer was cut, for whatever reason: its words alone may mislead.", examples=[False]
    )
    mode: Mode = Field(description="`mock`: hard-coded text. `qwen`: a language model.", examples=["mock"])
    model: str = Field(description="Name of the model; `mock` in mock mode.", examples=["mock"])
    revision: str | None = Field(
        description="Commit of the model's repository; null in mock mode, which has none.", examples=[None]
    )
    finish_reason: FinishReason = Field(
        description="`stop`: the answer is complete. It was cut: `length` at the token limit, `deadline` at its time, "
        "`shutdown` because the server had to stop.",
        examples=["stop"],
    )
    usage: UsageBody | None = Field(
        description="Token counts; null in mock mode, which has no tokenizer.", examples=[None]
    )
    thinking_truncated: bool = Field(
        description="Whether the reasoning was closed at its budget, so that the answer may be less sound.",
        examples=[False],
    )
    reasoning: str | None = Field(
        default=None, description="The model's reasoning; only there when it was asked for.", examples=[None]
    )
    request_id: str = Field(
        description="The request's id, also in the X-Request-ID header and in the server's log.",
        examples=["b7e23ec29af22b0b4e41da31e868d572"],
    )


class ProbeStatus(BaseModel):
    """A positive answer to a probe; a negative one is a problem document with status 503."""

    status: Literal["ok"] = Field(description="Always `ok`.", examples=["ok"])
    phase: Phase = Field(description="Where the server stands between start and end.", examples=["ready"])


class ServiceInfo(BaseModel):
    """What runs here and where to go on."""

    name: str = Field(description="Name of the program.", examples=["llm-operator inference server"])
    version: str = Field(description="Version of the program.", examples=["0.1.0"])
    mode: Mode = Field(description="The mode that answers.", examples=["mock"])
    docs: str = Field(description="Path of the interactive documentation.", examples=["/docs"])


class FieldProblem(BaseModel):
    """One wrong field. The value itself is never repeated."""

    loc: list[str | int] = Field(description="Path to the field.", examples=[["body", "query"]])
    type: str = Field(description="Kind of the mistake, for programs.", examples=["string_too_long"])
    msg: str = Field(
        description="What is expected, for people.", examples=["String should have at most 8000 characters"]
    )


class Problem(BaseModel):
    """An error, as RFC 9457 (application/problem+json)."""

    type: str = Field(description="Always `about:blank`; see `reason`.", examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Service Unavailable"])
    status: int = Field(description="The HTTP status code.", examples=[503])
    reason: str = Field(description="Kind of the error, for programs.", examples=["NotReady"])
    detail: str = Field(description="What went wrong, for people.", examples=["The server is loading."])
    request_id: str | None = Field(description="The request's id.", examples=["b7e23ec29af22b0b4e41da31e868d572"])
    errors: list[FieldProblem] | None = Field(
        default=None, description="The wrong fields, with status 422 only.", examples=[None]
    )


class OpenAIErrorBody(BaseModel):
    """What went wrong, in the words of OpenAI's interface."""

    message: str = Field(description="What went wrong, for people.", examples=["model: Field required"])
    type: str = Field(description="Class of the error.", examples=["invalid_request_error"])
    param: str | None = Field(description="The field that is wrong.", examples=["model"])
    code: str | None = Field(description="Kind of the error, for programs.", examples=["invalid_request"])


class OpenAIError(BaseModel):
    """An error under /v1."""

    error: OpenAIErrorBody = Field(description="The error.", examples=[{"message": "…", "type": "server_error"}])


def openai_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the error statuses of a route under /v1."""
    return {status: {"model": OpenAIError, "description": PROBLEM_DESCRIPTIONS[status]} for status in statuses}


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the error statuses of a route."""
    return {status: {"model": Problem, "description": PROBLEM_DESCRIPTIONS[status]} for status in statuses}


PROBLEM_DESCRIPTIONS = {
    400: "The body is not JSON.",
    401: "The server asks for a key, and this is none of its keys.",
    404: "There is no such thing.",
    413: "The body is larger than MAX_BODY_BYTES.",
    415: "The body's content type is not application/json.",
    422: "A field is missing, unknown, or not valid; or the prompt is too long.",
    429: "The queue is full; Retry-After says when to come back.",
    500: "The server failed; the log has the place in the code under this request id.",
    503: "Not ready: still loading, the engine is stuck or has ended, or the server is shutting down.",
    504: "The time of the request was over before an answer began.",
}
