"""Why pods do not become ready: proofs and doubts, in words with a remedy."""
