"""What the platform team of a real cluster puts before every write: a policy, and a webhook that changes and injects.

The webhook is a pod of the server's image, because that one is certain to be there. Of Deployments it sets a field
that the operator declares otherwise; into server pods it puts a sidecar, which needs the webhook's pod to answer, as a
mesh's proxy needs its control plane. All of it is there for one namespace, and goes with it.
"""

import base64
import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.a_hub import a_pod
from tests.kubectl import Kubectl, Manifest, Refused, eventually

NAME = "platform"
SIDECAR = "mesh-proxy"
# A field of the template that the operator declares, and what becomes of it.
GRACE_SECONDS = 50
PORT, CONTROL_PORT = 8443, 8080
AWAY = "/tmp/control-plane-is-away"
SERVER = """
import base64, http.server, json, os, ssl, sys, threading

namespace, image, grace, away, port, control_port = sys.argv[1:7]
sidecar = '''
import pathlib, sys, threading, urllib.request
urllib.request.urlopen(sys.argv[1], timeout=5)
pathlib.Path("/tmp/connected").touch()
threading.Event().wait()
'''

class Webhook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        response = {"uid": request["uid"], "allowed": True}
        patch = PATCHES[self.path.split("?")[0]](request["object"])
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        body = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

class ControlPlane(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists(away) else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

def deployment(live):
    return [{"op": "add", "path": "/spec/template/spec/terminationGracePeriodSeconds", "value": int(grace)}]

def pod(live):
    url = f"http://platform.{namespace}.svc:{control_port}/"
    container = {
        "name": "mesh-proxy",
        "image": image,
        "command": ["python", "-c", sidecar, url],
        # As a mesh's proxy it is not ready while it only starts.
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/connected"]}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return [{"op": "add", "path": "/spec/containers/-", "value": container}]

PATCHES = {"/deployments": deployment, "/pods": pod}
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server = http.server.ThreadingHTTPServer(("", int(port)), Webhook)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
control = http.server.ThreadingHTTPServer(("", int(control_port)), ControlPlane)
threading.Thread(target=control.serve_forever, daemon=True).start()
print("listening", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Platform:
    """The webhook's pod and Service; the namespace that its rules are for."""

    kubectl: Kubectl
    namespace: str

    def lose_the_webhook(self) -> None:
        """Nobody is behind its address any more."""
        self._choose("nobody")

    def bring_the_webhook_back(self) -> None:
        """It answers again."""
        self._choose(NAME)

    def lose_the_control_plane(self) -> None:
        """From now on sidecars that start find none, and end."""
        self.kubectl("exec", NAME, "--", "touch", AWAY)

    def bring_the_control_plane_back(self) -> None:
        """Sidecars that start find it."""
        self.kubectl("exec", NAME, "--", "rm", AWAY)

    def _choose(self, app: str) -> None:
        """Nobody is behind the address, or somebody, as soon as the node's proxy has heard of it, too."""
        self.kubectl.patch("service", NAME, {"spec": {"selector": {"app": app}}})
        watched = Kubectl(self.kubectl.program, self.kubectl.kubeconfig, self.namespace)
        eventually(lambda: _answers(watched) == (app == NAME))


@contextmanager
def at_work(admin: Kubectl, image: str, namespace: str, folder: Path) -> Iterator[Platform]:
    """Webhook and policy, in force for one namespace."""
    own = f"e2e-platform-{uuid.uuid4().hex[:8]}"
    admin("create", "namespace", own)
    ours = Kubectl(admin.program, admin.kubeconfig, own)
    try:
        eventually(lambda: ours.get("serviceaccount", "default"))
        certificate = _serve(ours, image, folder)
        admin.apply(_webhooks(namespace, own, certificate), *_policy(namespace))
        _wait_until_in_force(Kubectl(admin.program, admin.kubeconfig, namespace))
        yield Platform(ours, namespace)
    finally:
        kinds = "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings"
        admin("delete", kinds, "-l", f"e2e.carepath.ai/namespace={namespace}")
        admin("delete", "namespace", own, "--wait=false")


