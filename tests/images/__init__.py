"""Builds the two container images, with or without Docker and with or without a registry in reach.

`make images`, `make demo` and the end-to-end tests run `python3 -m tests.images build` with whatever Python the
machine has, before any virtual environment exists: hence the standard library only.
"""
