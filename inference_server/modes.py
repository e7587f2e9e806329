"""The names that LLM_MODE accepts, and which of them this version can run."""

from inference_server.engine.protocol import Mode
from inference_server.failure import ExitCode, StartupError

MODES: dict[str, Mode] = {"mock": "mock", "qwen": "qwen", "Qwen3-4B-Thinking-2507": "qwen"}


def canonical_mode(name: str) -> Mode:
    """The mode behind a name. Raises ValueError that says what is allowed."""
    try:
        return MODES[name]
    except KeyError:
        raise ValueError(f"unknown mode; allowed: {', '.join(MODES)}") from None


def require_supported(mode: Mode) -> None:
    """Raise StartupError for a mode that is a valid name but that this version cannot run."""
    if mode != "mock":
        raise StartupError(
            "ModeNotSupported",
            f"LLM_MODE={mode} is a known mode, but this version of the server cannot run it. Allowed: mock.",
            "Set LLM_MODE=mock, or use an image that supports this mode.",
            ExitCode.CONFIG,
        )
