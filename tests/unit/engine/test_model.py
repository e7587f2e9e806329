"""The forward pass against transformers' own, and answers in company against answers alone."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from inference_server.engine.qwen.attention import attend_each, attend_together
from inference_server.engine.qwen.batch import Answer, Batch
from inference_server.engine.qwen.cache import Cache
from inference_server.engine.qwen.linear import Int8Matrix, Storage
from inference_server.engine.qwen.loading import exact_in_bfloat16, load_weights
from inference_server.engine.qwen.model import Model, TorchModel, new_model
from inference_server.engine.qwen.sampling import Draw
from inference_server.engine.qwen.shape import read_shape
from inference_server.engine.qwen.thinking import Course, Limits, Marks
from inference_server.engine.qwen.writer import Writer
from tests.unit.engine.checkpoints import a_model

CPU = torch.device("cpu")
STORAGES: tuple[Storage, Storage] = ("dense", "int8")
GREEDY = Draw(temperature=0, top_p=1, top_k=0)
SHAPES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "one key for all heads": {"num_key_value_heads": 1},
    "a key for every head": {"num_key_value_heads": 4},
    "heads wider than the model": {"head_dim": 32},
}


def load(folder: Path, storage: Storage = "dense", *, slots: int = 4) -> Model:
    torch.set_num_threads(1)
    shape = read_shape(folder)
    options: dict[str, Any] = {"dtype": torch.float32, "device": CPU}
    weights = load_weights(folder, shape, storage=storage, progress=lambda _: None, **options)
    return new_model(shape, weights, Cache(shape, slots=slots, tokens=512, **options), **options)


def load_for_torch(folder: Path, dtype: torch.dtype) -> TorchModel:
    """As on a GPU, and on a processor that multiplies bfloat16 itself."""
    shape = read_shape(folder)
    options: dict[str, Any] = {"dtype": dtype, "device": CPU}
    weights = load_weights(folder, shape, storage="dense", progress=lambda _: None, **options)
    return TorchModel(shape, weights, Cache(shape, slots=4, tokens=512, **options), **options)


def reference(folder: Path) -> Qwen3ForCausalLM:
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def generate(model: Qwen3ForCausalLM, prompt: Sequence[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, eos_token_id=None
        )
    return out[0, len(prompt) :].tolist()


class Recorder:
    """Stands in for a tokenizer: tells which tokens came."""

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}

    def answer(self, number: int, prompt: list[int], count: int, *, draw: Draw = GREEDY, seed: int = 0) -> Answer:
        return Answer(
            id=number,
            pending=list(prompt),
            course=Course(Marks(frozenset()), Limits(count, 0, ()), thinking=False),
            draw=draw,
            random=random.Random(seed),
            reasoning=None,
            answer=Writer(lambda tokens: "".join(chr(0x4E00 + token) for token in tokens)),
        )

    def run(self, batch: Batch, now: float = 0) -> None:
        outcome = batch.step(now)
        assert outcome.failures == []
        for piece in outcome.pieces:
            self.tokens.setdefault(piece.id, []).extend(ord(letter) - 0x4E00 for letter in piece.text)


@pytest.fixture(params=SHAPES, scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_model(tmp_path_factory.mktemp("model"), **SHAPES[request.param])


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_model(tmp_path_factory.mktemp("model"))


def prompts(count: int, seed: int = 1) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(200) for _ in range(chance.randint(1, 90))] for _ in range(count)]


def test_logits_are_those_of_transformers(folder: Path) -> None:
    model, theirs = load(folder), reference(folder)
    prompt = prompts(1)[0] + list(range(50))
    with torch.inference_mode():
        expected = theirs(torch.tensor([prompt])).logits[0]
    model.fill(2, 0, prompt[:7])
    torch.testing.assert_close(model.fill(2, 7, prompt[7:-1]), expected[-2], rtol=1e-4, atol=1e-4)
    ours = model.advance([2], [len(prompt) - 1], prompt[-1:])
    torch.testing.assert_close(ours[0], expected[-1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-4), (torch.bfloat16, 0.5)])
def test_what_torch_computes_is_what_transformers_does(folder: Path, dtype: torch.dtype, near: float) -> None:
    prompt = prompts(1)[0] + list(range(50))
    theirs = Qwen3ForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        expected = theirs(torch.tensor([prompt])).logits[0, -2:].float()
    model = load_for_torch(folder, dtype)
    model.fill(2, 0, prompt[:7])
    ours = model.fill(2, 7, prompt[7:-1]), model.advance([2], [len(prompt) - 1], prompt[-1:])[0]
    torch.testing.assert_close(torch.stack(ours), expected, rtol=near, atol=near)


def test_all_slots_together_attend_as_each_does_alone(tied: Path) -> None:
    shape, slots, lengths = read_shape(tied), [3, 0, 2], [40, 1, 17]
    layer = torch.randn(4, 2 * shape.key_value_heads, 64, shape.head)
    queries = torch.randn(3, shape.heads, shape.head)
    seen = torch.ones(4, dtype=torch.long)
    seen[slots] = torch.tensor(lengths)
    together = attend_together(queries, layer, torch.tensor(slots), torch.arange(64)[None] < seen[:, None], shape)
    torch.testing.assert_close(together, attend_each(queries, layer, slots, lengths, shape), rtol=1e-4, atol=1e-5)


def test_the_pieces_in_which_a_prompt_comes_change_no_bit(tied: Path) -> None:
    prompt = prompts(1)[0] + list(range(60))
    whole = load(tied).fill(1, 0, prompt)
    for piece in (1, 5, 16, 33):
        model = load(tied)
        for start in range(0, len(prompt), piece):
            logits = model.fill(1, start, prompt[start : start + piece])
        assert torch.equal(logits, whole)


@pytest.mark.parametrize(("slot", "start"), [(4, 0), (0, 511), (-1, 0), (0, -1)])
def test_what_has_no_place_in_the_cache_is_refused(tied: Path, slot: int, start: int) -> None:
    with pytest.raises(IndexError):
        load(tied).fill(slot, start, [1, 2])


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_join_and_leave_at_random_are_those_of_transformers_alone(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    asked = [(prompt, chance.randint(1, 25)) for prompt in prompts(9, seed)]
    theirs = reference(folder)
    recorder, batch = Recorder(), Batch(load(folder), piece_tokens=16)
    arriving = list(enumerate(asked))
    while arriving or batch.busy:
        while arriving and chance.random() < 0.4:
            number, (prompt, count) = arriving.pop()
            batch.add(recorder.answer(number, prompt, count))
        recorder.run(batch)
    for number, (prompt, count) in enumerate(asked):
        assert recorder.tokens[number] == generate(theirs, prompt, count)


@pytest.mark.parametrize("storage", ["dense", "bfloat16", "int8"])
def test_a_seed_gives_the_same_tokens_alone_and_in_company(tied: Path, storage: Storage) -> None:
    drawn = Draw(temperature=1.5, top_p=0.99, top_k=0)
    asked = prompts(6)
    alone: dict[int, list[int]] = {}
    for number, prompt in enumerate(asked):
        recorder, batch = Recorder(), Batch(load(tied, storage), piece_tokens=16)
        batch.add(recorder.answer(number, prompt, 30, draw=drawn, seed=number))
        while batch.busy:
            recorder.run(batch)
        alone |= recorder.tokens
    recorder, batch = Recorder(), Batch(load(tied, storage), piece_tokens=16)
    for number, prompt in reversed(list(enumerate(asked))):
        batch.add(recorder.answer(number, prompt, 30, draw=drawn, seed=number))
        recorder.run(batch)
    while batch.busy:
        recorder.run(batch)
    assert recorder.tokens == alone
    assert len({tuple(tokens) for tokens in alone.values()}) == len(asked)


def test_a_kept_beginning_changes_no_token(tied: Path) -> None:
    beginning, theirs = list(range(40)), reference(tied)
    recorder, batch = Recorder(), Batch(load(tied), piece_tokens=16)
    batch.keep_beginning(beginning)
    asked = [[*beginning, 7, 8], beginning, [*beginning[:20], 99], [5]]
    for number, prompt in enumerate(asked):
        batch.add(recorder.answer(number, prompt, 12))
    while batch.busy:
        recorder.run(batch)
    assert [recorder.tokens[number] for number in range(4)] == [generate(theirs, prompt, 12) for prompt in asked]
    assert batch.stats(0).cached_prompt_tokens == 40 + 39 + 20


def test_the_speed_is_that_of_the_time_in_which_there_was_something_to_do(tied: Path) -> None:
    batch, recorder = Batch(load(tied), piece_tokens=16), Recorder()
    for hour in (1, 2):
        batch.add(recorder.answer(hour, [1, 2, 3], 5))
        began = hour * 3600.0
        recorder.run(batch, began)
        assert batch.stats(began).tokens_per_second == 0
        recorder.run(batch, began + 0.5)
        assert batch.stats(began + 0.5).tokens_per_second == 2
        for step in range(2, 5):
            recorder.run(batch, began + step / 2)
        assert not batch.busy


def test_bfloat16_weights_lose_nothing_as_they_are(tmp_path: Path) -> None:
    folder = a_model(tmp_path, dtype=torch.bfloat16)
    assert exact_in_bfloat16(folder)
    theirs = reference(folder)
    recorder, batch = Recorder(), Batch(load(folder, "bfloat16"), piece_tokens=16)
    asked = prompts(5)
    for number, prompt in enumerate(asked):
        batch.add(recorder.answer(number, prompt, 20))
    while batch.busy:
        recorder.run(batch)
    assert [recorder.tokens[number] for number in range(5)] == [generate(theirs, prompt, 20) for prompt in asked]


def test_torch_multiplies_int8_weights_and_looks_them_up() -> None:
    weight, x = torch.randn(96, 64), torch.randn(5, 64).bfloat16()
    matrix = Int8Matrix(96, 64, device=CPU)
    for begin, end in ((50, 96), (0, 50)):
        matrix.put(begin, weight[begin:end])
    exact, index = x.float() @ weight.t(), torch.tensor([95, 0, 7])
    assert (matrix(x).float() - exact).norm() / exact.norm() < 0.02
    assert (matrix.rows(index).float() - weight[index]).norm() / weight[index].norm() < 0.02


def test_int8_is_near_float32(tied: Path) -> None:
    assert not exact_in_bfloat16(tied)
    prompt = prompts(1)[0]
    exact, near = (load(tied, storage).fill(0, 0, prompt) for storage in STORAGES)
    assert torch.nn.functional.cosine_similarity(exact, near, dim=0) > 0.99
