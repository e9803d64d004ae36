"""Questions about sections of manuals: made by rules or asked of a language model, and filtered."""
