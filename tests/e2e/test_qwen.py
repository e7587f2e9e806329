"""`mode: qwen` on a real node: a tiny Qwen3 of random weights, from a Hub in the cluster, run by torch in a pod."""

from tests.e2e import a_hub, client
from tests.e2e.steps import edit, example, triage, wait_ready
from tests.kubectl import Kubectl, Manifest, eventually

REPOSITORY = "tiny/qwen3"
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}


def qwen(hub: str, model_server: str) -> Manifest:
    model = {"repository": REPOSITORY, "endpoint": hub}
    return {"mode": "qwen", "image": model_server, "model": model, "cache": a_hub.CACHE, "resources": RESOURCES}


def test_a_model_answers(kubectl: Kubectl, hub: str, model_server: str, volume: str) -> None:
    kubectl.apply(example(**qwen(hub, model_server)))
    wait_ready(kubectl, seconds=600)
    answer = client.ask_once(kubectl)["answer"]
    commit = triage(kubectl)["status"]["model"]["commit"]
    assert (answer["mode"], answer["model"], answer["revision"]) == ("qwen", REPOSITORY, commit)
    usage = answer["usage"]
    assert 0 < usage["reasoning_tokens"] < usage["completion_tokens"] <= 512
    assert answer["response"], "there is an answer although random weights never end their reasoning"


def test_without_a_cache_each_pod_fetches_for_itself(kubectl: Kubectl, hub: str, model_server: str) -> None:
    spec = {key: value for key, value in qwen(hub, model_server).items() if key != "cache"}
    kubectl.apply(example(**spec))
    wait_ready(kubectl, seconds=600)
    assert client.ask_once(kubectl)["answer"]["mode"] == "qwen"


def test_from_mock_to_qwen_and_back_no_request_is_lost(
    kubectl: Kubectl, hub: str, model_server: str, volume: str
) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    with client.nothing_lost(kubectl):
        # Every answer of four clients at once is waited for, also on a slow machine.
        edit(kubectl, {**qwen(hub, model_server), "generation": {"maxNewTokens": 64}})
        wait_ready(kubectl, seconds=600)
        eventually(lambda: triage(kubectl)["status"]["mode"] == "qwen")
        edit(kubectl, {"mode": "mock", "image": None, "generation": None, "resources": example()["spec"]["resources"]})
        wait_ready(kubectl)
        eventually(lambda: triage(kubectl)["status"]["mode"] == "mock")
