"""What a model's generation_config.json advises and an engine here does not do. Pure.

Told to whoever runs the server, because answers differ from those that the model's authors meant. The same fields in
a request are refused (`api.chat_schemas`).
"""

from collections.abc import Mapping

# What changes which tokens come, where transformers applies it; and the value that changes nothing.
UNHEEDED: Mapping[str, object] = {
    "bad_words_ids": [],
    "begin_suppress_tokens": [],
    "diversity_penalty": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "exponential_decay_length_penalty": [],
    "forced_bos_token_id": [],
    "forced_eos_token_id": [],
    "frequency_penalty": 0,
    "guidance_scale": 1,
    "length_penalty": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "min_p": 0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "sequence_bias": {},
    "stop_strings": [],
    "suppress_tokens": [],
    "top_h": 0,
    "typical_p": 1,
}


def unheeded_advice(generation: Mapping[str, object]) -> tuple[str, ...]:
    """`repetition_penalty=1.05` and the like, of a parsed generation_config.json; of what is no number, its name."""
    return tuple(
        f"{name}={value:g}" if isinstance(value, int | float) else name
        for name, neutral in UNHEEDED.items()
        if (value := generation.get(name)) is not None and value != neutral
    )
