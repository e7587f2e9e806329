"""Builds the model's weights from its files, in one pass, each tensor put straight where it is used.

Called by `worker`. Beside the weights themselves no more than a piece of one tensor is in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from inference_server.engine.qwen import safetensors
from inference_server.engine.qwen.linear import Matrix, Storage, new_matrix
from inference_server.engine.qwen.shape import Shape, corrupt


@dataclass(frozen=True, slots=True)
class Layer:
    """`qkv`: rows for queries, then keys, then values. `norm_qk`: (heads + key_value_heads, head)."""

    norm_in: Tensor
    qkv: Matrix
    norm_qk: Tensor
    out: Matrix
    norm_after: Tensor
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Matrix
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Matrix


Put = Callable[[int, Tensor], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the file goes."""

    shape: tuple[int, ...]
    put: Put


class Builder:
    """Empty weights, and the places in them by the names that the files use."""

    def __init__(self, shape: Shape, *, dtype: torch.dtype, device: torch.device, storage: Storage) -> None:
        self._shape = shape
        self._dtype = dtype
        self._device = device
        self._storage = storage
        self.places: dict[str, Place] = {}
        vocabulary = (shape.vocabulary, shape.hidden)
        embedding = self._new(*vocabulary, "model.embed_tokens.weight")
        self.weights = Weights(
            embedding=embedding,
            layers=tuple(self._layer(f"model.layers.{number}.") for number in range(shape.layers)),
            norm=self._norm("model.norm.weight"),
            # Some files of tied models hold the head as well: it is the same.
            head=embedding if shape.tied else self._new(*vocabulary, "lm_head.weight"),
        )

    def _layer(self, at: str) -> Layer:
        shape = self._shape
        queries, keys = shape.heads * shape.head, shape.key_value_heads * shape.head
        qkv = self._empty(queries + 2 * keys, shape.hidden)
        for name, row, count in (("q", 0, queries), ("k", queries, keys), ("v", queries + keys, keys)):
            self._place(f"{at}self_attn.{name}_proj.weight", (count, shape.hidden), qkv, row)
        gate_up = self._empty(2 * shape.inner, shape.hidden)
        for name, row in (("gate", 0), ("up", shape.inner)):
            self._place(f"{at}mlp.{name}_proj.weight", (shape.inner, shape.hidden), gate_up, row)
        norm_qk = self._vector(shape.heads + shape.key_value_heads, shape.head)
        self._repeated(f"{at}self_attn.q_norm.weight", norm_qk[: shape.heads])
        self._repeated(f"{at}self_attn.k_norm.weight", norm_qk[shape.heads :])
        return Layer(
            norm_in=self._norm(f"{at}input_layernorm.weight"),
            qkv=qkv,
            norm_qk=norm_qk,
            out=self._new(shape.hidden, queries, f"{at}self_attn.o_proj.weight"),
            norm_after=self._norm(f"{at}post_attention_layernorm.weight"),
            gate_up=gate_up,
            down=self._new(shape.hidden, shape.inner, f"{at}mlp.down_proj.weight"),
        )

    def _empty(self, rows: int, columns: int) -> Matrix:
        return new_matrix(rows, columns, self._storage, dtype=self._dtype, device=self._device)

    def _new(self, rows: int, columns: int, name: str) -> Matrix:
        matrix = self._empty(rows, columns)
        self._place(name, (rows, columns), matrix, 0)
        return matrix

    def _place(self, name: str, shape: tuple[int, ...], matrix: Matrix, first: int) -> None:
        self.places[name] = Place(shape, lambda row, block: matrix.put(first + row, block))

    def _vector(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self._dtype, device=self._device)

    def _norm(self, name: str) -> Tensor:
        vector = self._vector(self._shape.hidden)
        self.places[name] = Place((len(vector),), lambda row, block: _copy(vector[row : row + len(block)], block))
        return vector

    def _repeated(self, name: str, rows: Tensor) -> None:
        # One short vector, the same for all heads.
        self.places[name] = Place((rows.shape[1],), lambda _, block: _copy(rows, block))


def exact_in_bfloat16(folder: Path) -> bool:
    """Whether all weights are bfloat16 in the files, so that keeping them so loses nothing."""
    found = (entry for path in safetensors.weight_files(folder) for entry in safetensors.entries(path))
    return all(entry.dtype == torch.bfloat16 for entry in found)


def load_weights(
    folder: Path,
    shape: Shape,
    *,
    dtype: torch.dtype,
    device: torch.device,
    storage: Storage,
    progress: Callable[[float], None],
) -> Weights:
    """`progress` is called with the share of the bytes that is read. Raises StartupError for files that do not fit."""
    builder = Builder(shape, dtype=dtype, device=device, storage=storage)
    missing = set(builder.places)
    listing = [(path, safetensors.entries(path)) for path in safetensors.weight_files(folder)]
    total = sum(entry.bytes for _, found in listing for entry in found) or 1
    done = 0
    for path, entry, row, block in _blocks(listing, builder.places):
        place = builder.places[entry.name]
        if place.shape != entry.shape:
            raise corrupt(f"{entry.name} in {path.name} has another shape than config.json says")
        place.put(row, block)
        missing.discard(entry.name)
        done += block.nbytes
        progress(min(done / total, 1.0))
    if missing:
        raise corrupt(f"{len(missing)} tensors are missing, such as {min(missing)}")
    return builder.weights


def _blocks(
    listing: list[tuple[Path, list[safetensors.Entry]]], wanted: dict[str, Place]
) -> Iterator[tuple[Path, safetensors.Entry, int, Tensor]]:
    for path, found in listing:
        with path.open("rb", buffering=0) as file:
            for entry in found:
                if entry.name in wanted:
                    for row, block in safetensors.rows(file, entry):
                        yield path, entry, row, block


def _copy(target: Tensor, block: Tensor) -> None:
    target.copy_(block)
