"""Does a model fit into a memory limit? A lower bound, from what READY.json says. Pure; called by fetch_verdict.py.

What the engine (inference_server/engine/qwen/hardware.py) takes at its smallest: weights in int8, keys and values of
one request in float32, and the program with its libraries.
"""

from collections.abc import Mapping
from typing import Any

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import quantity
from llm_operator.core.cached_model import CachedModel

SERVER_BYTES = 768 * 2**20
REQUEST_TOKENS = 4096
VALUE_BYTES = 4
# Bytes of a stored weight, by the dtype of config.json; others are taken for those of the most common one.
STORED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
STEP = 256 * 2**20


def too_small(spec: LLMDeploymentSpec, model: CachedModel) -> Cause | None:
    """Why the memory limit of a spec cannot hold a model, with the number that would do; None where it can."""
    limits = None if spec.resources is None else spec.resources.limits
    limit = None if limits is None else limits.get("memory")
    if limits is None or limit is None or spec.wanted_model.memory_check == "Skip":
        return None
    if any("/" in name for name in limits):
        # An accelerator has memory of its own.
        return None
    needed = needed_bytes(model)
    if quantity.parse(limit) >= needed:
        return None
    return Cause(
        Reason.MEMORY_LIMIT_TOO_SMALL,
        f"spec.resources.limits.memory is {limit}, and {model.repository} needs {_mebibytes(needed)} at least: "
        f"{_mebibytes(_weights(model))} for its weights in int8, the rest for one request and the server. Set "
        f"{_mebibytes(needed)} or more, or choose a smaller model; spec.model.memoryCheck Skip has it tried "
        "all the same.",
    )


def needed_bytes(model: CachedModel) -> int:
    """The least memory that serving takes, rounded up to 256 MiB."""
    total = _weights(model) + _cache_bytes(model.facts) + SERVER_BYTES
    return -(-total // STEP) * STEP


def _weights(model: CachedModel) -> int:
    return model.weights_bytes // STORED_BYTES.get(str(model.facts.get("dtype")), 2)


def _cache_bytes(facts: Mapping[str, Any]) -> int:
    """Keys and values of one request; nothing where config.json does not say."""
    numbers = [facts.get(key) for key in ("layers", "keyValueHeads", "headDimension")]
    tokens, product = facts.get("contextTokens"), 2 * VALUE_BYTES
    for number in numbers:
        if not isinstance(number, int):
            return 0
        product *= number
    return product * (min(tokens, REQUEST_TOKENS) if isinstance(tokens, int) else REQUEST_TOKENS)


def _mebibytes(amount: int) -> str:
    return f"{-(-amount // 2**20)}Mi"
