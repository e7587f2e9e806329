"""The functions of kernels.c against torch's, by each of the libraries that this machine can run."""

import platform
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from inference_server.engine.qwen import kernels
from inference_server.engine.qwen.kernels import PackedWeight, Storage
from inference_server.engine.qwen.shape import Shape
from inference_server.termination import StartupError

STORAGES: tuple[Storage, ...] = ("float32", "bfloat16", "int8")
AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})


@pytest.fixture(params=["what this processor has", "nothing special"], autouse=True)
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "nothing special":
            patch.setattr(kernels, "cpu_features", frozenset)
        kernels._library.cache_clear()
        kernels.set_threads(3)
        yield
        kernels.set_threads(1)
        kernels._library.cache_clear()


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Such as bfloat16 holds, so that every storage but int8 is exact."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def packed(weight: Tensor, storage: Storage) -> PackedWeight:
    matrix = PackedWeight(*weight.shape, storage)
    matrix.put(0, weight)
    return matrix


def stored(weight: Tensor, storage: Storage) -> Tensor:
    """What is left of a weight."""
    if storage != "int8":
        return weight
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return (weight / scale).round() * scale


@pytest.mark.parametrize(
    ("machine", "features", "name"),
    [
        ("x86_64", AVX2 | {"avx512f"}, "kernels-x86_64_v3.so"),
        ("x86_64", AVX2 - {"fma"}, "kernels-x86_64.so"),
        ("aarch64", frozenset({"asimd"}), "kernels-aarch64.so"),
    ],
)
def test_a_processor_gets_what_it_can_run(machine: str, features: frozenset[str], name: str) -> None:
    assert kernels.library_name(machine, features) == name


def test_a_processor_without_a_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    kernels._library.cache_clear()
    with pytest.raises(StartupError, match=r"kernels-riscv64\.so") as caught:
        kernels.set_threads(1)
    assert caught.value.reason == "ModeNotSupported"


@pytest.mark.parametrize("storage", STORAGES)
@given(
    tokens=st.integers(1, 40),
    rows=st.one_of(st.integers(1, 70), st.just(1000)),
    columns=st.one_of(st.integers(1, 20), st.integers(60, 140)),
)
@settings(max_examples=60, deadline=None)
def test_a_product_is_that_of_torch(storage: Storage, tokens: int, rows: int, columns: int) -> None:
    weight, x = numbers(rows, columns), numbers(tokens, columns, seed=1)
    expected = x @ stored(weight, storage).t()
    torch.testing.assert_close(packed(weight, storage)(x), expected, rtol=1e-4, atol=1e-4 * columns**0.5)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_row_has_the_same_bits_in_any_company_and_by_any_number_of_threads(storage: Storage) -> None:
    matrix, x = packed(numbers(333, 200), storage), numbers(40, 200, seed=1)
    alone = torch.cat([matrix(row[None]) for row in x])
    for threads in (1, 2, 5):
        kernels.set_threads(threads)
        for count in range(1, 41):
            assert torch.equal(matrix(x[:count]), alone[:count])


@pytest.mark.parametrize("storage", STORAGES)
def test_a_weight_is_filled_in_any_order_and_from_either_format(storage: Storage) -> None:
    weight, x = numbers(100, 24), numbers(6, 24, seed=1)
    matrix = PackedWeight(100, 24, storage)
    for begin, end in ((37, 90), (0, 37), (99, 100), (90, 99)):
        block = weight[begin:end]
        matrix.put(begin, block.bfloat16() if begin % 2 else block)
    assert torch.equal(matrix(x), packed(weight, storage)(x))


@pytest.mark.parametrize("storage", STORAGES)
def test_rows_are_looked_up(storage: Storage) -> None:
    weight = numbers(100, 24)
    matrix, index = packed(weight, storage), torch.tensor([99, 0, 17, 17, 31])
    torch.testing.assert_close(matrix.rows(index), stored(weight, storage)[index])
    assert matrix.rows(torch.tensor([], dtype=torch.long)).shape == (0, 24)
    for outside in ([3, 100], [-1, 3]):
        with pytest.raises(IndexError):
            matrix.rows(torch.tensor(outside))


