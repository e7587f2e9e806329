"""The system prompt: the one of the settings, or the triage prompt that comes with this package.

It opens every conversation that has no system message of its own; an engine that knows it at start (`serve` tells it)
can read it once for all requests.
"""

from importlib.resources import files
from pathlib import Path

from inference_server.engine.protocol import Message
from inference_server.settings import Settings, invalid_settings

MANUAL = "docs/inference-server.md"
# As many as the longest question: it is read for every request.
_MAX_CHARS = 32_000


def system_prompt(settings: Settings) -> str:
    """Empty when the file of the settings is empty: then there is none. Raises StartupError."""
    if settings.system_prompt and settings.system_prompt_file:
        raise invalid_settings("SYSTEM_PROMPT and SYSTEM_PROMPT_FILE exclude each other", MANUAL)
    text = settings.system_prompt or _read(settings.system_prompt_file)
    if len(text) > _MAX_CHARS:
        raise invalid_settings(f"the system prompt must have at most {_MAX_CHARS} characters", MANUAL)
    return text.strip()


def with_system_prompt(prompt: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation that brings a system message of its own keeps it, and only it."""
    if not prompt or any(message.role == "system" for message in messages):
        return messages
    return (Message("system", prompt), *messages)


def _read(path: str) -> str:
    if not path:
        return files("inference_server.triage").joinpath("prompt.txt").read_text("utf-8")
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"the file of SYSTEM_PROMPT_FILE cannot be read ({type(error).__name__})"
        raise invalid_settings(wrong, MANUAL) from None
