"""A tiny model of the shape of Qwen3, with random weights: enough for everything but sensible answers."""

import json
import random
import struct
from collections.abc import Mapping

from tests.hub.tokenizer import END_OF_TEXT, END_OF_TURN, VOCABULARY, as_json, tokenizer_files

_PIECE = 64 * 1024 * 1024
_LAYERS, _HIDDEN, _HEADS, _KEY_VALUE_HEADS, _HEAD, _INNER, _VOCABULARY = 2, 64, 4, 2, 16, 128, VOCABULARY


def a_checkpoint(*, seed: int = 0, shards: int = 2, padding: int = 0) -> dict[str, bytes]:
    """Files by name. `padding`: bytes of an additional tensor in the last shard, to make it large."""
    tensors = _tensors()
    names = sorted(tensors)
    groups = [names[place::shards] for place in range(shards)]
    randomness = random.Random(seed)
    files: dict[str, bytes] = {}
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        shapes = {tensor: tensors[tensor] for tensor in group}
        if number == shards and padding:
            shapes["padding"] = (padding // 2,)
        files[name] = safetensors(shapes, randomness)
        weight_map |= dict.fromkeys(shapes, name)
    if shards > 1:
        total = sum(len(content) for content in files.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        files["model.safetensors.index.json"] = as_json(index)
    generation = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True}
    return (
        files
        | tokenizer_files()
        | {
            "config.json": as_json(CONFIG),
            "generation_config.json": as_json({**generation, "eos_token_id": [END_OF_TURN, END_OF_TEXT]}),
            "README.md": b"# A tiny random model\n",
            ".gitattributes": b"*.safetensors filter=lfs\n",
        }
    )


CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "dtype": "bfloat16",
    "num_hidden_layers": _LAYERS,
    "hidden_size": _HIDDEN,
    "intermediate_size": _INNER,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KEY_VALUE_HEADS,
    "head_dim": _HEAD,
    "max_position_embeddings": 4096,
    "vocab_size": _VOCABULARY,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 5000000, "rope_type": "default"},
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": END_OF_TURN,
}


def safetensors(shapes: Mapping[str, tuple[int, ...]], randomness: random.Random) -> bytes:
    """The length of the header, the header, the tensors: bfloat16 numbers near zero."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + 2 * count]}
        offset += 2 * count
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + _small_numbers(offset // 2, randomness)


def _small_numbers(count: int, randomness: random.Random) -> bytes:
    """The upper half of a float32 between 2^-9 and 2^-5, of either sign."""
    size = 2 * count
    # randbytes cannot give more than 256 MB at once.
    data = bytearray().join(randomness.randbytes(min(_PIECE, size - at)) for at in range(0, size, _PIECE))
    exponents = bytes(0x3B + number % 2 | (number & 0x80) for number in range(256))
    data[1::2] = data[1::2].translate(exponents)
    return bytes(data)


def _tensors() -> dict[str, tuple[int, ...]]:
    tensors: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (_VOCABULARY, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    for layer in range(_LAYERS):
        shapes = {
            "input_layernorm": (_HIDDEN,),
            "post_attention_layernorm": (_HIDDEN,),
            "self_attn.q_proj": (_HEADS * _HEAD, _HIDDEN),
            "self_attn.k_proj": (_KEY_VALUE_HEADS * _HEAD, _HIDDEN),
            "self_attn.v_proj": (_KEY_VALUE_HEADS * _HEAD, _HIDDEN),
            "self_attn.o_proj": (_HIDDEN, _HEADS * _HEAD),
            "self_attn.q_norm": (_HEAD,),
            "self_attn.k_norm": (_HEAD,),
            "mlp.gate_proj": (_INNER, _HIDDEN),
            "mlp.up_proj": (_INNER, _HIDDEN),
            "mlp.down_proj": (_HIDDEN, _INNER),
        }
        tensors |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}
    return tensors
