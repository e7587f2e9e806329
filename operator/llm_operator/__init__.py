"""Kubernetes operator that keeps a healthy model server behind every LLMDeployment."""

from importlib.metadata import version

__version__ = version("llm-operator")
