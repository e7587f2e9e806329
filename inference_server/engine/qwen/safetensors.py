"""Reads a model's tensors in the order of the file, a few megabytes at a time.

Read, not mapped: page faults over a network volume are tens of times slower, and so never more than a piece of a
tensor is in memory beside what is kept of it. Called by `loading`.
"""

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from inference_server.engine.qwen.shape import corrupt, not_supported

_PIECE_BYTES = 32 * 1024 * 1024
_LONGEST_HEADER = 100_000_000
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    # From the start of the file.
    offset: int

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the tensors, as the index says where there are several."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        return sorted(folder / name for name in names)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise corrupt(f"{index.name} cannot be read ({type(error).__name__})") from None


def entries(path: Path) -> list[Entry]:
    """What the file says that it holds, in the order of its bytes."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _LONGEST_HEADER:
                raise ValueError
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        found = [_entry(name, fields, 8 + size) for name, fields in header.items()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, struct.error) as error:
        raise corrupt(f"{path.name} has no header that can be read ({type(error).__name__})") from None
    return sorted(found, key=lambda entry: entry.offset)


def rows(file: BinaryIO, entry: Entry) -> Iterator[tuple[int, Tensor]]:
    """Blocks of whole rows, each with the number of its first one. A block is valid until the next one."""
    count = entry.shape[0] if entry.shape else 1
    step = max(_PIECE_BYTES // max(entry.row_bytes, 1), 1)
    buffer = bytearray(min(step, count) * entry.row_bytes)
    file.seek(entry.offset)
    for row in range(0, count, step):
        n = min(step, count - row)
        view = memoryview(buffer)[: n * entry.row_bytes]
        _read_whole(file, view)
        yield row, torch.frombuffer(view, dtype=entry.dtype).view(n, *entry.shape[1:])


def _entry(name: str, fields: dict[str, Any], start: int) -> Entry:
    dtype = _DTYPES.get(fields["dtype"])
    if dtype is None:
        raise not_supported(f"its weights are stored as {fields['dtype']}")
    begin, end = fields["data_offsets"]
    entry = Entry(name, dtype, tuple(map(int, fields["shape"])), start + begin)
    if entry.bytes != end - begin:
        raise ValueError
    return entry


def _read_whole(file: BinaryIO, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise corrupt("a file of weights ends too early")
        done += count
