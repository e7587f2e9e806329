"""Request and response bodies. Every field has a description and an example: /docs is the manual."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from inference_server.engine.protocol import FinishReason, Mode
from inference_server.lifecycle import Phase

MAX_QUERY_CHARS = 8000


class TriageRequest(BaseModel):
    """A patient's question. Unknown fields are refused, so that a misspelt one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # repr=False: a repr of this object must not carry patient text into a log.
    patient_mrn: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)] = Field(
        repr=False,
        description="Medical record number of the patient. It is checked for its length and then dropped: it never "
        "reaches the model, the logs or the response.",
        examples=["MRN-001"],
    )
    query: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_QUERY_CHARS)] = Field(
        repr=False,
        description="The question, in plain words. It reaches the model and nothing else.",
        examples=["What are my current medications?"],
    )


class UsageBody(BaseModel):
    """Tokens counted by the model's own tokenizer."""

    prompt_tokens: int = Field(description="Tokens of the prompt.", examples=[58])
    completion_tokens: int = Field(description="Tokens generated.", examples=[212])


class TriageResponse(BaseModel):
    """A generated answer and where it came from."""

    response: str = Field(
        description="The answer.",
        examples=["[MOCK RESPONSE] This text is hard-coded. …"],
    )
    mode: Mode = Field(description="`mock`: hard-coded text. `qwen`: a language model.", examples=["mock"])
    model: str = Field(description="Name of the model; `mock` in mock mode.", examples=["mock"])
    revision: str | None = Field(
        description="Commit of the model's repository; null in mock mode, which has none.", examples=[None]
    )
    finish_reason: FinishReason = Field(
        description="`stop`: the answer is complete. `length`: it was cut at the token limit.", examples=["stop"]
    )
    usage: UsageBody | None = Field(
        description="Token counts; null in mock mode, which has no tokenizer.", examples=[None]
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


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the error statuses of a route."""
    return {status: {"model": Problem, "description": PROBLEM_DESCRIPTIONS[status]} for status in statuses}


PROBLEM_DESCRIPTIONS = {
    400: "The body is not JSON.",
    413: "The body is larger than MAX_BODY_BYTES.",
    415: "The body's content type is not application/json.",
    422: "A field is missing, unknown, or not valid.",
    500: "The server failed; the log has the place in the code under this request id.",
    503: "Not ready: still loading, the engine is stuck, or the server is shutting down.",
}
