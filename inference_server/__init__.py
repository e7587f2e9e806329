"""Inference server: answers POST /triage from a mock or from a language model."""

from importlib.metadata import version

__version__ = version("llm-operator")
