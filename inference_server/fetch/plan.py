"""Which files of a repository serving needs, and whether they are a model that this server can run.

Asked by `fetcher`, first with the Hub's listing, then with config.json, before the weights are downloaded.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from inference_server.engine.qwen.shape import ARCHITECTURE, Unsupported, parse_shape
from inference_server.fetch.failures import not_supported
from inference_server.fetch.layout import is_plain_name

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
_WHOLE_WEIGHTS = "model.safetensors"
_WEIGHTS = ".safetensors"
# Of 200,000 tensors or more.
_LONGEST_INDEX_BYTES = 64 * 1024 * 1024
# No *.bin and no *.py: a pickle or a module of a stranger is never run, so it is not downloaded either.
_SMALL = ("*.json", "*.jinja", "*.model", "*.tiktoken", "merges.txt", "vocab*.txt")
_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the Hub lists it: `sha256` of a large file, else `blob_id`, git's SHA-1 of a small one."""

    path: str
    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to download, in this order: a mistake shows in the small files, before the weights."""

    small: tuple[RemoteFile, ...]
    weights: tuple[RemoteFile, ...]

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        return self.small + self.weights

    @property
    def total_bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """From config.json: what a check of the memory needs to know. None where config.json does not say."""

    architecture: str
    model_type: str | None
    dtype: str | None
    layers: int | None
    attention_heads: int | None
    key_value_heads: int | None
    head_dimension: int | None
    context_tokens: int | None
    vocabulary: int | None

    def as_json(self) -> dict[str, Any]:
        """With the names that READY.json and the log use."""
        return {re.sub(r"_(\w)", lambda found: found[1].upper(), name): value for name, value in asdict(self).items()}


def find_index(repository: str, listing: Sequence[RemoteFile]) -> RemoteFile | None:
    """The file that names the shards; None where the weights are one whole file.

    Raises FetchError when what serving needs is not there.
    """
    top = _top(listing)
    names = top.keys()
    if CONFIG_FILE not in names:
        raise not_supported(repository, "it has no config.json")
    if not any(needed <= names for needed in _TOKENIZERS):
        raise not_supported(repository, "it has no tokenizer")
    # In this order, as transformers looks for them.
    if _WHOLE_WEIGHTS in names:
        return None
    if INDEX_FILE not in names:
        raise not_supported(repository, "it has no weights in safetensors files")
    if top[INDEX_FILE].size > _LONGEST_INDEX_BYTES:
        raise not_supported(repository, f"its {INDEX_FILE} is too long")
    return top[INDEX_FILE]


def plan_download(repository: str, listing: Sequence[RemoteFile], index: str | None) -> Plan:
    """Choose from the top folder only: weights by the text of the index, if there is one, the rest by name.

    Raises FetchError for an index that does not fit.
    """
    top = _top(listing)
    shards = {_WHOLE_WEIGHTS} if index is None else _shards(repository, index)
    if missing := shards - top.keys():
        raise not_supported(repository, f"it lacks {', '.join(sorted(missing)[:3])}, which its index names")
    small = [file for name, file in top.items() if _is_small(name) and (index is not None or name != INDEX_FILE)]
    return Plan(tuple(small), tuple(top[name] for name in sorted(shards)))


def twins(names: Collection[str]) -> set[str]:
    """The names that differ from another one only in case, so that many volumes take them for one."""
    folded = Counter(name.casefold() for name in names)
    return {name for name in names if folded[name.casefold()] > 1}


def _top(listing: Sequence[RemoteFile]) -> dict[str, RemoteFile]:
    """By name, in order. A name that is not plain is that of no file that serving needs."""
    return {file.path: file for file in sorted(listing, key=lambda file: file.path) if is_plain_name(file.path)}


def _shards(repository: str, index: str) -> set[str]:
    try:
        shards = set(json.loads(index)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise not_supported(repository, f"its {INDEX_FILE} has no weight_map") from None
    if not shards or not all(isinstance(name, str) and name.endswith(_WEIGHTS) for name in shards):
        raise not_supported(repository, f"its {INDEX_FILE} names no safetensors files")
    return shards


def check_model(repository: str, config: Any) -> ModelFacts:
    """Raises FetchError for a model that the engine would refuse at its start."""
    try:
        parse_shape(config)
    except Unsupported as error:
        raise not_supported(repository, str(error)) from None
    return ModelFacts(
        architecture=ARCHITECTURE,
        model_type=_text(config.get("model_type")),
        dtype=_text(config.get("dtype") or config.get("torch_dtype")),
        layers=_number(config.get("num_hidden_layers")),
        attention_heads=_number(config.get("num_attention_heads")),
        key_value_heads=_number(config.get("num_key_value_heads")),
        head_dimension=_number(config.get("head_dim")),
        context_tokens=_number(config.get("max_position_embeddings")),
        vocabulary=_number(config.get("vocab_size")),
    )


def _is_small(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _SMALL)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
