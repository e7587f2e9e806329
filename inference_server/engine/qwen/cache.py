"""Keys and values of the tokens computed so far: one slot per running answer, of a fixed size.

Reserved at once, so that no answer can run out of memory halfway; on a CPU the system gives the memory only as it is
written to.
"""

import torch
from torch import Tensor

from inference_server.engine.qwen.shape import Shape


class Cache:
    """`layers[n]`: (slots, keys then values, tokens, head)."""

    def __init__(self, shape: Shape, *, slots: int, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots = slots
        self.tokens = tokens
        size = (slots, 2 * shape.key_value_heads, tokens, shape.head)
        self.layers = [torch.empty(size, dtype=dtype, device=device) for _ in range(shape.layers)]

    def copy_out(self, slot: int, tokens: int) -> list[Tensor]:
        """What the first tokens of a slot left, for `copy_in`."""
        return [layer[slot, :, :tokens].clone() for layer in self.layers]

    def copy_in(self, slot: int, kept: list[Tensor], tokens: int) -> None:
        for layer, part in zip(self.layers, kept, strict=True):
            layer[slot, :, :tokens] = part[:, :tokens]
