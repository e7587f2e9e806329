"""Files that are not what they should be, and the memory that loading needs."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3ForCausalLM

from inference_server.engine.qwen.loading import Weights, load_weights
from inference_server.engine.qwen.shape import read_shape
from inference_server.termination import StartupError
from tests.unit.engine.checkpoints import a_model, save


def load(folder: Path, progress: Callable[[float], None] = lambda _: None) -> Weights:
    shape = read_shape(folder)
    cpu = torch.device("cpu")
    return load_weights(folder, shape, dtype=torch.float32, device=cpu, storage="dense", progress=progress)


def without_a_tensor(folder: Path) -> None:
    change_header(folder, lambda header: header.pop("model.norm.weight"))


def of_another_format(folder: Path) -> None:
    change_header(folder, lambda header: header["model.norm.weight"].update(dtype="I32"))


def with_a_wrong_length(folder: Path) -> None:
    change_header(folder, lambda header: header["model.norm.weight"].update(shape=[1]))


def change_header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    change(header)
    path.write_bytes(
        struct.pack("<Q", size) + json.dumps(header, separators=(",", ":")).encode().ljust(size) + content[8 + size :]
    )


def cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def torn(folder: Path) -> None:
    (folder / "model.safetensors").write_text("torn")


def gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def without_a_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def change_config(**over: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | over))

    return change


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        pytest.param(without_a_tensor, "ModelCorrupt", id="a tensor is missing"),
        pytest.param(with_a_wrong_length, "ModelCorrupt", id="a length is wrong"),
        pytest.param(cut_off, "ModelCorrupt", id="the end is missing"),
        pytest.param(torn, "ModelCorrupt", id="no header"),
        pytest.param(gone, "ModelCorrupt", id="no file"),
        pytest.param(change_config(intermediate_size=95), "ModelCorrupt", id="shapes differ from config.json"),
        pytest.param(of_another_format, "ModelNotSupported", id="a number format of later"),
        pytest.param(without_a_configuration, "ModelNotSupported", id="no configuration"),
        pytest.param(change_config(architectures=None), "ModelNotSupported", id="no architecture"),
        pytest.param(change_config(num_hidden_layers=None), "ModelNotSupported", id="no number of layers"),
        pytest.param(change_config(num_key_value_heads=3), "ModelNotSupported", id="heads that share unevenly"),
        pytest.param(change_config(head_dim=15), "ModelNotSupported", id="a head that has no halves"),
        pytest.param(change_config(intermediate_size=0), "ModelNotSupported", id="nothing inside"),
        pytest.param(change_config(use_sliding_window=True), "ModelNotSupported", id="a sliding window"),
        pytest.param(
            change_config(rope_parameters={"rope_type": "yarn"}), "ModelNotSupported", id="positions that are scaled"
        ),
        pytest.param(
            change_config(rope_parameters=None, rope_scaling={"type": "linear"}), "ModelNotSupported", id="old"
        ),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(
    tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    folder = a_model(tmp_path)
    harm(folder)
    with pytest.raises(StartupError) as caught:
        load(folder)
    assert caught.value.reason == reason


def test_a_model_in_several_files_is_the_same_and_progress_grows(tmp_path: Path) -> None:
    whole, parts = a_model(tmp_path / "whole"), tmp_path / "parts"
    save(Qwen3ForCausalLM.from_pretrained(whole), parts, thinks=True, shards="100KB")
    assert len(list(parts.glob("*.safetensors"))) > 2
    shares: list[float] = []
    one, other = load(whole), load(parts, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1
    index = torch.arange(200)
    assert torch.equal(one.embedding.rows(index), other.embedding.rows(index))
    for ours, theirs in zip(one.layers, other.layers, strict=True):
        assert torch.equal(ours.norm_qk, theirs.norm_qk)
        x = torch.randn(3, 64)
        assert torch.equal(ours.gate_up(x), theirs.gate_up(x))
        assert torch.equal(ours.qkv(x), theirs.qkv(x))
