"""The paper's loss has no lower bound: what that does to training, what centring the gauge mends, what it does not.

    python benchmarks/ot_conditional/unbounded_loss.py          about 7 minutes on 2 CPU cores; --redraw takes seconds

Light transport (N = 50, M = 25) on data/swiss_roll with 128 pairs and 1024 unpaired x and y; every step takes all pairs
and 128 unpaired rows a side; AdamW at the paper's constant rates (3e-4 cost, 1e-3 potential); three seeds choose rows,
weights and batches. Only objective, gauge and the slope net differ. Writes results/unbounded_loss.json and
docs/images/unbounded_loss.png and prints a table.

E_P c - E_R f + E_Q log Z averages over three different samples. Along directions that leave π(y|x) as it is the loss is
then linear (the gauge: c + ⟨u, y⟩ with a matching f), and a cost at the paired x alone is paid for nowhere else
(memorisation). Whoever selects on this loss selects a late and bad model; held-out likelihood is what to watch.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fewstep.transport import inverse_ot
from fewstep.transport.light_transport import LightTransport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[2]
RESULTS, IMAGE = ROOT / "results" / "unbounded_loss.json", ROOT / "docs" / "images" / "unbounded_loss.png"
RATES = {"cost": 3e-4, "potential": 1e-3}
BATCH, SEEDS = 128, (0, 1, 2)
MEASURES = ("loss", "test_nll", "pair_nll", "slope_max", "gauge_drift")
PANELS = (
    ("loss", "The loss falls without bound", "loss (18) on the training data, nats", "linear", None),
    ("test_nll", "Held-out likelihood does not follow", "NLL of held-out pairs, nats", "linear", 0.0),
    ("gauge_drift", "Centring mends the gauge only", "length of the mean slope", "log", 1e-2),
)
LINE_HEIGHT = 0.062  # of a label, in units of the axes's height
STYLE = (
    dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), "#333333")
    | dict.fromkeys(("xtick.major.size", "ytick.major.size", "ytick.minor.size"), 0)
    | dict.fromkeys(("axes.spines.top", "axes.spines.right"), False)
    | {"font.size": 8.5, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.edgecolor": "#BBBBBB"}
    | {"axes.grid": True, "axes.axisbelow": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.6}
)


class Run(NamedTuple):
    label: str
    objective: str
    gauge: str | None
    hidden: tuple[int, ...]  # of the slope net
    colour: str


VERMILION, BLUE, GREEN = "#D55E00", "#0072B2", "#009E73"
RUNS = {
    "free_linear": Run("paper, linear", "inverse_ot", None, (), VERMILION),
    "centred_linear": Run("centred, linear", "inverse_ot", "centred", (), BLUE),
    "free": Run("paper", "inverse_ot", None, (25,), VERMILION),
    "centred": Run("centred", "inverse_ot", "centred", (25,), BLUE),
    "marginal": Run("marginal", "marginal", "centred", (25,), GREEN),
}


def load(seed: int) -> dict[str, Tensor]:
    """Training tables x, y, x_unpaired, y_unpaired and the test pairs test_x, test_y."""
    from datamodules import PairedVectorsDataModule  # imports Lightning, which the workers need not wait for

    sizes = {"num_pairs": 128, "val_fraction": 0.0, "num_unpaired_x": 1024, "num_unpaired_y": 1024}
    data = PairedVectorsDataModule(ROOT / "data" / "swiss_roll", **sizes, seed=seed)
    test = data.test_columns[0]
    return data.reference() | {"test_x": test["x"], "test_y": test["y"]}


@torch.no_grad()
def measure(model: LightTransport, data: dict[str, Tensor]) -> dict[str, float]:
    """Loss (18) on all training rows, NLL of test and training pairs, largest slope, length of the mean slope."""
    potential, pair, unpaired = model.potential(), model.cost(data["x"]), model.cost(data["x_unpaired"])
    terms = inverse_ot.inverse_ot_terms(potential, pair, data["y"], unpaired, data["y_unpaired"])
    values = (
        torch.stack(list(terms.values())).sum(),
        -model.log_density(data["test_y"], data["test_x"]).mean(),
        -inverse_ot.log_density(data["y"], potential, pair).mean(),
        pair.slope.abs().max(),
        inverse_ot.mean_slope(unpaired).norm(),
    )
    return dict(zip(MEASURES, map(float, values), strict=True))


def train(name: str, seed: int, data: dict[str, Tensor], steps: int, every: int) -> list[dict[str, float]]:
    """Measures at step 0, `every`, 2 `every`, ..., `steps`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    run = RUNS[name]
    model = LightTransport(2, 2, slope_hidden=run.hidden, objective=run.objective, gauge=run.gauge)
    model.initialise(data["x_unpaired"], torch.cat([data["y_unpaired"], data["y"]]), seed=seed)
    groups = model.parameter_groups()
    optimizer = torch.optim.AdamW([{"params": groups[k], "lr": RATES[k]} for k in groups], weight_decay=0.0)
    history = [measure(model, data)]
    for step in range(1, steps + 1):
        batch = {"x": data["x"], "y": data["y"]}
        for side in ("x_unpaired", "y_unpaired"):
            batch[side] = data[side][torch.randint(len(data[side]), (BATCH,))]
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()
        if step % every == 0:
            history.append(measure(model, data))
    return history


