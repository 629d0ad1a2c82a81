"""Results of edits.py as a table, as a plot of strength against nearness, and as a sheet of pictures."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.avatars.evaluation_set import Avatars
from benchmarks.icd.pictures import grid
from benchmarks.icd.results import Row, read_rows
from fewstep.files.contact_sheet import Sample, contact_sheet
from fewstep.metrics.intervals import bootstrap_mean
from fewstep.pixels import to_uint8

COLUMNS = {
    "asked_judge": ("asked attribute right", "{:.3f}"),
    "kept_judge": ("others kept", "{:.3f}"),
    "asked_held_out": ("asked, held-out reader", "{:.3f}"),
    "kept_held_out": ("kept, held-out reader", "{:.3f}"),
    "psnr_to_true_edit": ("PSNR to the true edit, dB", "{:.2f}"),
    "background_change": ("background, mean change of 255", "{:.2f}"),
}
ENDS = {"no edit": "grey", "true edit": "black"}  # what bounds the plot, and its colours there


def markdown(path: Path) -> str:
    """A line for each way and scale, with 95 % intervals over avatars."""
    titles = [title for title, _ in COLUMNS.values()]
    lines = [f"| way | guidance | {' | '.join(titles)} |", f"|---|---|{'--:|' * len(titles)}"]
    lines += [
        f"| {row['method']} | {row['guidance']} | {' | '.join(cells(row, COLUMNS))} |" for row in read_rows([path])
    ]
    return "\n".join(lines)


def at_equal_strength(path: Path, reference: str = "DDIM 50+50", value: str = "psnr_to_true_edit") -> str:
    """How much nearer to the true edit each way is than the reference's best scale that is no stronger, avatar by
    avatar with 95 % intervals."""
    rows = read_rows([path])
    known = [row for row in rows if row["method"] == reference]
    lines = [
        f"| way | guidance | asked | against | asked | {COLUMNS[value][0]}, difference |",
        "|---|---|--:|---|--:|--:|",
    ]
    for row in rows:
        share = row["scalars"]["asked_judge"]
        weaker = [other for other in known if other["scalars"]["asked_judge"] <= share]
        if not weaker or row in known or row["method"] in ENDS:
            continue
        other = max(weaker, key=lambda row: row["scalars"][value])
        own, theirs = (torch.tensor(each["values"][value], dtype=torch.float64) for each in (row, other))
        low, high = bootstrap_mean(own - theirs)
        told = f"{reference}, {other['guidance']} | {other['scalars']['asked_judge']:.3f}"
        cell = f"{(own - theirs).mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(f"| {row['method']} | {row['guidance']} | {share:.3f} | {told} | {cell} |")
    return "\n".join(lines)


def cells(row: Row, columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """Mean and 95 % interval over pictures of each column {value: (title, format)}, empty where the row has none."""
    found = []
    for name, (_, form) in columns.items():
        values = torch.tensor(row["values"].get(name, []), dtype=torch.float64)
        if not len(values):
            found.append("")
            continue
        low, high = bootstrap_mean(values)
        found.append(f"{form.format(values.mean())} [{form.format(low)}, {form.format(high)}]")
    return found


def plot(path: Path, target: Path) -> None:
    """One line for each way, its points the scales; up and to the right is better. The file begins with ENDS."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    rows: dict[str, list[Row]] = {}
    for row in read_rows([path]):
        rows.setdefault(row["method"], []).append(row)
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.4))
    shown = {
        "kept_judge": "share of the other attributes kept",
        "psnr_to_true_edit": "PSNR to the true edit, dB",
        "background_change": "change of the background (0 to 255, falling)",
    }
    for axis, (name, label) in zip(axes, shown.items(), strict=True):
        for number, (way, points) in enumerate(rows.items()):
            x, y = ([row["scalars"][key] for row in points] for key in ("asked_judge", name))
            if way in ENDS:
                axis.axhline(y[0], linestyle=":", color=ENDS[way], label=way)
                continue
            style = "-" if way.startswith("iCD") else "--"
            axis.plot(x, y, marker="o", markersize=5, label=way, linestyle=style, color=f"C{number - len(ENDS)}")
        axis.set_xlabel("share of edits with the asked attribute")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[2].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def sheet(avatars: Avatars, pictures: Mapping[str, Tensor], target: Path, each: int = 2) -> None:
    """`each` edits of every kind: source, some ways, true edit."""
    rows = []
    for kind in dict.fromkeys(avatars.changed):
        rows += [row for row, word in enumerate(avatars.changed) if word == kind][:each]
    columns = {"source": avatars.image[rows]}
    columns |= {textwrap.fill(name, 16): drawn[rows] for name, drawn in pictures.items()}
    words = [_words(avatars, row) for row in rows]
    grid(columns | {"true edit": avatars.edited[rows]}, words, target)


def strip(avatars: Avatars, edited: Tensor, target: Path) -> None:
    """The first edit of every kind: picture, edited, true edit from top to bottom."""
    columns, samples = {"picture": avatars.image, "edited": edited, "true edit": avatars.edited}, []
    for row in (avatars.changed.index(kind) for kind in dict.fromkeys(avatars.changed)):
        shown = {
            name: Image.fromarray(to_uint8(images[row]).movedim(0, -1).numpy()) for name, images in columns.items()
        }
        samples.append(Sample(_words(avatars, row), shown))
    contact_sheet(samples, len(samples), lines=1).quantize(256).save(target, optimize=True)


def _words(avatars: Avatars, row: int) -> str:
    """Such as "hair color: grey"."""
    return f"{avatars.changed[row].replace('_', ' ')}: {avatars.edited_attributes[row][avatars.changed[row]]}"
