"""CLIPs with random weights, without files: open_clip's classes, and one that knows a few words."""

import torch
from torch import nn

from fewstep.contrastive.network import CLIPNetwork
from fewstep.pixels import Preprocessing
from fewstep.rewards.clip_scores import CLIPSimilarity


def tiny_clip(seed=0, dim=8, size=16, differentiable=True):
    torch.manual_seed(seed)
    vision = {"image_size": size, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    network = CLIPNetwork(dim, vision, {"context_length": 24, "width": 16, "heads": 2, "layers": 2}).eval()
    for parameter in network.clip.parameters():  # as they are initialised, all texts are nearly the same
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return CLIPSimilarity(network.clip, network.tokenizer, network.preprocessing, differentiable=differentiable)


class Words:
    """Tokenizer of a closed vocabulary: whatever it does not know is token 1, 0 pads."""

    context_length = 8

    def __init__(self, *words):
        self.ids = {word: place for place, word in enumerate(words, 2)}

    def __call__(self, prompts, context_length):
        rows = [[self.ids.get(word, 1) for word in prompt.split()][:context_length] for prompt in prompts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])


class SumOfWords(nn.Module):
    def __init__(self, num, dim=6):
        super().__init__()
        self.words = nn.Embedding(num + 2, dim, padding_idx=0)

    def encode_text(self, token_ids):
        return self.words(token_ids).sum(1)


def word_clip(*words):
    torch.manual_seed(0)
    return CLIPSimilarity(SumOfWords(len(words)), Words(*words), Preprocessing(16), differentiable=True)
