"""Which models a prune must not touch, and for how long that was known. Read by `settings`.

A list that is empty or cannot be read never means "delete all": it is refused.
"""

import json
from datetime import datetime

from inference_server.fetch.layout import is_model

EXAMPLE = "Qwen--Qwen3-4B-Thinking-2507/" + "0" * 40


def parse_keep(text: str) -> frozenset[str]:
    """`<owner>--<name>/<commit>`, as a JSON list or one on each line. Raises ValueError, which says what is wrong."""
    entries = _entries(text.strip())
    if not entries:
        raise ValueError("KEEP_MODELS names no model, and a prune that keeps none is refused")
    if not all(is_model(entry) for entry in entries):
        raise ValueError(f"KEEP_MODELS must hold folders of commits only, such as {EXAMPLE}")
    return frozenset(entries)


def parse_until(text: str) -> datetime | None:
    """The moment after which the list counts no more; None where there is none. Raises ValueError."""
    if not text:
        return None
    try:
        until = datetime.fromisoformat(text)
    except ValueError:
        until = None
    if until is None or until.tzinfo is None:
        raise ValueError("KEEP_MODELS_UNTIL must be a time with its zone, such as 2026-01-02T03:04:05Z")
    return until


def _entries(text: str) -> list[str]:
    if not text.startswith("["):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = [None]
    if not all(isinstance(entry, str) for entry in found):
        raise ValueError("KEEP_MODELS must be a JSON list of folders, or one folder on each line")
    return list(found)
