"""The server pod: what of a spec becomes which part of the pod template. Pure.

Plain dicts, pinned by tests/unit/operator/children/golden/. The pods meet Pod Security `restricted`.
"""

from typing import Any

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.cached_model import COMMIT_MARK, PATH_MARK
from llm_operator.core.children.cache_containers import (
    CONFINED,
    MODELS,
    TMP,
    ca_volumes,
    fetch_container,
    model_variables,
)
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Settings

# Endpoints of a pod that is going away reach every kube-proxy only after a while: keep answering until then.
PRE_STOP_SECONDS = 5
# preStop, then the server's own drain (25 s by default), then a little slack before SIGKILL.
GRACE_SECONDS = 45
# Probes of a start, one every two seconds: half an hour.
LEAST_PATIENCE = 900


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
        {"name": names.setting(name), "value": str(value).lower() if isinstance(value, bool) else str(value)}
        for name, value in declared.items()
    ]


def _where_the_model_is(spec: LLMDeploymentSpec) -> list[Manifest]:
    """The server loads from the volume, and asks nobody for more."""
    if not spec.is_fetched:
        return []
    offline = {"name": "HF_HUB_OFFLINE", "value": "1"}
    if spec.used_cache is not None:
        return [{"name": "MODEL_PATH", "value": PATH_MARK}, offline]
    return [*model_variables(spec), offline]


def _probe(path: str, *, period: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": names.PORT_NAME},
        "periodSeconds": period,
        # The default of 1 s kills servers that are only busy.
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
