"""What sweeps of several seeds say of the claims: the calibrated policy against teacher, chance and best of n.

    python benchmarks/collaboration/claims.py SWEEP_0 SWEEP_1 SWEEP_2 --judge all_right=assets/avatar_judge

Every folder is of `python -m fewstep.collaboration sweep` on the same prompts, or a file of keep_sweeps.py. Values are
averaged over seeds for each prompt, and intervals of 95 % resample prompts, so that whole scenes stay together. The
baseline is the cheapest teacher that no dearer one is better than beyond doubt. What the teacher draws alone does not
depend on the student: sweeps of further students may leave `--teachers` out, and take it here from those of another:
--teachers SWEEP_0 SWEEP_1 SWEEP_2.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.collaboration.keep_sweeps import read_sweep
from fewstep.metrics.intervals import bootstrap_mean

Row = Mapping[str, Any]


def read_sweeps(folders: Sequence[Path], judges: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{name of a way: family, passes and {judge: float64 [N]}}, means over the seeds."""
    found: list[dict[str, Row]] = []
    heads: list[Row] = []
    for folder in folders:
        head, rows = read_sweep(folder)
        heads.append(head)
        found.append({row["name"]: row for row in rows})
        if (head["about"], head["keys"], list(found[-1])) != (heads[0]["about"], heads[0]["keys"], list(found[0])):
            raise SystemExit(f"{folder} is of other networks, prompts or budgets than {folders[0]}")
    if len({head["seed"] for head in heads}) < len(heads):
        raise SystemExit("two sweeps are of the same seed: give each once")
    return _together(found, judges)


def with_teachers(folders: Sequence[Path], others: Sequence[Path], judges: Sequence[str]) -> dict[str, dict[str, Any]]:
    """As read_sweeps, and the teachers of other sweeps of the same prompts and seeds."""
    ways, more = read_sweeps(folders, judges), read_sweeps(others, judges)
    heads = [[read_sweep(place)[0] for place in several] for several in (folders, others)]
    drawn = [{(head["seed"], *head["keys"]) for head in several} for several in heads]
    if drawn[0] != drawn[1]:
        raise SystemExit("--teachers are sweeps of other prompts or seeds")
    return {name: way for name, way in more.items() if way["family"] == "teacher"} | ways


def _together(found: Sequence[Mapping[str, Row]], judges: Sequence[str]) -> dict[str, dict[str, Any]]:
    together = {}
    for name, row in found[0].items():
        same = [rows[name] for rows in found]
        table = {
            judge: torch.tensor([each["values"][judge] for each in same], dtype=torch.float64).mean(0)
            for judge in judges
        }
        passes = sum(each["passes"] for each in same) / len(same)
        most = None if row["passes_p95"] is None else max(each["passes_p95"] for each in same)
        together[name] = {"family": row["family"], "passes": passes, "passes_p95": most, "scores": table}
    return together


def baseline(ways: Mapping[str, Mapping[str, Any]], judge: str) -> str:
    """The cheapest teacher than which the best one is not better, by an interval of paired differences."""
    teachers = sorted((w["passes"], name) for name, w in ways.items() if w["family"] == "teacher")
    if not teachers:
        raise SystemExit("these sweeps have no teacher to compare with; take those of others, --teachers SWEEP ..")
    best = max(teachers, key=lambda each: ways[each[1]]["scores"][judge].mean().item())[1]
    for _, name in teachers:
        gain = ways[best]["scores"][judge] - ways[name]["scores"][judge]
        if name == best or bootstrap_mean(gain)[0] <= 0:
            return name
    raise AssertionError("the best one is not better than itself")


def against(ways: Mapping[str, Mapping[str, Any]], name: str, others: Sequence[str], judge: str) -> str:
    """The difference to the dearest of others that takes no more than half a pass more, or the cheapest there is."""
    affordable = [other for other in others if ways[other]["passes"] <= ways[name]["passes"] + 0.5]
    if not affordable:
        return "-"
    other = max(affordable, key=lambda each: ways[each]["passes"])
    return f"{difference(ways[name]['scores'][judge], ways[other]['scores'][judge])} ({other})"


def difference(first: Tensor, second: Tensor) -> str:
    gain = first - second
    low, high = bootstrap_mean(gain)
    return f"{gain.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="+", type=Path)
    parser.add_argument("--judge", action="append", required=True, help="as the sweep was told; the first chooses")
    parser.add_argument("--teachers", nargs="+", type=Path, default=[], metavar="SWEEP", help="see above")
    options = parser.parse_args()
    if options.teachers:
        ways = with_teachers(options.sweeps, options.teachers, options.judge)
    else:
        ways = read_sweeps(options.sweeps, options.judge)
    print("| way | passes | 95 % within | " + " | ".join(options.judge) + " |")
    print("|---|--:|--:|" + "--:|" * len(options.judge))
    for name, way in sorted(ways.items(), key=lambda item: item[1]["passes"]):
        cells = []
        for judge in options.judge:
            low, high = bootstrap_mean(way["scores"][judge])
            cells.append(f"{way['scores'][judge].mean():.4f} [{low:.4f}, {high:.4f}]")
        most = "" if way["passes_p95"] is None else f"{way['passes_p95']:.2f}"
        print(f"| {name} | {way['passes']:.2f} | {most} | " + " | ".join(cells) + " |")
    families: dict[str, list[str]] = {}
    for name, way in ways.items():
        families.setdefault(way["family"], []).append(name)
    for judge in options.judge:
        teacher = baseline(ways, options.judge[0])
        print(f"\n{judge}; the baseline is {teacher} in {ways[teacher]['passes']:.2f} passes\n")
        print("| policy | passes, of the baseline's | against the baseline | its random twin | best of n for as much |")
        print("|---|--:|---|---|---|")
        for name in families["adaptive"]:
            way = ways[name]
            share = way["passes"] / ways[teacher]["passes"]
            cells = [difference(way["scores"][judge], ways[teacher]["scores"][judge])]
            cells.append(difference(way["scores"][judge], ways[name.replace("adaptive", "random")]["scores"][judge]))
            cells.append(against(ways, name, families.get("best of n", []), judge))
            print(f"| {name} | {way['passes']:.2f}, {share:.2f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
