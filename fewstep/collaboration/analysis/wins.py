"""How often a student beats its teacher, what chance alone would give, and whether two judges see the same.

The analysis of Starodubcev et al. 2023: two pictures of one prompt and one noise, compared by a judge that is not the
oracle of the cascade. A win share means nothing by itself: two draws of the same teacher win against each other, too.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.choices import require_range

LEAST_AGREEMENT = 0.7  # of two judges on the sign; with less, a win is mostly the judge's noise


class Share(NamedTuple):
    """`cases` of num, with a confidence interval."""

    value: float
    low: float
    high: float
    cases: int
    num: int


def share_of(count: int, num: int, level: float = 0.95) -> Share:
    """With the interval of Wilson 1927; ValueError for a share of nothing."""
    from scipy.stats import binomtest

    if not 0 <= count <= num or not num:
        raise ValueError(f"{count} of {num} is no share; at least one pair is needed")
    interval = binomtest(count, num).proportion_ci(level, "wilson")
    return Share(count / num, float(interval.low), float(interval.high), count, num)


def outcomes(student: Tensor, teacher: Tensor, band: float = 0.0) -> Tensor:
    """int64 [N] of a judge's scores [N]: 1 the student wins, -1 the teacher does, 0 a tie.

    band: a smaller difference is a tie; equal scores always are. With the scores of a second draw of the teacher in
    place of the student's this is the null: what a student would reach that is as good as the teacher, and no closer.
    """
    require_range("band", band)
    gap = _gap(student, teacher)
    return torch.where(gap.abs() < band, 0, gap.sign()).long()


def tie_band(student: Tensor, teacher: Tensor, share: float) -> float:
    """The band under which this share of the pairs, in [0, 1), is a tie; fewer where differences are equal."""
    if not 0 <= share < 1:
        raise ValueError(f"tie share={share}: must be at least 0 and below 1")
    sizes = _gap(student, teacher).abs().sort().values
    return sizes[min(round(share * len(sizes)), len(sizes) - 1)].item()


class WinShares(NamedTuple):
    """student, teacher, tie: of all pairs. untied: the student's wins among pairs that are no tie, None if all are."""

    student: Share
    teacher: Share
    tie: Share
    untied: Share | None


def win_shares(outcome: Tensor, level: float = 0.95) -> WinShares:
    """Of outcomes [N]."""
    wins, losses, ties = (int((outcome == value).sum()) for value in (1, -1, 0))
    student, teacher, tie = (share_of(count, len(outcome), level) for count in (wins, losses, ties))
    return WinShares(student, teacher, tie, share_of(wins, wins + losses, level) if wins + losses else None)


def sign_agreement(first: Tensor, second: Tensor, level: float = 0.95) -> Share | None:
    """How often two judges' outcomes [N] name the same winner, among pairs that neither calls a tie; None without any.

    Judges that know nothing agree in half of them.
    """
    if first.shape != second.shape:
        raise ValueError(f"outcomes of {len(first)} and of {len(second)} pairs; both judges see the same ones")
    untied = (first != 0) & (second != 0)
    return share_of(int((first == second)[untied].sum()), int(untied.sum()), level) if untied.any() else None


def supports_a_claim(agreement: Share | None) -> bool:
    """Whether two judges agree often enough, LEAST_AGREEMENT, that who wins can be claimed at all."""
    return agreement is not None and agreement.value >= LEAST_AGREEMENT


class Plan(NamedTuple):
    """What adaptivity can bring, in standard deviations of quality over prompts."""

    keep: float  # the share of drafts that the best threshold on the student's quality keeps
    gain: float  # over always asking the teacher
    best_gain: float  # of who compares both pictures


def plan(win_share: float, correlation: float) -> Plan:
    """Of a student that wins this share of untied pairs, inside (0, 1).

    The model: qualities of student and teacher for a random prompt are normal, with equal variance, this correlation,
    in [-1, 1), and means that are delta apart; the oracle sees the student's quality exactly. Real ones see less.
    """
    if not 0 < win_share < 1:
        raise ValueError(f"win_share={win_share}: must be inside (0, 1); who always wins needs no plan")
    if not -1 <= correlation < 1:
        raise ValueError(f"correlation={correlation}: must be at least -1 and below 1")
    apart = 1 - correlation
    delta = -NormalDist().inv_cdf(win_share) * math.sqrt(2 * apart)
    spread = math.sqrt(2 * apart)  # of the difference of both
    keep = NormalDist().cdf(-delta / apart)
    return Plan(keep, apart * _excess(delta / apart), spread * _excess(delta / spread))


def _excess(a: float) -> float:
    """E max(z - a, 0) of a standard normal z."""
    return NormalDist().pdf(a) - a * NormalDist().cdf(-a)


def _gap(student: Tensor, teacher: Tensor) -> Tensor:
    if student.dim() != 1 or student.shape != teacher.shape or not len(student):
        shapes = f"{list(student.shape)} and {list(teacher.shape)}"
        raise ValueError(f"scores have shapes {shapes}, needed is [N] twice with N > 0")
    gap = student.double() - teacher.double()
    if not gap.isfinite().all():
        raise ValueError(f"{int((~gap.isfinite()).sum())} of {len(gap)} pairs have scores that are no finite numbers")
    return gap
