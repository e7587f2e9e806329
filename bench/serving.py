"""How fast the engine generates, beside transformers' own `generate` in the same process and minute.

    python -m bench.serving --vocabulary 8192 --streams 1 4
    python -m bench.serving --vocabulary 151936 --rounds 3
    python -m bench.serving --device cuda --qwen3-4b --streams 1 8 --prompt 512 --tokens 512    # NOT RUN by anybody yet

The model is Qwen3 with random weights, written to disk first, so that loading is measured too. Every number is a median
over rounds, in each of which all ways take their turn: what slows down the machine slows down all of them.
docs/performance.md tells how to read the table.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from bench.planes import failures_told, results_folder
from bench.tables import aligned
from inference_server.engine.qwen import kernels
from inference_server.engine.qwen.batch import Answer, Batch
from inference_server.engine.qwen.cache import Cache
from inference_server.engine.qwen.linear import Storage
from inference_server.engine.qwen.loading import load_weights
from inference_server.engine.qwen.model import new_model
from inference_server.engine.qwen.sampling import Draw
from inference_server.engine.qwen.shape import Shape, read_shape
from inference_server.engine.qwen.thinking import Course, Limits, Marks
from inference_server.engine.qwen.writer import Writer
from tests.cluster.steps import say

_READ_BYTES = 1024 * 1024 * 1024
_PIECE_TOKENS = 16
# Bytes of a weight. `dense` is what the device computes in.
_WIDTHS: dict[str, dict[Storage, int]] = {"cpu": {"dense": 4, "bfloat16": 2, "int8": 1}, "cuda": {"dense": 2}}
_DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}
# Of one thread, CPU seconds are what it would take alone, but for the memory that others read meanwhile.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]


@dataclass(frozen=True)
class Run:
    """Of one way in one round. Seconds; `tokens_per_second` of all streams together, without the prompts."""

    tokens_per_second: float
    first_token: float
    gaps: tuple[float, ...] = ()


def a_model(folder: Path, arguments: argparse.Namespace) -> Shape:
    torch.manual_seed(0)
    hidden, layers, vocabulary = arguments.hidden, arguments.layers, arguments.vocabulary
    inner, heads, key_value_heads = 3 * hidden, hidden // 64, hidden // 128
    if arguments.qwen3_4b:
        hidden, layers, vocabulary, inner, heads, key_value_heads = 2560, 36, 151_936, 9728, 32, 8
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=128,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6},
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return read_shape(folder)


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second that the device can read from its memory: the best of a few passes over a gigabyte.

    On a CPU torch's sum is not the fastest reader, so our own kernel may set the limit that we are measured by.
    """
    numbers = torch.ones(_READ_BYTES // 4, device=device)
    ways: list[Callable[[], Any]] = [numbers.sum]
    if device.type == "cpu":
        table, x = numbers.view(-1, 2048), torch.ones(1, 2048)
        packed = kernels.PackedWeight(len(table), 2048, "float32")
        packed.put(0, table)
        ways.append(lambda: packed(x))
    return max(_READ_BYTES / _seconds(way) for _ in range(5) for way in ways)


class Generate:
    """transformers: prompts of one length, from the first step to the last together."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        dtype = _DTYPES[device.type]
        self._model = Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()

    def run(self, prompts: Sequence[list[int]], tokens: int) -> Run:
        ids = torch.tensor(prompts, device=self._model.device)
        options: dict[str, Any] = {
            "attention_mask": torch.ones_like(ids),
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        with torch.inference_mode():
            first = _seconds(lambda: self._model.generate(ids, max_new_tokens=1, **options))
            whole = _seconds(lambda: self._model.generate(ids, max_new_tokens=tokens, **options))
        return Run(len(prompts) * (tokens - 1) / (whole - first), first)


class Engine:
    """Ours, as the worker runs it, without the pipe to the server."""

    def __init__(self, folder: Path, device: torch.device, *, storage: Storage, slots: int) -> None:
        shape, options = read_shape(folder), {"dtype": _DTYPES[device.type], "device": device}
        began = clock()
        weights = load_weights(folder, shape, storage=storage, progress=lambda _: None, **options)  # type: ignore[arg-type]
        self.load_seconds = clock() - began
        cache = Cache(shape, slots=slots, tokens=2048, **options)  # type: ignore[arg-type]
        self._model = new_model(shape, weights, cache, **options)  # type: ignore[arg-type]

    def run(self, prompts: Sequence[list[int]], tokens: int) -> Run:
        batch = Batch(self._model, piece_tokens=_PIECE_TOKENS)
        for number, prompt in enumerate(prompts):
            batch.add(_answer(number, prompt, tokens))
        began = clock()
        times: dict[int, list[float]] = {number: [] for number in range(len(prompts))}
        while batch.busy:
            outcome = batch.step(0)
            assert not outcome.failures
            now = clock()
            for piece in outcome.pieces:
                times[piece.id].append(now)
        # Together all run from the last one's first token to the first one's last.
        together = [max(one[0] for one in times.values()), min(one[-1] for one in times.values())]
        inside = sum(together[0] < at <= together[1] for one in times.values() for at in one)
        gaps = [after - before for one in times.values() for before, after in pairwise(one)]
        return Run(inside / (together[1] - together[0]), times[0][0] - began, tuple(gaps))


def _answer(number: int, prompt: list[int], tokens: int) -> Answer:
    return Answer(
        id=number,
        pending=list(prompt),
        course=Course(Marks(frozenset()), Limits(tokens, 0, ()), thinking=False),
        draw=Draw(temperature=0.6, top_p=0.95, top_k=20),
        random=random.Random(number),
        reasoning=None,
        answer=Writer(lambda some: " ".join(map(str, some))),
    )


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, list[Run]], list[float]]:
    chance = random.Random(0)
    most, device = max(arguments.streams), torch.device(arguments.device)
    prompts = [[chance.randrange(1000) for _ in range(arguments.prompt)] for _ in range(most)]
    wanted = arguments.ways or ["generate", *_WIDTHS[device.type]]
    generate = {"generate": Generate(folder, device)} if "generate" in wanted else {}
    engines = {
        storage: Engine(folder, device, storage=storage, slots=most)
        for storage in _WIDTHS[device.type]
        if storage in wanted
    }
    say("loaded in " + ", ".join(f"{engine.load_seconds:.1f} s ({name})" for name, engine in engines.items()))
    ways: dict[str, Callable[[int], Run]] = {}
    for streams in arguments.streams:
        some = prompts[:streams]
        for name, way in {**generate, **engines}.items():
            ways[f"{name}, {streams}"] = lambda tokens, way=way, some=some: way.run(some, tokens)  # type: ignore[misc]
    for run in ways.values():
        run(3)
    found: dict[str, list[Run]] = {name: [] for name in ways}
    bandwidths = []
    for number in range(arguments.rounds):
        bandwidths.append(read_bandwidth(device))
        for name, run in ways.items():
            found[name].append(run(arguments.tokens))
        say(f"  round {number + 1} of {arguments.rounds}: {bandwidths[-1] / 1e9:.1f} GB/s read")
    return found, bandwidths


def table(found: dict[str, list[Run]], bandwidths: Sequence[float], shape: Shape, device: str) -> str:
    head = ("way, streams", "tokens/s", "lowest to highest", "of generate", "of one stream", "of read", "first, ms")
    rows = [(*head, "gap p50, ms", "gap p95, ms")]
    for name, runs in found.items():
        way, streams = name.rsplit(", ", 1)
        rates, theirs = [run.tokens_per_second for run in runs], found.get(f"generate, {streams}")
        gaps = [gap * 1000 for run in runs for gap in run.gaps]
        width = _WIDTHS[device]["dense" if way == "generate" else way]  # type: ignore[index]
        reads = [rate / int(streams) * shape.step_parameters * width for rate in rates]
        rows.append(
            (
                name,
                f"{statistics.median(rates):.1f}",
                f"{min(rates):.1f} to {max(rates):.1f}",
                f"{_ratio(rates, [run.tokens_per_second for run in theirs]):.2f}" if theirs else "",
                f"{_ratio(rates, [run.tokens_per_second for run in found.get(f'{way}, 1', runs)]):.2f}",
                f"{_ratio(reads, bandwidths):.2f}",
                f"{statistics.median(run.first_token for run in runs) * 1000:.0f}",
                f"{statistics.median(gaps):.1f}" if gaps else "",
                f"{statistics.quantiles(gaps, n=20)[-1]:.1f}" if gaps else "",
            )
        )
    return aligned(rows)


def _ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """The median of each round's own ratio."""
    return statistics.median(our / other for our, other in zip(ours, others, strict=True))


def _seconds(work: Callable[[], Any]) -> float:
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


@contextmanager
def _model_folder(arguments: argparse.Namespace) -> Iterator[tuple[Path, Shape]]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name), a_model(Path(name), arguments)


def main(words: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=14)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--qwen3-4b", action="store_true", help="the shape of Qwen3-4B: 8 GB in bfloat16")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    ways = ("generate", *_WIDTHS["cpu"])
    parser.add_argument("--ways", nargs="+", choices=ways, help="default: all; on a GPU generate and dense")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    arguments = parser.parse_args(words)
    global clock
    clock = CLOCKS[arguments.clock]
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    kernels.set_threads(arguments.threads)
    results = results_folder()
    with failures_told(results), _model_folder(arguments) as (folder, shape):
        millions = shape.step_parameters / 1e6
        say(f"==> {millions:.0f} million parameters a step, vocabulary {shape.vocabulary}, {arguments.threads} threads")
        found, bandwidths = measure(arguments, folder)
    print(table(found, bandwidths, shape, arguments.device))
    path = results / "serving.json"
    runs = {name: [asdict(run) for run in some] for name, some in found.items()}
    path.write_text(json.dumps({"arguments": vars(arguments), "read": bandwidths, "runs": runs}, indent=2))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
