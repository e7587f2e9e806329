"""How long the server takes from its start until it is ready, its model in the cache, beside reading the files once.

    python -m bench.start_time
    python -m bench.start_time --hidden 2048 --layers 14      # about 1 billion parameters

The server is the process that a pod runs, its libraries compiled to bytecode as in the image; what the cluster needs to
start one comes on top. Files are read by plain sequential reads, the least that any server must do. `cold`: the pages
of the files are dropped from memory first, as on a node that never saw the model; that takes root. The parts of a start
are told by the server's own log.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import serving
from bench.tables import aligned
from inference_server.fetch.ready import Ready, ReadyFile, dump_ready
from tests.cluster.steps import say
from tests.hub.tokenizer import tokenizer_files

_PIECE = 16 * 1024 * 1024
_BYTECODE = Path(".local/bench/bytecode").resolve()
_DROP = Path("/proc/sys/vm/drop_caches")
COMMIT = "0" * 40
# As many tokens as the default has by Qwen3's tokenizer: by the tiny one every letter is a token.
_SYSTEM_PROMPT = "Be brief. " * 42


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--qwen3-4b", action="store_true", help="the shape of Qwen3-4B: 8 GB")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="start-time-") as scratch:
        folder = Path(scratch)
        say("==> Model")
        size = _write_model(folder, arguments)
        head = (
            "read once, s",
            "ready, s",
            "libraries, s",
            "loaded, s",
            "warm-up, s",
            "a mock ready, s",
            "peak MiB, of weights",
        )
        rows: list[Sequence[str]] = [("pages", *head)]
        # The first start compiles what it imports.
        _until_ready(folder)
        for pages in ("cold", "warm"):
            if pages == "cold" and not os.access(_DROP, os.W_OK):
                say("cold: NOT MEASURED, only root may drop pages")
                continue
            rows.append((pages, *_measured(folder, arguments.rounds, cold=pages == "cold")))
        print(f"{size / 1e6:.0f} MB of weights\n\n{aligned(rows)}")


@dataclass(frozen=True)
class Start:
    """Seconds from the start until the model was loaded, and until the server was ready."""

    loaded: float
    ready: float
    # The most memory that all the server's processes ever had resident, added up.
    peak_bytes: int


def _measured(folder: Path, rounds: int, *, cold: bool) -> tuple[str, ...]:
    """Medians over the rounds, in each of which all ways take their turn."""
    read: list[float] = []
    libraries: list[float] = []
    starts: list[Start] = []
    mock: list[float] = []
    for number in range(rounds):
        for step in (
            lambda: read.append(_read_all(folder)),
            lambda: libraries.append(_import_libraries()),
            lambda: starts.append(_until_ready(folder)),
            lambda: mock.append(_until_a_mock_is_ready()),
        ):
            if cold:
                os.sync()
                _DROP.write_text("1")
            step()
        say(f"round {number + 1}: read {read[-1]:.1f} s, ready {starts[-1].ready:.1f} s, mock ready {mock[-1]:.1f} s")
    parts = (
        [start.ready for start in starts],
        libraries,
        [start.loaded for start in starts],
        [start.ready - start.loaded for start in starts],
    )
    peak = statistics.median(start.peak_bytes for start in starts)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return (
        f"{statistics.median(read):.1f}",
        *(f"{statistics.median(part):.1f}" for part in parts),
        f"{statistics.median(mock):.1f}",
        f"{peak / 2**20:.0f}, {peak / weights:.2f}",
    )


def _read_all(folder: Path) -> float:
    began = time.monotonic()
    for file in sorted(folder.iterdir()):
        with file.open("rb", buffering=0) as stream:
            while stream.read(_PIECE):
                pass
    return time.monotonic() - began


def _import_libraries() -> float:
    """What the process that computes imports before it looks at the model: torch above all, not yet transformers."""
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "import inference_server.engine.qwen.worker"], env=_environment({}), check=True
    )
    return time.monotonic() - began


def _until_ready(folder: Path) -> Start:
    began = time.monotonic()
    settings = {"LLM_MODE": "qwen", "MODEL_PATH": str(folder), "SYSTEM_PROMPT": _SYSTEM_PROMPT}
    with _server(settings) as (process, port):
        loaded = 0.0
        for record in _records(process):
            if record.get("phase") == "warming":
                loaded = time.monotonic() - began
            if record.get("phase") == "ready":
                break
        _wait_until_ready(port)
        return Start(loaded, time.monotonic() - began, _peak_bytes(process.pid))


def _until_a_mock_is_ready() -> float:
    began = time.monotonic()
    with _server({"LLM_MODE": "mock"}) as (_, port):
        _wait_until_ready(port)
        return time.monotonic() - began


def _environment(settings: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | settings | {"PYTHONPYCACHEPREFIX": str(_BYTECODE)}


@contextmanager
def _server(settings: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A server that listens, and its port."""
    settings |= {"LISTEN_HOST": "127.0.0.1", "LISTEN_PORT": "0", "DRAIN_GRACE_SECONDS": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "inference_server"], env=_environment(settings), stdout=subprocess.PIPE
    )
    try:
        yield process, next(int(record["port"]) for record in _records(process) if record["event"] == "listening")
    finally:
        process.terminate()
        process.communicate()


def _records(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The lines of the server's log."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    raise AssertionError("the server ended")


def _wait_until_ready(port: int) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.02)


def _peak_bytes(pid: int) -> int:
    """Of a process and its children, the most that was ever resident."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(
        1024 * int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{one}/status").read_text())[1])  # type: ignore[index]
        for one in (pid, *children)
    )


def _write_model(folder: Path, arguments: argparse.Namespace) -> int:
    """A whole model with random weights; returns the bytes of the weights."""
    serving.a_model(folder, arguments)
    for name, content in tokenizer_files().items():
        (folder / name).write_bytes(content)
    files = {path.name: ReadyFile(path.stat().st_size, "0" * 64) for path in folder.iterdir()}
    size = sum(file.size for name, file in files.items() if name.endswith(".safetensors"))
    (folder / "READY.json").write_text(dump_ready(Ready("bench/random", COMMIT, files, size)))
    return size


if __name__ == "__main__":
    main()
