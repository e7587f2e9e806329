"""The numbers of a Qwen3 model, from its config.json, and whether this engine can run it.

Called by `worker`, before the weights are loaded, and by `fetch.plan`, before they are downloaded.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference_server.termination import ExitCode, StartupError

ARCHITECTURE = "Qwen3ForCausalLM"
REMEDY = f"Name a model of the architecture {ARCHITECTURE} in safetensors files, such as Qwen/Qwen3-4B-Thinking-2507."


class Unsupported(Exception):
    """This engine cannot run the model; the text says what about it."""


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    inner: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int
    context_tokens: int
    norm_epsilon: float
    rope_theta: float
    tied: bool

    @property
    def group(self) -> int:
        """Heads that share one key and value."""
        return self.heads // self.key_value_heads

    @property
    def parameters(self) -> int:
        """Numbers in the matrices; the norms do not count."""
        attention = self.hidden * self.head * 2 * (self.heads + self.key_value_heads)
        layer = attention + 3 * self.hidden * self.inner
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def token_numbers(self) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.key_value_heads * self.head

    @property
    def step_parameters(self) -> int:
        """Numbers that one step reads: all matrices; of an embedding that is not the head too, only a row."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)


def read_shape(folder: Path) -> Shape:
    """The shape of the model in this folder. Raises StartupError."""
    try:
        return parse_shape(json.loads((folder / "config.json").read_text()))
    except Unsupported as error:
        raise not_supported(str(error)) from None
    except (OSError, ValueError) as error:
        raise not_supported(f"its config.json cannot be read ({type(error).__name__})") from None


def parse_shape(config: Any) -> Shape:
    """`config`: the parsed config.json.

    Raises Unsupported when the model is another one, or differs from Qwen3 where this engine does not follow.
    """
    if not isinstance(config, dict):
        raise Unsupported("its config.json is not an object")
    named = config.get("architectures")
    architectures = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if ARCHITECTURE not in architectures:
        raise Unsupported(f"its architecture is {', '.join(architectures) or 'not named'}")
    try:
        _refuse_variants(config)
        return _shape(config)
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise Unsupported(f"its config.json cannot be used ({type(error).__name__})") from None


def _shape(config: dict[str, Any]) -> Shape:
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    shape = Shape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        inner=int(config["intermediate_size"]),
        heads=heads,
        key_value_heads=int(config.get("num_key_value_heads") or heads),
        head=int(config.get("head_dim") or hidden // heads),
        vocabulary=int(config["vocab_size"]),
        context_tokens=int(config.get("max_position_embeddings") or 32768),
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=float(_rope(config).get("rope_theta") or config.get("rope_theta") or 10_000.0),
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    sizes = (shape.layers, hidden, shape.inner, heads, shape.key_value_heads, shape.head, shape.vocabulary)
    if min(sizes) < 1 or heads % shape.key_value_heads or shape.head % 2:
        raise Unsupported("the sizes in its config.json do not fit together")
    return shape


def _refuse_variants(config: dict[str, Any]) -> None:
    # transformers 5 writes rope_parameters; older files have rope_scaling, null where nothing is scaled.
    scaling = config.get("rope_scaling") or {}
    kind = _rope(config).get("rope_type") or scaling.get("rope_type") or scaling.get("type") or "default"
    for wrong, what in (
        (kind != "default", f"its positions are scaled ({kind})"),
        (config.get("use_sliding_window"), "its attention has a sliding window"),
        (config.get("attention_bias"), "its attention has biases"),
        (config.get("hidden_act", "silu") != "silu", "its activation is not silu"),
        (config.get("quantization_config"), "its weights are quantised already"),
    ):
        if wrong:
            raise Unsupported(what)


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    return config.get("rope_parameters") or {}


def not_supported(what: str) -> StartupError:
    return StartupError(
        "ModelNotSupported",
        f"The model is not one that this server can run: {what}.",
        REMEDY,
        ExitCode.CONFIG,
    )


def corrupt(what: str) -> StartupError:
    return StartupError(
        "ModelCorrupt",
        f"The model's files are not what they should be: {what}.",
        "Remove the model's folder and fetch it again.",
        ExitCode.ENGINE,
    )
