"""Which drafts go to the teacher: thresholds on an oracle's scores, and what each promises.

A draft is deferred to the teacher where its score is below the threshold, and kept where it is equal or above
(Starodubcev et al. 2023, Algorithm 1). `scores` [N] are those of drafts for N calibration prompts. All promises are for
prompts that come as those did (exchangeable); a `StreamingThreshold` keeps its budget without that.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.choices import require_range


def percentile_threshold(scores: Tensor, k: float) -> float:
    """The k-th percentile, as the paper sets it: k in [0, 100] per cent of drafts like these are deferred.

    Interpolated linearly between scores. -inf for 0, which keeps all, and inf for 100, which defers all.
    """
    require_range("k", k, 0, 100)
    values = _checked(scores)
    if k in (0, 100):
        return -math.inf if k == 0 else math.inf
    return torch.quantile(values, k / 100).item()


def budget_threshold(scores: Tensor, share: float) -> float:
    """The threshold under which the expected share of drafts that are deferred is at most `share`, in [0, 1].

    The j-th smallest score, j = floor(share (N + 1)): a fresh score is below it with probability j / (N + 1), or less
    where scores are equal. -inf where j = 0, inf where j = N + 1.
    """
    require_range("share", share, 0, 1)
    values = _checked(scores)
    rank = math.floor(share * (len(values) + 1) + 1e-9)  # 0.29 * 100 is just below 29
    if rank in (0, len(values) + 1):
        return -math.inf if rank == 0 else math.inf
    return values.sort().values[rank - 1].item()


def deferred_at_most(num: int, share: float, confidence: float = 0.95) -> float:
    """What the share of deferred drafts stays below with this confidence, under `budget_threshold` of N = num scores.

    Given the calibration, that share is Beta(j, N + 1 - j) where no two scores are equal.
    """
    from scipy.stats import beta

    require_range("share", share, 0, 1)
    require_range("confidence", confidence, 0, 1)
    rank = math.floor(share * (num + 1) + 1e-9)
    if rank in (0, num + 1):
        return float(rank > 0)
    return float(beta.ppf(confidence, rank, num + 1 - rank))


def certified_threshold(scores: Tensor, bad: Tensor, most: float, confidence: float = 0.95) -> float:
    """The least threshold with P(draft is kept and bad) <= most, which holds with this confidence; inf if none does.

    bad: bool [N], whether keeping the draft of a calibration prompt would be a mistake, such as a draft that is worse
    than the teacher's picture by more than a margin. That probability falls as the threshold rises, so a
    Clopper-Pearson bound at every threshold holds for the one that is chosen (Bates et al. 2021, Theorem 1). ValueError
    in one line for fewer prompts than the promise needs, ln(1 - confidence) / ln(1 - most).
    """
    from scipy.stats import beta

    values = _checked(scores, bad)
    require_range("most", most, 0, 1, above=True)
    require_range("confidence", confidence, 0, 1, above=True)
    num = len(values)
    needed = 1 if most == 1 else math.ceil(math.log1p(-confidence) / math.log1p(-most)) if confidence < 1 else math.inf
    if num < needed:
        raise ValueError(
            f"{num} calibration prompts cannot promise at most {most:g} with confidence {confidence:g}: "
            f"it takes {needed:g}"
        )
    counts = torch.arange(num)  # of kept and bad; with all N the bound is 1
    bounds = torch.as_tensor(beta.ppf(confidence, counts.double().numpy() + 1, num - counts.double().numpy()))
    allowed = int((bounds <= most).sum()) - 1 if most < 1 else num
    return _least_threshold(values, bad.to(values), float(allowed))


def conformal_threshold(scores: Tensor, losses: Tensor, most: float) -> float:
    """The least threshold with expected loss of what is kept <= most, on average over calibrations; inf if none has.

    losses: [N] in [0, 1], of keeping each draft; one that is deferred loses nothing. Conformal risk control
    (Angelopoulos et al. 2024, Theorem 1): N / (N + 1) mean + 1 / (N + 1) <= most.
    """
    values = _checked(scores, losses)
    require_range("most", most, 0, 1, above=True)
    if not bool(((losses >= 0) & (losses <= 1)).all()):
        raise ValueError(f"losses run from {losses.min():g} to {losses.max():g}; give them in [0, 1]")
    return _least_threshold(values, losses.to(values), most * (len(values) + 1) - 1)


def _least_threshold(scores: Tensor, losses: Tensor, allowed: float) -> float:
    """The least t among the scores, -inf and inf for which the losses of scores >= t add up to at most `allowed`."""
    if allowed < 0:
        return math.inf
    ordered, order = scores.sort()
    kept = losses[order].flip(0).cumsum(0).flip(0)  # [N], of this score and all above
    places = torch.searchsorted(ordered, ordered)  # equal scores are kept together
    fits = kept[places] <= allowed + 1e-9
    if fits.all():
        return -math.inf
    return ordered[fits].min().item() if fits.any() else math.inf


def most_needy(scores: Tensor, num: int) -> Tensor:
    """bool [B]: the `num` lowest scores of a batch [B], of equal ones the first; for a budget of every batch."""
    if not 0 <= num <= len(scores):
        raise ValueError(f"{num} of {len(scores)} drafts cannot be deferred")
    lowest = _checked(scores).argsort(stable=True)[:num]
    return torch.zeros(len(scores), dtype=torch.bool, device=scores.device).index_fill(0, lowest, True)


class StreamingThreshold:
    """A threshold that moves so that the share of deferred drafts tends to `share`, however the prompts change.

    After each draft it rises by rate * share if that was kept, and falls by rate * (1 - share) if it was deferred
    (Gibbs and Candes 2021). Of T drafts the deferred share is within (R + rate) / (rate T) of `share`, R being the
    range of all scores and the first threshold: whatever order they come in. rate: in units of the scores.
    """

    def __init__(self, threshold: float, share: float, rate: float) -> None:
        require_range("share", share, 0, 1)
        require_range("rate", rate, above=True)
        if not math.isfinite(threshold):
            raise ValueError(f"a streaming threshold starts at a number, got {threshold}: give a share inside (0, 1)")
        self.threshold, self.share, self.rate = threshold, share, rate

    def defer(self, scores: Tensor) -> Tensor:
        """bool [B] for scores [B], one after the other."""
        deferred = []
        for score in _checked(scores).tolist():
            deferred.append(score < self.threshold)
            self.threshold += self.rate * (self.share - deferred[-1])
        return torch.tensor(deferred, dtype=torch.bool, device=scores.device)


def _checked(scores: Tensor, others: Tensor | Sequence[float] | None = None) -> Tensor:
    """float64 [N]; ValueError in one line where they are no scores, or not as many as what belongs to them."""
    if scores.dim() != 1 or not len(scores):
        raise ValueError(f"scores have shape {list(scores.shape)}, needed is [N] with N > 0")
    if others is not None and len(others) != len(scores):
        raise ValueError(f"{len(scores)} scores with {len(others)} losses; give one for each")
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN; mend the oracle")
    return scores.detach().double()