def _serve(ours: Kubectl, image: str, folder: Path) -> str:
    """Start the webhook's pod; its certificate, in base64."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    command = (
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout {key} "
        f"-out {certificate} -subj /CN={NAME} -addext subjectAltName=DNS:{NAME}.{ours.namespace}.svc"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    ours("create", "secret", "tls", NAME, f"--cert={certificate}", f"--key={key}")
    arguments = [ours.namespace, image, str(GRACE_SECONDS), AWAY, str(PORT), str(CONTROL_PORT)]
    pod = a_pod(NAME, image, ["python", "-c", SERVER, *arguments])
    pod["metadata"]["labels"] = {"app": NAME}
    pod["spec"]["volumes"] = [{"name": "tls", "secret": {"secretName": NAME}}]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "tls", "mountPath": "/tls"}]
    ports = [{"name": "webhook", "port": 443, "targetPort": PORT}, {"name": "control", "port": CONTROL_PORT}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": ports},
    }
    ours.apply(pod, service)
    eventually(lambda: "listening" in ours("logs", NAME))
    return base64.b64encode(certificate.read_bytes()).decode()


def _marked(namespace: str, name: str) -> Manifest:
    """Metadata of what belongs to no namespace, so that it is found again when the test is over."""
    return {"name": f"{name}-{namespace}", "labels": {"e2e.carepath.ai/namespace": namespace}}


def _webhooks(namespace: str, own: str, certificate: str) -> Manifest:
    def webhook(kind: str, group: str, operations: list[str], **over: Manifest) -> Manifest:
        service = {"namespace": own, "name": NAME, "port": 443, "path": f"/{kind}"}
        return {
            "name": f"{kind}.platform.example.com",
            "clientConfig": {"service": service, "caBundle": certificate},
            "rules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": operations, "resources": [kind]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 5,
            **over,
        }

    servers = {"matchLabels": {"app.kubernetes.io/name": "inference-server"}}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": _marked(namespace, NAME),
        "webhooks": [
            webhook("deployments", "apps", ["CREATE", "UPDATE"]),
            webhook("pods", "", ["CREATE"], objectSelector=servers),
        ],
    }


def _policy(namespace: str) -> tuple[Manifest, Manifest]:
    """Nobody may run images of Docker Hub."""
    allowed = "object.spec.template.spec.containers.all(one, !one.image.startsWith('docker.io/'))"
    resources = [{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}]
    metadata = _marked(namespace, "images")
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": metadata,
        "spec": {
            "matchConstraints": {"resourceRules": resources},
            "validations": [{"expression": allowed, "message": "images of Docker Hub are not allowed"}],
        },
    }
    chosen = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": metadata,
        "spec": {"policyName": metadata["name"], "validationActions": ["Deny"], "matchResources": chosen},
    }
    return policy, binding


def _wait_until_in_force(kubectl: Kubectl) -> None:
    """The API server hears of webhooks and policies a little later."""

    def asks_the_policy() -> bool:
        try:
            kubectl("apply", "--dry-run=server", "-f", "-", stdin=_a_deployment("docker.io/library/x"))
        except Refused as refused:
            return "Docker Hub" in str(refused)
        return False

    eventually(lambda: _answers(kubectl))
    eventually(asks_the_policy)


def _answers(kubectl: Kubectl) -> bool:
    """Whether the webhook is asked for a Deployment of this namespace, and answers."""
    try:
        told = kubectl("apply", "--dry-run=server", "-o", "json", "-f", "-", stdin=_a_deployment("registry.k8s.io/x"))
    except Refused as refused:
        if "failed calling webhook" in str(refused):
            return False
        raise
    return re.search(rf'"terminationGracePeriodSeconds": {GRACE_SECONDS}', told) is not None


def _a_deployment(image: str) -> str:
    labels = {"app": "probe"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "probe", "image": image}]}}
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "probe"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }
    return json.dumps(manifest)
