"""What the routes and middlewares need of the settings. Made by `serve`, and by tests."""

from dataclasses import dataclass, field

from inference_server.api.keys import Keys, read_keys
from inference_server.settings import Settings
from inference_server.system_prompt import system_prompt


@dataclass(frozen=True, slots=True)
class ApiConfig:
    max_body_bytes: int = 131_072
    keys: Keys = field(default_factory=Keys)
    system_prompt: str = field(default="", repr=False)
    include_patient_mrn: bool = False
    cors_allow_origins: tuple[str, ...] = ()
    request_timeout_seconds: float = 300.0
    max_new_tokens: int = 512
    # None: as much as leaves room for the answer.
    thinking_budget: int | None = None
    stream_ping_seconds: float = 10.0
    # An engine ends an answer at its deadline, between two steps; then it is stuck.
    engine_patience_seconds: float = 30.0
    # After that a stream can only be waiting for a client that does not read.
    stream_patience_seconds: float = 30.0


def api_config(settings: Settings) -> ApiConfig:
    """Raises StartupError for a file that cannot be used."""
    return ApiConfig(
        max_body_bytes=settings.max_body_bytes,
        keys=read_keys(settings),
        system_prompt=system_prompt(settings),
        include_patient_mrn=settings.include_patient_mrn,
        cors_allow_origins=tuple(filter(None, (one.strip() for one in settings.cors_allow_origins.split(",")))),
        request_timeout_seconds=settings.request_timeout_seconds,
        max_new_tokens=settings.max_new_tokens,
        thinking_budget=None if settings.thinking_budget < 0 else settings.thinking_budget,
        stream_ping_seconds=settings.stream_ping_seconds,
    )
