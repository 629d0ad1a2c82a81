"""The comparison of docs/results/ot_conditional.md: every method on every data set, number of pairs and seed.

    python benchmarks/ot_conditional/run.py --out docs/results/ot_conditional.jsonl --jobs 2
    python benchmarks/ot_conditional/table.py docs/results/ot_conditional.jsonl

One line of JSON per run; runs that are already in the file are skipped, so it can be stopped and started again. Every
method sees the same pairs and unpaired rows (PairedVectorsDataModule; the seed chooses them and the network's start),
is averaged (EMA) and validated alike: a quarter of the pairs is held out, `selected` is the step of best validation
NLL and `final` the last one. Only `default`, `ridge` and `joint Gaussian` take all pairs and leave some out in turn.
Test numbers are computed once, afresh, at those two steps; distances at 128 pairs only.
"""

import argparse
import copy
import itertools
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.ot_conditional.methods import METHODS, Recipe
from callbacks.metrics.transport_metrics import CONDITIONAL, MARGINAL
from datamodules import PairedVectorsDataModule
from fewstep.metrics import point_clouds

UNPAIRED = {"swiss_roll": 1024, "weather": 4096, "bikes": None, "shares": None}  # None: all; tables.py makes two
EVALUATIONS = 25  # validations per run
STALE = 0.4  # of the steps without a better validation, after which the default stops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=list(UNPAIRED), choices=list(UNPAIRED))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--pairs", nargs="+", type=int, default=[128, 32, 512])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/ot_conditional.jsonl"))
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.out.read_text().splitlines() if arguments.out.exists() else []
    done = {tuple(json.loads(line)["run"]) for line in lines}
    grid = itertools.product(range(arguments.seeds), arguments.pairs, arguments.data, arguments.methods)
    todo = [(d, m, p, s) for s, p, d, m in grid if (d, m, p, s) not in done and exists(m, d, p)]
    with ProcessPoolExecutor(arguments.jobs) as pool, arguments.out.open("a") as file:
        for result in pool.map(one_run, todo):
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(*result["run"], {k: round(v, 3) for k, v in result["final"].items()}, flush=True)


def exists(method: str, data: str, num_pairs: int) -> bool:
    """The preset of the paper is for the Swiss roll and its 128 pairs."""
    if method == "energy" and data in ("bikes", "shares"):  # has a config for each of the others
        return False
    return method != "paper preset" or (data, num_pairs) == ("swiss_roll", 128)


def one_run(run: tuple[str, str, int, int]) -> dict[str, Any]:
    """Train one method once; the metrics at its selected and its final step."""
    torch.set_num_threads(1)
    data, method, num_pairs, seed = run
    torch.manual_seed(seed)
    unpaired = UNPAIRED[data]
    held_out = 0.0 if method == "paper preset" else 0.25  # the paper keeps no pair aside and takes the last step
    recipe = METHODS[method](data, num_pairs)
    options = {"num_unpaired_x": unpaired, "num_unpaired_y": unpaired}
    options |= {"unpaired_batch_size": recipe.unpaired_batch_size}
    rows = PairedVectorsDataModule(f"data/{data}", num_pairs, held_out, seed=seed, **options)
    rows.setup("fit")
    rows.setup("test")
    initialise(recipe.model, rows)
    start = time.perf_counter()
    selected, final, step = fit(recipe, rows)
    result = {"run": run, "step": step, "seconds": time.perf_counter() - start}
    result["selected"] = {"nll": test_nll(selected, rows)} | (distances(selected, rows) if num_pairs == 128 else {})
    result["final"] = {"nll": test_nll(final, rows)}
    return result


def initialise(model: nn.Module, rows: PairedVectorsDataModule) -> None:
    """Place a model on the rows of training; `start` gets the validation pairs, too, and judges by itself."""
    tables = rows.reference(1 << 20)
    if hasattr(model, "initialise"):
        model.initialise(tables["x_unpaired"], torch.cat([tables["y_unpaired"], tables["y"]]))

    if hasattr(model, "start"):
        x, y = (torch.cat([tables[side], rows.val_columns[side]]) for side in "xy")
        model.start(x, y, tables["x_unpaired"], tables["y_unpaired"])


