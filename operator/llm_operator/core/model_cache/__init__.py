"""The model before the roll-out: claim, fetch, what may be deleted."""
