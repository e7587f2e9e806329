"""The tokenizer of the tiny model, as files: a byte is a token, as at the bottom of every byte-level vocabulary.

Written by hand, because the Hub's pod has the standard library and nothing else.
"""

import json

PLAIN_BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
MARKS = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>")
END_OF_TEXT, END_OF_TURN = 256, 257
VOCABULARY = 256 + len(MARKS)
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"
)


def tokenizer_files() -> dict[str, bytes]:
    """Files by name."""
    vocabulary = {letter: place for place, letter in enumerate(_letters())}
    return {
        "tokenizer.json": as_json(_tokenizer(vocabulary)),
        "tokenizer_config.json": as_json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": MARKS[1],
                "pad_token": MARKS[0],
                "model_max_length": 4096,
            }
        ),
        "chat_template.jinja": TEMPLATE.encode(),
        "vocab.json": as_json(vocabulary),
        "merges.txt": b"#version: 0.2\n",
    }


def _letters() -> list[str]:
    """A printable letter for each byte, as GPT-2 has chosen them."""
    letters = {byte: chr(byte) for byte in PLAIN_BYTES}
    others = [byte for byte in range(256) if byte not in letters]
    letters |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [letters[byte] for byte in range(256)]


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, object]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_mark(256 + place, name) for place, name in enumerate(MARKS)],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }


def _mark(number: int, name: str) -> dict[str, object]:
    # Qwen3 has the marks of thinking among the plain tokens.
    return {
        "id": number,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": "think" not in name,
    }


def as_json(document: object) -> bytes:
    """A file of the model."""
    return json.dumps(document, indent=2).encode() + b"\n"
