from pathlib import Path
from typing import Any

import pytest

from inference_server.engine.qwen.hardware import Machine, child_environment, choose, read_machine

PLAIN = Machine(cpus=2.0, cpu_features=frozenset({"avx2"}), memory_bytes=8 * 1024**3, gpu=None)
FOUR_BILLION = 4_022_272_000
# Of 4096 tokens.
ANSWER = 36 * 2 * 8 * 128 * 4096


def machine(**over: Any) -> Machine:
    return Machine(**({name: getattr(PLAIN, name) for name in Machine.__slots__} | over))


@pytest.mark.parametrize(
    ("found", "given", "expected"),
    [
        pytest.param(PLAIN, {}, ("cpu", "float32", "int8"), id="a CPU that is slow with bfloat16"),
        pytest.param(PLAIN, {"quantization": "none"}, ("cpu", "float32", "none"), id="as exact as it gets"),
        pytest.param(
            machine(cpu_features=frozenset({"amx_bf16"}), memory_bytes=32 * 1024**3),
            {},
            ("cpu", "bfloat16", "none"),
            id="a CPU that is fast with bfloat16",
        ),
        pytest.param(
            machine(cpu_features=frozenset({"avx512_bf16"})),
            {},
            ("cpu", "bfloat16", "int8"),
            id="but with little memory",
        ),
        pytest.param(
            machine(cpu_features=frozenset({"avx512_bf16"}), memory_bytes=None),
            {},
            ("cpu", "bfloat16", "none"),
            id="nobody knows the memory",
        ),
        pytest.param(machine(gpu=(7, 5)), {}, ("cuda", "float16", "none"), id="a T4"),
        pytest.param(machine(gpu=(9, 0)), {}, ("cuda", "bfloat16", "none"), id="an H100"),
        pytest.param(machine(gpu=(6, 1)), {}, ("cuda", "float32", "none"), id="an old GPU"),
        pytest.param(machine(gpu=(9, 0)), {"device": "cpu"}, ("cpu", "float32", "int8"), id="a GPU that is not wanted"),
    ],
)
def test_formats_follow_the_machine(found: Machine, given: dict[str, Any], expected: tuple[str, str, str]) -> None:
    choice = choose(found, parameters=FOUR_BILLION, answer_numbers=ANSWER, **given)
    assert (choice.device, choice.dtype, choice.quantization) == expected


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1.9, 1), (2.0, 2), (16.0, 16)])
def test_threads_are_the_whole_cpus_that_are_granted(cpus: float, threads: int) -> None:
    assert choose(machine(cpus=cpus), parameters=FOUR_BILLION, answer_numbers=1).threads == threads


@pytest.mark.parametrize(
    ("gigabytes", "given", "answers"),
    [
        (None, {}, 4),
        (6, {}, 1),
        (8, {}, 2),
        (16, {}, 4),
        (16, {"quantization": "none"}, 4),
        (10, {"quantization": "none"}, 1),
        (18, {"quantization": "none", "stored_bytes": 4}, 1),
        (6, {"concurrent_requests": 8}, 8),
        (6, {"device": "cuda"}, 16),
    ],
)
def test_no_more_answers_at_a_time_than_have_room(gigabytes: int | None, given: dict[str, Any], answers: int) -> None:
    found = machine(memory_bytes=None if gigabytes is None else gigabytes * 1024**3)
    choice = choose(found, parameters=FOUR_BILLION, answer_numbers=ANSWER, **given)
    assert choice.concurrent_requests == answers


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_limits_of_a_control_group_are_found(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        sys__fs__cgroup__cpu_dot_max="50000 100000\n",
        sys__fs__cgroup__memory_dot_max="1048576\n",
        proc__cpuinfo="processor : 0\nflags\t\t: sse avx2\n\nprocessor : 1\n",
    )
    assert read_machine(gpu=None, root=root) == Machine(0.5, frozenset({"sse", "avx2"}), 1048576, None)


def test_without_a_limit_the_machine_is_the_limit(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        sys__fs__cgroup__cpu_dot_max="max 100000\n",
        sys__fs__cgroup__memory_dot_max="max\n",
        proc__meminfo="MemTotal: 1024 kB\n",
    )
    found = read_machine(gpu=None, root=root)
    assert (found.memory_bytes, found.cpu_features) == (1024 * 1024, frozenset())
    assert found.cpus >= 1


@pytest.mark.parametrize(("quota", "cpus"), [("150000", 1.5), ("-1", None)])
def test_the_first_version_of_control_groups_is_understood(tmp_path: Path, quota: str, cpus: float | None) -> None:
    root = write(
        tmp_path,
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us=quota,
        sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000",
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712",
    )
    found = read_machine(gpu=None, root=root)
    unlimited = read_machine(gpu=None, root=tmp_path / "nothing")
    assert found.cpus == min(cpus or unlimited.cpus, unlimited.cpus)
    assert found.memory_bytes is None


def test_the_worker_gets_no_credentials() -> None:
    variables = child_environment({"HF_TOKEN": "x", "HUGGINGFACE_TOKEN": "x", "PATH": "/bin"})
    assert "x" not in variables.values()
    assert (variables["PATH"], variables["HF_HUB_OFFLINE"]) == ("/bin", "1")
