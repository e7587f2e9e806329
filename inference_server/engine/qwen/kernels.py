"""What a CPU computes, by the C functions of kernels.c. Called by `linear` and `model`, from one thread.

Compiled where the package is built (`hatch_build.py`), for the oldest processor of its kind and for those with AVX2.
Tensors are float32, without gaps, and on the CPU, unless it says otherwise.
"""

import ctypes
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from inference_server.engine.qwen.hardware import cpu_features
from inference_server.engine.qwen.shape import Shape
from inference_server.termination import ExitCode, StartupError

Storage = Literal["float32", "bfloat16", "int8"]

_NUMBERS: dict[Storage, int] = {"float32": 0, "bfloat16": 1, "int8": 2}
_DTYPES: dict[Storage, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
# Rows are padded to a multiple of this, as in kernels.c.
_PANEL = 16
# What a compiler takes for granted of x86-64-v3, by the names of /proc/cpuinfo.
_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})

_int, _size, _pointer, _float = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_float
_SIGNATURES = {
    "threads": (_int, [_int]),
    "put": (None, [_int, *[_pointer] * 4, *[_size] * 3]),
    "rows": (None, [_int, *[_pointer] * 4, *[_size] * 2]),
    "linear": (None, [_int, *[_pointer] * 4, *[_size] * 3]),
    "norm": (None, [_pointer, _pointer, _float, _pointer, _size, _size]),
    "gate": (None, [_pointer, _pointer, _size, _size]),
    "attend": (None, [*[_pointer] * 8, _float, *[_size] * 5]),
}


def library_name(machine: str, features: frozenset[str]) -> str:
    """The file for a machine: `machine` as platform.machine() says, `features` as /proc/cpuinfo."""
    if machine == "x86_64" and features >= _AVX2:
        return "kernels-x86_64_v3.so"
    return f"kernels-{machine}.so"


@cache
def _library() -> ctypes.CDLL:
    path = Path(__file__).with_name(library_name(platform.machine(), cpu_features()))
    try:
        # ctypes lets other threads run while a function does.
        library = ctypes.CDLL(str(path))
    except OSError:
        raise StartupError(
            "ModeNotSupported",
            f"{path.name}, by which a model is computed on this processor, is missing or cannot be loaded.",
            "Install the package (make setup, or an image built for this kind of processor), or set LLM_MODE=mock.",
            ExitCode.CONFIG,
        ) from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"kernels_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def set_threads(count: int) -> int:
    """How many threads compute from now on, the caller's among them. Returns how many the system gave."""
    return int(_library().kernels_threads(count))


class PackedWeight:
    """A matrix of (rows, columns) in the kernels' own layout, all zeros at first. `int8`: each row is a scale and whole
    numbers from -127 to 127; activations stay float32.
    """

    def __init__(self, rows: int, columns: int, storage: Storage) -> None:
        self._rows, self._columns = rows, columns
        padded = -(-rows // _PANEL) * _PANEL
        self._numbers = torch.zeros(padded * columns, dtype=_DTYPES[storage])
        self._scale = torch.zeros(padded if storage == "int8" else 0)
        self._weight = (_NUMBERS[storage], self._numbers.data_ptr(), self._scale.data_ptr())

    def put(self, row: int, block: Tensor) -> None:
        """Take some rows, beginning with `row`; of a bfloat16 weight they are bfloat16 themselves, or exact in it."""
        assert row + len(block) <= self._rows
        halves = block.dtype == torch.bfloat16
        block = (block if halves else block.float()).contiguous()
        source = (None, block.data_ptr()) if halves else (block.data_ptr(), None)
        _library().kernels_put(*self._weight, *source, row, len(block), self._columns)

    def rows(self, index: Tensor) -> Tensor:
        """index (count), int64 → (count, columns). Raises IndexError."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self._rows:
            raise IndexError("no such row")
        y = torch.empty(len(index), self._columns)
        _library().kernels_rows(*self._weight, index.data_ptr(), y.data_ptr(), len(index), self._columns)
        return y

    def __call__(self, x: Tensor) -> Tensor:
        """x (tokens, columns) → (tokens, rows)."""
        tokens, columns = x.shape
        if columns != self._columns or x.dtype != torch.float32:
            raise ValueError("a float32 number for each column is needed")
        x = x.contiguous()
        y = torch.empty(tokens, self._rows)
        _library().kernels_linear(*self._weight, x.data_ptr(), y.data_ptr(), tokens, self._columns, self._rows)
        return y


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Root mean square norm of each row."""
    y = torch.empty_like(x)
    _library().kernels_norm(x.data_ptr(), weight.data_ptr(), epsilon, y.data_ptr(), *x.shape)
    return y


def gate(x: Tensor) -> Tensor:
    """silu(gate) · up: x (tokens, gate then up) → (tokens, inner)."""
    y = torch.empty(len(x), x.shape[1] // 2)
    _library().kernels_gate(x.data_ptr(), y.data_ptr(), *y.shape)
    return y


def attend(
    qkv: Tensor,
    layer: Tensor,
    slots: Tensor,
    places: Tensor,
    norm_qk: Tensor,
    rotations: Sequence[Tensor],
    shape: Shape,
) -> Tensor:
    """Attention of each token to its slot up to itself, once its key and value are in there → (tokens, heads · head).

    qkv (tokens, (heads + 2 · key_value_heads) · head), changed; layer as in `cache`; slots and places (tokens), int64.
    """
    cosines, sines = rotations
    tokens = len(qkv)
    y = torch.empty(tokens, shape.heads * shape.head)
    _library().kernels_attend(
        *(tensor.data_ptr() for tensor in (qkv, layer, slots, places, norm_qk, cosines, sines, y)),
        shape.norm_epsilon,
        tokens,
        shape.heads,
        shape.key_value_heads,
        shape.head,
        layer.shape[2],
    )
    return y
