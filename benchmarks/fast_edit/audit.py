"""Does the audit of edits catch adversarial pixels, and let true edits pass?

    python benchmarks/fast_edit/audit.py --num 16 --sheets results/audit

True edits are those of the drawn avatars; the controls are the same sources after Adam on their pixels under the loss
of the edit (`fewstep.fast_edit.audit.pixel_control`), seen by its CLIP in one view or in four. Every signal with its
95 % interval over pictures. Then how often the audit fails: of edits, judged by --group pictures drawn at random
--draws times, and of single pictures.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.avatars.evaluation_set import Avatars, read_avatars
from datamodules.prepare.avatar_captions import scoring_caption
from fewstep.fast_edit.audit.auditor import Auditor, Direction
from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.audit.pixel_control import optimise_pixels
from fewstep.fast_edit.audit.report import AuditReport
from fewstep.fast_edit.audit.sheet import audit_sheet
from fewstep.fast_edit.dictionary import known_edit
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.edit_base import load_base
from fewstep.metrics.intervals import bootstrap_mean
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.clip_scores import load_clip

HIDES = {"hat": ["hair_length", "hair_color"]}
EDITS = {
    "avatar_glasses": ("glasses", "glasses"),
    "avatar_red_hat": ("hat", "red"),
    "avatar_blond_hair": ("hair_color", "blond"),
    "avatar_long_hair": ("hair_length", "long"),
    "avatar_sunglasses": ("glasses", "sunglasses"),
    "avatar_grey_hair": ("hair_color", "grey"),
    "avatar_dark_skin": ("skin", "dark"),
    "avatar_red_shirt": ("shirt", "red"),
}
CONTROLS = {"pixels, 1 view": Views(1), "pixels, 4 views": Views()}
WORDINGS = 16  # pairs of captions over which the held-out direction is a mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/avatars64")
    parser.add_argument("--split", default="train", help="has the most edits of one kind")
    parser.add_argument("--edits", nargs="+", default=list(EDITS), choices=list(EDITS))
    parser.add_argument("--num", type=int, default=16, help="pictures of each edit")
    parser.add_argument("--references", type=int, default=400, help="real pictures, with and without the attribute")
    parser.add_argument("--steps", type=int, default=30, help="of Adam, of the controls")
    parser.add_argument("--lr", type=float, default=0.03)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--base", default="assets/sd_avatars")
    parser.add_argument("--clip", default="local-dir:assets/clip_avatars", help="of the training")
    parser.add_argument("--held-out", default="local-dir:assets/clip_avatars_scorer")
    parser.add_argument("--judge", default="assets/avatar_judge")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheets", type=Path, help="folder for the contact sheets")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    avatars = read_avatars(options.data, options.split)
    networks = {name: load_clip(getattr(options, name), None, differentiable=True) for name in ("clip", "held_out")}
    reader, base = load_attribute_reader(options.judge), load_base(options.base)
    print("| edit | pictures | signals | failed by |\n|---|---|---|---|")
    reports: dict[str, list[AuditReport]] = {}
    for name in options.edits:
        rows = rows_of(avatars, *EDITS[name])[: options.num]
        shown, known = avatars[rows], known_edit(name)
        direction = text_direction(networks["clip"], known.source, known.target, known.templates)
        trained = Direction(networks["clip"], direction)
        wordings = [[scoring_caption([seen]) for seen in side] for side in (shown.attributes, shown.edited_attributes)]
        pairs = [side[:WORDINGS] for side in wordings]
        held_out = Direction(networks["held_out"], text_direction(networks["held_out"], *pairs, "plain"))
        judge = Judge(reader, dict([EDITS[name]]), HIDES)
        references = real_pictures(avatars, rows, *EDITS[name], options.references)
        auditor = Auditor(trained, held_out, base, judge, references=references)
        drawn = {"true edits": shown.edited}
        for kind, views in CONTROLS.items():
            loss = EditLoss([networks["clip"]], [direction], EditLossOptions(views=views))
            drawn[kind] = optimise_pixels(loss, shown.image, options.steps, options.lr)
        for kind, edits in drawn.items():
            report = auditor(shown.image, edits)
            reports.setdefault(kind, []).append(report)
            print(f"| {name} | {kind} | {told(report)} | {failed(report)} |", flush=True)
            if options.sheets:
                options.sheets.mkdir(parents=True, exist_ok=True)
                page = audit_sheet(report, shown.image, edits)
                page.save(options.sheets / f"{name}_{kind.replace(', ', '_').replace(' ', '_')}.png")
    print(f"\n| pictures | edits that fail, {options.group} pictures each | pictures that are marked |\n|---|--:|--:|")
    for kind, several in reports.items():
        edits = torch.cat([failures(report, options.group, options.draws) for report in several]).mean()
        marked = torch.tensor([float(bool(marks)) for report in several for marks in report.marks])
        low, high = bootstrap_mean(marked)
        print(f"| {kind} | {edits:.3f} | {marked.mean():.3f} [{low:.3f}, {high:.3f}] of {len(marked)} |")


def rows_of(avatars: Avatars, attribute: str, value: str) -> list[int]:
    """Those whose true edit brings this value."""
    each = enumerate(zip(avatars.changed, avatars.edited_attributes, strict=True))
    return [row for row, (changed, seen) in each if changed == attribute and seen[attribute] == value]


def real_pictures(avatars: Avatars, but: list[int], attribute: str, value: str, num: int) -> Tensor:
    """Half with the value and half without, of those where the attribute can be seen."""
    free = [row for row in range(len(avatars)) if row not in but and attribute in avatars.attributes[row]]
    halves = [[row for row in free if (avatars.attributes[row][attribute] == value) is has] for has in (True, False)]
    return torch.cat([avatars.image[half[: num // 2]] for half in halves])


def told(report: AuditReport) -> str:
    cells = []
    for signal in report.signals:
        low, high = signal.interval or (signal.value, signal.value)
        cells.append(f"{signal.name.replace('_', ' ')} {signal.value:.2f} [{low:.2f}, {high:.2f}]")
    return ", ".join(cells)


def failed(report: AuditReport) -> str:
    return ", ".join(signal.name.replace("_", " ") for signal in report.signals if not signal.passed) or "nothing"


def failures(report: AuditReport, group: int, draws: int, seed: int = 0) -> Tensor:
    """[draws] of 0 and 1: whether the edit fails that is judged by so many of the pictures, drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(report.signals[0].values), (draws, group), generator=generator)
    found = []
    for drawn in rows:
        signals = [replace(s, values=s.values[drawn], marked=s.marked[drawn]) for s in report.signals]
        found.append(float(not replace(report, signals=tuple(signals)).passed))
    return torch.tensor(found)


if __name__ == "__main__":
    main()
