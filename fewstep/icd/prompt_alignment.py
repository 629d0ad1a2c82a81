"""Which token of one prompt stands for which token of another, as prompt-to-prompt needs it.

A map is [length, length], row = source token, column = target token: attention to source tokens times the map is
attention to target tokens. Tokens are counted as the network sees them, the start token being 0. Tokenizers are those
of transformers that know the characters of each token (every CLIPTokenizer since transformers 5).
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_SHORT = (
    "a",
    "an",
    "and",
    "as",
    "at",
    "by",
    "for",
    "from",
    "in",
    "into",
    "of",
    "on",
    "or",
    "over",
    "the",
    "to",
    "with",
)
_VERBS = ("are", "be", "has", "have", "is", "was", "were")
_PRONOUNS = ("her", "his", "it", "its", "that", "their", "this", "which", "while")
STOP_WORDS = frozenset((*_SHORT, *_VERBS, *_PRONOUNS))


def token_ids(tokenizer: Any, prompt: str, length: int) -> list[int]:
    """Start, prompt and end. ValueError in one line for more than `length` tokens."""
    ids = list(tokenizer(prompt).input_ids)
    if len(ids) > length:
        raise ValueError(f"prompt of {len(ids)} tokens, at most {length}; shorten {prompt[:60]!r}")
    return ids


def word_tokens(tokenizer: Any, prompt: str, word: str) -> list[int]:
    """Positions of all tokens of a word, or of a phrase, wherever the prompt has it; upper or lower case.

    ValueError in one line where it is no whole word of the prompt.
    """
    pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
    spans = [found.span() for found in re.finditer(pattern, prompt, re.IGNORECASE) if word]
    if not spans:
        raise ValueError(f"{word!r} is not a word of the prompt {prompt[:60]!r}; choose one that is")
    return sorted(token for span in spans for token in _tokens_within(tokenizer, prompt, span))


def _tokens_within(tokenizer: Any, prompt: str, span: tuple[int, int]) -> list[int]:
    """Tokens that overlap these characters; start, end and padding have no characters."""
    offsets = tokenizer(prompt, return_offsets_mapping=True).offset_mapping
    return [token for token, (first, last) in enumerate(offsets) if max(first, span[0]) < min(last, span[1])]


def changed_words(source: str, target: str) -> list[str]:
    """Words of the target that the source lacks, in order, without stop words: those that an edit may amplify."""
    known = {*_bare_words(source), *STOP_WORDS}
    return [word for word in dict.fromkeys(_bare_words(target)) if word not in known]


def _bare_words(prompt: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", prompt.lower())


def align(source: Sequence[int], target: Sequence[int]) -> list[int | None]:
    """The source position of each target token, None where it has none: most matches, in order.

    Needleman and Wunsch 1970, with gap 0, match 1 and mismatch -1. Of equally good alignments the one that P2P's code
    takes: read from the end, a target token is rather left alone than matched, a source token rather skipped.
    """
    best = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, a in enumerate(source, 1):
        for j, b in enumerate(target, 1):
            best[i][j] = max(best[i][j - 1], best[i - 1][j], best[i - 1][j - 1] + (1 if a == b else -1))
    matches: list[int | None] = [None] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            matches[j] = i
    return matches


def refinement_map(tokenizer: Any, source: str, target: str, length: int) -> Tensor:
    """The map of the tokens that `align` pairs; the column of a new token is 0 (Hertz et al. 2022, refinement)."""
    ids = token_ids(tokenizer, source, length), token_ids(tokenizer, target, length)
    weights = _padding_map(len(ids[0]), len(ids[1]), length)
    for column, row in enumerate(align(*ids)):
        if row is not None:
            weights[row, column] = 1
    return weights


def replacement_map(tokenizer: Any, source: str, target: str, length: int) -> Tensor:
    """The map of the n-th word to the n-th word (Hertz et al. 2022, word swap).

    As many tokens on both sides pair up; otherwise each of n target tokens takes 1 / n of all source tokens. P2P's code
    loses its place in what follows the last word that changed if token counts differ; here words stay with words.
    ValueError in one line unless both prompts have as many words, separated by white space.
    """
    words = [[found.span() for found in re.finditer(r"\S+", prompt)] for prompt in (source, target)]
    if len(words[0]) != len(words[1]):
        raise ValueError(
            f"replace needs as many words in both prompts, {source[:60]!r} has {len(words[0])} and {target[:60]!r} "
            f"{len(words[1])}; use refine"
        )
    last = [len(token_ids(tokenizer, prompt, length)) - 1 for prompt in (source, target)]
    weights = _padding_map(last[0] + 1, last[1] + 1, length)
    weights[0, 0] = weights[last[0], last[1]] = 1  # start and end
    for before, after in zip(*words, strict=True):
        rows, columns = _tokens_within(tokenizer, source, before), _tokens_within(tokenizer, target, after)
        if len(rows) == len(columns):
            weights[rows, columns] = 1
        else:
            weights[torch.tensor(rows)[:, None], torch.tensor(columns)] = 1 / len(columns)
    return weights


def _padding_map(source_size: int, target_size: int, length: int) -> Tensor:
    """Padding takes the padding of its own place, or else the source's first; P2P's code would take a word there."""
    weights = torch.zeros(length, length)
    for column in range(target_size, length):
        weights[min(max(column, source_size), length - 1), column] = 1
    return weights
