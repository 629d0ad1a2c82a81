"""One picture of a test: where the model puts its samples, and where the truth lies."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from callbacks.metrics.rows import EvaluationRows
from callbacks.pictures.column_labels import column_labels
from callbacks.pictures.side_files import write_or_say

if TYPE_CHECKING:  # matplotlib takes a second to import, which a training run need not wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

TRUTH, SAMPLE = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito: distinct for every kind of colour vision
DIMENSION_COLOURS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRID = "#333333", "#E6E6E6"
STYLE = {
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#BBBBBB",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
}
MAX_POINTS, MAX_DIMENSIONS, MAX_GROUPS, MAX_DRAWS = 1000, 4, 6, 128


class SamplePicture(Callback):
    """Writes RUN/pictures/samples.png at the end of a test and hands it to every logger that takes images.

    Left: true and sampled y of the test pairs (a pair grid for up to 4 dimensions, else the first 2). Middle: truth and
    samples of a few probe groups. Right: conditional calibration, how often y lies below the model's p-quantile.
    """

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pairs, self._probes = EvaluationRows(), EvaluationRows()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: dict[str, Tensor],
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        table = self._probes if dataloader_idx else self._pairs
        table.add(batch["index"], batch["weight"], x=batch["x"], y=batch["y"], sample=outputs["sample"])

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pairs, probes = self._pairs.gather(), self._probes.gather()
        data = getattr(trainer, "datamodule", None)
        if pairs:
            self._write(trainer, pairs, probes, list(getattr(data, "y_names", None) or []))

    @rank_zero_only
    def _write(self, trainer: Trainer, pairs: dict[str, Tensor], probes: dict[str, Tensor], names: list[str]) -> None:
        path = Path(trainer.default_root_dir) / "pictures" / "samples.png"
        draw(pairs, probes, names).savefig(page := io.BytesIO(), format="png", dpi=150, facecolor="white")
        for logger in trainer.loggers if write_or_say(path, page.getvalue()) else ():
            if hasattr(logger, "log_image"):
                logger.log_image(key="test/samples", images=[str(path)])


def draw(pairs: dict[str, Tensor], probes: dict[str, Tensor], names: list[str] | None = None) -> "Figure":
    """pairs: sample, y [N, Dy]; probes: x [G, K, Dx], sample, y [G, K, Dy], or empty; names: of the Dy columns of y."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    dims = pairs["y"].shape[1]
    shown = dims if dims <= MAX_DIMENSIONS else 2
    names = column_labels(names or [], dims)
    with mpl.rc_context(STYLE):
        left = 4.4 if shown <= 2 else 1.75 * shown
        figure = Figure(figsize=(left + (8.2 if probes else 0), max(4.4, 1.6 * shown)), layout="constrained")
        parts = figure.subfigures(1, 3, width_ratios=[left, 4.4, 3.8], wspace=0.02) if probes else [figure]
        draw_pairs(parts[0], pairs["y"][:, :shown], pairs["sample"][:, :shown], names)
        if probes:
            draw_probes(parts[1], probes, names)
            draw_calibration(parts[2], probes["y"][..., :shown], probes["sample"][..., :shown], names)
    return figure


def draw_pairs(part: "SubFigure | Figure", y: Tensor, sample: Tensor, names: list[str]) -> None:
    """True y and one sample for each test condition, [N, D] with D <= 4."""
    rows = torch.linspace(0, len(y) - 1, min(MAX_POINTS, len(y))).long()
    dims = y.shape[1]
    size = 1 if dims <= 2 else dims
    axes = part.subplots(size, size, squeeze=False, sharex="col")
    for i in range(size):
        for j in range(size):
            ax = axes[i, j]
            if dims == 1 or (dims > 2 and i == j):
                histograms(ax, y[:, j], sample[:, j])
            elif i >= j:
                scatter(ax, y[rows], sample[rows], (0, 1) if dims == 2 else (j, i))
            else:
                ax.set_axis_off()
            if i == size - 1:
                ax.set_xlabel(names[j])
            if dims == 2 or (j == 0 and i > 0):
                ax.set_ylabel(names[max(i, 1)])
            if dims > 2:
                ax.tick_params(labelbottom=i == size - 1, labelleft=j == 0 and i > 0)
    part.suptitle(f"Test pairs: true $y$ and one sample per $x$ (n = {len(y)})", fontsize=10)
    if dims > 2:
        legend(axes[0, -1], loc="upper right")
    else:
        legend(part, loc="outside lower center", ncols=2)


