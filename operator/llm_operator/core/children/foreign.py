"""What others put into a child and must not stay. Pure; used by drift.py.

Most additions do no harm and stay; the ones named here break the server (a second container, another command, a
variable it reads), weaken its isolation, or stop its roll-out (`kubectl rollout pause`).
"""

import re
from typing import Any

POD = "spec.template.spec"
# Of each of our containers.
CONTAINER_FIELDS = ("args", "command", "envFrom", "workingDir", "env[]")
HARMFUL = frozenset(
    {
        "spec.paused",
        # Declared only where it is not zero.
        "spec.minReadySeconds",
        *(f"{POD}.{field}" for field in ("hostIPC", "hostNetwork", "hostPID")),
        # They run before the server does, and may keep it from running.
        *(f"{POD}.initContainers", f"{POD}.initContainers[]", f"{POD}.containers[]"),
        *(f"{POD}.{group}[].{field}" for group in ("containers", "initContainers") for field in CONTAINER_FIELDS),
    }
)
IDENTITY = re.compile(r"\[[^\]]*\]")


def is_harmful(path: str, value: Any) -> bool:
    """Whether what we do not declare must not be there."""
    return bool(value) and shape(path) in HARMFUL


def shape(path: str) -> str:
    """A path without the names of the items of lists."""
    return IDENTITY.sub("[]", path)
