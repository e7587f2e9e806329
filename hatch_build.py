"""Compiles the inference server's kernels while the package is built: `uv sync`, `uv pip install`, `uv build`.

The compiler comes from PyPI as everything else does: no machine, image or pipeline needs one of its own, and all make
the same code. Where the source is not there, as in the operator's image, nothing is compiled.
"""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = Path("inference_server/engine/qwen/kernels.c")
_COMPILER = "ziglang==0.17.1"
# The oldest processor of a kind, and those for which there is more: names of files, and of processors to the compiler.
_PROCESSORS = {
    "x86_64": {"x86_64": "x86_64", "x86_64_v3": "x86_64_v3"},
    "aarch64": {"aarch64": "generic"},
    "arm64": {"arm64": "generic"},
}
# Any Linux of the last years; elsewhere this machine.
_TARGETS = {("linux", "x86_64"): "x86_64-linux-gnu.2.28", ("linux", "aarch64"): "aarch64-linux-gnu.2.28"}
_OPTIONS = (
    "-std=gnu11",
    "-O3",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-shared",
    "-fPIC",
    "-s",
)


class KernelsHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "kernels"

    def dependencies(self) -> list[str]:
        return [_COMPILER] if self._source.is_file() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        if self.target_name != "wheel" or not self._source.is_file():
            return
        machine = platform.machine()
        if machine not in _PROCESSORS:
            self.app.display_warning(f"kernels.c is not compiled for {machine}: only LLM_MODE=mock will run here")
            return
        target = _TARGETS.get((sys.platform, machine))
        for name, processor in _PROCESSORS[machine].items():
            library = self._source.with_name(f"kernels-{name}.so")
            goal = ("-o", str(library), f"-mcpu={processor}", *(("-target", target) if target else ()))
            subprocess.run([sys.executable, "-m", "ziglang", "cc", *_OPTIONS, *goal, str(self._source)], check=True)  # noqa: S603
            build_data["artifacts"].append(str(_SOURCE.with_name(library.name)))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    @property
    def _source(self) -> Path:
        return Path(self.root) / _SOURCE
