"""Matrices, in the number formats and by the kernels that are fastest here; bench/serving measures them.

A token's result has the same bits in every company: else the same seed could give another answer when others run.
"""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

# MKL computes a column the same way with four or eight beside it, but not with one or two.
_COLUMNS = 4
_FEW_ROWS = 8


class Matrix(Protocol):
    """A weight of (rows, columns), filled while the file is read."""

    def put(self, row: int, block: Tensor) -> None:
        """Take some rows, beginning with `row`."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, columns) → (tokens, rows), in x's number format."""
        ...

    def rows(self, index: Tensor) -> Tensor:
        """Some rows, as an embedding is used; in the computing format."""
        ...


class DenseMatrix:
    def __init__(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(rows, columns, dtype=dtype, device=device)
        # For a few rows MKL's F.linear packs the whole weight anew, and reads it at a third of the speed.
        self._weight_first = device.type == "cpu" and dtype == torch.float32

    def put(self, row: int, block: Tensor) -> None:
        self.weight[row : row + len(block)].copy_(block)

    def __call__(self, x: Tensor) -> Tensor:
        tokens = len(x)
        if not self._weight_first or tokens > _FEW_ROWS:
            return functional.linear(x, self.weight)
        padded = functional.pad(x, (0, 0, 0, -tokens % _COLUMNS))
        return torch.mm(self.weight, padded.t())[:, :tokens].t().contiguous()

    def rows(self, index: Tensor) -> Tensor:
        return functional.embedding(index, self.weight)


class Int8Matrix:
    """Each row is a scale and whole numbers from -127 to 127; activations stay numbers with a point.

    The kernel is fast for bfloat16 activations only, also on processors that compute in float32.
    """

    def __init__(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self.weight = torch.empty(rows, columns, dtype=torch.int8, device=device)
        self.scale = torch.empty(rows, dtype=torch.bfloat16, device=device)

    def put(self, row: int, block: Tensor) -> None:
        block = block.float()
        # Rounded to the kernel's format before it is used, so that the rounding makes no error.
        scale = (block.abs().amax(dim=1) / 127).clamp_min_(1e-20).to(torch.bfloat16)
        whole = (block / scale.float()[:, None]).round_().clamp_(-127, 127)
        self.weight[row : row + len(block)].copy_(whole)
        self.scale[row : row + len(block)].copy_(scale)

    def __call__(self, x: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x.to(torch.bfloat16), self.weight, self.scale).to(x.dtype)

    def rows(self, index: Tensor) -> Tensor:
        return (self.weight[index].float() * self.scale[index].float()[:, None]).to(self._dtype)
