"""When a claim passes, on the rows that claims.py wrote: every predicate is margins that must be above zero.

A margin of one value per picture is their mean, averaged over seeds first, with a 95 % bootstrap interval over
pictures. A claim with rows lacking is not measured.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from benchmarks.icd.results import Row
from fewstep.metrics.intervals import bootstrap_mean

OURS = "G+"  # G with reverse preservation on the encoder's own states


class LackingError(Exception):
    """The file has no such row."""


class Found:
    """Rows by what they are about; those of several exports of one configuration are its seeds."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows: dict[tuple, list[Row]] = defaultdict(list)
        for row in rows:
            self.rows[row["part"], row["config"], row["method"], row["guidance"]].append(row)
        scales = [row["guidance"] for row in rows if row["part"] == "codes"] or ["decode w=8"]
        self.scale = f"w={scales[0].split('decode w=')[1]}"

    def get(
        self, part: str, config: str, method: str, guidance: str | None = None, start: float | None = None
    ) -> list[Row]:
        """method "iCD" is iCD with whatever steps; start None is that of the students."""
        found = [
            row
            for (p, c, m, g), rows in self.rows.items()
            if (p, c, g) == (part, config, guidance) and (m == method or m.startswith(f"{method} "))
            for row in rows
        ]
        starts = [row["start"] for row in found if row["start"] is not None]
        found = [row for row in found if row["start"] in (None, max(starts, default=None) if start is None else start)]
        if not found:
            raise LackingError(f"{part}: {config} {method} {guidance}")
        return found

    def values(self, name: str, *about: str | None) -> Tensor:
        """[N], averaged over seeds."""
        rows = self.get(*about)  # type: ignore[arg-type]
        return torch.stack([torch.tensor(row["values"][name], dtype=torch.float64) for row in rows]).mean(0)

    def scalar(self, name: str, *about: str | None) -> float:
        rows = self.get(*about)  # type: ignore[arg-type]
        return sum(row["scalars"][name] for row in rows) / len(rows)


@dataclass(frozen=True)
class Margin:
    """what: in words. value: above 0 to pass."""

    what: str
    value: float
    interval: tuple[float, float] | None = None


def margin(what: str, values: Tensor | float) -> Margin:
    if isinstance(values, Tensor):
        return Margin(what, float(values.mean()), bootstrap_mean(values))
    return Margin(what, values)


def c1(found: Found) -> list[Margin]:
    few, many = (found.values("latent_mse", "inversion", "teacher", m, "w=1") for m in (coarse(found), "DDIM 50+50"))
    return [margin("latent MSE of DDIM in few steps - 3 x in 50", few - 3 * many)]


def c2(found: Found, config: str = "G") -> list[Margin]:
    ours = found.values("psnr", "inversion", config, "iCD", "w=1")
    few, many = (found.values("psnr", "inversion", "teacher", m, "w=1") for m in (coarse(found), "DDIM 50+50"))
    return [
        margin("PSNR of iCD - DDIM 50+50 + 1.5 dB", ours - many + 1.5),
        margin("PSNR of iCD - DDIM in few steps - 2 dB", ours - few - 2),
    ]


def c3(found: Found) -> list[Margin]:
    return rising(found, ("A", "B", "C"))


def c4(found: Found) -> list[Margin]:
    return rising(found, ("C", "F", "G"))


def c5(found: Found) -> list[Margin]:
    return rising(found, ("E", "F"))


def rising(found: Found, configs: tuple[str, ...]) -> list[Margin]:
    psnr = {name: found.values("psnr", "inversion", name, "iCD", "w=1") for name in configs}
    pairs = pairwise(configs)
    return [margin(f"PSNR of {after} - {before}", psnr[after] - psnr[before]) for before, after in pairs]


def c6(found: Found) -> list[Margin]:
    plain, guided = (found.values("latent_mse", "inversion", "teacher", "DDIM 50+50", w) for w in ("w=1", found.scale))
    return [margin(f"latent MSE of DDIM 50+50 at {found.scale} - 5 x at w=1", guided - 5 * plain)]


def c7(found: Found) -> list[Margin]:
    sweep = ["w=1", *(f"{found.scale}, t<={t}" for t in (0.4, 0.6, 0.7, 0.8)), found.scale]
    errors = [found.values("latent_mse", "inversion", "teacher", "DDIM 50+50", name) for name in sweep]
    least = min(float((after - before).mean()) for before, after in pairwise(errors))
    margins = [margin("least rise of latent MSE as guidance starts earlier", least)]
    for config, method in (("teacher", "DDIM 50+50"), ("G", "iCD")):
        free, dynamic, constant = (
            found.values("psnr", "inversion", config, method, name)
            for name in ("w=1", f"{found.scale}, t<=0.7", found.scale)
        )
        margins.append(margin(f"{method}: PSNR regained by t<=0.7 - half the loss", dynamic - (free + constant) / 2))
    return margins


