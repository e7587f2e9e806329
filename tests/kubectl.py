"""kubectl as the tests use it: the real program against one kubeconfig, answers as plain dicts.

What only looks is read over a kept connection where that is known to show the same (tests/reader.py).
"""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests import reader

Manifest = dict[str, Any]
Answer = TypeVar("Answer")


class Refused(Exception):
    """kubectl exited with an error; the text is what it printed."""


@dataclass(frozen=True)
class Kubectl:
    """`kubectl --kubeconfig ... -n NAMESPACE`."""

    program: str
    kubeconfig: Path
    namespace: str = "default"

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 300) -> str:
        command = [self.program, "--kubeconfig", str(self.kubeconfig), "-n", self.namespace, *arguments]
        while True:
            process = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
            if not process.returncode:
                return process.stdout
            # A machine that stood still for ten seconds; nothing was asked yet.
            if "TLS handshake timeout" not in process.stderr:
                raise Refused(process.stderr.strip())

    def apply(self, *manifests: Manifest, dry_run: bool = False) -> str:
        """Apply as a user would; with `dry_run` the API server only judges."""
        documents = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
        return self("apply", *(["--dry-run=server"] if dry_run else []), "-f", "-", stdin=documents)

    def get(self, kind: str, name: str) -> Manifest | None:
        """The object, or None."""
        with suppress(reader.Unread):
            return reader.get(self.kubeconfig, self.namespace, kind, name)
        text = self("get", kind, name, "--ignore-not-found", "-o", "json")
        return json.loads(text) if text else None

    def list(self, kind: str, *arguments: str) -> list[Manifest]:
        """All objects of the namespace."""
        selector = arguments[1] if arguments[:1] == ("-l",) else ""
        if len(arguments) == 2 * bool(selector):
            with suppress(reader.Unread):
                return reader.objects(self.kubeconfig, self.namespace, kind, selector)
        return list(json.loads(self("get", kind, *arguments, "-o", "json"))["items"])

    def patch(self, kind: str, name: str, patch: Manifest, *arguments: str) -> None:
        """Merge patch."""
        self("patch", kind, name, "--type=merge", "-p", json.dumps(patch), *arguments)


def eventually(check: Callable[[], Answer], *, seconds: float = 180, every: float = 0.2) -> Answer:
    """Call `check` until it returns something true; its last failure, or answer, is the error.

    A look costs little, so that it is looked at again soon; what takes longer is looked at less often.
    """
    deadline, pause = time.monotonic() + seconds, every / 4
    while True:
        try:
            answer = check()
            if answer:
                return answer
            problem: object = answer
        except (AssertionError, Refused, KeyError, TypeError) as error:
            problem = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; last seen: {problem!r}")
        time.sleep(pause)
        pause = min(pause * 1.3, 2.5 * every)


def an_llmdeployment(name: str = "triage", **spec: Any) -> Manifest:
    """An LLMDeployment manifest in mock mode, good as soon as it answers unless `rollout` says otherwise."""
    return {
        "apiVersion": "llm.carepath.ai/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name},
        "spec": {"mode": "mock", "rollout": {"soakSeconds": 0}, **spec},
    }


def condition(parent: Manifest | None, kind: str) -> Manifest:
    """One condition of an object, or an empty dict."""
    conditions = (parent or {}).get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == kind), {})


def is_ready(parent: Manifest | None) -> bool:
    """Whether Ready is True about the newest generation."""
    found = condition(parent, "Ready")
    generation = (parent or {"metadata": {}})["metadata"].get("generation")
    return found.get("status") == "True" and found.get("observedGeneration") == generation
