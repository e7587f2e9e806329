"""Brings a model from a Hugging Face Hub onto a volume, whole or not at all: `python -m inference_server fetch`.

command → fetcher → lease, staging        this process decides, watches, and owns the folder
                  → supervise ⇄ worker    a child does all transfers, so that a hung one can be killed
prune → lease, staging     deletes models that nobody needs: `python -m inference_server prune`
plan, failures, ready, retry, progress, ownership, layout, retention: decisions without any I/O
"""
