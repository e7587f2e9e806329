"""Qwen3's forward pass over a cache of slots. Checked token by token against transformers: tests/unit/engine.

`fill` computes a piece of one prompt, `advance` one token of several answers; `batch` calls them. In float32 on a CPU
our own kernels compute, elsewhere torch.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engine.qwen import kernels
from inference_server.engine.qwen.attention import attend_each, attend_piece, attend_together, causal_mask
from inference_server.engine.qwen.cache import Cache
from inference_server.engine.qwen.linear import packs
from inference_server.engine.qwen.loading import Layer, Weights
from inference_server.engine.qwen.shape import Shape

# Keys that a GPU's attention reads come in multiples of this, so that its shapes repeat.
_KEYS_STEP = 256

Attend = Callable[[int, Tensor], Tensor]


class Model(Protocol):
    cache: Cache

    def fill(self, slot: int, start: int, tokens: Sequence[int]) -> Tensor:
        """Put the tokens behind the `start` ones that the slot holds. Returns the logits after the last one."""
        ...

    def advance(self, slots: list[int], stored: list[int], tokens: Sequence[int]) -> Tensor:
        """Put one token behind the `stored` ones of each slot. Returns logits (slots, vocabulary)."""
        ...


def new_model(shape: Shape, weights: Weights, cache: Cache, *, dtype: torch.dtype, device: torch.device) -> Model:
    if packs(dtype, device):
        return KernelModel(shape, weights, cache)
    return TorchModel(shape, weights, cache, dtype=dtype, device=device)


class KernelModel:
    """A token's bits depend on nothing but its slot: not on other slots, nor on the pieces in which a prompt came."""

    def __init__(self, shape: Shape, weights: Weights, cache: Cache) -> None:
        self.cache = cache
        self._shape = shape
        self._weights = weights
        self._rotations = _rotations(shape, cache.tokens, torch.float32, torch.device("cpu"))

    @torch.inference_mode()
    def fill(self, slot: int, start: int, tokens: Sequence[int]) -> Tensor:
        hidden = self._run([slot] * len(tokens), range(start, start + len(tokens)), tokens)
        return self._logits(hidden[-1:])[0]

    @torch.inference_mode()
    def advance(self, slots: list[int], stored: list[int], tokens: Sequence[int]) -> Tensor:
        return self._logits(self._run(slots, stored, tokens))

    def _run(self, slots: Sequence[int], places: Sequence[int], tokens: Sequence[int]) -> Tensor:
        if not (
            0 <= min(slots) <= max(slots) < self.cache.slots and 0 <= min(places) <= max(places) < self.cache.tokens
        ):
            raise IndexError("no such place in the cache")
        slot_index, place_index = torch.tensor(slots), torch.tensor(places)
        hidden = self._weights.embedding.rows(torch.tensor(tokens))
        for layer, cached in zip(self._weights.layers, self.cache.layers, strict=True):
            qkv = layer.qkv(self._norm(hidden, layer.norm_in))
            found = kernels.attend(qkv, cached, slot_index, place_index, layer.norm_qk, self._rotations, self._shape)
            hidden += layer.out(found)
            hidden += layer.down(kernels.gate(layer.gate_up(self._norm(hidden, layer.norm_after))))
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._weights.head(self._norm(hidden, self._weights.norm))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return kernels.norm(x, weight, self._shape.norm_epsilon)


class TorchModel:
    def __init__(
        self, shape: Shape, weights: Weights, cache: Cache, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self.cache = cache
        self._weights = weights
        self._device = device
        self._cos, self._sin = _rotations(shape, cache.tokens, dtype, device)

    @torch.inference_mode()
    def fill(self, slot: int, start: int, tokens: Sequence[int]) -> Tensor:
        end = start + len(tokens)
        mask = causal_mask(start, len(tokens), self.shape, self._device)

        def attend(number: int, qkv: Tensor) -> Tensor:
            layer = self.cache.layers[number][slot]
            layer[:, start:end] = qkv[:, self.shape.heads :].transpose(0, 1)
            return attend_piece(qkv[:, : self.shape.heads], layer[:, :end], self.shape, mask)

        hidden = self._run(tokens, torch.arange(start, end, device=self._device), attend)
        return self._logits(hidden[-1:])[0]

    @torch.inference_mode()
    def advance(self, slots: list[int], stored: list[int], tokens: Sequence[int]) -> Tensor:
        rows, places = self._index(slots), self._index(stored)
        read = self._reader(slots, stored)

        def attend(number: int, qkv: Tensor) -> Tensor:
            layer = self.cache.layers[number]
            layer[rows, :, places] = qkv[:, self.shape.heads :]
            return read(qkv[:, : self.shape.heads], layer)

        return self._logits(self._run(tokens, places, attend))

    def _reader(self, slots: list[int], stored: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
        lengths = [count + 1 for count in stored]
        if self._device.type == "cpu":
            return lambda queries, layer: attend_each(queries, layer, slots, lengths, self.shape)
        rows = self._index(slots)
        keys = min(-(-max(lengths) // _KEYS_STEP) * _KEYS_STEP, self.cache.tokens)
        # An idle slot sees its first key, because attention over nothing is not a number.
        seen_by_slot = torch.ones(self.cache.slots, dtype=torch.long, device=self._device)
        seen_by_slot[rows] = self._index(lengths)
        seen = torch.arange(keys, device=self._device)[None] < seen_by_slot[:, None]
        return lambda queries, layer: attend_together(queries, layer, rows, seen, self.shape)

    def _run(self, tokens: Sequence[int], places: Tensor, attend: Attend) -> Tensor:
        cos, sin = self._cos[places][:, None], self._sin[places][:, None]
        hidden = self._weights.embedding.rows(self._index(tokens)).to(self._cos.dtype)
        for number, layer in enumerate(self._weights.layers):
            hidden = self._block(layer, hidden, cos, sin, partial(attend, number))
        return hidden

    def _block(
        self, layer: Layer, hidden: Tensor, cos: Tensor, sin: Tensor, attend: Callable[[Tensor], Tensor]
    ) -> Tensor:
        shape = self.shape
        qkv = layer.qkv(self._norm(hidden, layer.norm_in))
        qkv = qkv.view(len(hidden), shape.heads + 2 * shape.key_value_heads, shape.head)
        turned = qkv[:, : shape.heads + shape.key_value_heads]
        turned.copy_(_turn(self._norm(turned, None) * layer.norm_qk, cos, sin))
        hidden = hidden + layer.out(attend(qkv))
        both = layer.gate_up(self._norm(hidden, layer.norm_after))
        gate, up = both[:, : shape.inner], both[:, shape.inner :]
        return hidden + layer.down(functional.silu(gate) * up)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self._weights.head(self._norm(hidden, self._weights.norm)).float()

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self.shape.norm_epsilon)

    def _index(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: each number of the first half of a head with its partner in the second."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((x[..., half:], x[..., :half]), dim=-1) * sin


def _rotations(shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines, (tokens, head). In float32 until the end: the angles grow large."""
    exponents = torch.arange(0, shape.head, 2, dtype=torch.float) / shape.head
    angles = torch.arange(tokens, dtype=torch.float)[:, None] * (1.0 / shape.rope_theta**exponents)
    cos, sin = torch.cat((angles, angles), dim=1).cos(), torch.cat((-angles, angles), dim=1).sin()
    return cos.to(device, dtype), sin.to(device, dtype)
