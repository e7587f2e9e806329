"""Bodies of /v1, as OpenAI's clients send and read them. docs/inference-server.md has the table of what is taken."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from inference_server.api.schemas import MAX_SEED, Budget, Probability, Temperature, TimeoutSeconds, Tokens
from inference_server.api.well_formed import require_well_formed
from inference_server.engine.protocol import MAX_TOKENS, FinishReason, Mode

MAX_MESSAGES = 256
MAX_STOPS = 4

Stop = Annotated[str, Field(min_length=1, max_length=256)]
_Text = Annotated[str, Field(repr=False, description="The text.", examples=["I feel dizzy."])]


class TextPart(BaseModel):
    """A part of a message. Only text is understood."""

    model_config = ConfigDict(frozen=True)

    type: Literal["text"] = Field(description="Kind of the part.", examples=["text"])
    text: _Text


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="Who says it; `developer` is another name for `system`.", examples=["user"]
    )
    content: str | list[TextPart] | None = Field(
        repr=False, description="A text, or parts that are joined; of the assistant also null.", examples=["Why?"]
    )

    tool_calls: list[Any] | None = Field(default=None, repr=False, description="None are taken.", examples=[None])
    function_call: Any = Field(default=None, repr=False, description="None is taken.", examples=[None])

    @property
    def asks_for_tools(self) -> bool:
        return bool(self.tool_calls) or self.function_call is not None

    @field_validator("content")
    @classmethod
    def _null_of_the_assistant_only(cls, content: object, info: ValidationInfo) -> object:
        if content is None and info.data.get("role") != "assistant":
            raise PydanticCustomError("string_type", "Input should be a valid string")
        return content


class TemplateWishes(BaseModel):
    """What vLLM's clients tell a chat template. Other wishes are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enable_thinking: StrictBool | None = Field(default=None, description="Whether to reason first.", examples=[False])
    thinking: StrictBool | None = Field(default=None, description="The same, by another name.", examples=[None])

    @property
    def forbids_thinking(self) -> bool:
        return self.enable_thinking is False or self.thinking is False


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(frozen=True)

    include_usage: StrictBool | None = Field(
        default=None, description="Send the token counts in a last chunk of their own.", examples=[True]
    )


