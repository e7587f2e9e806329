"""Draws a token from logits. The same logits and the same number give the same token, on every machine of a kind.

The order is that of transformers: temperature, then the k likeliest, then the likeliest that make up p.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FEW = 1024
"""So many of the likeliest nearly always make up p: the whole vocabulary is put in order only where they do not."""


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
    tokens = None
    if 0 < draw.top_k < len(logits):
        logits, tokens = logits.topk(draw.top_k)
    # In double precision on the CPU, so that the sum of many small numbers does not decide.
    numbers = logits.cpu().double()
    # Beside the largest, so that no temperature is so low that a number becomes infinite.
    chances = torch.softmax((numbers - numbers.max()) / draw.temperature, dim=0)
    if draw.top_p < 1:
        chances, places = _likeliest(chances, draw.top_p)
        tokens = places if tokens is None else tokens[places.to(tokens.device)]
    sums = chances.cumsum(dim=0)
    place = min(int(torch.searchsorted(sums, uniform * sums[-1], right=True)), len(sums) - 1)
    return place if tokens is None else int(tokens[place])


def _likeliest(chances: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """As many of the likeliest as are needed to reach p, one at least, and their places."""
    for count in (min(FEW, len(chances)), len(chances)):
        some, places = chances.topk(count)
        needed = max(int((some.cumsum(dim=0) - some < p).sum()), 1)
        if needed < count:
            break
    return some[:needed], places[:needed]
