"""A small server that answers huggingface_hub as the Hugging Face Hub does, faults included.

In a test: `with a_hub() as hub: hub.add("org/name", a_checkpoint()); …hub.url`. As a program, for pods, with a set of
repositories that each have one fault: `python -m tests.hub`. Needs nothing but the standard library.
"""
