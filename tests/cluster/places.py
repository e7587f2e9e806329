"""Where things live: binaries in a cache that clones share, state in one place per machine.

The cluster is the machine's, like kind's: a second clone finds the one that runs.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.steps import Failure, say

CLUSTER = "llm-operator"
SOURCE = Path(__file__).resolve().parent
REPOSITORY = SOURCE.parent.parent


def cache_home() -> Path:
    """Binaries, kept by `down`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-operator" / "cluster"


def state_home() -> Path:
    """Everything one running cluster owns, removed by `down`."""
    if os.geteuid() == 0:
        return Path("/var/lib/llm-operator-cluster")
    state = os.environ.get("XDG_STATE_HOME")
    return Path(state or Path.home() / ".local" / "state") / "llm-operator-cluster"


def scratch_home() -> Path:
    """Locks, and the records of control planes that tests start."""
    path = Path(tempfile.gettempdir()) / f"llm-operator-{os.geteuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        # What is recorded in it gets ended and removed: nobody else may write there.
        raise Failure(f"{path} belongs to another user")
    return path


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a machine-wide lock; the kernel frees it if the holder dies."""
    path = scratch_home() / f"{name}.lock"
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"  waiting for another process that holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
