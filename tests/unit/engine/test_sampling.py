"""The next token: from whom it is drawn and how often, as transformers would have it."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from inference_server.engine.qwen.sampling import FEW, Draw, NotFinite, choose

NUMBERS = 200


def logits_of(size: int, seed: int, spread: float) -> Tensor:
    """No two alike: of equals, anyone may be left out."""
    chance = torch.Generator().manual_seed(seed)
    steps = torch.rand(size, generator=chance) + 0.01
    return (steps.cumsum(0) / steps.sum())[torch.randperm(size, generator=chance)] * spread


def expected(logits: Tensor, draw: Draw) -> Tensor:
    """The chance of each token, by transformers."""
    rows, none = logits.double()[None], torch.zeros((1, 0), dtype=torch.long)
    rows = TemperatureLogitsWarper(draw.temperature)(none, rows)
    if draw.top_k:
        rows = TopKLogitsWarper(draw.top_k)(none, rows)
    if draw.top_p < 1:
        rows = TopPLogitsWarper(draw.top_p)(none, rows)
    return torch.softmax(rows[0], dim=0)


def check(logits: Tensor, draw: Draw) -> None:
    """Numbers that lie evenly between 0 and 1 give each token as often as its chance says."""
    drawn = Counter(choose(logits, draw, (number + 0.5) / NUMBERS) for number in range(NUMBERS))
    for token, chance in enumerate(expected(logits, draw).tolist()):
        assert abs(drawn[token] - chance * NUMBERS) < 1.01, (token, drawn[token], chance)


@given(
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    spread=st.floats(0.1, 30),
    draw=st.builds(Draw, st.floats(0.05, 2), st.sampled_from([0.01, 0.5, 0.9, 0.95, 1.0]), st.integers(0, 50)),
)
def test_each_token_is_drawn_as_often_as_its_chance_says(size: int, seed: int, spread: float, draw: Draw) -> None:
    check(logits_of(size, seed, spread), draw)


@pytest.mark.parametrize("spread", [5, 40], ids=["most are needed", "few are needed"])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_of_a_large_vocabulary(spread: float, top_p: float) -> None:
    check(logits_of(4 * FEW, 1, spread), Draw(temperature=1.0, top_p=top_p, top_k=0))


@pytest.mark.parametrize("number", [0.0, 0.3, 1 - 2**-53])
def test_without_temperature_the_likeliest_is_taken_whatever_the_number(number: float) -> None:
    logits = logits_of(50, 2, 1)
    assert choose(logits, Draw(temperature=0, top_p=0.5, top_k=3), number) == int(logits.argmax())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0, 1])
def test_what_is_no_number_is_not_drawn_from(wrong: float, temperature: float) -> None:
    logits = logits_of(50, 3, 1)
    logits[7] = wrong
    with pytest.raises(NotFinite):
        choose(logits, Draw(temperature=temperature, top_p=1, top_k=0), 0.5)


@pytest.mark.parametrize("temperature", [1e-9, 1e-300, 5e-324])
@pytest.mark.parametrize("top_p", [0.95, 1.0])
def test_the_lowest_temperatures_take_the_likeliest(temperature: float, top_p: float) -> None:
    logits = logits_of(50, 4, 20)
    assert choose(logits, Draw(temperature, top_p, top_k=20), 0.999) == int(logits.argmax())
