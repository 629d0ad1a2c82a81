"""What pictures without a label are worth to a classifier of Fashion-MNIST: three losses of one network.

    python -m datamodules.prepare fashion_mnist --vectors --out data/fashion_mnist
    python benchmarks/ot_conditional/labels.py                             about 4 minutes of one CPU core

Network, optimiser and batches are those of configs/ot_conditional/fashion_mnist.yaml; only the loss differs:

* supervised: cross-entropy of the labelled pairs, which is Eq. 18 with the pairs for the unpaired rows;
* marginal: that plus the likelihood of the classes' shares over 20,000 unpaired x (Eq. 25);
* inverse_ot: Eq. 18.

P counts all labelled pairs; a quarter of them only validates. `selected` is the averaged network at the step of best
validation NLL, `final` that of the last step. A seed chooses the rows and the network's start. Prints a table of test
numbers, accuracy in percent and NLL in nats: mean ± standard deviation over seeds (n - 1); differences by seed.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.ot_conditional.methods import Batch, Recipe, ours
from benchmarks.ot_conditional.run import fit, initialise, test_nll
from benchmarks.ot_conditional.table import show
from datamodules import PairedVectorsDataModule

LOSSES = ("supervised", "marginal", "inverse_ot")
CONFIG = "fashion_mnist.yaml"
UNPAIRED = 20_000
COLUMNS = ("accuracy, selected", "accuracy, final", "NLL, selected", "NLL, final")
Numbers = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/fashion_mnist")
    parser.add_argument("--pairs", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| P | loss | {' | '.join(COLUMNS)} | {COLUMNS[2]}, less the supervised | seeds |")
    print("|---" * (len(COLUMNS) + 4) + "|")
    for num_pairs in options.pairs:
        plain: list[Numbers] = []
        for loss in LOSSES:
            runs = [one_run(options.data, loss, num_pairs, seed) for seed in options.seeds]
            plain = plain or runs
            less = [run[COLUMNS[2]] - other[COLUMNS[2]] for run, other in zip(runs, plain, strict=True)]
            cells = [show([run[name] for run in runs], digits=2) for name in COLUMNS]
            cells.append("" if runs is plain else show(less, digits=2))
            print(f"| {num_pairs} | {loss} | {' | '.join(cells)} | {len(runs)} |", flush=True)


def one_run(data: str, loss: str, num_pairs: int, seed: int) -> Numbers:
    torch.manual_seed(seed)
    rows = PairedVectorsDataModule(data, num_pairs, 0.25, num_unpaired_x=UNPAIRED, seed=seed)
    recipe = ours(CONFIG, "", num_pairs, objective="marginal" if loss == "marginal" else "inverse_ot")
    initialise(recipe.model, rows)
    selected, final, _ = fit(on_pairs_alone(recipe) if loss == "supervised" else recipe, rows)
    models = (selected, final)
    values = [accuracy(model, rows) for model in models] + [test_nll(model, rows) for model in models]
    return dict(zip(COLUMNS, values, strict=True))


def on_pairs_alone(recipe: Recipe) -> Recipe:
    """The same with the pairs for the unpaired rows too, where Eq. 18 is the cross-entropy."""
    ((optimizer, loss),) = recipe.players

    def cross_entropy(batch: Batch) -> torch.Tensor:
        return loss(batch | {"x_unpaired": batch["x"], "y_unpaired": batch["y"]})

    recipe.players = [(optimizer, cross_entropy)]
    return recipe


@torch.no_grad()
def accuracy(model: nn.Module, rows: PairedVectorsDataModule) -> float:
    """In percent of the test pairs."""
    pairs = rows.test_columns[0]
    return 100 * (model.class_log_prob(pairs["x"]).argmax(1) == pairs["y"][:, 0]).float().mean().item()


if __name__ == "__main__":
    main()
