"""Matrices, in the number formats and by the kernels that are fastest here; bench/serving measures them.

By our own kernels a token's result has the same bits in every company: else the same seed could give another answer
when others run. What torch computes does not promise that.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engine.qwen.kernels import PackedWeight

# How weights are kept: as the model computes, as bfloat16, or as int8.
Storage = Literal["dense", "bfloat16", "int8"]


class Matrix(Protocol):
    """A weight of (rows, columns), filled while the file is read, in any order."""

    def put(self, row: int, block: Tensor) -> None:
        """Take some rows, beginning with `row`."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, columns) → (tokens, rows), in x's number format."""
        ...

    def rows(self, index: Tensor) -> Tensor:
        """index (count), int64 → (count, columns): a table of embeddings is looked up."""
        ...


class DenseMatrix:
    """As torch computes it."""

    def __init__(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(rows, columns, dtype=dtype, device=device)

    def put(self, row: int, block: Tensor) -> None:
        self.weight[row : row + len(block)].copy_(block)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)

    def rows(self, index: Tensor) -> Tensor:
        return functional.embedding(index, self.weight)


class Int8Matrix:
    """Each row is a scale and whole numbers from -127 to 127. For what computes in bfloat16 anyhow."""

    def __init__(self, rows: int, columns: int, *, device: torch.device) -> None:
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
        return self.weight[index] * self.scale[index, None]


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether what computes in `dtype` on `device` does so by our own kernels."""
    return device.type == "cpu" and dtype == torch.float32


def new_matrix(rows: int, columns: int, storage: Storage, *, dtype: torch.dtype, device: torch.device) -> Matrix:
    """`dtype`: what the model computes in."""
    if packs(dtype, device):
        return PackedWeight(rows, columns, "float32" if storage == "dense" else storage)
    if storage == "int8":
        return Int8Matrix(rows, columns, device=device)
    return DenseMatrix(rows, columns, dtype=dtype, device=device)
