"""Inference server: answers POST /triage from a mock or from a language model."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("llm-operator")
except PackageNotFoundError:
    # Run from a clone, by a Python that has the libraries but not this package.
    __version__ = "0+unknown"
