"""Markdown tables and the verdict on each claim from what claims.py wrote.

    python benchmarks/icd/table.py results/icd.jsonl

Means over pictures with 95 % bootstrap intervals; of several seeds the mean is taken first, and ± is their deviation.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.icd.predicates import CLAIMS, Found, LackingError, Margin
from benchmarks.icd.results import Row, read_rows
from fewstep.metrics.intervals import bootstrap_mean

COLUMNS = {
    "inversion": ["latent_mse", "psnr", "ssim", "lpips", "feature_cosine", "code_mean_square", "nfe", "seconds"],
    "codes": ["code_mean_square", "fd_mobilenet"],
    "generation": ["fd_mobilenet", "alignment", "nfe", "seconds"],
    "editing": ["psnr_to_source", "lpips_to_source", "psnr_to_target", "lpips_to_target", "alignment", "margin"],
}
COLUMNS["editing"] += ["style_accuracy", "nfe", "seconds"]
DIGITS = {"psnr": 2, "psnr_to_source": 2, "psnr_to_target": 2, "nfe": 0, "fd_mobilenet": 2, "latent_mse": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    rows = read_rows(parser.parse_args().files)
    for part, columns in COLUMNS.items():
        chosen = [row for row in rows if row["part"] == part]
        if chosen:
            print("\n".join(table(part, chosen, columns)))
    print("\n".join(verdicts(Found(rows))))


def table(part: str, rows: list[Row], columns: list[str]) -> list[str]:
    splits = sorted({f"{row['num']} of {row['split']}" for row in rows})
    lines = [
        f"\n### {part} ({', '.join(splits)})\n",
        "| config | method | start | decoding | " + " | ".join(columns) + " | seeds |",
    ]
    lines.append("|---|---|--:|---|" + "--:|" * (len(columns) + 1))
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["config"], row["method"], row["start"], row["guidance"]), []).append(row)
    for (config, method, start, guidance), group in groups.items():
        shown = [config, method, "" if start is None else f"{start:g}", guidance or ""]
        lines.append("| " + " | ".join([*shown, *(cell(group, name) for name in columns), str(len(group))]) + " |")
    return lines


def cell(group: list[Row], name: str) -> str:
    """Mean [low, high] ± deviation of the seeds; only what there is."""
    if name not in group[0]["scalars"]:
        return ""
    digits = DIGITS.get(name, 3)
    means = [row["scalars"][name] for row in group]
    text = f"{statistics.mean(means):.{digits}f}"
    if name in group[0]["values"]:
        values = torch.tensor([row["values"][name] for row in group], dtype=torch.float64).mean(0)
        low, high = bootstrap_mean(values, num_draws=400)
        text += f" [{low:.{digits}f}, {high:.{digits}f}]"
    return text + (f" ± {statistics.stdev(means):.{digits}f}" if len(means) > 1 else "")


def verdicts(found: Found) -> list[str]:
    """PASS where every margin is above 0. An interval that holds 0 leaves the sign open to chance."""
    lines = [
        "\n### claims\n",
        "| claim | | verdict | margins, each to be above 0 [95 % interval] |",
        "|---|---|---|---|",
    ]
    for name, (title, predicate) in CLAIMS.items():
        try:
            margins = predicate(found)
        except LackingError as lacking:
            lines.append(f"| {name} | {title} | not measured | lacks {lacking} |")
            continue
        passed = all(one.value > 0 for one in margins)
        lines.append(f"| {name} | {title} | {'PASS' if passed else 'FAIL'} | {'; '.join(map(shown, margins))} |")
    return lines


def shown(margin: Margin) -> str:
    interval = "" if margin.interval is None else f" [{margin.interval[0]:.3g}, {margin.interval[1]:.3g}]"
    return f"{margin.what}: {margin.value:+.3g}{interval}"


if __name__ == "__main__":
    main()
