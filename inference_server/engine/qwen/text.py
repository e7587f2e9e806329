"""The model's tokenizer, chat template and advised sampling: everything between text and numbers.

The one module that imports transformers. Called by `worker`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from inference_server.engine.advice import unheeded_advice
from inference_server.engine.protocol import Message
from inference_server.engine.qwen.sampling import Draw
from inference_server.engine.qwen.shape import corrupt, not_supported
from inference_server.engine.qwen.thinking import Marks, opens_thinking

_OPEN, _CLOSE = "<think>", "</think>"
# The words that Qwen's authors advise for ending a reasoning from outside.
_CLOSING_WORDS = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
# What the authors of Qwen3-Thinking advise; a model's own generation_config.json wins.
_ADVISED = Draw(temperature=0.6, top_p=0.95, top_k=20)


class Text:
    """One model's; built once, because reading a tokenizer takes a second.

    `advised`: how its authors would draw, but for `do_sample` where that is given.
    """

    def __init__(self, folder: Path, *, do_sample: bool | None = None) -> None:
        self._tokenizer = _read_tokenizer(folder)
        generation = _read_json(folder / "generation_config.json")
        self.advised = _advised(generation, do_sample)
        self.unheeded_advice = unheeded_advice(generation)
        self.marks = self._marks(
            _ids(generation.get("eos_token_id")) | _ids(_read_json(folder / "config.json").get("eos_token_id"))
        )
        self.thinks = opens_thinking(self.marks, self.encode((Message("user", "?"),)))

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt of a conversation, up to where the model goes on."""
        tokens: list[int] = self._tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=True,
            return_dict=False,
            # What a patient writes is text, also where it looks like the end of a turn.
            sanitize_control_tokens=True,
        )
        return list(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def common_beginning(self, system_prompt: str) -> list[int]:
        """The tokens with which every prompt with this system prompt begins."""
        prompts = [
            self.encode((Message("system", system_prompt), Message("user", question))) for question in ("A", "1 b")
        ]
        count = next(place for place, pair in enumerate(zip(*prompts, strict=False)) if pair[0] != pair[1])
        return prompts[0][:count]

    def _marks(self, ends: frozenset[int]) -> Marks:
        added = self._tokenizer.get_added_vocab()
        own_end = self._tokenizer.eos_token_id
        ends |= frozenset() if own_end is None else {own_end}
        if _CLOSE not in added:
            return Marks(ends)
        words: list[int] = self._tokenizer.encode(_CLOSING_WORDS, add_special_tokens=False)
        return Marks(ends, open=added.get(_OPEN), close=added[_CLOSE], closing_words=tuple(words))


def _read_tokenizer(folder: Path) -> Any:
    try:
        # By path, never by name: with a name it would ask the Hub.
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # Whatever a broken file makes the library raise.
        raise corrupt(f"the tokenizer cannot be read ({type(error).__name__})") from None
    if not tokenizer.chat_template:
        raise not_supported("it has no chat template")
    return tokenizer


def _advised(generation: dict[str, Any], do_sample: bool | None) -> Draw:
    if do_sample is None and generation.get("do_sample") is False:
        return Draw(temperature=0.0, top_p=1.0, top_k=0)
    kinds = {"temperature": float, "top_p": float, "top_k": int}
    try:
        own = {name: kind(generation[name]) for name, kind in kinds.items() if generation.get(name) is not None}
    except (TypeError, ValueError):
        raise corrupt("generation_config.json has something else where numbers should be") from None
    if do_sample is False:
        own["temperature"] = 0.0
    elif do_sample and own.get("temperature") == 0:
        del own["temperature"]
    return replace(_ADVISED, **own)


def _ids(value: Any) -> frozenset[int]:
    return frozenset(number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
