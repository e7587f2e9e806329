"""Talks to /triage from a pod of its own, as another service of the cluster would.

The client pod runs the server's image, because that one is certain to be there; only its Python is used.
"""

import json
from typing import Any

from tests.kubectl import Kubectl, Manifest, eventually

CLIENT = """
import json, sys, time, urllib.request
url, canary, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
body = json.dumps({"patient_mrn": canary, "query": f"I have a headache {canary}"}).encode()
count, failures, answer, end = 0, [], None, time.monotonic() + seconds
while True:
    try:
        request = urllib.request.Request(url + "/triage", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
    except Exception as error:
        failures.append(repr(error))
    count += 1
    if time.monotonic() >= end:
        break
    time.sleep(0.02)
print(json.dumps({"count": count, "failures": failures, "answer": answer}))
"""


def start(kubectl: Kubectl, *, seconds: float, canary: str = "MRN-001", name: str = "client") -> None:
    """Start a pod that posts to the Service `triage` one request after the other, each on a new connection."""
    service = kubectl.get("service", "triage")
    deployment = kubectl.get("deployment", "triage")
    assert service is not None
    assert deployment is not None
    url = f"http://{service['spec']['clusterIP']}:8002"
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "client",
                    "image": deployment["spec"]["template"]["spec"]["containers"][0]["image"],
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", CLIENT, url, canary, str(seconds)],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    kubectl.apply(pod)
    eventually(lambda: phase(kubectl, name) in ("Running", "Succeeded"), seconds=60)


def result(kubectl: Kubectl, *, name: str = "client", seconds: float = 120) -> dict[str, Any]:
    """Wait for the client's end: {count, failures, answer (the last one)}."""
    eventually(lambda: phase(kubectl, name) in ("Succeeded", "Failed"), seconds=seconds)
    answer: dict[str, Any] = json.loads(kubectl("logs", name))
    return answer


def phase(kubectl: Kubectl, name: str) -> str:
    """Phase of a pod."""
    return str((kubectl.get("pod", name) or {}).get("status", {}).get("phase"))
