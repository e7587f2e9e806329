"""Answers by mode, as plain functions: for Python callers and for the mock engine.

`generate_response` dispatches on the mode; the server itself goes through `engine.protocol`, which can stream
and cancel.
"""

from inference_server.engine.answer import collect
from inference_server.engine.protocol import GenerationRequest, Message
from inference_server.modes import canonical_mode, require_supported

_RED_FLAGS = (
    "chest pain",
    "breath",
    "stroke",
    "unconscious",
    "bleeding",
    "overdose",
    "suicid",
    "seizure",
    "anaphyla",
)
_MEDICATION = ("medication", "medicine", "drug", "dose", "dosage", "prescription", "pill", "tablet")

_NOTICE = (
    "[MOCK RESPONSE] This text is hard-coded. No language model read your question, and this is not medical advice.\n\n"
)
_EMERGENCY = (
    "Call your local emergency number at once (911 in the US, 112 in the EU) for chest pain, trouble breathing, "
    "signs of a stroke (face drooping, arm weakness, slurred speech), heavy bleeding, a severe allergic reaction, "
    "loss of consciousness, or thoughts of harming yourself.\n\n"
)
_RED_FLAG_ADVICE = (
    "The question mentions something that can be an emergency. A triage answer would now tell the patient to stop "
    "reading, call the emergency number, stay with someone, and not drive.\n\n"
)
_MEDICATION_ADVICE = (
    "For questions about medicines a triage answer would ask for the current medication list, allergies and kidney "
    "function, and would advise not to start, stop or change a dose before speaking to a pharmacist or the "
    "prescriber.\n\n"
)
_GENERAL_ADVICE = (
    "A triage answer would ask when it started, how strong it is, what makes it better or worse, and about fever, "
    "long-term illnesses, medicines and allergies; and it would say how soon the patient should be seen.\n\n"
)
_CLOSING = "If symptoms are new, getting worse, or worrying, contact a clinician today."


async def generate_response(mode: str, query: str) -> str:
    """Answer the query in the given mode.

    Raises ValueError for a name that is no mode, StartupError (reason ModeNotSupported) for one that this installation
    cannot run, or (ModelMissing) where there is no model.
    """
    known = canonical_mode(mode)
    require_supported(known)
    return generate_response_mock(query) if known == "mock" else await generate_response_qwen(query)


async def generate_response_qwen(query: str) -> str:
    """Load the model of the settings for this one answer. For several, keep what `load_qwen_model` returns."""
    # The mock engine imports this module, and needs no model.
    from inference_server.model_manager import load_qwen_model

    engine = await load_qwen_model()
    try:
        return (await collect(engine, GenerationRequest("python", (Message("user", query),)))).text
    finally:
        await engine.close()


def generate_response_mock(query: str) -> str:
    """One of three fixed texts, chosen by words in the query. The query itself is never repeated."""
    words = query.casefold()
    if any(flag in words for flag in _RED_FLAGS):
        advice = _RED_FLAG_ADVICE
    elif any(word in words for word in _MEDICATION):
        advice = _MEDICATION_ADVICE
    else:
        advice = _GENERAL_ADVICE
    return _NOTICE + _EMERGENCY + advice + _CLOSING