def train_all(steps: int, every: int) -> dict:
    """{"steps": [...], "runs": {name: {measure: one list per seed}}}; two runs at a time."""
    data = {seed: load(seed) for seed in SEEDS}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = {(n, s): pool.submit(train, n, s, data[s], steps, every) for s in SEEDS for n in RUNS}
        histories = {key: job.result() for key, job in jobs.items()}
    curves = {n: {m: [[row[m] for row in histories[n, s]] for s in SEEDS] for m in MEASURES} for n in RUNS}
    return {"steps": list(range(0, steps + 1, every)), "runs": curves}


def table(results: dict) -> str:
    """Markdown: means over the seeds at the last step, and the best test NLL of any step."""
    lines = ["| run | loss (18) | test NLL | best test NLL | pair NLL | max slope | gauge drift |", "|" + "---|" * 7]
    for name, run in RUNS.items():
        curves = {m: torch.tensor(results["runs"][name][m]) for m in MEASURES}
        last = {m: float(curve[:, -1].mean()) for m, curve in curves.items()}
        best = float(curves["test_nll"].min(dim=1).values.mean())
        cells = [last.pop("loss"), last.pop("test_nll"), best, *last.values()]
        lines.append(f"| {run.label} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def draw(results: dict, path: Path) -> None:
    """Three panels: mean over the seeds, their range and each of them; dotted lines are linear slope nets."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 3.8))
        axes = figure.subplots(1, 3)
        figure.subplots_adjust(left=0.04, right=0.9, top=0.83, bottom=0.13, wspace=0.46)
        thousands = torch.tensor(results["steps"]) / 1000
        for ax, (measured, title, unit, scale, bottom) in zip(axes, PANELS, strict=True):
            ax.set(yscale=scale, xlabel="thousand steps", xlim=(0, thousands[-1]))
            ax.set_title(title, loc="left", pad=22)
            ax.text(0, 1.04, unit, transform=ax.transAxes, color="#777777")
            ends = {name: plot(ax, thousands, results["runs"][name][measured], run) for name, run in RUNS.items()}
            ax.set_ylim(bottom=bottom)
            label_ends(ax, ends)
        figure.savefig(path, dpi=150, facecolor="white")


def plot(ax: "Axes", thousands: Tensor, curves: list[list[float]], run: Run) -> float:
    """Draws one run; returns its mean over the seeds at the last step."""
    curve = torch.tensor(curves)  # [seeds, times]
    dots = (0 if run.gauge is None else 2, (2, 2))  # the gaps of one line show the other where two coincide
    ax.fill_between(thousands, curve.min(0).values, curve.max(0).values, color=run.colour, alpha=0.06, linewidth=0)
    ax.plot(thousands, curve.T, color=run.colour, linewidth=0.6, alpha=0.4)
    ax.plot(thousands, curve.mean(0), color=run.colour, linewidth=2, linestyle="-" if run.hidden else dots)
    return float(curve[:, -1].mean())


def label_ends(ax: "Axes", ends: dict[str, float]) -> None:
    """The names beside the ends of their lines, in axes units, moved apart where they would overlap."""
    to_axes = ax.transData + ax.transAxes.inverted()
    names = sorted(ends, key=ends.__getitem__)
    heights = [to_axes.transform((0, ends[name]))[1] for name in names]
    for i in range(1, len(names)):
        heights[i] = max(heights[i], heights[i - 1] + LINE_HEIGHT)
    heights[-1] = min(heights[-1], 1.0)
    for i in reversed(range(len(names) - 1)):
        heights[i] = min(heights[i], heights[i + 1] - LINE_HEIGHT)
    for name, height in zip(names, heights, strict=True):
        ax.text(1.02, height, RUNS[name].label, color=RUNS[name].colour, transform=ax.transAxes, va="center")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=100, help="steps between two measurements")
    parser.add_argument("--redraw", action="store_true", help="draw from the results of the last training")
    options = parser.parse_args()
    if not options.redraw:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(train_all(options.steps, options.every)))
    elif not RESULTS.is_file():
        raise SystemExit(f"{RESULTS} does not exist; run without --redraw first")
    results = json.loads(RESULTS.read_text())
    IMAGE.parent.mkdir(exist_ok=True)
    draw(results, IMAGE)
    print(table(results))


if __name__ == "__main__":
    main()
