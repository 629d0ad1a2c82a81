"""Edits judged on pictures that they were not learnt from: the table, the sheet, and the verdict."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
    load_on_base,
    put_file,
)
from fewstep.fast_edit.command_line.given_pictures import GivenPicture, given_pictures
from fewstep.fast_edit.command_line.learning import check_judge, enlarging, judge_texts, words_of_dictionary
from fewstep.fast_edit.command_line.readers import check_reader, load_judge
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.direction.templates import Templates
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.edit_file import read_edit
from fewstep.fast_edit.edit_header import EditAbout
from fewstep.fast_edit.tuned import Tuned
from fewstep.files.pictures import as_png
from fewstep.files.places import require_writable
from fewstep.icd.commands import require_device
from fewstep.one_line import printable
from fewstep.rewards.clip_scores import CLIPSimilarity
from fewstep.rng import PerSampleRng
from fewstep.shell_command import VerdictError

AT_ONCE = 32
LEAST_AUDITED = 16  # of fewer, one picture is more than a twentieth of the means


def audit_file(options: argparse.Namespace) -> str:
    """VerdictError where the edit does not pass."""
    require_device(options.device)
    asked = dict(options.asked)
    check_reader(options, asked)
    sheet = options.sheet or options.edit.with_name(f"{options.edit.stem}-audit.png")
    require_writable(sheet.parent, "--sheet")
    edit = read_edit(options.edit)
    clips, judge = tuple(options.clip), options.judge_clip
    if not clips:
        clips = tuple(folder_named_by(edit, clip, "--clip") for clip in edit.about.clips)
    if judge is None and edit.about.judge is not None:
        judge = folder_named_by(edit, edit.about.judge, "--judge-clip")
    if not clips:
        raise ValueError(f"{options.edit} does not tell which CLIP it was learnt from; give --clip")
    if judge is None and options.reader is None:
        told = "names no CLIP that was held out, and by its own alone nothing passes"
        raise ValueError(f"{options.edit} {told}; give --judge-clip CLIP, or --reader FOLDER with --asked")
    if judge is not None:
        check_judge(clips, judge)
    known = words_of_dictionary(edit.about, judge)
    if judge == edit.about.judge and edit.about.judge_source:
        known = edit.about.judge_source, edit.about.judge_target
    before, after = judge_texts(options, known)
    about = replace(edit.about, judge=judge, judge_source=before, judge_target=after)
    how = chosen_application(options, about.application)
    pictures = given_pictures(options.pictures, options.num_pictures)
    check_number(len(pictures), options.force)
    references = reference_pictures(options)
    tuned = load_on_base([edit], options.base, options.device)
    trained = enlarging(load_edit_clip(clips[0]), about.enlarge)
    reader = load_judge(options, asked, about.enlarge, tuned.base)
    auditor = make_auditor(options, about, tuned.base, trained, reader, references)
    report, written = judge_edit(options, auditor, tuned, edit.name, how, pictures, sheet)
    print(table(report))
    if not report.passed:
        raise VerdictError(f"{report.verdict}  sheet {written}")
    return f"{report.verdict}  sheet {written}"


def check_number(pictures: int, force: bool) -> None:
    """ValueError in one line for an audit of so few pictures that chance could pass almost anything."""
    if pictures < LEAST_AUDITED and not force:
        told = f"{pictures} pictures for the audit: at least {LEAST_AUDITED} are needed, as fewer pass by chance"
        raise ValueError(f"{told}; give more, or --force")


def reference_pictures(options: argparse.Namespace) -> list[GivenPicture]:
    return given_pictures(options.references, options.num_references) if options.references else []


def make_auditor(
    options: argparse.Namespace,
    about: EditAbout,
    base: EditBase,
    trained: CLIPSimilarity,
    judge: Judge | None,
    references: list[GivenPicture],
) -> Auditor:
    """By another CLIP in its own words, the base, and a reader if there is one. trained: of the edit's own loss."""

    def direction(clip: CLIPSimilarity, *words: Any) -> Direction:
        clip = clip.to(options.device)
        return Direction(clip, text_direction(clip, *words))

    other = None
    if about.judge is not None:
        other = direction(enlarging(load_edit_clip(about.judge), about.enlarge), *words_for_judge(about))
    shown = read_pictures(options, references, base) if references else None
    of_training = direction(trained, about.source, about.target, about.templates)
    return Auditor(of_training, other, base, judge, references=shown)


def words_for_judge(about: EditAbout) -> tuple[tuple[str, ...], tuple[str, ...], Templates]:
    """(source, target, templates) for the CLIP that was held out."""
    if about.judge_source:
        return about.judge_source, about.judge_target, "plain"
    return about.source, about.target, about.templates


def judge_edit(
    options: argparse.Namespace,
    auditor: Auditor,
    tuned: Tuned,
    name: str,
    how: Application,
    pictures: list[GivenPicture],
    sheet: Path,
) -> tuple[AuditReport, Path]:
    """(the report of the edit on these pictures, where the sheet of all of them was written)."""
    sources = read_pictures(options, pictures, tuned.base)
    edits = []
    for part, some in zip(sources.split(AT_ONCE), _parts(pictures), strict=True):
        rng = PerSampleRng(options.seed, [picture.key for picture in some], options.device)
        edits.append(apply_edit(tuned, part, name, rng, how))
    edited = torch.cat(edits)
    report = auditor(sources, edited)
    page = as_png(audit_sheet(report, sources.cpu(), edited.cpu()))
    return report, put_file(sheet, page, options.overwrite, pictures)


def read_pictures(options: argparse.Namespace, pictures: list[GivenPicture], base: EditBase) -> Tensor:
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
