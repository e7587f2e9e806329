"""Other people's words: a runtime's, a registry's, a kubelet's. Pure; used by pods.py, conditions.py and act.py.

What changes by itself in them must not be written to a status again and again; what they mean decides whether a
revision is at fault.
"""

import json
import re

from llm_operator.api.conditions import Reason
from llm_operator.core.diagnosis.remedies import in_fields

# Ordered: the words for "denied" contain "does not exist" and "not found" stands in answers of proxies too.
PULL_WORDS: tuple[tuple[Reason, re.Pattern[str]], ...] = (
    (
        Reason.REGISTRY_UNAVAILABLE,
        re.compile(
            r"\b5\d\d (Internal|Not Implemented|Bad Gateway|Service Unavailable|Gateway)|toomanyrequests|429 Too Many"
            r"|i/o timeout|deadline exceeded|timed? ?out|connection re(fused|set)|no such host|no route to host"
            r"|network is unreachable|server misbehaving|TLS handshake|x509|\bEOF\b",
            re.IGNORECASE,
        ),
    ),
    (
        Reason.IMAGE_PULL_DENIED,
        re.compile(
            r"denied|unauthorized|authorization failed|authentication required|forbidden|\b40[13]\b", re.IGNORECASE
        ),
    ),
    (
        Reason.IMAGE_NOT_FOUND,
        re.compile(r"not found|manifest unknown|name unknown|no match for platform", re.IGNORECASE),
    ),
)
# Why a container is not created, where that cannot pass by itself: what it refers to is not there, the image asks for
# root, or has not got the command. All else may be a runtime that is slow, or a kubelet that has just begun.
WRONGLY_DECLARED = re.compile(
    r'\b(?:secret|configmap) "[^"]*" not found|couldn\'t find key |runAsNonRoot|non-numeric user|no command specified'
)
NO_SUCH_COMMAND = re.compile(
    r'exec: "[^"]+": (?:stat \S+: )?(?:executable file not found|no such file or directory|permission denied'
    r"|exec format error|is a directory)|executable file \S+ not found in \$PATH|exec \S+: exec format error"
)
# The same words about something of the node's own: a hook, a runtime or a driver that is not there (yet).
OF_THE_NODE = re.compile(r'hook|fork/exec|exec: "[^"]*(?:nvidia|runtime|shim)|\bdevice\b')
DETAIL_LIMIT = 1024
IT_SAYS = " It says: "
VOLATILE = re.compile(r"[0-9a-fA-F-]{8,}|[0-9]+")


def why_not_pulled(state: str, words: str, image: str) -> Reason:
    """Why an image was not pulled: by the runtime's words, without the image's own name, which could say anything."""
    if state == "ErrImageNeverPull":
        return Reason.IMAGE_NOT_FOUND
    if state == "RegistryUnavailable":
        return Reason.REGISTRY_UNAVAILABLE
    repository = re.sub(r"(:[^:/]*)?(@.*)?$", "", image)
    tag = image.removeprefix(repository).lstrip(":")
    for name in (image, repository, repository.partition("/")[2], f"manifests/{tag}"):
        words = words.replace(name, "") if len(name) > 3 else words
    return next((reason for reason, pattern in PULL_WORDS if pattern.search(words)), Reason.IMAGE_PULL_FAILED)


def secrets_not_found(note: str) -> list[str]:
    """The Secrets that a kubelet's event (FailedToRetrieveImagePullSecret) names."""
    match = re.search(r"image pull secrets \(([^)]*)\)", note)
    return [] if match is None else match[1].split(", ")


def is_wrongly_declared(words: str) -> bool:
    """Whether a kubelet or a runtime cannot create a container for a reason that does not pass by itself."""
    if WRONGLY_DECLARED.search(words):
        return True
    return NO_SUCH_COMMAND.search(words) is not None and OF_THE_NODE.search(words) is None


def last_words(message: str) -> str:
    """The server's {reason, message, remedy} in the words of the spec, or its note of memory in use; else as it is."""
    try:
        words = json.loads(message)
    except ValueError:
        return message
    if not isinstance(words, dict):
        return message
    if isinstance(words.get("memoryBytes"), int):
        return f"{words['memoryBytes'] / 2**20:.0f} MiB of memory in use while {words.get('phase', 'running')}."
    reason, message, remedy = (str(words.get(key) or "") for key in ("reason", "message", "remedy"))
    told = in_fields(reason, message, remedy)
    return f"{reason}: {told}" if reason and told else reason or told


def gives_a_reason(message: str) -> bool:
    """Whether a server said why it ends. Its note of memory in use only shows that it did not end by itself."""
    return bool(message) and '"memoryBytes"' not in message


def detail(words: str) -> str:
    """Somebody else's words as the last sentence of a message, on one line and not too long."""
    words = " ".join(words.split())
    if not words:
        return ""
    return f"{IT_SAYS}{words[:DETAIL_LIMIT]}{'…' if len(words) > DETAIL_LIMIT else ''}"


def brief(message: str) -> str:
    """A message without somebody else's words at its end."""
    return message.partition(IT_SAYS)[0]


def with_note(message: str, note: str) -> str:
    """A message with one more sentence of ours; somebody else's words stay the last."""
    ours, it_says, words = message.partition(IT_SAYS)
    return f"{ours} {note}{it_says}{words}" if note else message


def says_the_same(old: str, new: str) -> bool:
    """Whether the old message tells all of the new one, so that writing the new one would only cause an event.

    A runtime alternates between an error with and without details; a webhook puts a request id or the time
    into its refusal.
    """
    (old_head, _, old_words), (new_head, _, new_words) = old.partition(IT_SAYS), new.partition(IT_SAYS)
    return old_head == new_head and (not new_words or VOLATILE.sub("#", old_words) == VOLATILE.sub("#", new_words))
