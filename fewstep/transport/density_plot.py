"""A picture of p(y|x) for one x, in the units of the table."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fewstep.transport.conditional_model import ConditionalModel, Rows

if TYPE_CHECKING:  # matplotlib takes a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL, GIVEN, INK = "#D55E00", "#0072B2", "#333333"
STYLE: dict[Any, Any] = (
    dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    | dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right"), False)
    | {"font.size": 8.5, "axes.edgecolor": "#BBBBBB", "axes.grid": True, "axes.axisbelow": True}
    | {"grid.color": "#E6E6E6", "grid.linewidth": 0.6, "legend.frameon": False}
)
TAIL = 5e-4  # probability on either side of the axes
POINTS, SIDE, DRAWS, MOST_DIMENSIONS = 400, 80, 4096, 4
LEVELS = (0.05, 0.5, 0.95)


def draw_density(model: ConditionalModel, x: Rows, y: Rows | None = None) -> "Figure":
    """p(y|x) at one row x [Dx]: the curve of one y, the levels of two, samples of the first four of more.

    y [Dy]: what was observed, marked. ValueError in one line for several rows, or for labels, which have no density.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    middle = model.quantiles(x, LEVELS)  # [1, 3, Dy]
    if len(middle) != 1:
        raise ValueError(f"a picture shows one x, not {len(middle)}")
    ends = model.quantiles(x, (TAIL, 1 - TAIL))[0]
    dims = min(model.units.y_dim, MOST_DIMENSIONS)
    names = model.units.named("y")
    given = None if y is None else torch.as_tensor(np.asarray(y, dtype=np.float64)).flatten()
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4) if dims == 1 else (2.2 + 1.6 * dims,) * 2, layout="constrained")
        if dims == 1:
            _curve(figure.subplots(), model, x, ends, middle[0, :, 0], names[0], given)
        elif model.units.y_dim == 2:
            _levels(figure.subplots(), model, x, ends, names, given)
        else:
            _samples(figure, model.sample(x, DRAWS)[0, :, :dims], ends, names, given)
        figure.suptitle(_title(model, x), fontsize=9)
    return figure


def _curve(
    ax: "Axes", model: ConditionalModel, x: Rows, ends: Tensor, middle: Tensor, name: str, given: Tensor | None
) -> None:
    grid = torch.linspace(ends[0, 0].item(), ends[1, 0].item(), POINTS, dtype=torch.float64)
    density = model.log_density(grid[:, None], x).exp()
    ax.plot(grid, density, color=MODEL, linewidth=1.5)
    inside = (grid >= middle[0]) & (grid <= middle[2])
    ax.fill_between(grid, density, where=inside.tolist(), color=MODEL, alpha=0.18, linewidth=0, label="90 %")
    ax.axvline(middle[1].item(), color=MODEL, linewidth=0.8, linestyle=(0, (4, 3)), label="median")
    if given is not None:
        ax.axvline(given[0].item(), color=GIVEN, linewidth=1.2, label="observed")
    ax.set(xlabel=name, ylabel="density", ylim=(0, None))
    ax.legend(loc="upper right")


def _levels(ax: "Axes", model: ConditionalModel, x: Rows, ends: Tensor, names: list[str], given: Tensor | None) -> None:
    axes = [torch.linspace(low, high, SIDE, dtype=torch.float64) for low, high in ends.T[:2].tolist()]
    points = torch.cartesian_prod(*axes)
    density = model.log_density(points, x).exp().unflatten(0, (SIDE, SIDE))
    ax.contourf(*axes, density.T, levels=12, cmap="Oranges")
    if given is not None:
        ax.plot(*given[:2], marker="o", color=GIVEN, linestyle="", label="observed")
        ax.legend(loc="upper right")
    ax.set(xlabel=names[0], ylabel=names[1])


def _samples(figure: "Figure", drawn: Tensor, ends: Tensor, names: list[str], given: Tensor | None) -> None:
    dims = drawn.shape[1]
    axes = figure.subplots(dims, dims, squeeze=False, sharex="col")
    for i in range(dims):
        for j in range(dims):
            ax = axes[i, j]
            if i < j:
                ax.set_axis_off()
            elif i == j:
                ax.hist(drawn[:, j], bins=40, range=tuple(ends[:, j].tolist()), density=True, color=MODEL, alpha=0.5)
                ax.set_yticks([])
            else:
                ax.scatter(drawn[:, j], drawn[:, i], s=2, color=MODEL, alpha=0.3, linewidths=0)
            if given is not None and i == j:
                ax.axvline(given[j].item(), color=GIVEN, linewidth=1.2)
            elif given is not None and i > j:
                ax.plot(given[j], given[i], marker="o", color=GIVEN, markersize=4)
            if i == dims - 1:
                ax.set_xlabel(names[j])
            if j == 0 and i:
                ax.set_ylabel(names[i])


def _title(model: ConditionalModel, x: Rows) -> str:
    """The condition, as far as one line holds it."""
    values = np.asarray(x, dtype=np.float64).reshape(-1)
    shown = [f"{name} = {value:.4g}" for name, value in zip(model.units.named("x"), values, strict=True)]
    text = ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")
    return f"p(y | {text})".replace("$", r"\$")