class ChatRequest(BaseModel):
    """A conversation to go on with.

    Fields that would change the answer and are not supported are refused, and so are those that nobody knows.
    """

    # Kept, so that `refused_field` can look at it; never shown.
    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        description="One of the names of GET /v1/models.", examples=["mock"]
    )
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)] = Field(
        repr=False, description="The conversation.", examples=[[{"role": "user", "content": "I feel dizzy."}]]
    )
    stream: StrictBool | None = Field(default=None, description="Send the answer as it is written.", examples=[False])
    stream_options: StreamOptions | None = Field(
        default=None, description="How a stream is sent.", examples=[{"include_usage": True}]
    )
    max_completion_tokens: Tokens | None = Field(
        default=None, description="Most tokens to generate, reasoning and answer together.", examples=[512]
    )
    max_tokens: Tokens | None = Field(
        default=None, description="The older name of max_completion_tokens, which wins.", examples=[512]
    )
    temperature: Temperature | None = Field(default=None, description="0: always the likeliest token.", examples=[0.6])
    top_p: Probability | None = Field(
        default=None, description="Draw from the likeliest tokens that have this share together.", examples=[0.95]
    )
    top_k: Budget | None = Field(
        default=None, description="Draw from this many of the likeliest tokens; 0: all. Not OpenAI's.", examples=[20]
    )
    seed: Annotated[int, Field(strict=True, ge=-MAX_SEED - 1, le=MAX_SEED)] | None = Field(
        default=None, description="The same seed gives the same answer.", examples=[7]
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = Field(
        default=None, repr=False, description="The answer ends before any of these texts.", examples=["\n\n"]
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        default=None,
        description="How long to reason: `none` and `minimal` not at all, `low` 128 tokens, `medium` as the server is "
        "set, more as long as leaves room for the answer. thinking_budget wins.",
        examples=["medium"],
    )
    chat_template_kwargs: TemplateWishes | None = Field(
        default=None, description="vLLM's way to switch the reasoning off.", examples=[{"enable_thinking": False}]
    )
    thinking_budget: Budget | None = Field(
        default=None, description="Most tokens of reasoning before the answer. Not OpenAI's.", examples=[352]
    )
    include_reasoning: StrictBool | None = Field(
        default=None, description="Send the reasoning as `reasoning_content`. Not OpenAI's.", examples=[False]
    )
    timeout_seconds: TimeoutSeconds | None = Field(
        default=None, description="Seconds after which the answer is cut. Not OpenAI's.", examples=[60]
    )

    _well_formed = model_validator(mode="before")(require_well_formed)

    def __repr__(self) -> str:
        return "ChatRequest(…)"

    @property
    def reasoning_tokens(self) -> int | None:
        """The budget that the body asks for, by whichever of its names; None: that of the server."""
        if self.thinking_budget is not None:
            return self.thinking_budget
        if self.chat_template_kwargs is not None and self.chat_template_kwargs.forbids_thinking:
            return 0
        return _EFFORTS.get(self.reasoning_effort or "medium")


# As many as there may be: the room for the answer is kept in any case.
_EFFORTS = {"none": 0, "minimal": 0, "low": 128, "high": MAX_TOKENS, "xhigh": MAX_TOKENS}

# What a field of OpenAI's (or of another server's) may be where anything else would ask for another answer.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "dry_multiplier": (0,),
    "echo": (False,),
    "format": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "grammar": ("",),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "json_schema": (),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "max_thinking_tokens": (),
    "min_new_tokens": (0,),
    "min_p": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "n_predict": (),
    "num_ctx": (),
    "options": ({},),
    "presence_penalty": (0,),
    "prompt": (),
    "prompt_logprobs": (0,),
    "repeat_penalty": (1,),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stop_token_ids": ([],),
    "structured_outputs": (),
    "suffix": (),
    "think": (),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_a": (0,),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
# What changes no answer, or what clients send by themselves and no answer can heed. Their names only are looked at.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_prompt",
        "cache_salt",
        "ignore_eos",
        "keep_alive",
        "metadata",
        "parallel_tool_calls",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "session_id",
        "spaces_between_special_tokens",
        "store",
        "timings_per_token",
        "user",
    }
)


def refused_field(body: ChatRequest) -> tuple[str, str] | None:
    """The first field that asks for what there is not, and what may be sent instead."""
    extra = body.model_extra or {}
    for name, neutral in _NEUTRAL.items():
        value = extra.get(name)
        if value is not None and value not in neutral:
            allowed = f"only {' or '.join(map(repr, neutral))} is" if neutral else "it is not"
            return name, f"{name}: {allowed} supported here. Leave it out."
    if any(message.asks_for_tools for message in body.messages):
        return "messages", "messages: tool calls are not supported here. Leave them out."
    # A name is the client's text, too: it is not repeated.
    if extra.keys() - _NEUTRAL.keys() - _WITHOUT_EFFECT:
        return "(unknown field)", f"The body has a field that is not known here. Known are: {', '.join(_known())}."
    return None


def _known() -> list[str]:
    return sorted({*ChatRequest.model_fields, *_NEUTRAL, *_WITHOUT_EFFECT})


class ChatUsageDetails(BaseModel):
    """Of the tokens generated."""

    reasoning_tokens: int = Field(description="Tokens of reasoning.", examples=[140])


class ChatUsage(BaseModel):
    """Tokens counted by the model's own tokenizer."""

    prompt_tokens: int = Field(description="Tokens of the prompt.", examples=[58])
    completion_tokens: int = Field(description="Tokens generated.", examples=[212])
    total_tokens: int = Field(description="Both together.", examples=[270])
    completion_tokens_details: ChatUsageDetails = Field(
        description="What was generated.", examples=[{"reasoning_tokens": 140}]
    )


