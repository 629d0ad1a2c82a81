"""Folds of the pairs, who never saw which of them, and the weights of models by what they say of pairs left out."""

import math

import torch
from torch import Tensor

LEFT_OUT = (0, 1)  # folds that copy f never sees, counted from f
PSEUDO_PAIRS = 1.0  # of every member, in the fit of the weights


def assign_folds(num: int, folds: int) -> Tensor:
    """The fold of each of num pairs, [num]: by chance, always the same, and as equal in size as can be."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(0)) % folds


def seen_by(fold: Tensor, folds: int) -> Tensor:
    """Whether copy f of `folds` is trained on a pair of this fold [P], that is neither f nor f + 1. Returns [F, P]."""
    ahead = (fold - torch.arange(folds, device=fold.device)[:, None]) % folds
    return ~torch.isin(ahead, torch.tensor(LEFT_OUT, device=fold.device))


def held_out(log_density: Tensor, fold: Tensor) -> Tensor:
    """log of the mean density [..., P] over the copies that never saw a pair, of log_density [..., F, P]."""
    unseen = log_density.masked_fill(seen_by(fold, log_density.shape[-2]), -torch.inf)
    return unseen.logsumexp(-2) - math.log(len(LEFT_OUT))


def stacking_weights(scores: Tensor, iterations: int = 200) -> Tensor:
    """Weights [M] of largest Σ_i log Σ_m w_m exp(scores_im) + PSEUDO_PAIRS Σ_m log w_m, by expectation-maximisation.

    scores [P, M]: log-densities of left-out pairs (stacking of predictive distributions, Yao et al. 2018).
    """
    scores = scores.double()
    weights = torch.full_like(scores[0], 1 / scores.shape[1])
    for _ in range(iterations):
        counts = (scores + weights.log()).softmax(1).sum(0) + PSEUDO_PAIRS
        weights = counts / counts.sum()
    return weights.to(torch.get_default_dtype())
