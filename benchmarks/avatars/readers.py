"""What readers of attributes get right on pictures of unseen combinations, clean and disturbed, and how sure they are.

python benchmarks/avatars/readers.py assets/avatar_judge assets/avatar_judge_held_out --data runs/avatars64
"""

import argparse
import sys
from pathlib import Path

import torch
from torchmetrics.functional.classification import multiclass_calibration_error

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.evaluation_set import read_avatars
from fewstep.augmentation import blurred
from fewstep.metrics.intervals import bootstrap_mean
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import labels_of, listed, tiles

CHANGES = {
    "clean": lambda images: images,
    "noise of 0.1": lambda images: (images + 0.1 * torch.randn_like(images)).clamp(-1, 1),
    "blur of 1 px": lambda images: blurred(images, torch.ones(len(images)), 3),
    "2 px to the right": lambda images: torch.cat([images[..., :1].expand(-1, -1, -1, 2), images[..., :-2]], 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="+", metavar="FOLDER")
    parser.add_argument("--data", default="data/avatars64")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    options = parser.parse_args()
    avatars = read_avatars(options.data, options.split)
    persons = listed(avatars.attributes)
    images, told = tiles(avatars.image, len(persons[0])), [person for several in persons for person in several]
    print(f"{options.data}, {options.split}: {len(images)} avatars")
    for folder in options.readers:
        reader = load_attribute_reader(folder)
        labels = labels_of(told, reader.values)
        for change, apply in CHANGES.items():
            torch.manual_seed(0)
            report(f"{folder}, {change}", read(reader, apply(images)), labels, whole=change == "clean")


@torch.no_grad()
def read(reader: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = [reader(part) for part in images.split(200)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def report(title: str, found: dict, labels: dict, whole: bool) -> None:
    """One line for everything, and one for each attribute where asked for."""
    right = torch.stack([found[name].argmax(1) == labels[name] for name in labels], 1)
    asked = torch.stack([column >= 0 for column in labels.values()], 1)
    every = (right == asked).all(1).double()
    low, high = bootstrap_mean(every)
    share = (right.sum() / asked.sum()).item()
    print(f"| {title} | {share:.4f} | {every.mean():.3f} [{low:.3f}, {high:.3f}] |")
    for place, (name, column) in enumerate(labels.items() if whole else ()):
        seen = column >= 0
        log_p = found[name][seen]
        nll = torch.nn.functional.nll_loss(log_p, column[seen]).item()
        error = multiclass_calibration_error(log_p.exp(), column[seen], log_p.shape[1], n_bins=15).item()
        hits = f"{right[seen, place].float().mean():.4f} of {int(seen.sum())}"
        print(f"|   {name} | {hits} | NLL {nll:.4f} | ECE {error:.4f} |")


if __name__ == "__main__":
    main()
