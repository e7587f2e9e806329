"""The Deployment of a recorded pod template. Pure."""

from llm_operator.api.types import Rollout
from llm_operator.core import names
from llm_operator.core.children.metadata import metadata
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent

STRATEGIES: dict[str, Manifest] = {
    "RollingUpdate": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "Recreate": {"type": "Recreate"},
}


def build_deployment(parent: Parent, *, replicas: int, rollout: Rollout, revision: str, template: Manifest) -> Manifest:
    """A Deployment of a recorded template that never takes a serving pod away before its successor has proved itself.

    Availability counts only after `soakSeconds` without a break (minReadySeconds): Kubernetes keeps that time, so
    it survives this operator.
    """
    deployment: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(parent),
        "spec": {
            "replicas": replicas,
            # The API server drops a zero: declared, it would look like drift for ever.
            **({"minReadySeconds": rollout.soak_seconds} if rollout.soak_seconds else {}),
            "progressDeadlineSeconds": rollout.progress_deadline_seconds,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": names.selector(parent.name)},
            "strategy": STRATEGIES[rollout.strategy],
            "template": template,
        },
    }
    deployment["metadata"]["annotations"] = {names.REVISION: revision}
    return deployment
