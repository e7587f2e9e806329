"""Stand-in for EFS: a default StorageClass `efs-sc` with hostPath volumes that many pods may share."""

import shutil
from pathlib import Path

from tests.cluster.api import Api, Json

CLASS = "efs-sc"
COUNT = 50
SIZE = "50Gi"
VOLUMES = "/api/v1/persistentvolumes"


def install(api: Api, folder: str, *, local: Path | None = None) -> None:
    """Create the class and its volumes; give released volumes back, empty.

    `folder` is the path on the node; `local` the same folder seen from here, when it can be.
    """
    api.apply("/apis/storage.k8s.io/v1/storageclasses", storage_class())
    phases = {item["metadata"]["name"]: item["status"].get("phase") for item in api.request("GET", VOLUMES)["items"]}
    for number in range(COUNT):
        name = f"{CLASS}-{number:02}"
        if phases.get(name) == "Released":
            api.request("DELETE", f"{VOLUMES}/{name}")
            if local:
                shutil.rmtree(local / name, ignore_errors=True)
        if local:
            (local / name).mkdir(parents=True, exist_ok=True)
            # Any user may write, as through an EFS access point.
            (local / name).chmod(0o777)
        if phases.get(name) in (None, "Released"):
            api.apply(VOLUMES, volume(name, f"{folder}/{name}"))


def storage_class() -> Json:
    """The class; nothing provisions it, its volumes are there before."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "reclaimPolicy": "Retain",
        "volumeBindingMode": "Immediate",
    }


def volume(name: str, path: str) -> Json:
    """One hostPath volume; the kubelet does not check access modes, so many pods may mount it."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": CLASS,
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteMany", "ReadWriteOnce", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": path, "type": "DirectoryOrCreate"},
        },
    }
