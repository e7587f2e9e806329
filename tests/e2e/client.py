"""Talks to /triage from a pod of its own, as another service of the cluster would.

The client pod runs the server's image, because that one is certain to be there; only its Python is used.
"""

import json
from typing import Any

from tests.kubectl import Kubectl, Manifest, eventually

NAME = "client"
CLIENT = """
import json, os, sys, time, urllib.request
url, canary, once = sys.argv[1], sys.argv[2], sys.argv[3] == "once"
body = json.dumps({"patient_mrn": canary, "query": f"I have a headache {canary}"}).encode()
count, failures, answer, end = 0, [], None, time.monotonic() + 600
while True:
    try:
        request = urllib.request.Request(url + "/triage", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.load(response)
    except Exception as error:
        failures.append(repr(error))
    count += 1
    if once or os.path.exists("/tmp/stop") or time.monotonic() >= end:
        break
    time.sleep(0.02)
print(json.dumps({"count": count, "failures": failures, "answer": answer}))
"""


def ask_once(kubectl: Kubectl, *, canary: str = "MRN-001") -> dict[str, Any]:
    """One request from a pod: {count, failures, answer}."""
    _start(kubectl, canary, "once")
    return _result(kubectl)


def start(kubectl: Kubectl) -> None:
    """Start a pod that posts to the Service `triage` one request after the other, each on a new connection."""
    _start(kubectl, "MRN-001", "until told")


def finish(kubectl: Kubectl) -> dict[str, Any]:
    """Stop what `start` started, which must still be running: {count, failures, answer (the last one)}."""
    assert phase(kubectl) == "Running", "the client did not see all of what happened"
    kubectl("exec", NAME, "--", "touch", "/tmp/stop")
    return _result(kubectl)


def _start(kubectl: Kubectl, canary: str, how_long: str) -> None:
    service = kubectl.get("service", "triage")
    deployment = kubectl.get("deployment", "triage")
    assert service is not None
    assert deployment is not None
    url = f"http://{service['spec']['clusterIP']}:8002"
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "client",
                    "image": deployment["spec"]["template"]["spec"]["containers"][0]["image"],
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", CLIENT, url, canary, how_long],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    kubectl.apply(pod)
    eventually(lambda: phase(kubectl) in ("Running", "Succeeded"), seconds=60)


def _result(kubectl: Kubectl) -> dict[str, Any]:
    eventually(lambda: phase(kubectl) in ("Succeeded", "Failed"), seconds=60)
    answer: dict[str, Any] = json.loads(kubectl("logs", NAME))
    return answer


def phase(kubectl: Kubectl) -> str:
    """Phase of the client's pod."""
    return str((kubectl.get("pod", NAME) or {}).get("status", {}).get("phase"))
