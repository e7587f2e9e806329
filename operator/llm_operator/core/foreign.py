"""What others put into a child and must not stay, as JSON patches. Pure; used by plan.py and act.py.

Server-side apply cannot take anything out that somebody else put in. Most additions do no harm and stay;
the ones named here break the server (a second container on its port, another command, a variable it reads),
weaken its security context, stop its roll-out (`kubectl rollout pause`), or stand in the way of an apply (a
port of our name with another number).
"""

from llm_operator.core.drift import first_difference
from llm_operator.core.names import FIELD_MANAGER, Manifest

TEMPLATE = "/spec/template/spec"
POD_FIELDS = ("hostIPC", "hostNetwork", "hostPID")
CONTAINER_FIELDS = ("args", "command", "envFrom", "workingDir")
SECURITY = "securityContext"


def drift(desired: Manifest, live: Manifest) -> str | None:
    """Path of the first field of a child that is not as declared, or None."""
    path = first_difference(desired, live)
    if path is not None:
        return path
    found = [*in_the_way(desired, live), *left_over(desired, live)]
    return found[0]["path"] if found else None


def in_the_way(desired: Manifest, live: Manifest) -> list[Manifest]:
    """JSON patch for before an apply: foreign fields out, ports as declared.

    Only constants are written here. What the user declared is written by the apply alone, so that a
    refusal of it leaves nothing half done.
    """
    if desired["kind"] == "Service":
        return _ports("/spec/ports", desired["spec"], live["spec"], "port")
    operations = [_remove("/spec/paused")] if live["spec"].get("paused") else []
    ours, pod = _pod(desired), _pod(live)
    operations += [_remove(f"{TEMPLATE}/{field}") for field in POD_FIELDS if pod.get(field)]
    operations += _undeclared(f"{TEMPLATE}/{SECURITY}", ours[SECURITY], pod.get(SECURITY, {}))
    operations += _foreign_init_containers(ours, pod)
    for group in ("containers", "initContainers"):
        wanted = {one["name"]: one for one in ours.get(group, [])}
        for at, container in enumerate(
            one for one in pod.get(group, []) if group == "containers" or one["name"] in wanted
        ):
            if container["name"] in wanted:
                operations += _in_the_way_of_container(f"{TEMPLATE}/{group}/{at}", wanted[container["name"]], container)
    return operations


def _foreign_init_containers(ours: Manifest, pod: Manifest) -> list[Manifest]:
    """They run before the server does, and may keep it from running. Removed first, the last one before the others."""
    wanted = {one["name"] for one in ours.get("initContainers", [])}
    found = pod.get("initContainers", [])
    if found and not wanted:
        return [_remove(f"{TEMPLATE}/initContainers")]
    return [
        _remove(f"{TEMPLATE}/initContainers/{at}")
        for at in reversed(range(len(found)))
        if found[at]["name"] not in wanted
    ]


def _in_the_way_of_container(where: str, desired: Manifest, live: Manifest) -> list[Manifest]:
    ours = {one["name"] for one in desired["env"]}
    env = live.get("env", [])
    return [
        *(_remove(f"{where}/{field}") for field in CONTAINER_FIELDS if live.get(field) and field not in desired),
        *(_remove(f"{where}/env/{at}") for at in reversed(range(len(env))) if env[at]["name"] not in ours),
        *_undeclared(f"{where}/{SECURITY}", desired[SECURITY], live.get(SECURITY, {})),
        *_ports(f"{where}/ports", desired, live, "containerPort"),
    ]


def replace_template(desired: Manifest) -> list[Manifest]:
    """JSON patch that puts the declared pod in the place of the live one; taken or refused as a whole."""
    if desired["kind"] != "Deployment":
        return []
    return [{"op": "replace", "path": TEMPLATE, "value": _pod(desired)}]


def left_over(desired: Manifest, live: Manifest) -> list[Manifest]:
    """JSON patch for after an apply: containers that are not ours out, the last one first."""
    if desired["kind"] != "Deployment":
        return []
    wanted = {one["name"] for one in _pod(desired)["containers"]}
    found = _pod(live)["containers"]
    return [
        _remove(f"{TEMPLATE}/containers/{at}") for at in reversed(range(len(found))) if found[at]["name"] not in wanted
    ]


def claim(live: Manifest) -> list[Manifest]:
    """JSON patch that makes us own our fields through apply alone.

    A create or a JSON patch makes us their owner by update; such a field would survive when a later apply
    no longer names it.
    """
    entries = live["metadata"].get("managedFields", [])
    ours = [one for one in entries if one.get("manager") == FIELD_MANAGER and "subresource" not in one]
    by_update = [one for one in ours if one.get("operation") == "Update"]
    if not by_update:
        return []
    if len(ours) > len(by_update):
        kept = [one for one in entries if one not in by_update]
    else:
        kept = [{**one, "operation": "Apply"} if one in by_update else one for one in entries]
    return [{"op": "replace", "path": "/metadata/managedFields", "value": kept}]


def _ports(where: str, desired: Manifest, live: Manifest, key: str) -> list[Manifest]:
    def identities(ports: list[Manifest]) -> set[tuple[object, ...]]:
        return {tuple(one.get(part) for part in (key, "protocol", "hostPort", "hostIP")) for one in ports}

    wanted, found = desired.get("ports", []), live.get("ports", [])
    if identities(wanted) == identities(found):
        return []
    return [{"op": "replace" if found else "add", "path": where, "value": wanted}]


def _undeclared(where: str, desired: Manifest, live: Manifest) -> list[Manifest]:
    operations = []
    for key, value in live.items():
        if key not in desired:
            operations.append(_remove(f"{where}/{key}"))
        elif isinstance(value, dict):
            operations += _undeclared(f"{where}/{key}", desired[key], value)
    return operations


def _pod(deployment: Manifest) -> Manifest:
    pod: Manifest = deployment["spec"]["template"]["spec"]
    return pod


def _remove(path: str) -> Manifest:
    return {"op": "remove", "path": path}
