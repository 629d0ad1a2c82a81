"""Scorers that only look, beside the oracle that decides: by name, as a command line gives them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import nn

from fewstep.collaboration.oracles import load_oracle
from fewstep.files.weights import weights_sha256
from fewstep.rewards.attributes import AttributeReward, labels_of, listed


def require_different(oracle: str, judges: Sequence[str]) -> None:
    """ValueError in one line where one is given twice: what decides cannot tell how well it has."""
    for first, second in combinations([oracle, *judges], 2):
        if first == second:
            raise ValueError(f"{first} is given twice: oracle and judges must be different networks")


def load_judges(names: Sequence[str], asked: Mapping[str, Sequence[Any]], device: str) -> dict[str, nn.Module]:
    """By name; asked: what each is told of every prompt. ValueError in one line for attributes that one cannot read."""
    found = {}
    for name in names:
        judge = found[name] = load_oracle(name).to(device)
        if isinstance(judge, AttributeReward):
            labels_of([person for several in listed(asked[name]) for person in several], judge.reader.values)
    return found


def different_networks(oracle: Any, judges: Mapping[str, nn.Module]) -> dict[str, str]:
    """Hashes of the judges' weights by name; ValueError in one line where one has those of the oracle.

    Judges may share a network, as `attributes` and `all_right` of one reader do.
    """
    hashes = {name: weights_sha256(judge) for name, judge in judges.items()}
    if isinstance(oracle, nn.Module):
        deciding = weights_sha256(oracle)
        if same := [name for name, digest in hashes.items() if digest == deciding]:
            raise ValueError(f"{same[0]} has the weights of the oracle: a gate cannot tell how well it has decided")
    return hashes


def require_free_folder(out: Path, overwrite: bool) -> None:
    """ValueError in one line where results would overwrite what nobody has given up."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is no folder")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise ValueError(f"--out {out} holds something; name another folder, or give --overwrite")
