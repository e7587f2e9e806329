"""`python -m llm_operator`: runs against `KUBECONFIG`, or in a pod with its service account."""

import asyncio
import logging
import sys

from kubernetes.aio.config import ConfigException
from pydantic import ValidationError

from llm_operator import logs
from llm_operator.process import run
from llm_operator.settings import OperatorSettings

EX_CONFIG = 78
log = logging.getLogger("llm_operator")


def main() -> int:
    """Entry point; the exit code is 78 for settings that are not valid."""
    try:
        settings = OperatorSettings()
    except ValidationError as error:
        for one in error.errors(include_url=False):
            name = f"LLMOP_{'_'.join(str(part) for part in one['loc'][:1]).upper()}"
            sys.stderr.write(f"{name}: {one['msg']} (is {one['input']!r})\n")
        return EX_CONFIG
    logs.configure(settings.log_level)
    try:
        asyncio.run(run(settings))
    except ConfigException as error:
        sys.stderr.write(f"No credentials for a cluster: {error}. Set KUBECONFIG, or run in a pod.\n")
        return EX_CONFIG
    except Exception:
        log.exception("the operator ends; it is to be started again")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
