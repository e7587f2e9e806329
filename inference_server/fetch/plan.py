"""Which files of a repository serving needs, and whether they are a model that this server can run.

Asked by `fetcher`, first with the Hub's listing, then with config.json, before the weights are downloaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from inference_server.engine.qwen.shape import ARCHITECTURE, Unsupported, parse_shape
from inference_server.fetch.failures import not_supported
from inference_server.fetch.layout import READY_FILE

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
_WHOLE_WEIGHTS = "model.safetensors"
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# No *.bin and no *.py: a pickle or a module of a stranger is never run, so it is not downloaded either.
_SMALL = ("*.json", "*.jinja", "tokenizer*", "merges.txt", "vocab*")
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


def plan_download(repository: str, listing: Sequence[RemoteFile]) -> Plan:
    """Choose by name, from the top folder only. Raises FetchError when what serving needs is not there."""
    top = sorted((file for file in listing if "/" not in file.path), key=lambda file: file.path)
    names = {file.path for file in top}
    # In this order, as transformers looks for them.
    sharded = _WHOLE_WEIGHTS not in names
    weights = [file for file in top if _is_weights(file.path, sharded=sharded)]
    small = [file for file in top if _is_small(file.path) and (sharded or file.path != INDEX_FILE)]
    if CONFIG_FILE not in names:
        raise not_supported(repository, "it has no config.json")
    if not weights or (sharded and INDEX_FILE not in names):
        raise not_supported(repository, "it has no weights in safetensors files")
    if not any(needed <= names for needed in _TOKENIZERS):
        raise not_supported(repository, "it has no tokenizer")
    return Plan(tuple(small), tuple(weights))


def check_model(repository: str, plan: Plan, documents: Mapping[str, Any]) -> ModelFacts:
    """`documents`: the parsed config.json and, where there is one, the index of the weights.

    Raises FetchError for a model that the engine would refuse at its start.
    """
    config = documents[CONFIG_FILE]
    try:
        parse_shape(config)
    except Unsupported as error:
        raise not_supported(repository, str(error)) from None
    if INDEX_FILE in documents:
        _check_index(repository, plan, documents[INDEX_FILE])
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


def _check_index(repository: str, plan: Plan, index: Any) -> None:
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise not_supported(repository, f"its {INDEX_FILE} has no weight_map")
    missing = {str(name) for name in weight_map.values()} - {file.path for file in plan.weights}
    if missing:
        raise not_supported(repository, f"it lacks {', '.join(sorted(missing)[:3])}, which its index names")


def _is_weights(name: str, *, sharded: bool) -> bool:
    return _SHARD.fullmatch(name) is not None if sharded else name == _WHOLE_WEIGHTS


def _is_small(name: str) -> bool:
    return name != READY_FILE and any(fnmatchcase(name, pattern) for pattern in _SMALL)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
