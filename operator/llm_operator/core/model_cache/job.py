"""What the Jobs that work on a claim have in common: fetch_job.py fetches into it, prune.py has it tidied up. Pure."""

from typing import Any

from llm_operator.api.types import Cache, LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.diagnosis.fetch_messages import FINAL_CODES
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent
from llm_operator.core.ownership import shared_reference

# Group of the image's user: a new volume belongs to root.
FILE_GROUP = 10001
KEPT_SECONDS = 3600


def build_job(
    parent: Parent,
    spec: LLMDeploymentSpec,
    cache: Cache,
    *,
    name: str,
    labels: dict[str, str],
    container: Manifest,
    volumes: list[Manifest],
    limits: dict[str, Any],
) -> Manifest:
    """One pod at a time with the claim; what it says is final ends it. Its owners are those who have a share in it."""
    volume = {"name": "models", "persistentVolumeClaim": {"claimName": cache.claim_name}}
    wire = spec.model_dump(by_alias=True, exclude_none=True)
    placement = {key: wire[key] for key in ("imagePullSecrets", "nodeSelector", "tolerations") if wire.get(key)}
    if "ReadWriteMany" not in cache.access_modes:
        placement["affinity"] = _beside(parent)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "namespace": parent.namespace,
            "labels": labels,
            "annotations": {names.CLAIM: cache.claim_name},
            "ownerReferences": [shared_reference(parent)],
        },
        "spec": {
            **limits,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": container["name"],
                            "operator": "In",
                            "values": list(FINAL_CODES),
                        },
                    },
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                ]
            },
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "fsGroup": FILE_GROUP,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [container],
                    "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}, volume, *volumes],
                    **placement,
                },
            },
        },
    }


def works_on(job: Manifest, claim: str) -> bool:
    """Whether the Job may work on that claim: one of an earlier operator does not say which."""
    return bool(job["metadata"].get("annotations", {}).get(names.CLAIM, claim) == claim)


def is_finished(job: Manifest) -> bool:
    """Whether the Job has ended, well or not."""
    return has(job, "Complete") or has(job, "Failed")


def has(job: Manifest, condition: str) -> bool:
    """Whether the Job has a condition."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] == condition and one["status"] == "True" for one in conditions)


def _beside(parent: Parent) -> Manifest:
    """A volume that one node has at a time is on the node of the pods that serve, if there are any."""
    term = {"labelSelector": {"matchLabels": names.selector(parent.name)}, "topologyKey": "kubernetes.io/hostname"}
    return {
        "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    }
