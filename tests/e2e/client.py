"""Talks to /triage from a pod of its own, as another service of the cluster would.

The client pod runs the server's image, because that one is certain to be there; only its Python is used.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.kubectl import Kubectl, Manifest, eventually

NAME = "client"
# Of each kind: connections that are kept, as a client library does, and one for each request, as curl does.
CONNECTIONS = 2
CLIENT = """
import http.client, json, os, sys, threading, time
host, canary, connections = sys.argv[1], sys.argv[2], int(sys.argv[3])
body = json.dumps({"patient_mrn": canary, "query": f"I have a headache {canary}"}).encode()
headers = {"Content-Type": "application/json"}
end = time.monotonic() + 1800
found = {"kept": 0, "new": 0, "wordless": 0, "failures": [], "slowest": 0.0, "answer": None}

def ask(kind):
    connection = None
    while True:
        if connection is None:
            connection = http.client.HTTPConnection(host, 8002, timeout=120)
        began = time.monotonic()
        try:
            connection.request("POST", "/triage", body, headers)
            response = connection.getresponse()
            text = response.read()
            if response.status == 500 and b'"EmptyAnswer"' in text:
                # Random weights may end without a word: that is told, and nothing is lost.
                found["wordless"] += 1
                continue
            if response.status != 200:
                raise Exception(f"{response.status}: {text!r}")
            found["answer"] = json.loads(text)
        except Exception as error:
            found["failures"].append(f"{time.strftime('%H:%M:%S')} {kind}: {error!r}")
            connection.close()
        found[kind] += 1
        found["slowest"] = max(found["slowest"], time.monotonic() - began)
        if kind == "new":
            connection.close()
            connection = None
        enough = found[kind] > 20 and os.path.exists("/tmp/stop")
        if not connections or enough or time.monotonic() >= end:
            break
        time.sleep(0.04)

threads = [threading.Thread(target=ask, args=[kind]) for kind in connections * ["kept", "new"] or ["new"]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(found))
"""


def ask_once(kubectl: Kubectl, *, canary: str = "MRN-001") -> dict[str, Any]:
    """One request from a pod; the answer is that of `finish`."""
    _start(kubectl, canary, 0)
    return _result(kubectl)


def start(kubectl: Kubectl) -> None:
    """Start a pod that posts to the Service `triage` all the time, on several connections."""
    _start(kubectl, "MRN-001", CONNECTIONS)


@contextmanager
def nothing_lost(kubectl: Kubectl) -> Iterator[None]:
    """Traffic during the block, of which no request may fail."""
    start(kubectl)
    yield
    found = finish(kubectl)
    assert found["failures"] == []
    assert min(found["kept"], found["new"]) > 20


def finish(kubectl: Kubectl) -> dict[str, Any]:
    """Stop what `start` started, which must still be running.

    {kept, new (requests on connections of that kind), failures, slowest (in seconds), answer (the last one)}
    """
    assert phase(kubectl) == "Running", "the client did not see all of what happened"
    kubectl("exec", NAME, "--", "touch", "/tmp/stop")
    return _result(kubectl)


def _start(kubectl: Kubectl, canary: str, connections: int) -> None:
    service = kubectl.get("service", "triage")
    deployment = kubectl.get("deployment", "triage")
    assert service is not None
    assert deployment is not None
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
                    "command": ["python", "-c", CLIENT, service["spec"]["clusterIP"], canary, str(connections)],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    kubectl.apply(pod)
    eventually(lambda: phase(kubectl) in ("Running", "Succeeded"))


def _result(kubectl: Kubectl) -> dict[str, Any]:
    eventually(lambda: phase(kubectl) in ("Succeeded", "Failed"))
    found: dict[str, Any] = json.loads(kubectl("logs", NAME))
    print("traffic:", {key: value for key, value in found.items() if key != "answer"})
    return found


def phase(kubectl: Kubectl) -> str:
    """Phase of the client's pod."""
    return str((kubectl.get("pod", NAME) or {}).get("status", {}).get("phase"))
