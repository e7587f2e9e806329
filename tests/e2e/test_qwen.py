"""`mode: qwen` on a real node: a tiny Qwen3 of random weights, from a Hub in the cluster, run by torch in a pod."""

import pytest

from tests.e2e import a_hub, client
from tests.e2e.model_image import model_image
from tests.e2e.steps import edit, example, triage, wait_ready
from tests.kubectl import Kubectl, Manifest, eventually

REPOSITORY = "tiny/qwen3"
RESOURCES = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}


@pytest.fixture(scope="module")
def image(admin: Kubectl) -> str:
    return model_image(admin)


def qwen(hub: str, image: str) -> Manifest:
    model = {"repository": REPOSITORY, "endpoint": hub}
    return {"mode": "qwen", "image": image, "model": model, "cache": a_hub.CACHE, "resources": RESOURCES}


def test_a_model_answers(kubectl: Kubectl, hub: str, image: str, volume: str) -> None:
    kubectl.apply(example(**qwen(hub, image)))
    wait_ready(kubectl, seconds=600)
    answer = client.ask_once(kubectl)["answer"]
    commit = triage(kubectl)["status"]["model"]["commit"]
    assert (answer["mode"], answer["model"], answer["revision"]) == ("qwen", REPOSITORY, commit)
    usage = answer["usage"]
    assert 0 < usage["reasoning_tokens"] < usage["completion_tokens"] <= 512
    assert answer["response"], "there is an answer although random weights never end their reasoning"


def test_without_a_cache_each_pod_fetches_for_itself(kubectl: Kubectl, hub: str, image: str) -> None:
    spec = {key: value for key, value in qwen(hub, image).items() if key != "cache"}
    kubectl.apply(example(**spec))
    wait_ready(kubectl, seconds=600)
    assert client.ask_once(kubectl)["answer"]["mode"] == "qwen"


def test_from_mock_to_qwen_and_back_no_request_is_lost(kubectl: Kubectl, hub: str, image: str, volume: str) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    with client.nothing_lost(kubectl):
        # Every answer of four clients at once is waited for, also on a slow machine.
        edit(kubectl, {**qwen(hub, image), "generation": {"maxNewTokens": 64}})
        wait_ready(kubectl, seconds=600)
        eventually(lambda: triage(kubectl)["status"]["mode"] == "qwen")
        edit(kubectl, {"mode": "mock", "image": None, "generation": None, "resources": example()["spec"]["resources"]})
        wait_ready(kubectl)
        eventually(lambda: triage(kubectl)["status"]["mode"] == "mock")
