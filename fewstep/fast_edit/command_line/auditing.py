"""Edits judged on pictures that they were not learnt from: the table, the sheet, and the verdict."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.choices import require_range
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.audit.auditor import Auditor, Direction
from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.audit.report import AuditReport
from fewstep.fast_edit.audit.sheet import audit_sheet
from fewstep.fast_edit.command_line.application import (
    batches,
    chosen_application,
    folder_named_by,
    loaded,
    put_file,
)
from fewstep.fast_edit.command_line.given_pictures import GivenPicture, given_pictures
from fewstep.fast_edit.command_line.learning import enlarging
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.edit_file import read_edit
from fewstep.fast_edit.edit_header import EditAbout
from fewstep.fast_edit.tuned import Tuned
from fewstep.files.pictures import as_png
from fewstep.icd.commands import require_device
from fewstep.one_line import printable
from fewstep.rewards.attribute_reader import AttributeReader, load_attribute_reader
from fewstep.rewards.clip_scores import CLIPSimilarity
from fewstep.rng import PerSampleRng
from fewstep.shell_command import VerdictError

AT_ONCE = 32


def audited(options: argparse.Namespace) -> str:
    """VerdictError where the edit does not pass."""
    require_device(options.device)
    check_reader(options)
    edit = read_edit(options.edit)
    clips, judge = tuple(options.clip), options.judge_clip
    if not clips:
        clips = tuple(folder_named_by(edit, clip, "--clip") for clip in edit.about.clips)
    if judge is None and edit.about.judge is not None:
        judge = folder_named_by(edit, edit.about.judge, "--judge-clip")
    if not clips:
        raise ValueError(f"{options.edit} does not tell which CLIP it was learnt from; give --clip")
    how = chosen_application(options, edit.about.application)
    pictures = given_pictures(options.pictures, options.num_pictures)
    references = reference_pictures(options)
    tuned = loaded([edit], options.base, options.device)
    trained = enlarging(load_edit_clip(clips[0]), edit.about.enlarge)
    auditor = auditor_of(options, edit.about, tuned.base, trained, judge, references)
    sheet = options.sheet or options.edit.with_name(f"{options.edit.stem}-audit.png")
    report, written = judged(options, auditor, tuned, edit.name, how, pictures, sheet)
    print(table(report))
    if not report.passed:
        raise VerdictError(f"{report.verdict}  sheet {written}")
    return f"{report.verdict}  sheet {written}"


def check_reader(options: argparse.Namespace) -> None:
    """ValueError in one line where a reader, what it is asked and its references do not come together."""
    if (options.reader is None) != (not options.asked) or (options.references and options.reader is None):
        raise ValueError("--reader needs --asked ATTRIBUTE=VALUE and the reverse, and --references need both")


def reference_pictures(options: argparse.Namespace) -> list[GivenPicture]:
    return given_pictures(options.references, options.num_references) if options.references else []


def auditor_of(
    options: argparse.Namespace,
    about: EditAbout,
    base: EditBase,
    trained: CLIPSimilarity,
    judge: str | None,
    references: list[GivenPicture],
) -> Auditor:
    """By another CLIP, the base, and a reader of attributes if there is one. trained: of the edit's own loss."""

    def direction(clip: CLIPSimilarity) -> Direction:
        clip = clip.to(options.device)
        return Direction(clip, text_direction(clip, about.source, about.target, about.templates))

    other = None if judge is None else direction(enlarging(load_edit_clip(judge), about.enlarge))
    reader = None
    if options.reader is not None:
        reader = Judge(_reader(options, about, base), dict(options.asked))
    shown = stacked(options, references, base) if references else None
    return Auditor(direction(trained), other, base, reader, references=shown)


def _reader(options: argparse.Namespace, about: EditAbout, base: EditBase) -> AttributeReader:
    """Where the CLIPs see drawings enlarged, it does as well, as often as fits what it sees."""
    reader = load_attribute_reader(options.reader).to(options.device)
    factor = max(1, min(reader.image_size) // max(base.sample_size)) if about.enlarge > 1 else 1

    def enlarge(network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].repeat_interleave(factor, 2).repeat_interleave(factor, 3),)

    reader.register_forward_pre_hook(enlarge)
    return reader


def judged(
    options: argparse.Namespace,
    auditor: Auditor,
    tuned: Tuned,
    name: str,
    how: Application,
    pictures: list[GivenPicture],
    sheet: Path,
) -> tuple[AuditReport, Path]:
    """(the report of the edit on these pictures, where the sheet of all of them was written)."""
    sources = stacked(options, pictures, tuned.base)
    edits = []
    for part, some in zip(sources.split(AT_ONCE), _parts(pictures), strict=True):
        rng = PerSampleRng(options.seed, [picture.key for picture in some], options.device)
        edits.append(apply_edit(tuned, part, name, rng, how))
    edited = torch.cat(edits)
    report = auditor(sources, edited)
    page = as_png(audit_sheet(report, sources.cpu(), edited.cpu()))
    return report, put_file(sheet, page, options.overwrite, pictures)


def stacked(options: argparse.Namespace, pictures: list[GivenPicture], base: EditBase) -> Tensor:
    """[N, 3, H, W] in [-1, 1], of the size that is asked for or that of the base."""
    require_range("the number of pictures", len(pictures), 1)
    shape = options.size or base.sample_size
    return torch.cat([images for _, images in batches(pictures, AT_ONCE, shape, options.crop)]).to(options.device)


def table(report: AuditReport) -> str:
    """A line for every signal: its mean, what it must be, and the pictures that fail by it."""
    rows = [("signal", "mean", "95 % interval", "bound", "pictures that fail")]
    told: Mapping[str, Mapping[str, Any]] = report.to_dict()["signals"]
    for name, signal in told.items():
        low_high = "{:.2f} to {:.2f}".format(*signal["interval"]) if signal["interval"] else ""
        sign = ">=" if signal["bound_is"] == "least" else "<="
        bound = "" if signal["bound"] is None else f"{sign} {signal['bound']:g}"
        failed = "" if signal["passed"] else "  FAILS"
        rows.append((name, f"{signal['value']:.2f}", low_high, bound, f"{signal['pictures_marked']}{failed}"))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(map(printable, lines))


def _parts(pictures: list[GivenPicture]) -> list[list[GivenPicture]]:
    return [pictures[start : start + AT_ONCE] for start in range(0, len(pictures), AT_ONCE)]
