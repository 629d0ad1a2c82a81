"""A CLIP tokenizer of letters and a few merges, made without files."""

import string

MERGES = [("c", "a"), ("ca", "t</w>"), ("r", "e"), ("re", "d</w>"), ("b", "ig</w>"), ("i", "g</w>"), ("o", "n</w>")]


def letter_tokenizer(length=16):
    """ "cat", "red", "big" and "on" are one token, all else is a token per letter or digit."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits, ",", "-", "'"]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    words += ["".join(pair) for pair in MERGES]
    return CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=MERGES, model_max_length=length)
