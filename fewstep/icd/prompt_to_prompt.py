"""What a prompt-to-prompt edit is: prompts, for how long attention is shared, and the words to amplify or to blend."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.icd.prompt_alignment import refinement_map, replacement_map, word_tokens

Words = Sequence[str]


@dataclass(frozen=True)
class PromptToPrompt:
    """B edits, source[b] -> target[b], of one sampling run (Hertz et al. 2022; steps as iCD's code counts them).

    Everything is checked when made: ValueError in one line for what cannot be done.

    Args:
        tokenizer: that of the prompts, with the characters of each token (any CLIPTokenizer of transformers 5). SDXL's
            two split words alike; give either.
        num_steps: of the sampler, each one call of the network.
        cross_share: share of the steps in which the target attends to its words as the source does. The first
            int(cross_share (num_steps + 1)) steps: of 4, 0.2 is one, 0.4 two, 0.6 three, 0.8 all.
        self_share: the same for attention within the image, int(self_share num_steps) steps.
        mode: "replace" pairs the n-th words, "refine" the tokens that both prompts share, and "auto" is replace for
            prompts of as many words.
        equaliser: for each edit, words of the target and the factor on attention to them, as long as cross_share lasts;
            `changed_words` of fewstep.icd.prompt_alignment finds the words that an edit is about.
        blend_words: for each edit None or (words of the source, words of the target); latents change only where one of
            them is attended to. Either side may be empty.
        blend_threshold: share of the maximum of its map above which a place is attended to.
        self_max_tokens: attention within the image is shared only in layers of at most so many pixels: 32 x 32, half
            the side of Stable Diffusion 1's latents; for others give height / 2 x width / 2.
        length: of the prompts as the network sees them; the tokenizer's by default.
    """

    source: Sequence[str]
    target: Sequence[str]
    tokenizer: Any
    num_steps: int
    cross_share: float = 0.4
    self_share: float = 0.6
    mode: Literal["auto", "replace", "refine"] = "auto"
    equaliser: Sequence[Mapping[str, float]] | None = None
    blend_words: Sequence[tuple[Words, Words] | None] | None = None
    blend_threshold: float = 0.3
    self_max_tokens: int = 1024
    length: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", self.length or self.tokenizer.model_max_length)
        if isinstance(self.source, str) or isinstance(self.target, str) or not self.source:
            raise ValueError("an edit needs lists of prompts, one source and one target for each edit")
        for name in ("target", "equaliser", "blend_words"):
            given = getattr(self, name)
            if given is not None and len(given) != len(self.source):
                raise ValueError(f"{len(self.source)} source prompts, but {len(given)} of {name}; give one for each")
        for name in ("cross_share", "self_share", "blend_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name):g}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if self.mode not in ("auto", "replace", "refine"):
            raise ValueError(f"mode {self.mode!r} is unknown; choose auto, replace or refine")
        if self.length > 10_000:  # what transformers writes for a tokenizer without a limit
            raise ValueError("the tokenizer has no model_max_length; give the length of the network's prompts")
        _ = self.token_maps, self.factors, self.blend_tokens

    @property
    def cross_steps(self) -> int:
        return math.floor(self.cross_share * (self.num_steps + 1) + 1e-9)  # 0.29 * 100 is just below 29

    @property
    def self_steps(self) -> int:
        return math.floor(self.self_share * self.num_steps + 1e-9)

    @cached_property
    def token_maps(self) -> Tensor:
        """[B, length, length], see fewstep.icd.prompt_alignment; columns of 0 keep the target's own attention."""
        return torch.stack([self._map(*pair) for pair in zip(self.source, self.target, strict=True)])

    def _map(self, source: str, target: str) -> Tensor:
        replace = self.mode == "replace" or (self.mode == "auto" and len(source.split()) == len(target.split()))
        return (replacement_map if replace else refinement_map)(self.tokenizer, source, target, self.length)

    @cached_property
    def factors(self) -> Tensor:
        """[B, length], the factor on attention to each target token."""
        factors = torch.ones(len(self.target), self.length)
        for row, words in enumerate(self.equaliser or ()):
            for word, factor in words.items():
                if not math.isfinite(factor):
                    raise ValueError(f"the factor of {word!r} must be a finite number, got {factor}")
                factors[row, word_tokens(self.tokenizer, self.target[row], word)] = factor
        return factors

    @cached_property
    def blend_tokens(self) -> Tensor:
        """[2B, length], 1 at the tokens of the blend words of the sources and then of the targets."""
        tokens = torch.zeros(2, len(self.source), self.length)
        for row, pair in enumerate(self.blend_words or ()):
            for side, (prompts, words) in enumerate(zip((self.source, self.target), pair or ((), ()), strict=True)):
                for word in words:
                    tokens[side, row, word_tokens(self.tokenizer, prompts[row], word)] = 1
        return tokens.flatten(0, 1)
