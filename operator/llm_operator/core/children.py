"""The objects behind an LLMDeployment: a Deployment of server pods and the Service in front of them.

Plain dicts, pinned by tests/unit/operator/golden/. The pods meet Pod Security `restricted`.
"""

from typing import Any

from llm_operator.api.types import API_VERSION, KIND, LLMDeploymentSpec, Rollout
from llm_operator.core import names
from llm_operator.core.cached_model import COMMIT_MARK, PATH_MARK
from llm_operator.core.model import Parent, Settings
from llm_operator.core.names import Manifest

# Endpoints of a pod that is going away reach every kube-proxy only after a while: keep answering until then.
PRE_STOP_SECONDS = 5
# preStop, then the server's own drain (25 s by default), then a little slack before SIGKILL.
GRACE_SECONDS = 45
# Half an hour.
LEAST_PATIENCE = 900
CONFINED: Manifest = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
TMP: Manifest = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - inside the pod
MODELS: Manifest = {"name": "models", "mountPath": names.MODELS_FOLDER}
CA: Manifest = {"name": "ca", "mountPath": "/etc/fetch-ca", "readOnly": True}
# All that a ResourceQuota may ask for. A model of any size needs no more memory; TLS and SHA-256 use two processors.
FETCH_RESOURCES: Manifest = {
    "requests": {"cpu": "100m", "memory": "128Mi"},
    "limits": {"cpu": "2", "memory": "1Gi"},
}
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


def shared_reference(parent: Parent) -> Manifest:
    """One owner of several: the garbage collector deletes the object when the last of them is gone."""
    return {"apiVersion": API_VERSION, "kind": KIND, "name": parent.name, "uid": parent.uid}


def build_service(parent: Parent) -> Manifest:
    """A ClusterIP Service on port 8002."""
    port = {"name": names.PORT_NAME, "port": names.SERVER_PORT, "protocol": "TCP", "targetPort": names.PORT_NAME}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(parent),
        "spec": {"type": "ClusterIP", "selector": names.selector(parent.name), "ports": [port]},
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


def build_pod_template(name: str, spec: LLMDeploymentSpec, settings: Settings, *, revision: str) -> Manifest:
    """The server pod.

    With a cache its template holds marks in the place of the model's path, which only the fetch finds out.
    """
    cache = spec.used_cache
    models: list[Manifest] = []
    if cache is not None:
        source = {"claimName": cache.claim_name, "readOnly": True}
        models = [{"name": "models", "persistentVolumeClaim": source}]
    elif spec.is_fetched:
        models = [{"name": "models", "emptyDir": {}}]
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        **({"initContainers": [fetch_container(spec, settings)]} if spec.is_fetched and not cache else {}),
        "containers": [_server_container(spec, settings)],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *models,
            *(ca_volumes(settings) if spec.is_fetched and not cache else []),
        ],
    }
    wire = spec.model_dump(by_alias=True, exclude_none=True)
    for field in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        if wire.get(field):
            pod[field] = wire[field]
    if spec.tolerations:
        # The API server drops empty strings: declared, they would look like drift for ever.
        pod["tolerations"] = [{key: value for key, value in one.items() if value != ""} for one in pod["tolerations"]]
    annotations = {names.REVISION: revision, **({names.MODEL_COMMIT: COMMIT_MARK} if cache else {})}
    return {"metadata": {"labels": names.labels(name), "annotations": annotations}, "spec": pod}


def _server_container(spec: LLMDeploymentSpec, settings: Settings) -> Manifest:
    resources: dict[str, Any] = {}
    if spec.resources is not None:
        resources = spec.resources.model_dump(by_alias=True, exclude_none=True)
    return {
        "name": names.SERVER_CONTAINER,
        "image": spec.image or settings.server_image,
        "imagePullPolicy": spec.image_pull_policy,
        "env": [
            {"name": "LLM_MODE", "value": spec.canonical_mode},
            *_how_it_generates(spec),
            *_where_the_model_is(spec),
        ],
        "ports": [{"name": names.PORT_NAME, "containerPort": names.SERVER_PORT, "protocol": "TCP"}],
        **({"resources": resources} if resources else {}),
        "startupProbe": _probe("/startupz", period=2, failures=_patience(spec)),
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=5, failures=2),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        # The server writes {reason, message, remedy} there before it gives up; plain log lines would
        # carry no remedy and could carry anything else.
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": CONFINED,
        "volumeMounts": [TMP, *([{**MODELS, "readOnly": True}] if spec.is_fetched else [])],
    }


