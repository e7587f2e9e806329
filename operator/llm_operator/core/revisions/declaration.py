"""What a spec says of the pods, in one form, and whether a record says the same. Pure; used by revision.py.

A record outlives the operator that made it, and with it the defaults of that operator's API. It therefore keeps what
the user wrote (`fields`: what was no default) and what all of it came to (`values`). A spec is that of a record if it
says the same in every field, or a default in one that was a default then too and that nobody has set since: a default
that a later version changes, or adds with a new field, makes no new revision of any object.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import quantity
from llm_operator.core.names import Manifest

# What shapes no pod. All else makes a revision, a model and its claim where there is one to be fetched.
UNREVISIONED = frozenset({"replicas", "rollout", "rollback", "model", "cache"})
# How a model is reached, and whether it is let in: nothing of it is in a pod that finds its model in a claim.
TERMS = ("endpoint", "tokenSecretRef", "memoryCheck", "fetchResources")
# Terms of a later version are told where they are set only, so that it tries nothing anew.
LATER_TERMS = frozenset({"fetchResources"})
# The defaults of the version whose records do not tell them. Never to be changed.
FIRST_DEFAULTS: Manifest = {
    "imagePullPolicy": "IfNotPresent",
    "model": {
        "repository": "Qwen/Qwen3-4B-Thinking-2507",
        "revision": "main",
        "source": "hub",
        "tokenSecretRef": {"name": "huggingface-token", "key": "token"},
        "memoryCheck": "Enforce",
    },
}
DIGEST_LENGTH = 10

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a spec says of the pods.

    `fields` are those that differ from their defaults, `values` all of them, `written` the paths that are set, by
    the user or by the API server's defaults. `terms` are those on which a model is fetched into a claim; of terms
    that no pod is given (`ignored`) no record is asked.
    """

    fields: Manifest
    values: Manifest
    written: frozenset[Path]
    ignored: frozenset[Path]
    terms: str | None


def declaration(spec: LLMDeploymentSpec) -> Declaration:
    """What a spec says, whichever way it was written. Many steps of a pass ask, and every pass anew."""
    return _declaration(type(spec), spec.model_dump_json(by_alias=True, exclude_unset=True))


@lru_cache(maxsize=4096)
def _declaration(kind: type[LLMDeploymentSpec], text: str) -> Declaration:
    spec = kind.model_validate_json(text)
    # Without a claim each pod fetches for itself, and needs to know how.
    ignored = ("memoryCheck",) if spec.is_fetched and spec.used_cache is None else TERMS
    fields = _form(spec, exclude_defaults=True)
    for term in ignored:
        fields.get("model", {}).pop(term, None)
    values = _form(spec)
    if spec.canonical_mode != "mock":
        values["model"] = spec.wanted_model.model_dump(by_alias=True, exclude_none=True)
    written = frozenset(path for path, _ in _leaves(_form(spec, exclude_unset=True)))
    terms = None if spec.used_cache is None else terms_in(values)
    paths = frozenset(("model", term) for term in ignored)
    return Declaration(_filled(fields), _filled(values), written, paths, terms)


def values_in(fields: Manifest) -> Manifest:
    """All values of a record that tells only what was no default."""
    if not fields:
        return {}
    unused = ("model",) if fields.get("mode") == "mock" else ()
    return _over({key: value for key, value in FIRST_DEFAULTS.items() if key not in unused}, fields)


def says_the_same(said: Declaration, fields: Manifest, values: Manifest) -> bool:
    """Whether a record of these fields and values is that of a spec which says `said`."""
    if not fields or values == said.values:
        return bool(fields)
    if any(isinstance(value, str) and said.fields.get(key, value) != value for key, value in fields.items()):
        return False  # Most others differ in what is seen at once: their images.
    then, now = dict(_leaves(values)), dict(_leaves(said.values))
    differing = [path for path in {**then, **now} if then.get(path) != now.get(path) and path[:2] not in said.ignored]
    chosen = {path for one in (fields, said.fields) for path, _ in _leaves(one)} if differing else set()
    return all(path not in chosen and (path not in then or path not in said.written) for path in differing)


def terms_in(values: Manifest) -> str:
    """The terms on which a model is fetched, as a short text that differs where they do."""
    model = values.get("model", {})
    told = [model.get(term) for term in TERMS if term in model or term not in LATER_TERMS]
    text = json.dumps(told, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def digest(fields: Manifest, salt: int) -> str:
    """The name that fields give a revision; with a salt another one, where that is taken."""
    text = json.dumps([fields, salt] if salt else fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _form(spec: LLMDeploymentSpec, *, exclude_defaults: bool = False, exclude_unset: bool = False) -> Manifest:
    included = set(type(spec).model_fields) - UNREVISIONED | (set() if spec.canonical_mode == "mock" else {"model"})
    form = spec.model_dump(
        by_alias=True,
        include=included,
        exclude_none=True,
        exclude_defaults=exclude_defaults,
        exclude_unset=exclude_unset,
    )
    if spec.used_cache is not None:
        # That there is a cache makes a difference, even if all of it is default.
        form["cache"] = {"claimName": spec.used_cache.claim_name}
    form["resources"] = {
        group: {name: quantity.canonical(amount) for name, amount in amounts.items()}
        for group, amounts in form.get("resources", {}).items()
        if amounts
    }
    form["generation"] = {
        name: quantity.canonical(value) if isinstance(value, str) else value
        for name, value in form.get("generation", {}).items()
    }
    return {**form, "mode": spec.canonical_mode}


def _over(defaults: Manifest, chosen: Manifest) -> Manifest:
    deeper = {
        key: _over(value, chosen[key])
        for key, value in defaults.items()
        if isinstance(value, dict) and isinstance(chosen.get(key), dict)
    }
    return {**defaults, **chosen, **deeper}


def _filled(form: Manifest) -> Manifest:
    return {key: value for key, value in form.items() if value not in ({}, [])}


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not isinstance(node, (dict, list)) or not node:
        # That there is nothing in it may mean something: an empty selector chooses everything.
        yield path, node
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(value, (*path, key))
