"""Settings from environment variables and `.env`; read once, by `serve`. `fetch` has its own, read the same way.

The names avoid `<service>_PORT` and `<service>_HOST` of likely service names: Kubernetes injects such variables
for every Service in the namespace, so a setting SERVER_PORT would break as soon as someone names a Service "server".
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from inference_server.engine.protocol import MAX_TEMPERATURE, MAX_TOKENS
from inference_server.fetch.layout import READY_FILE
from inference_server.modes import canonical_mode, require_supported
from inference_server.termination import DEFAULT_TERMINATION_LOG_PATH, ExitCode, StartupError

SettingsT = TypeVar("SettingsT", bound=BaseSettings)
MANUAL = "docs/inference-server.md"
Seconds = Annotated[float, Field(ge=0, le=3600)]


class TerminationLogSettings(BaseSettings):
    """On its own, so that the path is known even when another setting is wrong."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

    termination_log_path: str = Field(
        default=DEFAULT_TERMINATION_LOG_PATH,
        description="File that receives {reason, message, remedy} as JSON when the server cannot start or go on; "
        "used only if it exists",
    )


class Settings(TerminationLogSettings):
    """Every setting of the server. The variable's name is the field's name in capitals."""

    llm_mode: Literal["mock", "qwen", "Qwen3-4B-Thinking-2507"] = Field(
        default="mock", description="What answers: `mock`, or a model (`qwen`, also called `Qwen3-4B-Thinking-2507`)"
    )
    model_path: str = Field(
        default="",
        description="Folder of the model, with its READY.json, for `qwen`; empty: what `fetch` brought into "
        "MODEL_CACHE_DIR",
    )
    engine_device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="`cpu`, `cuda`, or `auto`: a GPU where there is one"
    )
    engine_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="The numbers the model computes in: `float32`, `bfloat16`, `float16`, or `auto`: what the processor"
        " or GPU does well",
    )
    engine_quantization: Literal["auto", "none", "int8"] = Field(
        default="auto",
        description="`int8` keeps the weights in a quarter of float32's memory and reads them faster, at a small loss "
        "of accuracy; `none`; `auto`: `int8` on a CPU that is slow with bfloat16 or short of memory",
    )
    engine_threads: int = Field(
        default=0, ge=0, le=1024, description="Threads that compute; 0: as many as whole CPUs are granted"
    )
    max_concurrent_requests: int = Field(
        default=0,
        ge=0,
        le=256,
        description="Answers generated at the same time; 0: 16 on a GPU, and on a CPU 4, or as many of full length as "
        "the memory holds",
    )
    max_queued_requests: int = Field(
        default=16, ge=0, le=100_000, description="Requests that may wait beyond these; more are refused as busy"
    )
    max_context_tokens: int = Field(
        default=4096,
        ge=256,
        le=1_048_576,
        description="Longest prompt and answer together, as far as the model allows. Each concurrent answer reserves "
        "memory for it: for Qwen3-4B 288 KiB a token in float32, half in bfloat16",
    )
    max_new_tokens: int = Field(
        default=512,
        ge=1,
        le=MAX_TOKENS,
        description="Tokens of an answer, its reasoning included, where the request does not say; 1 to 32768",
    )
    thinking_budget: int = Field(
        default=-1,
        ge=-1,
        le=MAX_TOKENS,
        description="Tokens after which the reasoning is brought to its end, where the request does not say; -1: as "
        "many as leave room for the answer. Room for the answer is kept in any case",
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        le=MAX_TEMPERATURE,
        description="How varied answers are, where the request does not say: 0 to 2; 0 is always the likeliest token. "
        "Empty, like the three below: what the model's `generation_config.json` says",
    )
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Draw from the likeliest tokens that have this share together, where the request does not say; "
        "above 0 to 1",
    )
    top_k: int | None = Field(
        default=None,
        ge=0,
        le=MAX_TOKENS,
        description="Draw from this many of the likeliest tokens, where the request does not say; 0 to 32768, 0: all",
    )
    do_sample: bool | None = Field(
        default=None,
        description="`false` takes always the likeliest token, where the request names no temperature; `true` draws, "
        "also where the model says otherwise. `TEMPERATURE` must not say the opposite",
    )
    listen_host: str = Field(
        default="0.0.0.0",  # noqa: S104 - a container is reached from outside
        description="Address to listen on; `::` listens on IPv4 and IPv6",
    )
    listen_port: int = Field(
        default=8002, ge=0, le=65535, description="TCP port; 0 takes any free one, which the log line `listening` names"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`. `DEBUG` adds a line per probe and scrape"
    )
    max_body_bytes: int = Field(
        default=131_072, ge=1024, le=16_777_216, description="Largest request body, 1024 to 16777216 bytes"
    )
    keep_alive_seconds: int = Field(
        default=75,
        ge=1,
        le=3600,
        description="Seconds an idle connection stays open, 1 to 3600. Keep it above the load balancer's idle time (60 "
        "s for AWS)",
    )
    receive_timeout_seconds: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        description="Seconds in which a request must have come, head and body; else it is answered 408 and its "
        "connection closed; 1 to 3600",
    )
    max_connections: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Open connections; beyond, the one is closed that has kept the server waiting longest. 0: as many "
        "as the limit of open files leaves room for, at most 4096",
    )
    cors_allow_origins: str = Field(
        default="",
        description="Origins of web pages that may ask from a browser, separated by commas, or `*`; empty: none",
        examples=["https://portal.example.org"],
    )
    heartbeat_timeout_seconds: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="Seconds without progress of the engine after which `/livez` and `/readyz` answer 503, up to 3600",
    )
    drain_grace_seconds: Seconds = Field(
        default=5.0,
        description="Seconds after SIGTERM in which new requests are still answered, 0 to 3600",
    )
    drain_timeout_seconds: Seconds = Field(
        default=20.0,
        description="Seconds after the grace in which accepted requests may finish, 0 to 3600",
    )
    request_timeout_seconds: float = Field(
        default=300.0,
        gt=0,
        le=3600,
        description="Seconds after which an answer is cut, above 0 to 3600; a request may ask for less",
    )
    ready_queue_percent: int = Field(
        default=90,
        ge=0,
        le=100,
        description="How full the queue may be before `/readyz` answers 503, 0 to 100; 0: it does not matter",
    )
    stream_ping_seconds: float = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        description="Seconds of silence after which a stream sends a comment, 0.1 to 3600",
    )
    api_key: SecretStr = Field(
        default=SecretStr(""),
        description="Keys that clients must show, separated by commas; empty: none",
        examples=["key,another-key"],
    )
    api_key_file: str = Field(
        default="",
        description="File with such keys, one a line, beside or instead of `API_KEY`",
        examples=["/keys/api"],
    )
    system_prompt: str = Field(
        default="",
        description="What the model is told before every conversation; empty: the triage prompt of the package",
        examples=["You are a triage assistant."],
    )
    system_prompt_file: str = Field(
        default="",
        description="File with the system prompt, such as a mounted ConfigMap, at most 32000 characters; an empty file "
        "means none",
        examples=["/prompts/triage.txt"],
    )
    include_patient_mrn: bool = Field(
        default=False, description="Whether `patient_mrn` is put before the question, for the model to read"
    )
    mock_delay_seconds: Seconds = Field(
        default=0.0,
        description="Seconds each mock answer takes, the warm-up's too; 0 to 3600. For tests and demonstrations",
    )


def load_settings() -> Settings:
    """Read and check all settings. Raises StartupError that names every wrong one and what is allowed."""
    settings = read_settings(Settings, MANUAL)
    if settings.do_sample is not None and settings.temperature is not None:
        _require_agreement(draws=settings.do_sample, temperature=settings.temperature)
    mode = canonical_mode(settings.llm_mode)
    if mode == "qwen" and settings.model_path:
        require_model(Path(settings.model_path))
    require_supported(mode)
    return settings


def _require_agreement(*, draws: bool, temperature: float) -> None:
    if draws != (temperature > 0):
        wrong = "DO_SAMPLE and TEMPERATURE must not say the opposite: 0 takes always the likeliest token, as false does"
        raise invalid_settings(wrong, MANUAL)


def require_model(folder: Path) -> None:
    """Raise StartupError for a folder that is not a whole model."""
    if not (folder / READY_FILE).is_file():
        raise StartupError(
            "ModelMissing",
            f"MODEL_PATH={folder} holds no {READY_FILE}, so it is not a model that was fetched to its end.",
            "Fetch it (python -m inference_server fetch), mount the volume that has it, or correct MODEL_PATH.",
            ExitCode.CONFIG,
        )


def read_settings(kind: type[SettingsT], manual: str) -> SettingsT:
    """The settings of one command. `manual`: the page that lists them, for the remedy."""
    try:
        return kind()
    except ValidationError as error:
        wrong = "; ".join(_sentences(error, kind))
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        wrong = f"the file .env cannot be read ({type(error).__name__})"
    raise invalid_settings(wrong, manual)


def termination_log_path() -> str:
    """The path, even when the rest of the settings is broken."""
    try:
        return TerminationLogSettings().termination_log_path
    except (ValidationError, SettingsError, OSError, UnicodeDecodeError):
        return DEFAULT_TERMINATION_LOG_PATH


def invalid_settings(wrong: str, manual: str) -> StartupError:
    """`wrong` never quotes a value: a variable may hold a secret that was pasted into the wrong place."""
    return StartupError(
        "InvalidSettings",
        f"Invalid settings: {wrong}.",
        f"Correct the environment variables (or .env); {manual} lists them all.",
        ExitCode.CONFIG,
    )


def _sentences(error: ValidationError, kind: type[BaseSettings]) -> list[str]:
    properties = kind.model_json_schema()["properties"]
    names = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False))
    return [f"{name.upper()} must be {_allowed(properties[name])}" for name in names]


def _allowed(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        # A setting that may be unset: first what it is when it is set.
        return _allowed(schema["anyOf"][0])
    if "enum" in schema:
        return "one of: " + ", ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return f"of the form {schema['examples'][0]}"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    lowest = f"from {schema['minimum']:.15g}" if "minimum" in schema else f"above {schema['exclusiveMinimum']:.15g}"
    return f"{kind} {lowest} to {schema['maximum']:.15g}"
