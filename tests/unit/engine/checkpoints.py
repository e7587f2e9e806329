"""Small Qwen3 models with random weights, written as transformers writes them, and a tokenizer for them."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

ENDS = ("<|endoftext|>", "<|im_end|>")
SPECIAL = (*ENDS, "<|im_start|>")
THINKING = ("<think>", "</think>")

_TURNS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
)
THINKING_TEMPLATE = _TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
PLAIN_TEMPLATE = _TURNS + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"


def a_model(
    folder: Path,
    *,
    seed: int = 0,
    thinks: bool = True,
    spread: float = 0.3,
    dtype: torch.dtype = torch.float32,
    poison: str = "",
    **over: Any,
) -> Path:
    """A whole model folder. `spread` of the weights: enough that the likeliest token is clearly so. `poison`: a
    character whose embedding is not a number; for untied models.
    """
    torch.manual_seed(seed)
    tokenizer = a_tokenizer(thinks=thinks)
    shape = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "initializer_range": spread,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "bos_token_id": None,
        "pad_token_id": None,
    }
    model = Qwen3ForCausalLM(Qwen3Config(**(shape | over)))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    if poison:
        model.get_input_embeddings().weight.data[tokenizer.encode(poison)] = float("nan")
    save(model.to(dtype), folder, thinks=thinks)
    return folder


def save(model: Qwen3ForCausalLM, folder: Path, *, thinks: bool, shards: str = "50GB") -> None:
    model.save_pretrained(folder, max_shard_size=shards)
    tokenizer = a_tokenizer(thinks=thinks)
    tokenizer.save_pretrained(folder)
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ENDS]
    generation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True, "eos_token_id": ends}
    (folder / "generation_config.json").write_text(json.dumps(generation))


def a_tokenizer(*, thinks: bool = True) -> PreTrainedTokenizerFast:
    """A byte is a token, as at the bottom of every byte-level vocabulary; and the marks of Qwen3."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    if thinks:
        tokenizer.add_tokens(list(THINKING))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=THINKING_TEMPLATE if thinks else PLAIN_TEMPLATE,
    )


def with_generation(model: Path, folder: Path, generation: dict[str, Any]) -> Path:
    """The same model in another folder, with this generation_config.json."""
    for path in model.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
