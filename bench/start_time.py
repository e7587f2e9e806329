"""How long the server takes from its start until it is ready, its model in the cache, beside reading the files once.

    python -m bench.start_time
    python -m bench.start_time --hidden 2048 --layers 14      # about 1 billion parameters

The server is the process that a pod runs; what the cluster needs to start one comes on top. Files are read by plain
sequential reads, the least that any server must do. `cold`: the pages of the files are dropped from memory first, as
on a node that never saw the model; that takes root.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import serving
from bench.tables import aligned
from inference_server.fetch.ready import Ready, ReadyFile, dump_ready
from tests.cluster.steps import say
from tests.hub.tokenizer import tokenizer_files

_PIECE = 16 * 1024 * 1024
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
        rows: list[Sequence[str]] = [("pages", "read once, s", "ready, s", "a mock ready, s", "ready over read")]
        for pages in ("cold", "warm"):
            if pages == "cold" and not os.access(_DROP, os.W_OK):
                say("cold: NOT MEASURED, only root may drop pages")
                continue
            rows.append((pages, *_measured(folder, arguments.rounds, cold=pages == "cold")))
        print(f"{size / 1e6:.0f} MB of weights\n\n{aligned(rows)}")


def _measured(folder: Path, rounds: int, *, cold: bool) -> tuple[str, ...]:
    """Medians over the rounds, in each of which all ways take their turn."""
    read: list[float] = []
    ready: list[float] = []
    mock: list[float] = []
    for number in range(rounds):
        for ways, found in ((_read_all, read), (_until_ready, ready), (_until_a_mock_is_ready, mock)):
            if cold:
                os.sync()
                _DROP.write_text("1")
            found.append(ways(folder))
        say(f"round {number + 1}: read {read[-1]:.1f} s, ready {ready[-1]:.1f} s, mock ready {mock[-1]:.1f} s")
    middle = [statistics.median(times) for times in (read, ready, mock)]
    return (*(f"{one:.1f}" for one in middle), f"{middle[1] / middle[0]:.1f}")


def _read_all(folder: Path) -> float:
    began = time.monotonic()
    for file in sorted(folder.iterdir()):
        with file.open("rb", buffering=0) as stream:
            while stream.read(_PIECE):
                pass
    return time.monotonic() - began


def _until_ready(folder: Path) -> float:
    return _started({"LLM_MODE": "qwen", "MODEL_PATH": str(folder), "SYSTEM_PROMPT": _SYSTEM_PROMPT})


def _until_a_mock_is_ready(_: Path) -> float:
    return _started({"LLM_MODE": "mock"})


def _started(settings: dict[str, str]) -> float:
    began = time.monotonic()
    with _server(settings) as is_ready:
        while not is_ready():
            time.sleep(0.02)
        return time.monotonic() - began


@contextmanager
def _server(settings: dict[str, str]) -> Iterator[Callable[[], bool]]:
    environment = os.environ | settings | {"LISTEN_HOST": "127.0.0.1", "LISTEN_PORT": "0", "DRAIN_GRACE_SECONDS": "0"}
    process = subprocess.Popen([sys.executable, "-m", "inference_server"], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = _port(process.stdout)

        def is_ready() -> bool:
            assert process.poll() is None, "the server ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        yield is_ready
    finally:
        process.terminate()
        process.communicate()


def _port(lines: Iterator[bytes]) -> int:
    for line in lines:
        record = json.loads(line)
        if record["event"] == "listening":
            return int(record["port"])
    raise AssertionError("the server did not start")


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
