"""The system prompt of the settings: a text, a file, or the triage prompt that comes with this package."""

from importlib.resources import files
from pathlib import Path

from inference_server.settings import MANUAL, Settings, invalid_settings

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


def _read(path: str) -> str:
    if not path:
        return files("inference_server.triage").joinpath("prompt.txt").read_text("utf-8")
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        wrong = f"the file of SYSTEM_PROMPT_FILE cannot be read ({type(error).__name__})"
        raise invalid_settings(wrong, MANUAL) from None
