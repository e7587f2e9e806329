"""The names that LLM_MODE accepts, and which of them this installation can run."""

from importlib.util import find_spec

from inference_server.engine.protocol import Mode
from inference_server.termination import ExitCode, StartupError

MODES: dict[str, Mode] = {"mock": "mock", "qwen": "qwen", "Qwen3-4B-Thinking-2507": "qwen"}


def canonical_mode(name: str) -> Mode:
    """The mode behind a name. Raises ValueError that says what is allowed."""
    try:
        return MODES[name]
    except KeyError:
        raise ValueError(f"unknown mode; allowed: {', '.join(MODES)}") from None


def require_supported(mode: Mode) -> None:
    """Raise StartupError for a mode that this installation cannot run: images without the model's libraries exist."""
    if mode != "mock" and find_spec("torch") is None:
        raise StartupError(
            "ModeNotSupported",
            f"LLM_MODE={mode} needs torch and transformers, which are not installed here. Allowed: mock.",
            "Use an image that has them, or install them (pip install 'llm-operator[server,llm]'; in a clone: make "
            "setup), or set LLM_MODE=mock.",
            ExitCode.CONFIG,
        )
