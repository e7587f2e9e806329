"""What is downloaded, and what is no model for this server."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.engine.qwen.shape import read_shape
from inference_server.fetch.failures import FetchError, FetchReason
from inference_server.fetch.plan import Plan, RemoteFile, check_model, find_index, plan_download, twins
from inference_server.termination import StartupError
from tests.hub.checkpoint import CONFIG

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"


def listing(*names: str, size: int = 10) -> list[RemoteFile]:
    return [RemoteFile(name, size, None, "blob") for name in names]


def index_of(*shards: Any) -> str:
    return json.dumps({"weight_map": {str(number): shard for number, shard in enumerate(shards)}})


def planned(files: list[RemoteFile], index: str) -> Plan:
    return plan_download("a/b", files, index if find_index("a/b", files) else None)


def a_plan(*names: str, index: str = index_of(*SHARDS)) -> Plan:
    return planned(listing("config.json", "tokenizer.json", *names), index)


def refused(act: Any) -> str:
    with pytest.raises(FetchError) as caught:
        act()
    assert caught.value.fetch_reason is FetchReason.MODEL_NOT_SUPPORTED
    return caught.value.message


def names(files: tuple[RemoteFile, ...]) -> list[str]:
    return [file.path for file in files]


def test_only_what_serving_needs_is_chosen_and_the_small_files_come_first() -> None:
    plan = a_plan(
        *SHARDS, INDEX, "merges.txt", "vocab.json", "chat_template.jinja", "tokenizer_config.json", "tokenizer.model",
        "README.md", "LICENSE", ".gitattributes", "pytorch_model.bin", "modeling_qwen.py", "onnx/model.onnx",
        "original/model-00001-of-00002.safetensors", "consolidated.safetensors", "READY.json", "figure.png",
        "model-00001-of-00003.safetensors", "tokenizer.py", "tokenizer.pkl", "vocab.bin", "tokenizer.safetensors",
        "../config.json", "a\\b.json", ".hidden.json", "Ready.json",
    )  # fmt: skip
    assert names(plan.weights) == SHARDS
    assert names(plan.small) == [
        "chat_template.jinja", "config.json", "merges.txt", INDEX, "tokenizer.json", "tokenizer.model",
        "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    assert plan.files == plan.small + plan.weights
    assert plan.total_bytes == 100


def test_one_whole_file_is_preferred_to_shards_as_transformers_does() -> None:
    plan = a_plan(*SHARDS, INDEX, WHOLE)
    assert names(plan.weights) == [WHOLE]
    assert INDEX not in names(plan.small)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        pytest.param(["tokenizer.json", WHOLE], "no config.json", id="no configuration"),
        pytest.param(["config.json", "tokenizer.json", "pytorch_model.bin"], "safetensors", id="pickled weights only"),
        pytest.param(["config.json", "tokenizer.json", *SHARDS], "safetensors", id="shards without an index"),
        pytest.param(["config.json", "tokenizer.json", INDEX], "lacks model-00001", id="an index without shards"),
        pytest.param(["config.json", WHOLE], "no tokenizer", id="no tokenizer"),
        pytest.param(["config.json", WHOLE, "vocab.json"], "no tokenizer", id="half a tokenizer"),
        pytest.param([], "no config.json", id="an empty repository"),
    ],
)
def test_a_repository_without_a_whole_model_is_refused(files: list[str], says: str) -> None:
    assert says in refused(lambda: planned(listing(*files), index_of(*SHARDS)))


@pytest.mark.parametrize("tokenizer", [["tokenizer.json"], ["tokenizer.model"], ["vocab.json", "merges.txt"]])
def test_every_kind_of_tokenizer_will_do(tokenizer: list[str]) -> None:
    assert planned(listing("config.json", WHOLE, *tokenizer), "").weights


def test_the_facts_for_a_check_of_the_memory_come_from_the_configuration() -> None:
    facts = check_model("a/b", CONFIG)
    assert facts.as_json() == {
        "architecture": "Qwen3ForCausalLM",
        "modelType": "qwen3",
        "dtype": "bfloat16",
        "layers": 2,
        "attentionHeads": 4,
        "keyValueHeads": 2,
        "headDimension": 16,
        "contextTokens": 4096,
        "vocabulary": 261,
    }


def test_what_the_configuration_does_not_say_is_unknown_and_the_old_name_of_dtype_is_known() -> None:
    config = CONFIG | {
        "architectures": [None, "Qwen3ForCausalLM"],
        "dtype": None,
        "torch_dtype": "float16",
        "num_hidden_layers": True,
        "head_dim": None,
        "model_type": 3,
    }
    facts = check_model("a/b", config)
    assert (facts.dtype, facts.layers, facts.head_dimension, facts.model_type) == ("float16", None, None, None)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architectures": ["BertModel"]}, "BertModel"),
        ({"architectures": ["Qwen3VLForConditionalGeneration"]}, "Qwen3VLForConditionalGeneration"),
        ({**CONFIG, "architectures": ["LlamaForCausalLM"]}, "its architecture is LlamaForCausalLM"),
        ({**CONFIG, "architectures": ["Qwen3MoeForCausalLM"]}, "its architecture is Qwen3MoeForCausalLM"),
        ({**CONFIG, "rope_parameters": {"rope_type": "yarn"}}, "its positions are scaled (yarn)"),
        ({**CONFIG, "rope_parameters": "yarn"}, "cannot be used (AttributeError)"),
        ({**CONFIG, "quantization_config": {"quant_method": "gptq"}}, "its weights are quantised already"),
        ({**CONFIG, "head_dim": None, "num_attention_heads": 0}, "cannot be used (ZeroDivisionError)"),
        ({"architectures": ["Qwen3ForCausalLM"]}, "cannot be used (KeyError)"),
        ({"architectures": []}, "not named"),
        ({"architectures": "Qwen3ForCausalLM"}, "not named"),
        ({}, "not named"),
        ([], "not an object"),
    ],
)
def test_a_model_that_the_engine_would_refuse_is_refused_in_its_words(tmp_path: Path, config: Any, says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StartupError) as at_start:
        read_shape(tmp_path)
    with pytest.raises(FetchError) as before:
        check_model("a/b", config)
    assert says in before.value.message
    assert (before.value.reason, before.value.remedy) == (at_start.value.reason, at_start.value.remedy)
    assert before.value.message.partition(": ")[2] == at_start.value.message.partition(": ")[2]
    assert not before.value.transient


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (index_of("model-00003-of-00002.safetensors"), "lacks model-00003"),
        (index_of("../../etc/passwd.safetensors"), "lacks ../../etc/passwd"),
        (index_of("pytorch_model.bin"), "names no safetensors files"),
        (index_of(SHARDS[0], 7), "names no safetensors files"),
        (index_of([SHARDS[0]]), "no weight_map"),
        (index_of(), "names no safetensors files"),
        ("{}", "no weight_map"),
        ("[]", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ("{", "no weight_map"),
        ("[" * 100_000, "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(index: str, says: str) -> None:
    assert says in refused(lambda: a_plan(*SHARDS, INDEX, index=index))


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_index_gives_a_plan_or_is_refused(text: str) -> None:
    with contextlib.suppress(FetchError):
        assert a_plan(*SHARDS, INDEX, index=text).weights


def test_an_index_of_any_length_is_not_read() -> None:
    files = [*listing("config.json", "tokenizer.json"), *listing(INDEX, size=10**9)]
    assert "too long" in refused(lambda: find_index("a/b", files))


@pytest.mark.parametrize(
    "shards", [["model-00001-of-000002.safetensors", "model-00002-of-000002.safetensors"], ["weights.safetensors"]]
)
def test_the_index_names_the_shards_whatever_they_are_called(shards: list[str]) -> None:
    assert names(a_plan(*shards, INDEX, *SHARDS, index=index_of(*shards, shards[0])).weights) == shards


def test_names_that_differ_only_in_case_are_twins() -> None:
    assert twins(["config.json", "Config.json", "vocab.json", "STRASSE.json", "stra\u00dfe.json"]) == {
        "config.json",
        "Config.json",
        "STRASSE.json",
        "stra\u00dfe.json",
    }
    assert twins(["config.json", "vocab.json"]) == set()