def c8(found: Found) -> list[Margin]:
    rows = [("codes", "teacher", "DDIM 50+50", f"encode {w}, decode {found.scale}") for w in ("w=1", found.scale)]
    plain, guided = (found.scalar("fd_mobilenet", *row) for row in rows)
    squares = [found.values("code_mean_square", *row).mean() - 1 for row in rows]
    return [
        margin("distance to drawings, guided - unguided encoding", guided - plain),
        margin("|mean square of codes - 1|, guided - unguided", float(squares[1].abs() - squares[0].abs())),
    ]


def c9(found: Found) -> list[Margin]:
    few, dynamic = (("generation", "G", "iCD", name) for name in (found.scale, f"{found.scale}, t<=0.8"))
    many = ("generation", "teacher", "DDIM 50", found.scale)
    distances = [found.scalar("fd_mobilenet", *row) for row in (few, dynamic, many)]
    return [
        margin("1.2 x distance of DDIM 50 - iCD's", 1.2 * distances[2] - distances[0]),
        margin("distance of iCD, constant - dynamic guidance", distances[0] - distances[1]),
        margin(
            "alignment of iCD, constant - dynamic guidance",
            found.values("alignment", *few) - found.values("alignment", *dynamic),
        ),
    ]


def c10(found: Found) -> list[Margin]:
    """The steps at 0.8 and 0.7 bracket the ramp, and together guide at least as much as it does."""
    names = (f"{found.scale}, t<=0.8", f"{found.scale}, t<=0.7", f"{found.scale}, ramp 0.6-0.9")
    late, early, ramp = (found.values("psnr", "inversion", "G", "iCD", name) for name in names)
    return [margin("PSNR, mean of the steps at 0.8 and 0.7 - ramp", (late + early) / 2 - ramp)]


def c12(found: Found) -> list[Margin]:
    ours, many = ("inversion", "G", "iCD", "w=1"), ("inversion", "teacher", "DDIM 50+50", "w=1")
    calls, seconds = (found.scalar(name, *many) / found.scalar(name, *ours) for name in ("nfe", "seconds"))
    return [margin("calls of DDIM 50+50 / iCD - 10", calls - 10), margin("seconds of both / - 10", seconds - 10)]


def own_states(found: Found) -> list[Margin]:
    return rising(found, ("G", OURS)) + c2(found, OURS)


def beyond_inversion(found: Found) -> list[Margin]:
    ours, many = (
        found.values("psnr", "inversion", *about, "w=1") for about in ((OURS, "iCD"), ("teacher", "DDIM 50+50"))
    )
    return [margin("PSNR of iCD - DDIM 50+50, unguided", ours - many)]


def beyond_guided(found: Found) -> list[Margin]:
    plain, *dynamic = (
        found.values("psnr", "inversion", OURS, "iCD", name)
        for name in ("w=1", f"{found.scale}, t<=0.8", f"{found.scale}, t<=0.7")
    )
    return [
        margin(f"PSNR of iCD at {found.scale}, t<={t} - unguided + 1 dB", values - plain + 1)
        for t, values in zip((0.8, 0.7), dynamic, strict=True)
    ]


CLAIMS: dict[str, tuple[str, Callable[[Found], list[Margin]]]] = {
    "C1": ("DDIM inversion needs many steps", c1),
    "C2": ("iCD reconstructs like DDIM 50+50", c2),
    "C3": ("more segments help without preservation", c3),
    "C4": ("both preservation losses help", c4),
    "C5": ("an encoder without consistency loss is worse", c5),
    "C6": ("constant guidance destroys inversion", c6),
    "C7": ("dynamic guidance repairs most of it", c7),
    "C8": ("guided encoding leaves the noise distribution", c8),
    "C9": ("few steps keep the distance to drawings", c9),
    "C10": ("a step of guidance is as good as a ramp", c10),
    "C12": ("speed", c12),
    "G+": ("reverse preservation on the encoder's states helps", own_states),
    "goal 1": ("iCD reconstructs better than DDIM 50+50", beyond_inversion),
    "goal 2": ("dynamic guidance costs iCD less than 1 dB", beyond_guided),
}


def coarse(found: Found) -> str:
    """DDIM in as many steps as G has."""
    return "DDIM " + found.get("inversion", "G", "iCD", "w=1")[0]["method"].removeprefix("iCD ")
