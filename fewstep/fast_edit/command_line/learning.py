"""What is learnt, on which base, by which CLIP: from options to the objects of the room."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fewstep.choices import require_choice, require_range
from fewstep.fast_edit.application import Application
from fewstep.fast_edit.command_line.application import chosen_application
from fewstep.fast_edit.dictionary import DOMAINS, KnownEdit, known_edit, read_edits
from fewstep.fast_edit.direction.clips import EnlargingCLIP, edit_loss, load_edit_clip
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.templates import TEMPLATE_SETS
from fewstep.fast_edit.direction.text_direction import text_pairs
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.edit_header import EditAbout, check_name, check_told, told_of
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.learn import LoopOptions
from fewstep.fast_edit.learning import LearningOptions
from fewstep.fast_edit.tuning import TuningOptions
from fewstep.icd.commands import require_device
from fewstep.picture_size import height_and_width
from fewstep.rewards.clip_scores import CLIPSimilarity

# Of the loss, and of what judges its edits.
CLIPS = {"avatar": ("assets/clip_avatars", "assets/clip_avatars_scorer")}
OTHER_CLIPS = ("ViT-B-16-quickgelu:openai", "ViT-L-14-quickgelu:openai")
DRAWN = ("avatar",)  # in whole pixels, which a CLIP shall see enlarged, not smoothed
VIEWED_AT = 64  # pixels, for which the shifts and blurs of Views are meant


@dataclass(frozen=True)
class Plan:
    """All of it that needs no network; made first, as it finds most mistakes.

    domain: of the dictionary, None for texts of one's own. drawn: in whole pixels. asked: {attribute: value}, what a
    reader shall find.
    """

    name: str
    domain: str | None
    asked: Mapping[str, str]
    about: EditAbout
    learning: LearningOptions
    loop: LoopOptions
    tuning: TuningOptions

    @property
    def drawn(self) -> bool:
        return self.domain in DRAWN


def plan_edit(options: argparse.Namespace) -> Plan:
    """ValueError in one line for texts that are empty or equal, a t0 outside the schedule, and all other options."""
    require_device(options.device)
    if options.enlarge is not None:
        require_range("--enlarge", options.enlarge, 1)
    known = _texts(options)
    name = options.name or known.name
    check_name(name, "--name")
    encoding = Encoding(known.t0 if options.t0 is None else options.t0, options.train_encoding or "stochastic")
    gradient = GradientMode(options.mode, t_lo=min(GradientMode.t_lo, encoding.t0))
    loop = LoopOptions(
        options.passes, options.batch_size, options.lr, options.lr_growth, seed=options.seed, enough=options.enough
    )
    EditLossOptions(l1=options.l1, views=Views(options.views))
    domain = known.domain if options.edit is not None else None
    mine, other = CLIPS.get(domain or "", OTHER_CLIPS)
    clips, judge = tuple(options.clip or [mine]), options.judge_clip or other
    check_judge(clips, judge)
    of_dictionary = known.judge_sentences() if judge == other else ((), ())  # another one may know other words
    before, after = judge_texts(options, of_dictionary)
    how = chosen_application(options, Application(encoding))
    about = EditAbout(
        known.source, known.target, options.base, gradient, encoding, how, known.templates,
        clips=clips, judge=judge, judge_source=before, judge_target=after,
    )  # fmt: skip
    learning = LearningOptions(encoding, gradient, options.reference)
    tuning = TuningOptions("full" if options.full else "lora", options.rank, options.alpha)
    _check_storable(name, about, tuning)
    asked = dict(options.asked) or dict(known.asked)
    if options.gate is not None and not asked:
        raise ValueError("--gate needs --asked ATTRIBUTE=VALUE, what it shall find")
    return Plan(name, domain, asked, about, learning, loop, tuning)


def _texts(options: argparse.Namespace) -> KnownEdit:
    """Of the dictionary, or as given."""
    if options.templates is not None:
        require_choice("--templates", options.templates, TEMPLATE_SETS)
    if options.edit is not None:
        if options.source or options.target:
            raise ValueError(f"--edit {options.edit} has texts already; give it, or --source and --target")
        known = known_edit(options.edit)
        return replace(known, templates=options.templates or known.templates)
    if not (options.source or options.target):
        raise ValueError("say what to learn: --edit NAME, or --source and --target texts")
    text_pairs(options.source, options.target)
    name = re.sub(r"\W+", "_", options.target[0].strip(), flags=re.ASCII).strip("_")[:40]
    name, templates = name if name.isidentifier() else "edit", options.templates or "imagenet"
    any_domain = DOMAINS[0]  # not read: of texts of one's own it is not known
    return KnownEdit(name, any_domain, tuple(options.source), tuple(options.target), Encoding.t0, templates)


def judge_texts(
    options: argparse.Namespace, otherwise: tuple[Sequence[str], Sequence[str]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(before, after), the sentences for the CLIP that judges; ValueError in one line for odd ones."""
    before, after = options.judge_source, options.judge_target
    if before or after:
        text_pairs(before, after)
    else:
        before, after = otherwise
    return tuple(before), tuple(after)


def words_of_dictionary(about: EditAbout, judge: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sentences that the dictionary has for this judge, where it has an edit of these texts; else none."""
    for known in read_edits().values():
        if (known.source, known.target) == (about.source, about.target):
            return known.judge_sentences() if judge == CLIPS.get(known.domain, OTHER_CLIPS)[1] else ((), ())
    return (), ()


def check_judge(clips: Sequence[str], judge: str) -> None:
    if judge in clips:
        raise ValueError(f"the edit is learnt from {judge}, which can be no judge of it; give another --judge-clip")


def _check_storable(name: str, about: EditAbout, tuning: TuningOptions) -> None:
    """ValueError in one line for what its file could not say."""
    told: dict[str, Any] = {**told_of(about), "name": name, "base": {"name": about.base, "sha256": ""}, "kind": "full"}
    if tuning.kind == "lora":
        told |= {"kind": "lora", "rank": tuning.rank, "alpha": tuning.alpha, "targets": []}
    check_told(told)


def load_clips(options: argparse.Namespace, plan: Plan, base: EditBase) -> tuple[list[CLIPSimilarity], int]:
    """(the CLIPs to learn from, how often they see each pixel of a picture).

    As the options say; drawings, by default, as often as it takes to fill what the smallest of them sees.
    """
    clips = [load_edit_clip(source) for source in plan.about.clips]
    size = min(max(height_and_width(clip.preprocessing.size, "the CLIP's size")) for clip in clips)
    factor = options.enlarge or (max(1, size // max(base.sample_size)) if plan.drawn else 1)
    return [enlarging(clip, factor) for clip in clips], factor


def enlarging(clip: CLIPSimilarity, factor: int) -> CLIPSimilarity:
    return clip if factor == 1 else EnlargingCLIP(clip, factor)


def views_on(base: EditBase, count: int) -> Views:
    """Their changes in proportion to the pictures of the base."""
    views, scale = Views(count), min(base.sample_size) / VIEWED_AT
    changes = replace(views.augmentation, shift=views.augmentation.shift * scale, blur=views.augmentation.blur * scale)
    return replace(views, augmentation=changes)


def make_loss(options: argparse.Namespace, plan: Plan, base: EditBase, clips: Sequence[CLIPSimilarity]) -> EditLoss:
    """ValueError in one line for texts that a CLIP cannot tell apart."""
    loss = EditLossOptions(l1=options.l1, views=views_on(base, options.views))
    about = plan.about
    return edit_loss(clips, about.source, about.target, about.templates, loss, options.device)
