"""What is downloaded, and what is no model for this server."""

import json
from pathlib import Path
from typing import Any

import pytest

from inference_server.engine.qwen.shape import read_shape
from inference_server.failure import StartupError
from inference_server.fetch.failures import FetchError, FetchReason
from inference_server.fetch.plan import Plan, RemoteFile, check_model, plan_download
from tests.hub.checkpoint import CONFIG

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"


def listing(*names: str, size: int = 10) -> list[RemoteFile]:
    return [RemoteFile(name, size, None, "blob") for name in names]


def a_plan(*names: str) -> Plan:
    return plan_download("a/b", listing("config.json", "tokenizer.json", *names))


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
        pytest.param(["config.json", "tokenizer.json", INDEX], "safetensors", id="an index without shards"),
        pytest.param(["config.json", WHOLE], "no tokenizer", id="no tokenizer"),
        pytest.param(["config.json", WHOLE, "vocab.json"], "no tokenizer", id="half a tokenizer"),
        pytest.param([], "no config.json", id="an empty repository"),
    ],
)
def test_a_repository_without_a_whole_model_is_refused(files: list[str], says: str) -> None:
    assert says in refused(lambda: plan_download("a/b", listing(*files)))


@pytest.mark.parametrize("tokenizer", [["tokenizer.json"], ["tokenizer.model"], ["vocab.json", "merges.txt"]])
def test_every_kind_of_tokenizer_will_do(tokenizer: list[str]) -> None:
    assert plan_download("a/b", listing("config.json", WHOLE, *tokenizer)).weights


def test_the_facts_for_a_check_of_the_memory_come_from_the_configuration() -> None:
    facts = check_model("a/b", a_plan(WHOLE), {"config.json": CONFIG})
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
    facts = check_model("a/b", a_plan(WHOLE), {"config.json": config})
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
        check_model("a/b", a_plan(WHOLE), {"config.json": config})
    assert says in before.value.message
    assert (before.value.reason, before.value.remedy) == (at_start.value.reason, at_start.value.remedy)
    assert before.value.message.partition(": ")[2] == at_start.value.message.partition(": ")[2]
    assert not before.value.transient


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"x": "model-00003-of-00002.safetensors"}}, "lacks model-00003"),
        ({"weight_map": {"x": "../../etc/passwd"}}, "lacks ../../etc/passwd"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_the_shards_is_refused(index: Any, says: str) -> None:
    documents = {"config.json": CONFIG, INDEX: index}
    assert says in refused(lambda: check_model("a/b", a_plan(*SHARDS, INDEX), documents))


def test_an_index_that_fits_is_accepted() -> None:
    index = json.loads(json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}))
    assert check_model("a/b", a_plan(*SHARDS, INDEX), {"config.json": CONFIG, INDEX: index}).layers == 2
