"""What being whole and checked costs: `fetch` beside a plain download, and beside plain writing, of the same bytes.

    python -m bench.fetch_throughput --megabytes 400 --rounds 5

A stand-in for the Hub (tests/hub) serves a model on loopback. docs/model-cache.md tells how to read the table.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import http_stream_backoff

from bench.planes import ROOT, failures_told, results_folder
from bench.tables import aligned
from inference_server.fetch.hub import Source, list_files, read
from inference_server.fetch.plan import Plan, find_index, plan_download
from tests.cluster.steps import Failure, say

REPOSITORY = "tiny/large"
PIECE = os.urandom(1024 * 1024)


@dataclass
class Round:
    """Seconds for all bytes. `start`: from the command to the Hub's answer; it is not in `fetch`."""

    plain: float
    written: float
    fetch: float
    start: float


@contextmanager
def a_hub_process(large: int, line: float | None) -> Iterator[str]:
    """Its address. A process of its own, so that it does not share an interpreter with who downloads from it."""
    command = [sys.executable, "-m", "tests.hub", "--large", str(large), *(("--line", str(line)) if line else ())]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said:
                raise Failure("the stand-in for the Hub did not start")
            yield json.loads(said)["url"]
        finally:
            process.terminate()


def plain(url: str, commit: str, plan: Plan, folder: Path) -> float:
    """One file after the other by the same client; nothing is checked, nothing written out."""
    began = time.monotonic()
    for file in plan.files:
        address = hf_hub_url(REPOSITORY, file.path, revision=commit, endpoint=url)
        with (
            http_stream_backoff("GET", address, headers={"Accept-Encoding": "identity"}) as response,
            (folder / file.path).open("wb") as output,
        ):
            response.raise_for_status()
            for chunk in response.iter_bytes():
                output.write(chunk)
    return time.monotonic() - began


def written(plan: Plan, folder: Path) -> float:
    """As many bytes onto the same disk, each file written out at its end."""
    began = time.monotonic()
    for file in plan.files:
        with (folder / file.path).open("wb", buffering=0) as output:
            for at in range(0, file.size, len(PIECE)):
                output.write(PIECE[: file.size - at])
            os.fsync(output.fileno())
    return time.monotonic() - began


def fetch(url: str, folder: Path) -> tuple[float, float]:
    """The command. Returns the seconds until it knows what to bring, and from there until the model is ready."""
    variables = {"PATH": os.environ["PATH"], "HF_ENDPOINT": url, "MODEL_REPOSITORY": REPOSITORY}
    began = time.monotonic()
    at = {"resolved": began, "ready": began}
    with subprocess.Popen(
        [sys.executable, "-m", "inference_server", "fetch"],
        cwd=folder,
        env={**variables, "MODEL_CACHE_DIR": str(folder / "cache"), "TERMINATION_LOG_PATH": str(folder / "none")},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            at[json.loads(line)["event"]] = time.monotonic()
    if process.returncode:
        raise Failure(f"the fetch failed: {line}")
    return at["resolved"] - began, at["ready"] - at["resolved"]


def measure(arguments: argparse.Namespace, url: str, scratch: Path) -> tuple[list[Round], Plan]:
    """The three in turn, each in an empty folder."""
    commit, files = list_files(endpoint=url, token=None, repository=REPOSITORY, revision="main")
    index = find_index(REPOSITORY, files)
    source = Source(url, None, REPOSITORY, commit)
    plan = plan_download(REPOSITORY, files, read(index, source) if index else None)
    rounds = []
    for number in range(arguments.rounds):
        with _empty(scratch) as folder:
            plain_seconds = plain(url, commit, plan, folder)
        with _empty(scratch) as folder:
            written_seconds = written(plan, folder)
        with _empty(scratch) as folder:
            start, seconds = fetch(url, folder)
        rounds.append(Round(plain_seconds, written_seconds, seconds, start))
        say(
            f"  round {number + 1} of {arguments.rounds}: plain {plain_seconds:.2f} s, "
            f"written {written_seconds:.2f} s, fetch {seconds:.2f} s after {start:.2f} s"
        )
    return rounds, plan


@contextmanager
def _empty(scratch: Path) -> Iterator[Path]:
    # What an earlier one left in memory is not for this one to write.
    os.sync()
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


def table(rounds: Sequence[Round], size: int) -> str:
    """Medians, and from the slowest to the fastest round."""
    rows = [("way", "MB/s", "slowest to fastest", "fetch takes")]
    ours = [one.fetch for one in rounds]
    for way, seconds in (
        ("plain download", [one.plain for one in rounds]),
        ("write and fsync", [one.written for one in rounds]),
        ("fetch", ours),
    ):
        rates = [size / 1e6 / one for one in seconds]
        # Of each round's own ratio: what slowed the whole machine down for a while slowed down both.
        ratio = statistics.median(our / other for our, other in zip(ours, seconds, strict=True))
        times = f"{ratio:.2f} times as long" if seconds is not ours else ""
        rows.append((way, f"{statistics.median(rates):.0f}", f"{min(rates):.0f} to {max(rates):.0f}", times))
    return aligned(rows)


def main(words: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400, help="size of the model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--line", type=float, metavar="MB", help="the Hub sends no more in a second; default: all it can"
    )
    parser.add_argument("--folder", type=Path, help="an existing folder on the disk to measure; default: .local/bench")
    arguments = parser.parse_args(words)
    results = results_folder()
    parent = (arguments.folder or results).resolve()
    with failures_told(results), tempfile.TemporaryDirectory(dir=parent) as scratch:
        say(f"==> {arguments.megabytes} MB to {parent}")
        line = arguments.line and arguments.line * 1e6
        with a_hub_process(arguments.megabytes * 1_000_000, line) as url:
            rounds, plan = measure(arguments, url, Path(scratch) / "round")
    print(table(rounds, plan.total_bytes))
    print(f"fetch starts for {statistics.median(one.start for one in rounds):.1f} s before that")
    path = results / "fetch_throughput.json"
    figures = {
        "megabytes": arguments.megabytes,
        "line": arguments.line,
        "folder": str(parent),
        "bytes": plan.total_bytes,
        "rounds": [asdict(one) for one in rounds],
    }
    path.write_text(json.dumps(figures, indent=2))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
