"""A model that a fetch brought: what its record says, and how it is pinned in a revision. Pure.

The fetch leaves the record in its termination message. Used by fetch_job.py (reads it), revision.py (pins it) and
memory.py (reckons with it).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llm_operator.core import names

# Stand in a rendered template for what only the fetch finds out.
PATH_MARK = "@model-path@"
COMMIT_MARK = "@model-commit@"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A model in a claim: `path` in the pods that mount it, `facts` by their names in READY.json.

    `claim` is the uid of the claim: one of the same name that was made later is empty.
    """

    repository: str
    commit: str
    path: str
    weights_bytes: int
    facts: Mapping[str, Any] = field(default_factory=dict)
    claim: str = ""


def parse_record(text: str, claim: str) -> CachedModel | None:
    """The model of a fetch's last words, or None where they are something else."""
    return _parse(text, claim)


@lru_cache(maxsize=4096)
def decode(annotation: str | None) -> CachedModel | None:
    """The model that an annotation holds, or None when it cannot be read: anybody may have edited it."""
    return _parse(annotation or "", None)


def encode(model: CachedModel) -> str:
    """The model as the text of the annotation."""
    return json.dumps(
        {
            "repository": model.repository,
            "commit": model.commit,
            "path": model.path,
            "weightsBytes": model.weights_bytes,
            "model": dict(model.facts),
            "claim": model.claim,
        }
    )


def pinned(template: Any, model: CachedModel) -> Any:
    """The template with the model's path and commit in the place of the marks, whichever operator rendered it."""
    if isinstance(template, dict):
        return {key: pinned(value, model) for key, value in template.items()}
    if isinstance(template, list):
        return [pinned(value, model) for value in template]
    return (
        {PATH_MARK: model.path, COMMIT_MARK: model.commit}.get(template, template) if _is_text(template) else template
    )


def needs_model(template: Any) -> bool:
    """Whether a template lacks what only the fetch finds out."""
    # A whole string stands in its quotes; one that only quotes a mark has them escaped.
    text = json.dumps(template)
    return f'"{PATH_MARK}"' in text or f'"{COMMIT_MARK}"' in text


def _parse(text: str, claim: str | None) -> CachedModel | None:
    try:
        record = json.loads(text)
        repository, commit, path = (str(record[key]) for key in ("repository", "commit", "path"))
        facts = record.get("model")
        found = CachedModel(
            repository=repository,
            commit=commit,
            path=path,
            weights_bytes=int(record["weightsBytes"]),
            facts=facts if isinstance(facts, dict) else {},
            claim=str(record.get("claim", "")) if claim is None else claim,
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    # Anything else would be mounted nowhere.
    return found if path.startswith(f"{names.MODELS_FOLDER}/") and ".." not in path else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
