"""READY.json: the proof that a folder holds a whole model. Written by `staging`, last; read before anything is trusted.

Also for whoever checks whether a model fits into memory: the sizes and the numbers of config.json are in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """`size` in bytes; `sha256` in hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Ready:
    """`model` holds the facts of `plan.ModelFacts`, by their names in JSON."""

    repository: str
    commit: str
    files: Mapping[str, ReadyFile]
    weights_bytes: int
    model: Mapping[str, Any] = field(default_factory=dict)


def dump_ready(ready: Ready) -> str:
    document = {
        "repository": ready.repository,
        "commit": ready.commit,
        "files": {path: {"size": file.size, "sha256": file.sha256} for path, file in sorted(ready.files.items())},
        "weightsBytes": ready.weights_bytes,
        "model": dict(ready.model),
    }
    return json.dumps(document, indent=2) + "\n"


def ready_record(ready: Ready, path: str) -> dict[str, Any]:
    """What a fetch that succeeded leaves in the termination log: all that a decision needs, and short enough."""
    return {
        "repository": ready.repository,
        "commit": ready.commit,
        "path": path,
        "weightsBytes": ready.weights_bytes,
        "model": dict(ready.model),
    }


def parse_ready(text: str) -> Ready:
    """Raises ValueError when the text is not a READY.json; unknown fields are left alone."""
    document = json.loads(text)
    try:
        files = {
            _plain(path): ReadyFile(_count(file["size"]), _text(file["sha256"]))
            for path, file in document["files"].items()
        }
        ready = Ready(
            repository=_text(document["repository"]),
            commit=_text(document["commit"]),
            files=files,
            weights_bytes=_count(document["weightsBytes"]),
            model=dict(document.get("model") or {}),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a READY.json: {type(error).__name__}") from None
    if not ready.files:
        raise ValueError("not a READY.json: it names no files")
    return ready


def damage(ready: Ready, *, repository: str, commit: str, sizes: Mapping[str, int]) -> str | None:
    """Why the folder is not the model it should be, or None. `sizes`: the bytes of each file that is there."""
    if (ready.repository, ready.commit) != (repository, commit):
        return f"READY.json is that of {ready.repository} at {ready.commit}"
    for path, file in ready.files.items():
        if sizes.get(path) != file.size:
            return f"{path} should have {file.size} bytes and has {sizes.get(path, 'none')}"
    return None


def _plain(name: str) -> str:
    if "/" in name or name in ("", ".", ".."):
        raise TypeError
    return name


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