def test_what_does_not_fit_is_refused() -> None:
    matrix = packed(numbers(16, 24), "float32")
    for wrong in (numbers(2, 23), numbers(2, 24).double()):
        with pytest.raises(ValueError, match="each column"):
            matrix(wrong)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_an_int8_row_that_is_not_numbers_gives_none(broken: float) -> None:
    weight = numbers(40, 24)
    weight[20, 3] = broken
    result = packed(weight, "int8")(numbers(2, 24, seed=1))
    assert torch.isnan(result[:, 20]).all()
    assert torch.isfinite(result[:, :20]).all()
    assert torch.isfinite(result[:, 21:]).all()


@pytest.mark.parametrize("tokens", [1, 4, 40])
def test_an_int8_weight_does_not_mind_an_outlier_among_the_activations(tokens: int) -> None:
    weight, x = numbers(96, 64), numbers(tokens, 64, seed=1)
    x[:, 5] *= 100
    exact = x @ weight.t()
    assert (packed(weight, "int8")(x) - exact).norm() / exact.norm() < 0.01


@given(rows=st.integers(1, 20), size=st.integers(1, 100))
@settings(max_examples=40, deadline=None)
def test_norms_and_gates_are_those_of_torch(rows: int, size: int) -> None:
    x, weight = numbers(rows, size), numbers(size, seed=1)
    torch.testing.assert_close(kernels.norm(x, weight, 1e-6), functional.rms_norm(x, (size,), weight, 1e-6))
    both = torch.cat((x * 20, numbers(rows, size, seed=2)), dim=1)
    expected = functional.silu(both[:, :size]) * both[:, size:]
    torch.testing.assert_close(kernels.gate(both), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [0x7FC00001, 0x7FFFFFFF])
def test_what_is_not_a_number_stays_so(bits: int) -> None:
    shape = Shape(1, 8, 8, 1, 1, 16, 8, 4, 1e-6, 1e4, True)
    x = numbers(2, 3 * 16)
    x[1] = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    layer, index, ones = torch.zeros(2, 2, 4, 16), torch.tensor([0, 1]), torch.ones(4, 16)
    found = kernels.attend(x, layer, index, torch.tensor([0, 0]), ones[:2], (ones, ones), shape)
    assert torch.isfinite(found[0]).all()
    assert torch.isnan(found[1]).all()
    assert torch.isnan(kernels.gate(x[1:])).all()


@given(
    key_value_heads=st.integers(1, 3),
    group=st.integers(1, 9),
    half=st.integers(1, 40),
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_attention_is_that_of_torch(key_value_heads: int, group: int, half: int, lengths: list[int]) -> None:
    heads, head = key_value_heads * group, 2 * half
    shape = Shape(1, 8, 8, heads, key_value_heads, head, 8, 100, 1e-6, 1e4, True)
    tokens, slots = len(lengths), list(range(len(lengths)))[::-1]
    layer = numbers(tokens, 2 * key_value_heads, 100, head)
    qkv = numbers(tokens, (heads + 2 * key_value_heads) * head, seed=1)
    norm = numbers(heads + key_value_heads, head, seed=2)
    cosines, sines = numbers(100, head, seed=3), numbers(100, head, seed=4)
    expected, cached = [], layer.clone()
    for token, (slot, length) in enumerate(zip(slots, lengths, strict=True)):
        each = qkv[token].view(-1, head)
        turned = functional.rms_norm(each[: heads + key_value_heads], (head,), None, 1e-6) * norm
        swapped = torch.cat((turned[:, half:], turned[:, :half]), dim=1)
        turned = turned * cosines[length - 1] + swapped * sines[length - 1]
        cached[slot, :key_value_heads, length - 1] = turned[heads:]
        cached[slot, key_value_heads:, length - 1] = each[heads + key_value_heads :]
        keys, values = cached[slot, :key_value_heads, :length], cached[slot, key_value_heads:, :length]
        grouped = turned[:heads].view(key_value_heads, group, head)
        expected.append(functional.scaled_dot_product_attention(grouped, keys, values).reshape(-1))
    places = torch.tensor(lengths) - 1
    found = kernels.attend(qkv, layer, torch.tensor(slots), places, norm, (cosines, sines), shape)
    torch.testing.assert_close(found, torch.stack(expected), rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(layer, cached, rtol=1e-5, atol=1e-5)
