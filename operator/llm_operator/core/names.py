"""Names and labels: every string that ties children to their LLMDeployment stands here."""

from typing import Any

Manifest = dict[str, Any]

PREFIX = "llm.carepath.ai"
FIELD_MANAGER = "llm-operator"
MANAGED_BY = "app.kubernetes.io/managed-by"
INSTANCE = "app.kubernetes.io/instance"
APP_NAME = "app.kubernetes.io/name"
MANAGED_SELECTOR = f"{MANAGED_BY}={FIELD_MANAGER}"

# On the Deployment and in its pod template: which revision this is.
REVISION = f"{PREFIX}/revision"
# On a ControllerRevision: what is known of it, and what admission makes of its Deployment.
VERDICT = f"{PREFIX}/verdict"
ADMITTED = f"{PREFIX}/admitted"
# On the Deployment: the restarts of its revisions. In a pod template: kubectl's own.
RESTARTS = f"{PREFIX}/restarts"
RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
# On an LLMDeployment: whether it may take over what an earlier one of its name left behind.
ADOPT = f"{PREFIX}/adopt-orphans"

# On a ControllerRevision: the model that was fetched for it. On a pod: its commit.
MODEL = f"{PREFIX}/model"
MODEL_COMMIT = f"{PREFIX}/model-commit"
# On the pods of a fetch: the name of its Job, which may belong to several LLMDeployments.
FETCH = f"{PREFIX}/fetch"

# On the Jobs that work on a claim: its name. On a claim: for which models it was pruned last.
CLAIM = f"{PREFIX}/claim"
PRUNED = f"{PREFIX}/pruned"
# On a Job that prunes, and its pods.
PRUNE = f"{PREFIX}/prune"

SERVER_CONTAINER = "server"
FETCH_CONTAINER = "fetch"
PRUNE_CONTAINER = "prune"
MODELS_FOLDER = "/models"
SERVER_PORT = 8002
PORT_NAME = "http"


def selector(name: str) -> dict[str, str]:
    """Labels that choose the server pods. A Deployment's selector can never change: neither may this."""
    return {APP_NAME: "inference-server", INSTANCE: name}


def labels(name: str) -> dict[str, str]:
    """Labels of every child."""
    return {
        **selector(name),
        "app.kubernetes.io/component": "model-server",
        "app.kubernetes.io/part-of": "llmdeployment",
        MANAGED_BY: FIELD_MANAGER,
    }


def shared_labels(component: str) -> dict[str, str]:
    """Labels of what several LLMDeployments may share."""
    return {APP_NAME: component, "app.kubernetes.io/part-of": "llmdeployment", MANAGED_BY: FIELD_MANAGER}


def group_of(labels: Manifest) -> str | None:
    """What an object belongs to: an LLMDeployment by its name, or a fetch, by what is no such name."""
    fetch: str | None = labels.get(FETCH)
    return group_of_fetch(fetch) if fetch else labels.get(INSTANCE)


def group_of_fetch(name: str) -> str:
    """The group of the pods of a fetch's Job."""
    return f"fetch/{name}"


def setting(field: str) -> str:
    """The server's setting of a field of spec.generation: they are named alike."""
    return field.upper()


def selector_string(name: str) -> str:
    """`selector` in the form that label queries and the scale subresource take."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector(name).items()))


def is_managed(live: Manifest) -> bool:
    """Whether the object carries the label by which the operator's objects are watched."""
    return bool(live["metadata"].get("labels", {}).get(MANAGED_BY) == FIELD_MANAGER)


def revision_of(live: Manifest | None) -> str | None:
    """The revision that a Deployment, ReplicaSet or pod belongs to."""
    annotations = {} if live is None else live["metadata"].get("annotations", {})
    return annotations.get(REVISION)


def url(name: str, namespace: str) -> str:
    """Address of the Service inside the cluster."""
    return f"http://{name}.{namespace}.svc:{SERVER_PORT}"
