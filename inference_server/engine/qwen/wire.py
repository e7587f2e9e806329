"""What host and worker say to each other: dataclasses as JSON, each behind its length.

JSON, because unpickling would run whatever comes through the pipe. Pure.
"""

import struct
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from inference_server.engine.protocol import EngineInfo, EngineStats, FinishReason, GenerationRequest, Usage

_LENGTH = struct.Struct("<I")
HEADER_BYTES = _LENGTH.size


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How to run which model; None: the worker chooses what fits the machine and the model.

    From `max_new_tokens` to `do_sample`: what requests get that do not say. `do_sample` stands in the place of the
    model's own, so False takes the likeliest token unless a temperature is given.
    """

    model_path: str
    model: str
    revision: str | None = None
    device: Literal["cpu", "cuda"] | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantization: Literal["none", "int8"] | None = None
    threads: int | None = None
    concurrent_requests: int | None = None
    context_tokens: int = 4096
    piece_tokens: int | None = None
    max_new_tokens: int = 512
    thinking_budget: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    do_sample: bool | None = None
    system_prompt: str = ""


@dataclass(frozen=True, slots=True)
class Load:
    config: EngineConfig
    kind: Literal["load"] = "load"


@dataclass(frozen=True, slots=True)
class WarmUp:
    kind: Literal["warm_up"] = "warm_up"


@dataclass(frozen=True, slots=True)
class Submit:
    """`id` is the host's own: clients may give two requests the same name."""

    id: int
    request: GenerationRequest
    kind: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True)
class Cancel:
    id: int
    kind: Literal["cancel"] = "cancel"


@dataclass(frozen=True, slots=True)
class Progress:
    share: float
    kind: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Comes twice: after loading, and after the warm-up, which knows the speed."""

    info: EngineInfo
    kind: Literal["loaded"] = "loaded"


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The fields of a StartupError."""

    reason: str
    message: str
    remedy: str
    exit_code: int
    kind: Literal["load_failed"] = "load_failed"


@dataclass(frozen=True, slots=True)
class Taken:
    """The request fits, and waits or runs."""

    id: int
    prompt_tokens: int
    max_new_tokens: int
    kind: Literal["taken"] = "taken"


@dataclass(frozen=True, slots=True)
class TooLong:
    id: int
    tokens: int
    limit: int
    kind: Literal["too_long"] = "too_long"


@dataclass(frozen=True, slots=True)
class Failed:
    """`error` is the type of the exception; the worker logs the place in the code."""

    id: int
    error: str
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to one answer; with `end` it is the last."""

    id: int
    usage: Usage
    reasoning: str = field(default="", repr=False)
    text: str = field(default="", repr=False)
    end: FinishReason | None = None
    thinking_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Stepped:
    """After every step. `started`: the requests that had their turn in it for the first time."""

    pieces: tuple[Piece, ...]
    stats: EngineStats
    started: tuple[int, ...] = ()
    kind: Literal["stepped"] = "stepped"


Command = Load | WarmUp | Submit | Cancel
Report = Progress | Loaded | LoadFailed | Taken | TooLong | Failed | Stepped

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="kind")])
_REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def frame_command(command: Command) -> bytes:
    return _frame(_COMMANDS, command)


def frame_report(report: Report) -> bytes:
    return _frame(_REPORTS, report)


def parse_command(body: bytes) -> Command:
    return _COMMANDS.validate_json(body)


def parse_report(body: bytes) -> Report:
    return _REPORTS.validate_json(body)


def body_bytes(header: bytes) -> int:
    """How many bytes follow the header."""
    size: int = _LENGTH.unpack(header)[0]
    return size


def _frame(adapter: TypeAdapter[Any], message: Command | Report) -> bytes:
    body = adapter.dump_json(message)
    return _LENGTH.pack(len(body)) + body
