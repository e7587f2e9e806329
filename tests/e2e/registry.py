"""A container registry in a pod, on localhost of the node: container runtimes pull from there by plain http.

It answers every request for an image of name `localhost:PORT/STATUS/...` with that status. Two images it has:
`root/...`, an empty one that would run as root, and `late/...`, the server's own, which is not to be had (503) before
`repair`. Its pod runs the server's image, because that one is certain to be there.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.kubectl import Kubectl, Manifest, eventually

NAME = "registry"
REPAIRED = "/tmp/repaired"
SERVER = """
import hashlib, http.server, io, json, os, platform, shutil, sys, tarfile

REPAIRED = sys.argv[1]
CODES = {401: "UNAUTHORIZED", 404: "MANIFEST_UNKNOWN", 503: "UNAVAILABLE"}
TYPES = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
blobs = {}

def digest_of(path):
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

def blob(path, media_type):
    digest = digest_of(path)
    blobs[digest] = path, media_type
    return {"mediaType": media_type, "digest": digest, "size": os.path.getsize(path)}

def image(name, folders, config):
    "Write an image of one layer; the path of its manifest."
    def kept(entry):
        return entry if entry.isfile() or entry.isdir() or entry.issym() or entry.islnk() else None
    with tarfile.open(f"/tmp/{name}.tar", "w") as tar:
        for folder in folders:
            tar.add(folder, filter=kept)
    rootfs = {"type": "layers", "diff_ids": [digest_of(f"/tmp/{name}.tar")]}
    config = {"architecture": ARCHITECTURE, "os": "linux", "config": config, "rootfs": rootfs}
    manifest = {"schemaVersion": 2, "mediaType": TYPES[0]}
    with open(f"/tmp/{name}.config", "w") as file:
        json.dump(config, file)
    manifest["config"] = blob(f"/tmp/{name}.config", TYPES[1])
    manifest["layers"] = [blob(f"/tmp/{name}.tar", LAYER)]
    with open(f"/tmp/{name}.manifest", "w") as file:
        json.dump(manifest, file)
    blob(f"/tmp/{name}.manifest", TYPES[0])
    return f"/tmp/{name}.manifest"

class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        _, _, name, _, kind, reference = self.path.split("?")[0].split("/")
        if name.isdigit():
            return self.refuse(int(name))
        if name == "late" and not os.path.exists(REPAIRED):
            return self.refuse(503)
        path, media_type = blobs[reference] if kind == "blobs" or ":" in reference else (manifests[name], TYPES[0])
        self.send_response(200)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(os.path.getsize(path)))
        self.send_header("Docker-Content-Digest", digest_of(path))
        self.end_headers()
        if self.command != "HEAD":
            with open(path, "rb") as file:
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    do_HEAD = do_GET

    def refuse(self, status):
        body = json.dumps({"errors": [{"code": CODES[status], "message": "so the test wants it"}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

environment = [f"{key}={os.environ[key]}" for key in ("PATH", "PYTHONPATH", "HOME") if key in os.environ]
serve = {"Entrypoint": ["python", "-m", "inference_server"], "User": "10001:10001", "Env": environment}
folders = ["/app", "/bin", "/etc", "/lib", "/lib64", "/opt", "/usr", "/var/lib"]
manifests = {
    "root": image("root", [], {"Entrypoint": ["/nothing"]}),
    "late": image("late", [one for one in folders if os.path.exists(one)], serve),
}
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
print("port", server.server_port, flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Registry:
    """Where it listens."""

    kubectl: Kubectl
    port: int

    def image(self, name: int | str) -> str:
        """Full name of an image: of a status that the registry answers with, or of one that it has."""
        return f"localhost:{self.port}/{name}/server:1"

    def repair(self) -> None:
        """From now on it has the image `late`."""
        self.kubectl("exec", NAME, "--", "touch", REPAIRED)


@contextmanager
def running(kubectl: Kubectl, image: str) -> Iterator[Registry]:
    """The registry, in a namespace of its own: pods on the node's network are not `restricted`."""
    namespace = f"e2e-registry-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    ours = Kubectl(kubectl.program, kubectl.kubeconfig, namespace)
    eventually(lambda: ours.get("serviceaccount", "default"))
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME},
        "spec": {
            "hostNetwork": True,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": NAME,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python", "-c", SERVER, REPAIRED],
                    # It packs its own files, and not all of them are everybody's to read.
                    "securityContext": {"runAsUser": 0},
                }
            ],
        },
    }
    ours.apply(pod)
    try:
        told = eventually(lambda: re.search(r"port (\d+)", ours("logs", NAME)))
        assert told is not None
        yield Registry(ours, int(told[1]))
    finally:
        ours("delete", "namespace", namespace, "--wait=false")
