"""A Hugging Face Hub in a pod (tests/hub), and a volume on the node for the models that come from it.

Both pods run the server's image, because that one is certain to be there.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from tests.conftest import ROOT
from tests.kubectl import Kubectl, Manifest, eventually

NAME = "hub"
PORT = 8080
# The claim that `a_volume` is for.
CACHE = {"claimName": "model-cache", "size": "1Gi", "storageClassName": "e2e"}


@contextmanager
def running(kubectl: Kubectl, image: str) -> Iterator[str]:
    """The Hub; the value is its address inside the cluster."""
    namespace = f"e2e-hub-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    ours = Kubectl(kubectl.program, kubectl.kubeconfig, namespace)
    eventually(lambda: ours.get("serviceaccount", "default"))
    files = [f"--from-file={path}" for path in sorted((ROOT / "tests/hub").glob("*.py"))]
    ours("create", "configmap", NAME, *files)
    command = ["python", "-m", "tests.hub", "--host", "0.0.0.0", "--port", str(PORT)]
    pod = a_pod(NAME, image, command)
    pod["metadata"]["labels"] = {"app": NAME}
    pod["spec"]["volumes"] = [{"name": "code", "configMap": {"name": NAME}}]
    (container,) = pod["spec"]["containers"]
    container["env"] = [{"name": "PYTHONPATH", "value": "/hub"}]
    container["volumeMounts"] = [{"name": "code", "mountPath": "/hub/tests/hub"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
    }
    ours.apply(pod, service)
    try:
        eventually(lambda: "listening" in ours("logs", NAME))
        yield f"http://{NAME}.{namespace}.svc:{PORT}"
    finally:
        ours("delete", "namespace", namespace, "--wait=false")


def release(kubectl: Kubectl, hub: str) -> None:
    """Let the weights of tiny/held that are on their way go on. `hub`: the address that `running` gave."""
    namespace = hub.split(".")[1]
    kubectl("exec", NAME, "--namespace", namespace, "--", "sh", "-c", "kill -USR1 1")


@contextmanager
def a_volume(admin: Kubectl, image: str, namespace: str, claim: str) -> Iterator[str]:
    """A folder of the node that everybody may write to, as the volume of a claim; the value is its path."""
    path = f"/var/tmp/{namespace}"
    ours = Kubectl(admin.program, admin.kubeconfig, "kube-system")
    prepare = a_pod(f"prepare-{namespace}", image, ["python", "-c", f"import os; os.chmod({path!r}, 0o777)"])
    prepare["spec"] |= {
        "restartPolicy": "Never",
        "volumes": [{"name": "folder", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}],
    }
    prepare["spec"]["containers"][0] |= {
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "folder", "mountPath": path}],
    }
    volume: Manifest = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": namespace},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CACHE["storageClassName"],
            "hostPath": {"path": path},
            "claimRef": {"namespace": namespace, "name": claim},
        },
    }
    ours.apply(prepare, volume)
    try:
        eventually(
            lambda: (ours.get("pod", f"prepare-{namespace}") or {})["status"].get("phase") == "Succeeded", seconds=60
        )
        yield path
    finally:
        ours("delete", "pod", f"prepare-{namespace}", "--wait=false")
        ours("delete", "pv", namespace, "--wait=false")


def a_pod(name: str, image: str, command: list[str]) -> Manifest:
    """A pod of the server's image that runs something else."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": command}],
        },
    }
