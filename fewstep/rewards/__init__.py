"""Oracles: (images in [-1, 1], prompts) -> one score for each, [B]."""