def _patience(spec: LLMDeploymentSpec) -> int:
    """How often a start may be found unfinished, every 2 s, before the kubelet begins anew.

    That must never be before the operator's own verdict, which comes after twice the deadline at the latest; and a
    deadline that is raised while a start goes on should find room. A server that hangs later is restarted some day.
    """
    return max(LEAST_PATIENCE, spec.rollout.progress_deadline_seconds)


def _how_it_generates(spec: LLMDeploymentSpec) -> list[Manifest]:
    """Settings of the server, named as the fields are. Only what is declared: the rest is its own, or the model's."""
    declared = {} if spec.generation is None else spec.generation.model_dump(exclude_none=True)
    return [
        {"name": name.upper(), "value": str(value).lower() if isinstance(value, bool) else str(value)}
        for name, value in declared.items()
    ]


def _where_the_model_is(spec: LLMDeploymentSpec) -> list[Manifest]:
    """The server loads from the volume, and asks nobody for more."""
    if not spec.is_fetched:
        return []
    offline = {"name": "HF_HUB_OFFLINE", "value": "1"}
    if spec.used_cache is not None:
        return [{"name": "MODEL_PATH", "value": PATH_MARK}, offline]
    return [*_which_model(spec), offline]


def _which_model(spec: LLMDeploymentSpec) -> list[Manifest]:
    model = spec.wanted_model
    return [
        {"name": "MODEL_CACHE_DIR", "value": names.MODELS_FOLDER},
        {"name": "MODEL_REPOSITORY", "value": model.repository},
        {"name": "MODEL_REVISION", "value": model.revision},
    ]


def fetch_container(spec: LLMDeploymentSpec, settings: Settings) -> Manifest:
    """Fetches the model onto the volume. A Secret that is missing is no token: many models need none."""
    model = spec.wanted_model
    secret = {"name": model.token_secret_ref.name, "key": model.token_secret_ref.key, "optional": True}
    endpoint = [] if model.endpoint is None else [{"name": "HF_ENDPOINT", "value": model.endpoint}]
    env = [
        *_which_model(spec),
        *endpoint,
        *way_out(settings),
        # The image is the server's: if it could not run the model, gigabytes would come for nothing.
        {"name": "FETCH_FOR_MODE", "value": spec.canonical_mode},
        {"name": "HUGGINGFACE_TOKEN", "valueFrom": {"secretKeyRef": secret}},
    ]
    return _cache_container(
        spec, settings, names.FETCH_CONTAINER, env=env, mounts=[CA] if settings.fetch_ca_config_map else []
    )


def prune_container(spec: LLMDeploymentSpec, settings: Settings, variables: dict[str, str]) -> Manifest:
    """Deletes models from the volume: all but those that the variables name. It needs no network."""
    env = [{"name": name, "value": value} for name, value in variables.items()]
    return _cache_container(spec, settings, names.PRUNE_CONTAINER, env=env, mounts=[])


def _cache_container(
    spec: LLMDeploymentSpec, settings: Settings, command: str, *, env: list[Manifest], mounts: list[Manifest]
) -> Manifest:
    """A command of the server's image that may write to the volume of the models."""
    declared = spec.wanted_model.fetch_resources
    return {
        "name": command,
        "image": spec.image or settings.server_image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": ["python", "-m", "inference_server", command],
        "env": env,
        "resources": FETCH_RESOURCES if declared is None else declared.model_dump(by_alias=True, exclude_none=True),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": CONFINED,
        "volumeMounts": [TMP, MODELS, *mounts],
    }


def ca_volumes(settings: Settings) -> list[Manifest]:
    """The CAs of the network. Optional, so that a fetch starts and says that there are none, instead of nobody."""
    if not settings.fetch_ca_config_map:
        return []
    return [{"name": CA["name"], "configMap": {"name": settings.fetch_ca_config_map, "optional": True}}]


def way_out(settings: Settings) -> list[Manifest]:
    """Proxy and CAs of the network that the cluster is in."""
    known = {
        "HTTPS_PROXY": settings.fetch_https_proxy,
        "NO_PROXY": settings.fetch_no_proxy,
        "SSL_CERT_FILE": f"{CA['mountPath']}/ca.crt" if settings.fetch_ca_config_map else "",
    }
    return [{"name": name, "value": value} for name, value in known.items() if value]


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
