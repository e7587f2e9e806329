"""Admission plugins that refuse, normalise and inject: nothing half done, no fight, and judging goes on."""

from pathlib import Path

from tests.integration.webhooks import Denied, registered_webhook
from tests.kubectl import Kubectl, Refused


def test_a_webhook_of_the_tests_is_asked_refuses_and_can_be_away(kubectl: Kubectl, tmp_path: Path) -> None:
    def no_secrets(request: dict[str, object]) -> Denied:
        return Denied(f"no {request['operation']} here")

    def refused() -> str:
        try:
            kubectl("create", "secret", "generic", "one")
        except Refused as error:
            return str(error)
        return ""

    with registered_webhook(kubectl, tmp_path, no_secrets, resources=["secrets"], kind="Validating") as webhook:
        assert "no CREATE here" in refused()
        assert len(webhook.requests) == 1
        with webhook.away():
            assert "failed calling webhook" in refused()
        assert "no CREATE here" in refused()
        webhook.handler = lambda _: []
        assert refused() == ""
