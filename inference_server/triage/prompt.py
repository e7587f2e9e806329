"""Where the system prompt stands in a conversation. Pure.

It opens every conversation that has no system message of its own; an engine that knows it at start (`serve` tells it)
can read it once for all requests.
"""

from inference_server.engine.protocol import Message


def with_system_prompt(prompt: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """A conversation that brings a system message of its own keeps it, and only it."""
    if not prompt or any(message.role == "system" for message in messages):
        return messages
    return (Message("system", prompt), *messages)
