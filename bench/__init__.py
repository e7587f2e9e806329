"""Measurements: how fast, for how much. docs/performance.md tells how to run and read them."""