def fit(recipe: Recipe, rows: PairedVectorsDataModule) -> tuple[nn.Module, nn.Module, int]:
    """Returns the averaged model of best validation NLL, the last one, and the step of the first."""
    batches, val = rows.train_dataloader(), rows.val_columns if rows.num_val else None
    model, average = recipe.model, copy.deepcopy(recipe.model).eval()
    start_lr = [[group["lr"] for group in optimizer.param_groups] for optimizer, _ in recipe.players]
    best, best_nll, best_step = copy.deepcopy(average), math.inf, 0
    for step in range(recipe.steps):
        fraction = 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) if recipe.cosine else 1.0
        batch = batches.batch(step)
        for (optimizer, loss), rates in zip(recipe.players, start_lr, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * fraction
            optimizer.zero_grad()
            loss(batch).backward()
            optimizer.step()
        update(average, model, min(recipe.ema, (1 + step) / (10 + step)))
        if val and (step + 1) % max(1, recipe.steps // EVALUATIONS) == 0:
            nll = validation_nll(average, val)
            if nll < best_nll:
                best, best_nll, best_step = copy.deepcopy(average), nll, step + 1
            elif hasattr(model, "keep_best") and step + 1 - best_step >= STALE * recipe.steps:
                break  # as table.yaml stops: what has been kept does not change the final model
    if not val:
        return average, average, recipe.steps
    calibrate(average, val)
    return best, average, best_step


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, decay: float) -> None:
    trained = [
        (kept, new) for kept, new in zip(average.parameters(), model.parameters(), strict=True) if new.requires_grad
    ]
    torch._foreach_lerp_([kept for kept, _ in trained], [new for _, new in trained], 1 - decay)
    if hasattr(model, "keep_best"):  # what it has kept is of the average
        return
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        if kept.shape == new.shape:
            kept.copy_(new)


def calibrate(model: nn.Module, val: dict[str, Tensor]) -> None:
    if hasattr(model, "calibrate"):
        model.calibrate(val["x"], val["y"])


def validation_nll(model: nn.Module, val: dict[str, Tensor]) -> float:
    """On the held-out pairs; of a model that leaves pairs out itself, on those."""
    if hasattr(model, "keep_best"):
        model.keep_best()
        return model.held_out_nll.item()
    calibrate(model, val)
    with torch.no_grad():
        return -model.log_density(val["y"], val["x"]).mean().item()


@torch.no_grad()
def test_nll(model: nn.Module, rows: PairedVectorsDataModule) -> float:
    """Conditional NLL of the test pairs in nats; an estimate where the method has no density of its own."""
    pairs = rows.test_columns[0]
    parts = zip(pairs["x"].split(512), pairs["y"].split(512), strict=True)
    return -torch.cat([model.log_density(y, x) for x, y in parts]).mean().item()


@torch.no_grad()
def distances(model: nn.Module, rows: PairedVectorsDataModule) -> dict[str, float]:
    """Distances of samples to the truth: marginal on the test pairs, conditional at the probes (mean over groups)."""
    torch.manual_seed(0)
    pairs, probes = rows.test_columns
    sample, at_probes = model.sample(pairs["x"]), model.sample(probes["x"].flatten(0, 1)).view_as(probes["y"])
    result = {n: point_clouds.cross_halves(f, sample, pairs["y"])[0].item() for n, f in MARGINAL.items()}
    for name, distance in CONDITIONAL.items():
        groups = zip(at_probes, probes["y"], strict=True)
        result[name] = torch.stack([point_clouds.cross_halves(distance, a, b)[0] for a, b in groups]).mean().item()
    return result


if __name__ == "__main__":
    main()
