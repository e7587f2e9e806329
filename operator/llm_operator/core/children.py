"""The objects behind an LLMDeployment: a Deployment of server pods and the Service in front of them.

Plain dicts, pinned by tests/unit/operator/golden/. The pods meet Pod Security `restricted`.
"""

from typing import Any

from llm_operator.api.types import API_VERSION, KIND, LLMDeploymentSpec, Rollout
from llm_operator.core import names
from llm_operator.core.drift import with_hash
from llm_operator.core.model import Parent, Settings
from llm_operator.core.names import Manifest

# Endpoints of a pod that is going away reach every kube-proxy only after a while: keep answering until then.
PRE_STOP_SECONDS = 5
# preStop, then the server's own drain (25 s by default), then a little slack before SIGKILL.
GRACE_SECONDS = 45
STRATEGIES: dict[str, Manifest] = {
    "RollingUpdate": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
    "Recreate": {"type": "Recreate"},
}


def owner_reference(parent: Parent) -> Manifest:
    """Makes the garbage collector delete the child with its LLMDeployment."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": parent.name,
        "uid": parent.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def build_service(parent: Parent) -> Manifest:
    """A ClusterIP Service on port 8002."""
    return with_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(parent),
            "spec": {
                "type": "ClusterIP",
                "selector": names.selector(parent.name),
                "ports": [
                    {
                        "name": names.PORT_NAME,
                        "port": names.SERVER_PORT,
                        "protocol": "TCP",
                        "targetPort": names.PORT_NAME,
                    }
                ],
            },
        }
    )


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
    return with_hash(deployment)


def build_pod_template(name: str, spec: LLMDeploymentSpec, settings: Settings, *, revision: str) -> Manifest:
    """The server pod."""
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_server_container(spec, settings)],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    wire = spec.model_dump(by_alias=True, exclude_none=True)
    for field in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        if wire.get(field):
            pod[field] = wire[field]
    if spec.tolerations:
        # The API server drops empty strings: declared, they would look like drift for ever.
        pod["tolerations"] = [{key: value for key, value in one.items() if value != ""} for one in pod["tolerations"]]
    return {"metadata": {"labels": names.labels(name), "annotations": {names.REVISION: revision}}, "spec": pod}


def _server_container(spec: LLMDeploymentSpec, settings: Settings) -> Manifest:
    resources: dict[str, Any] = {}
    if spec.resources is not None:
        resources = spec.resources.model_dump(by_alias=True, exclude_none=True)
    return {
        "name": names.SERVER_CONTAINER,
        "image": spec.image or settings.server_image,
        "imagePullPolicy": spec.image_pull_policy,
        "env": [{"name": "LLM_MODE", "value": spec.canonical_mode}],
        "ports": [{"name": names.PORT_NAME, "containerPort": names.SERVER_PORT, "protocol": "TCP"}],
        **({"resources": resources} if resources else {}),
        "startupProbe": _probe("/startupz", period=2, failures=300),
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        # The server writes {reason, message, remedy} there before it gives up; plain log lines would
        # carry no remedy and could carry anything else.
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - inside the pod
    }


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": names.PORT_NAME},
        "periodSeconds": period,
        # The default of 1 s kills servers that are only busy.
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def metadata(parent: Parent, name: str | None = None) -> Manifest:
    """Metadata of a child; it has its parent's name unless it is given one of its own."""
    return {
        "name": name or parent.name,
        "namespace": parent.namespace,
        "labels": names.labels(parent.name),
        "ownerReferences": [owner_reference(parent)],
    }
