"""What this machine does well: threads, number formats, and how many answers at a time.

Decisions are pure; `read_machine` looks. Called by `worker` before anything is loaded.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8"]

# Processors that multiply bfloat16 themselves; all others do it forty times slower than float32.
_NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MOST_ON_CPU, _MOST_ON_GPU = 4, 16
# The program itself, with its libraries.
_PROGRAM_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class Machine:
    """`cpus`: what this process may use, as a number with a fraction. `gpu`: its compute capability."""

    cpus: float
    cpu_features: frozenset[str]
    memory_bytes: int | None
    gpu: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Choice:
    device: Device
    dtype: Dtype
    quantization: Quantization
    threads: int
    concurrent_requests: int
    piece_tokens: int


def choose(
    machine: Machine,
    *,
    parameters: int,
    answer_numbers: int,
    stored_bytes: int = 2,
    device: Device | None = None,
    dtype: Dtype | None = None,
    quantization: Quantization | None = None,
    threads: int | None = None,
    concurrent_requests: int | None = None,
    piece_tokens: int | None = None,
) -> Choice:
    """What is given is taken; the rest is what fits. `answer_numbers`: keys and values of one answer of full length.
    `stored_bytes`: of a weight that is computed with in float32 and not quantised.
    """
    device = device or ("cpu" if machine.gpu is None else "cuda")
    on_gpu = device == "cuda"
    dtype = dtype or (_gpu_dtype(machine.gpu) if on_gpu else _cpu_dtype(machine, quantization))
    answer = answer_numbers * _BYTES[dtype]
    if quantization is None:
        quantization = "none" if on_gpu else _cpu_quantization(machine, dtype, parameters, answer)
    kept = stored_bytes if dtype == "float32" else _BYTES[dtype]
    weights = parameters * (1 if quantization == "int8" else kept)
    return Choice(
        device=device,
        dtype=dtype,
        quantization=quantization,
        threads=threads or max(int(machine.cpus), 1),
        concurrent_requests=concurrent_requests or (_MOST_ON_GPU if on_gpu else _fitting(machine, weights, answer)),
        piece_tokens=piece_tokens or (512 if on_gpu else 16),
    )


def _gpu_dtype(capability: tuple[int, int] | None) -> Dtype:
    if capability is None or capability >= (8, 0):
        return "bfloat16"
    return "float16" if capability >= (7, 0) else "float32"


def _cpu_dtype(machine: Machine, quantization: Quantization | None) -> Dtype:
    native = machine.cpu_features & _NATIVE_BFLOAT16
    return "bfloat16" if native and quantization != "int8" else "float32"


def _fitting(machine: Machine, weights: int, answer: int) -> int:
    """As many answers as have room at their full length: a process that runs out of memory answers nobody."""
    if machine.memory_bytes is None:
        return _MOST_ON_CPU
    room = machine.memory_bytes - _PROGRAM_BYTES - weights
    return max(min(room // answer, _MOST_ON_CPU), 1)


def _cpu_quantization(machine: Machine, dtype: Dtype, parameters: int, answer: int) -> Quantization:
    """Weights are what an answer waits for: a quarter of the bytes of float32 is read in a quarter of the time."""
    if dtype == "float32":
        return "int8"
    needed = parameters * _BYTES[dtype] + answer + _PROGRAM_BYTES
    return "none" if machine.memory_bytes is None or needed <= machine.memory_bytes else "int8"


def read_machine(*, gpu: tuple[int, int] | None, root: Path = Path("/")) -> Machine:
    """`gpu` is asked for by the caller, who has torch at hand. `root`: where sys and proc are, for tests."""
    return Machine(
        cpus=min(float(len(os.sched_getaffinity(0))), _cpu_quota(root)),
        cpu_features=cpu_features(root),
        memory_bytes=_memory_limit(root),
        gpu=gpu,
    )


def _cpu_quota(root: Path) -> float:
    """CPUs that the control group may use; infinity without a limit. Version 2, then version 1."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return float("inf") if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int((root / "sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return float("inf")
    return quota_us / period_us if quota_us > 0 else float("inf")


def cpu_features(root: Path = Path("/")) -> frozenset[str]:
    """By the names of /proc/cpuinfo."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", (root / "proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return frozenset()
    return frozenset(found[1].split()) if found else frozenset()


def _memory_limit(root: Path) -> int | None:
    """Bytes: of the control group, else of the machine."""
    for file in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int((root / file).read_text())
        except (OSError, ValueError):
            continue
        # Version 1 says "no limit" by a number that no machine has.
        if limit < 2**60:
            return limit
    try:
        total = re.search(r"^MemTotal:\s*(\d+) kB", (root / "proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(total[1]) * 1024 if total else None


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The worker's variables: no credentials, and no library that asks the network or fills the log."""
    secrets = {"HF_TOKEN", "HUGGINGFACE_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"}
    kept = {name: value for name, value in environment.items() if name not in secrets}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }
