"""Draws a token from logits. The same logits and the same number give the same token, on every machine of a kind.

The order is that of transformers: temperature, then the k likeliest, then the likeliest that make up p.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draw:
    """How to draw; `temperature` 0 takes the likeliest token, `top_k` 0 and `top_p` 1 leave all in."""

    temperature: float
    top_p: float
    top_k: int


class NotFinite(ArithmeticError):
    """The model computed infinity, or no number at all."""


@torch.inference_mode()
def choose(logits: Tensor, draw: Draw, uniform: float) -> int:
    """`logits`: (vocabulary,). `uniform`: from 0 to below 1."""
    # One sum sees every infinity and every NaN.
    if not torch.isfinite(logits.sum()):
        raise NotFinite
    if draw.temperature == 0:
        return int(logits.argmax())
    values, tokens = _likeliest(logits, draw)
    # In double precision on the CPU, so that the sum of many small numbers does not decide.
    chances = torch.softmax(values.cpu().double() / draw.temperature, dim=0)
    sums = chances.cumsum(dim=0)
    if draw.top_p < 1:
        # As many as are needed to reach p, one at least.
        count = max(int((sums - chances < draw.top_p).sum()), 1)
        sums = sums[:count]
    place = int(torch.searchsorted(sums, uniform * sums[-1], right=True))
    return int(tokens[min(place, len(sums) - 1)])


def _likeliest(logits: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """Values and tokens, the likeliest first; of equal ones the lower token."""
    if 0 < draw.top_k < len(logits):
        values, tokens = logits.topk(draw.top_k)
        return values, tokens
    values, tokens = logits.sort(descending=True, stable=True)
    return values, tokens
