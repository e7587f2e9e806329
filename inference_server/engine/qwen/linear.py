"""Matrices, in the number formats and by the kernels that are fastest here; bench/serving measures them.

A token's result has the same bits in every company: else the same seed could give another answer when others run.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

# How weights are kept: as the model computes, as float16, or as int8.
Storage = Literal["dense", "float16", "int8"]

# The float32 kernels compute a row the same way among four, but not among fewer. Four cost what one costs.
_ROWS_TOGETHER = 4
# A prompt's piece has more rows than this, and is never computed together with another's.
_FEW_ROWS = 16
# While a piece is filled it is there in float32: of Qwen3-4B 168 MB.
_PIECE_ROWS = 16384
# What an activation becomes for the int8 kernel: whole numbers in two digits, of which this is the greatest, ...
_DIGIT = 63
# ... and the second one counts this many times less.
_SECOND = 126


class Matrix(Protocol):
    """A weight of (rows, columns), filled while the file is read, in any order."""

    def put(self, row: int, block: Tensor) -> None:
        """Take some rows, beginning with `row`."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, columns) → (tokens, rows), in x's number format."""
        ...


class DenseMatrix:
    """Also serves as the table of embeddings."""

    def __init__(self, rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.weight = torch.empty(rows, columns, dtype=dtype, device=device)
        # For a few rows MKL's F.linear packs the whole weight anew, and reads it at a third of the speed.
        self._weight_first = device.type == "cpu" and dtype == torch.float32

    def put(self, row: int, block: Tensor) -> None:
        self.weight[row : row + len(block)].copy_(block)

    def __call__(self, x: Tensor) -> Tensor:
        if self._weight_first and len(x) <= _FEW_ROWS:
            return _by_fours(x, self._few)
        return functional.linear(x, self.weight)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return functional.embedding(index, self.weight).to(dtype)

    def _few(self, x: Tensor) -> Tensor:
        return torch.mm(self.weight, x.t()).t()


class PackedMatrix:
    """A weight in the layout of a kernel, which is made of whole pieces. CPU only."""

    def __init__(self, rows: int, columns: int) -> None:
        self._rows, self._columns = rows, columns
        self._pieces: list[Any] = [None] * -(-rows // _PIECE_ROWS)
        self._staged: dict[int, Tensor] = {}
        self._missing: dict[int, int] = {}

    def put(self, row: int, block: Tensor) -> None:
        while len(block):
            number, first = divmod(row, _PIECE_ROWS)
            height = min(_PIECE_ROWS, self._rows - number * _PIECE_ROWS)
            count = min(len(block), height - first)
            staged = self._staged.setdefault(number, torch.empty(height, self._columns))
            staged[first : first + count].copy_(block[:count])
            self._missing[number] = self._missing.get(number, height) - count
            if not self._missing[number]:
                self._pieces[number] = self._pack(self._staged.pop(number))
            row, block = row + count, block[count:]

    def _pack(self, weight: Tensor) -> Any:
        raise NotImplementedError

    def _apply(self, kernel: Callable[[Any], Tensor]) -> Tensor:
        if len(self._pieces) == 1:
            return kernel(self._pieces[0])
        return torch.cat([kernel(piece) for piece in self._pieces], dim=1)


class Float16Matrix(PackedMatrix):
    """Half the bytes of float32 to read, and the same results for weights that were trained in bfloat16: a float16
    holds all their digits (of the tiniest, below 6e-5, not all). Products and sums are float32.
    """

    def _pack(self, weight: Tensor) -> Any:
        return torch.ops.quantized.linear_prepack_fp16(weight, None)

    def __call__(self, x: Tensor) -> Tensor:
        return _by_fours(x, self._compute) if len(x) <= _FEW_ROWS else self._compute(x)

    def _compute(self, x: Tensor) -> Tensor:
        return self._apply(lambda piece: torch.ops.quantized.linear_dynamic_fp16(x, piece))


class Int8Matrix(PackedMatrix):
    """Each row of the weight is a scale and whole numbers from -127 to 127.

    The kernel multiplies whole numbers only, and one digit of seven bits, all that it takes without overflow, ruins an
    activation that is small beside another one. So each activation comes as two digits, in rows of their own: a few
    rows more cost next to nothing, and the result is nearer to the exact one than that of bfloat16 activations.
    """

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__(rows, columns)
        # One more row that holds the extremes: so the kernel, which looks for them, always finds a scale of one.
        self._extremes = torch.zeros(1, columns)
        self._extremes[0, 0], self._extremes[0, -1] = _DIGIT, -_DIGIT - 1

    def _pack(self, weight: Tensor) -> Any:
        scale = (weight.abs().amax(dim=1) / 127).clamp_min_(1e-20)
        whole = (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        zero = torch.zeros(len(weight), dtype=torch.long)
        torch.backends.quantized.engine = "fbgemm"
        with warnings.catch_warnings():
            # Such tensors are to leave torch one day; then `packs` says no, and the portable kernel takes over.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(whole, scale.double(), zero, 0)
        return torch.ops.quantized.linear_prepack(quantized, None)

    def __call__(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(dim=1, keepdim=True).mul_(1 / _DIGIT).clamp_min_(1e-30)
        digits = x / scale
        first = digits.round()
        second = digits.sub_(first).mul_(_SECOND).round_()
        both = torch.cat((first, second, self._extremes))
        y = self._apply(lambda piece: torch.ops.quantized.linear_dynamic(both, piece, True))
        tokens = len(x)
        return torch.add(y[:tokens], y[tokens : 2 * tokens], alpha=1 / _SECOND).mul_(scale)


class PortableInt8Matrix:
    """The same for processors without that kernel. It is fast for bfloat16 activations only."""

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


def packs() -> bool:
    """Whether the packed kernels run here: on x86 with AVX2 or better."""
    capable = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    known = hasattr(torch, "_make_per_channel_quantized_tensor") and hasattr(torch.ops.quantized, "linear_prepack_fp16")
    return capable and known and "fbgemm" in torch.backends.quantized.supported_engines


def new_matrix(rows: int, columns: int, storage: Storage, *, dtype: torch.dtype, device: torch.device) -> Matrix:
    """`dtype`: what the model computes in."""
    packed = device.type == "cpu" and dtype == torch.float32 and packs()
    if storage == "int8":
        return Int8Matrix(rows, columns) if packed else PortableInt8Matrix(rows, columns, device=device)
    if storage == "float16" and packed:
        return Float16Matrix(rows, columns)
    return DenseMatrix(rows, columns, dtype=dtype, device=device)


def _by_fours(x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    tokens = len(x)
    padded = functional.pad(x, (0, 0, 0, -tokens % _ROWS_TOGETHER))
    if len(padded) == _ROWS_TOGETHER:
        return compute(padded)[:tokens].contiguous()
    return torch.cat([compute(four) for four in torch.split(padded, _ROWS_TOGETHER)])[:tokens]
