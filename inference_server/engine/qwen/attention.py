"""Attention over the cache: of one prompt's piece, or of the newest token of several answers.

Heads that share a key and value are computed as more queries of one head, which needs no copies of keys and values.
"""

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engine.qwen.shape import Shape


def attend_piece(queries: Tensor, stored: Tensor, shape: Shape, mask: Tensor) -> Tensor:
    """queries (tokens, heads, head), stored (2 · key_value_heads, keys, head), mask (group · tokens, keys)."""
    tokens = len(queries)
    grouped = queries.view(tokens, shape.key_value_heads, shape.group, shape.head).permute(1, 2, 0, 3)
    grouped = grouped.reshape(1, shape.key_value_heads, shape.group * tokens, shape.head)
    keys, values = stored[: shape.key_value_heads], stored[shape.key_value_heads :]
    found = functional.scaled_dot_product_attention(grouped, keys[None], values[None], attn_mask=mask)
    found = found.view(shape.key_value_heads, shape.group, tokens, shape.head)
    return found.permute(2, 0, 1, 3).reshape(tokens, shape.heads * shape.head)


def causal_mask(start: int, tokens: int, shape: Shape, device: torch.device) -> Tensor:
    """What each token of a piece that begins at `start` may see: everything up to itself."""
    place = torch.arange(start, start + tokens, device=device)
    mask = torch.arange(start + tokens, device=device)[None] <= place[:, None]
    return mask.repeat(shape.group, 1)


def attend_each(queries: Tensor, layer: Tensor, slots: list[int], lengths: list[int], shape: Shape) -> Tensor:
    """One by one: on a CPU that costs little, and no answer's bits depend on how long the others are."""
    found = torch.empty_like(queries)
    for row, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        stored = layer[slot, :, :length]
        grouped = queries[row].view(1, shape.key_value_heads, shape.group, shape.head)
        keys, values = stored[: shape.key_value_heads], stored[shape.key_value_heads :]
        one = functional.scaled_dot_product_attention(grouped, keys[None], values[None])
        found[row] = one.view(shape.heads, shape.head)
    return found.view(len(slots), shape.heads * shape.head)


def attend_together(queries: Tensor, layer: Tensor, slots: Tensor, seen: Tensor, shape: Shape) -> Tensor:
    """All slots of the cache in one go, idle ones too, so that nothing is copied: for a GPU. `seen`: (slots, keys)."""
    keys = seen.shape[1]
    grouped = queries.new_zeros(len(layer), shape.key_value_heads, shape.group, shape.head)
    grouped[slots] = queries.view(-1, shape.key_value_heads, shape.group, shape.head)
    found = functional.scaled_dot_product_attention(
        grouped,
        layer[:, : shape.key_value_heads, :keys],
        layer[:, shape.key_value_heads :, :keys],
        attn_mask=seen[:, None, None, :],
    )
    return found[slots].reshape(len(slots), shape.heads * shape.head)