class ChatAnswer(BaseModel):
    """The answer's message."""

    role: Literal["assistant"] = Field(default="assistant", description="Who says it.", examples=["assistant"])
    content: str = Field(description="The answer.", examples=["Drink water."])
    refusal: None = Field(default=None, description="Always null.", examples=[None])
    reasoning_content: str | None = Field(
        default=None, description="The reasoning; only there when it was asked for.", examples=[None]
    )


class ChatChoice(BaseModel):
    """The answer; there is always one."""

    index: Literal[0] = Field(default=0, description="Always 0.", examples=[0])
    message: ChatAnswer = Field(description="The message.", examples=[{"role": "assistant", "content": "Drink water."}])
    logprobs: None = Field(default=None, description="Always null.", examples=[None])
    finish_reason: Literal["stop", "length"] = Field(
        description="`length`: the answer was cut, for whatever reason.", examples=["stop"]
    )


class ChatDetails(BaseModel):
    """What OpenAI's interface has no place for."""

    mode: Mode = Field(description="`mock` or `qwen`.", examples=["mock"])
    revision: str | None = Field(description="Commit of the model's repository.", examples=[None])
    finish_reason: FinishReason = Field(description="As in /triage.", examples=["stop"])
    thinking_truncated: bool = Field(description="As in /triage.", examples=[False])
    request_id: str = Field(description="As in /triage.", examples=["b7e23ec29af22b0b4e41da31e868d572"])


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str = Field(description="The answer's id.", examples=["chatcmpl-b7e23ec29af22b0b4e41da31e868d572"])
    object: Literal["chat.completion"] = Field(
        default="chat.completion", description="Kind of this document.", examples=["chat.completion"]
    )
    created: int = Field(description="When, in seconds since 1970.", examples=[1767225600])
    model: str = Field(description="Name of the model.", examples=["mock"])
    system_fingerprint: str | None = Field(description="Commit of the model's repository.", examples=[None])
    choices: list[ChatChoice] = Field(description="Always one.", examples=[[]])
    usage: ChatUsage | None = Field(
        description="Token counts; null in mock mode, which has no tokenizer.", examples=[None]
    )
    llm_server: ChatDetails = Field(description="Not OpenAI's.", examples=[{"finish_reason": "stop"}])


class ModelDetails(BaseModel):
    """How the model runs here; null: not so, or not known."""

    mode: Mode = Field(description="`mock` or `qwen`.", examples=["qwen"])
    revision: str | None = Field(description="Commit of the model's repository.", examples=[None])
    engine: str = Field(description="What computes.", examples=["transformers"])
    device: str | None = Field(description="Where.", examples=["cpu"])
    dtype: str | None = Field(description="The numbers in which it computes.", examples=["float32"])
    quantization: str | None = Field(description="The numbers of the weights, where they differ.", examples=["int8"])
    threads: int | None = Field(description="Threads that compute.", examples=[2])
    context_tokens: int | None = Field(description="The longest prompt and answer together.", examples=[4096])
    concurrent_requests: int | None = Field(description="Requests answered at the same time.", examples=[4])
    queued_requests: int | None = Field(description="Requests that may wait beyond those.", examples=[16])
    thinks: bool = Field(description="Whether it reasons before it answers.", examples=[True])
    predicted_tokens_per_second: float | None = Field(
        description="Of one answer alone, measured by the warm-up.", examples=[7.5]
    )
    unheeded_advice: list[str] = Field(
        description="What the model's generation_config.json advises and this server does not do.",
        examples=[["repetition_penalty=1.05"]],
    )


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str = Field(description="Its name.", examples=["mock"])
    object: Literal["model"] = Field(default="model", description="Kind of this document.", examples=["model"])
    created: int = Field(description="When this server started, in seconds since 1970.", examples=[1767225600])
    owned_by: str = Field(description="Who made it, by its name.", examples=["Qwen"])
    llm_server: ModelDetails = Field(description="Not OpenAI's.", examples=[{"mode": "mock"}])


class ModelList(BaseModel):
    """All models that can be asked: always one."""

    object: Literal["list"] = Field(default="list", description="Kind of this document.", examples=["list"])
    data: list[ModelCard] = Field(description="The models.", examples=[[]])
