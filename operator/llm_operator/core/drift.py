"""Does a live object still say all that we declare? Finds the first field that does not.

The API server adds defaults, and others may add what we do not declare (a policy engine's toleration,
`kubectl rollout restart`'s annotation): both are left alone, as server-side apply leaves them. Lists that
the API merges by key are compared by that key, all others as a whole. What would break the server or its
roll-out is foreign (foreign.py) and counts as drift too.
"""

import hashlib
import json
from typing import Any

from llm_operator.core import quantity
from llm_operator.core.names import APPLIED_HASH, Manifest

# The field whose lists the API server merges by key, with the keys; everything else is atomic.
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "ports": ("name",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
QUANTITY_MAPS = ("requests", "limits")
QUANTITY_FIELDS = ("sizeLimit",)


def with_hash(manifest: Manifest) -> Manifest:
    """The manifest with the annotation that lets a later look see that a field was taken out."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_HASH: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def first_difference(desired: Any, live: Any, path: str = "") -> str | None:
    """Path of the first field of `desired` that `live` does not have with the same value, or None."""
    # Most of an object is the same to the letter, and told so at once.
    if desired == live:
        return None
    if isinstance(desired, dict):
        return _difference_of_maps(desired, live, path)
    if isinstance(desired, list):
        return _difference_of_lists(desired, live, path)
    return path


def _difference_of_maps(desired: Manifest, live: Any, path: str) -> str | None:
    if not isinstance(live, dict):
        # The API server drops empty maps and lists.
        return None if not desired and live is None else path
    is_quantities = path.rsplit(".", 1)[-1] in QUANTITY_MAPS
    for key, value in desired.items():
        here = f"{path}.{key}" if path else key
        if (is_quantities or key in QUANTITY_FIELDS) and quantity.equal(value, live.get(key)):
            continue
        difference = first_difference(value, live.get(key), here)
        if difference is not None:
            return difference
    return None


def _difference_of_lists(desired: list[Any], live: Any, path: str) -> str | None:
    live = live or []
    if not isinstance(live, list):
        return path
    keys = MERGE_KEYS.get(path.rsplit(".", 1)[-1])
    if keys is None:
        if len(desired) != len(live):
            return path
        pairs = [(f"{path}[{index}]", one, live[index]) for index, one in enumerate(desired)]
    else:
        by_key = {tuple(item.get(key) for key in keys): item for item in live}
        pairs = []
        for one in desired:
            identity = tuple(one.get(key) for key in keys)
            here = f"{path}[{','.join(str(part) for part in identity)}]"
            if identity not in by_key:
                return here
            pairs.append((here, one, by_key[identity]))
    return next((found for here, one, other in pairs if (found := first_difference(one, other, here))), None)
