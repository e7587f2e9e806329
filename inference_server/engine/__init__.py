"""Engines: what turns a request into an answer. The HTTP side knows only `engine.protocol`."""
