"""What is triage of /triage: the prompt, and the fixed text where there is no answer."""