def draw_probes(part: "SubFigure", probes: dict[str, Tensor], names: list[str]) -> None:
    """A few probe groups side by side on common axes: all of the samples should cover all of the truth, and no more."""
    count = len(probes["y"])
    groups = torch.linspace(0, count - 1, min(MAX_GROUPS, count)).long().tolist()
    columns = 1 if len(groups) == 1 else 2
    axes = part.subplots(-(-len(groups) // columns), columns, squeeze=False, sharex=True, sharey=True).flatten()
    for ax, g in zip(axes, groups, strict=False):
        x, y, sample = (probes[name][g, :MAX_DRAWS] for name in ("x", "y", "sample"))
        if y.shape[1] == 1:
            histograms(ax, y[:, 0], sample[:, 0])
        else:
            scatter(ax, y, sample, (0, 1), size=7)
        ax.set_title(condition_title(x, g), loc="left", fontsize=7.5)
    for ax in axes[len(groups) :]:
        ax.set_visible(False)
    part.supxlabel(names[0], fontsize=8.5)
    part.supylabel(names[1] if probes["y"].shape[2] > 1 else "density", fontsize=8.5)
    part.suptitle(f"Probes: $y$ given $x$ ({len(groups)} of {count} conditions)", fontsize=10)


def draw_calibration(part: "SubFigure", y: Tensor, sample: Tensor, names: list[str]) -> None:
    """How often the true y [G, K, D] lies below the samples' p-quantile, with two standard errors over the groups."""
    ax = part.subplots()
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="perfect")
    groups, draws = y.shape[:2]
    ranks = torch.arange(draws + 1)
    levels = (ranks + 1) / (draws + 1)  # P(rank <= r) when truth and samples are exchangeable
    for d, colour in zip(range(y.shape[2]), DIMENSION_COLOURS, strict=False):
        rank = (y[:, :, None, d] >= sample[:, None, :, d]).sum(-1)  # [G, K] of each truth among the K samples
        below = (rank[..., None] <= ranks).float().mean(1)  # [G, K + 1]
        mean, error = below.mean(0), 2 * below.std(0, correction=0) / groups**0.5
        ax.fill_between(levels, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
        ax.plot(levels, mean, color=colour, linewidth=1.5, label=names[d])
    ax.set(
        xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="model's quantile level $p$", ylabel="share of true $y$ below"
    )
    ax.text(0.97, 0.03, "S-shape: model too wide\ninverted S: too narrow", ha="right", fontsize=7, color="#777777")
    ax.legend(loc="upper left")
    part.suptitle("Calibration of $y$ given $x$ over all probes", fontsize=10)


def scatter(ax: "Axes", y: Tensor, sample: Tensor, columns: tuple[int, int], size: float = 5) -> None:
    """Both clouds in one shuffled draw, so that neither covers the other."""
    points = torch.cat([y, sample])[:, list(columns)]
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    colours = [TRUTH if i < len(y) else SAMPLE for i in order.tolist()]
    ax.scatter(*points[order].T, s=size, c=colours, alpha=0.5, linewidths=0)


def histograms(ax: "Axes", y: Tensor, sample: Tensor) -> None:
    """Densities of truth and model over the same bins, cut at the outermost thousandths of the truth."""
    bins = min(40, max(8, round(len(y) ** 0.5)))
    low, high = y.float().quantile(torch.tensor([0.001, 0.999])).tolist()
    for values, colour in ((y, TRUTH), (sample, SAMPLE)):
        shape = {"bins": bins, "range": (low, high), "density": True, "color": colour}
        ax.hist(values, histtype="step", linewidth=1.2, **shape)
        ax.hist(values, alpha=0.15, **shape)
    ax.set_yticks([])


def legend(where: "Axes | SubFigure | Figure", **options: str | int) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", linestyle="", markersize=5, color=c) for c in (TRUTH, SAMPLE)]
    where.legend(marks, ["truth", "model"], fontsize=9, **options)


def condition_title(x: Tensor, group: int) -> str:
    """The condition itself where the group has one and it is short, else the group's number."""
    if x.shape[1] <= 3 and torch.equal(x, x[:1].expand_as(x)):
        return f"$x$ = ({', '.join(f'{v:.2f}'.replace('-', '−') for v in x[0].tolist())})"
    return f"neighbourhood {group}" if not torch.equal(x, x[:1].expand_as(x)) else f"condition {group}"
