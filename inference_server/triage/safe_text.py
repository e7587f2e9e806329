"""What is said to a patient where the model's own words are missing or cut. Fixed: no model writes it."""

SAFE_TEXT = (
    "If this may be an emergency, do not wait: call your local emergency number now (911 in the US, 112 in the EU). "
    "Otherwise ask a clinician."
)
# Behind the words of an answer that was cut.
CUT_TEXT = f"\n\n[This answer is not complete. {SAFE_TEXT}]"
