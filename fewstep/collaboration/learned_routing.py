"""Routers that are fitted: how much better the teacher's picture would be, from what a draft or a prompt shows.

A threshold on the oracle's score asks how good a draft is, not how much there is to gain; both differ where prompts are
hard for the teacher, too. Before a draft is drawn there is the prompt alone (HADIS, arXiv 2509.00642; DiffServe, arXiv
2411.15381, route by networks of their own); after it, the oracle's score and more. Ridge regression serves both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.diffusion.guidance import Condition
from fewstep.files.durable import replace_file
from fewstep.files.plain_reader import each, fields, named, number, positive, read_fields, text, whole

SCHEMA = 1
PENALTIES = tuple(10 ** (power / 4) for power in range(-16, 17))  # per row, of weights on standardised features
PARTS = fields(
    {"schema": whole, "about": named(text), "names": each(text), "centers": each(number), "scales": each(positive)}
    | {"weights": each(number), "intercept": number, "penalty": positive, "explained": number}
)


@dataclass(frozen=True)
class GainRouter:
    """Predicts quality of the teacher's picture less that of the draft. F features.

    about: what it belongs to, with hashes, as `calibration.identity` tells. names: F texts. centers, scales, weights:
    float64 [F]. penalty: chosen by leave-one-out. explained: the share of the gains' variance that is predicted for a
    prompt that was left out; 0 or less means that the features tell nothing, and that it routes by chance.
    """

    about: Mapping[str, str]
    names: tuple[str, ...]
    centers: Tensor
    scales: Tensor
    weights: Tensor
    intercept: float
    penalty: float
    explained: float

    @classmethod
    def fit(
        cls,
        columns: Mapping[str, Tensor],
        gain: Tensor,
        about: Mapping[str, str],
        penalties: Sequence[float] = PENALTIES,
    ) -> "GainRouter":
        """Of calibration prompts: columns, each [N] or [N, K] (see `table`), and gains [N], by a judge.

        The judge is not the oracle whose score is a feature. A threshold must be calibrated on other prompts than
        these, as scores of what a router was fitted on are not like those of new ones.
        """
        features, names = table(columns)
        gain = gain.detach().double().cpu()
        if gain.shape != features.shape[:1] or not gain.isfinite().all() or len(gain) < 3:
            raise ValueError(f"gains of shape {list(gain.shape)} for {len(features)} rows; give 3 finite ones or more")
        centers, scales = features.mean(0), features.std(0, correction=0)
        scales = torch.where(scales > 1e-12 * centers.abs(), scales, 1.0)  # of a constant one, whose weight becomes 0
        design = (features - centers) / scales
        errors = left_out_errors(design, gain, penalties).square().mean(1)
        best = int(errors.argmin())
        weights = _ridge(design, gain, penalties[best])
        alone = ((gain - gain.mean()) * len(gain) / (len(gain) - 1)).square().mean()  # of the mean of the others
        explained = 1 - float(errors[best] / alone) if alone else 0.0
        return cls(dict(about), names, centers, scales, weights, gain.mean().item(), penalties[best], explained)

    def gain(self, columns: Mapping[str, Tensor]) -> Tensor:
        """float64 [B], predicted; ValueError in one line for other features than those of the fit."""
        features, names = table(columns)
        if names != self.names:
            more = sorted(set(names) ^ set(self.names)) or ["the order"]
            raise ValueError(f"features differ from those of the router in {', '.join(more)[:200]}")
        return (features - self.centers) / self.scales @ self.weights + self.intercept

    def score(self, columns: Mapping[str, Tensor]) -> Tensor:
        """[B], low where the teacher is needed, as an oracle's is: for the thresholds of routing.py."""
        return -self.gain(columns)

    def check(self, about: Mapping[str, str]) -> None:
        """ValueError in one line where it belongs to something else."""
        for name in {**self.about, **about}:
            if self.about.get(name) != about.get(name):
                told = f"the router is of {name} {self.about.get(name)}, this is {about.get(name)}"
                raise ValueError(f"{told}; fit it again")

    def save(self, file: str | Path) -> None:
        """As JSON."""
        told: dict[str, Any] = {"schema": SCHEMA, "about": dict(self.about), "names": list(self.names)}
        told |= {name: getattr(self, name).tolist() for name in ("centers", "scales", "weights")}
        told |= {name: getattr(self, name) for name in ("intercept", "penalty", "explained")}
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(file), (json.dumps(told) + "\n").encode())

    @classmethod
    def load(cls, file: str | Path) -> "GainRouter":
        """What `save` wrote, by whomever; ValueError in one line."""
        try:
            told = read_fields(Path(file), PARTS)
            columns = {name: torch.tensor(told[name], dtype=torch.float64) for name in ("centers", "scales", "weights")}
            sizes = {len(told["names"]), *map(len, columns.values())}
            if told["schema"] != SCHEMA or len(sizes) > 1 or sizes == {0}:
                raise ValueError(f"schema {told['schema']} with {' and '.join(map(str, sorted(sizes)))} features")
            numbers: dict[str, Any] = {name: float(told[name]) for name in ("intercept", "penalty", "explained")}
            return cls(told["about"], tuple(told["names"]), **numbers | columns)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"cannot read the router {file}: {error}; fit it again") from None


def left_out_errors(design: Tensor, gain: Tensor, penalties: Sequence[float]) -> Tensor:
    """[P, N]: gain less what a fit without that row, with each penalty, predicts for it, in closed form.

    design: float64 [N, F] with columns of mean 0; the intercept is not penalised. The error of the fit on all rows over
    1 - leverage (Allen 1974, PRESS).
    """
    left, sizes, _ = torch.linalg.svd(design, full_matrices=False)
    centered = gain - gain.mean()
    errors = []
    for penalty in penalties:
        kept = sizes.square() / (sizes.square() + penalty * len(design))
        fitted = left @ (kept * (left.T @ centered))
        errors.append((centered - fitted) / (1 - 1 / len(design) - left.square() @ kept))
    return torch.stack(errors)


def table(columns: Mapping[str, Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """float64 [N, F] of columns [N] or [N, K], whose names get a number then, in the order of the mapping."""
    if not columns:
        raise ValueError("no features are given: at least the oracle's score is needed")
    parts, names = [], list[str]()
    for name, column in columns.items():
        values = column.detach().double().cpu()
        if values.dim() not in (1, 2) or not values.numel() or not values.isfinite().all():
            raise ValueError(f"feature {name!r} of shape {list(values.shape)}: needed are finite numbers [N] or [N, K]")
        parts.append(values[:, None] if values.dim() == 1 else values)
        if len(values) != len(parts[0]):
            raise ValueError(f"feature {name!r} has {len(values)} rows, {names[0]!r} has {len(parts[0])}")
        names += [name] if values.dim() == 1 else [f"{name} {place}" for place in range(values.shape[1])]
    return torch.cat(parts, 1), tuple(names)


def pooled_prompts(condition: Condition) -> Tensor:
    """One vector for each prompt, [B, D], of what `model.prompts([..])` gives: pooled, or the mean over its tokens."""
    return condition["pooled"] if "pooled" in condition else condition["prompt"].mean(1)


def _ridge(design: Tensor, gain: Tensor, penalty: float) -> Tensor:
    left, sizes, right = torch.linalg.svd(design, full_matrices=False)
    shrunk = sizes / (sizes.square() + penalty * len(design))
    return right.T @ (shrunk * (left.T @ (gain - gain.mean())))
