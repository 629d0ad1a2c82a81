"""What is learnt, on which base, by which CLIP: from options to the objects of the room."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewstep.choices import require_choice, require_range
from fewstep.fast_edit.application import Application
from fewstep.fast_edit.command_line.application import chosen_application
from fewstep.fast_edit.dictionary import known_edit
from fewstep.fast_edit.direction.clips import EnlargingCLIP, edit_loss, load_edit_clip
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.templates import TEMPLATE_SETS
from fewstep.fast_edit.direction.text_direction import text_pairs
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.edit_header import EditAbout, check_name
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.learn import LoopOptions
from fewstep.fast_edit.learning import LearningOptions
from fewstep.fast_edit.tuning import TuningOptions
from fewstep.icd.commands import require_device
from fewstep.picture_size import height_and_width
from fewstep.rewards.clip_scores import CLIPSimilarity

# Of the loss, and of what looks at its edits.
CLIPS = {"avatar": ("assets/clip_avatars", "assets/clip_avatars_scorer")}
OTHER_CLIPS = ("ViT-B-16-quickgelu:openai", "ViT-L-14-quickgelu:openai")
DRAWN = ("avatar",)  # in whole pixels, which a CLIP shall see enlarged, not smoothed
VIEWED_AT = 64  # pixels, for which the shifts and blurs of Views are meant


@dataclass(frozen=True)
class Plan:
    """All of it that needs no network; made first, as it finds most mistakes. drawn: in whole pixels."""

    name: str
    drawn: bool
    about: EditAbout
    learning: LearningOptions
    loop: LoopOptions
    tuning: TuningOptions


def planned(options: argparse.Namespace) -> Plan:
    """ValueError in one line for texts that are empty or equal, a t0 outside the schedule, and all other options."""
    require_device(options.device)
    domain, templates, t0 = None, "imagenet", 0.35
    if options.edit is not None:
        if options.source or options.target:
            raise ValueError(f"--edit {options.edit} has texts already; give it, or --source and --target")
        known = known_edit(options.edit)
        name, domain, templates, t0 = known.name, known.domain, known.templates, known.t0
        source, target = known.source, known.target
    elif options.source or options.target:
        source, target = tuple(options.source), tuple(options.target)
        text_pairs(source, target)
        name = re.sub(r"\W+", "_", target[0].strip(), flags=re.ASCII).strip("_")[:40]
        name = name if name.isidentifier() else "edit"
    else:
        raise ValueError("say what to learn: --edit NAME, or --source and --target texts")
    name = options.name or name
    check_name(name, "--name")
    templates = options.templates or templates
    require_choice("--templates", templates, TEMPLATE_SETS)
    encoding = Encoding(t0 if options.t0 is None else options.t0, options.encoding or "stochastic")
    gradient = GradientMode(options.mode, t_lo=min(GradientMode.t_lo, encoding.t0))
    how = chosen_application(options, Application(encoding))
    loop = LoopOptions(options.passes, options.batch_size, options.lr, seed=options.seed)
    EditLossOptions(l1=options.l1, views=Views(options.views))
    mine, other = CLIPS.get(domain or "", OTHER_CLIPS)
    if options.enlarge is not None:
        require_range("--enlarge", options.enlarge, 1)
    about = EditAbout(
        source, target, options.base, gradient, encoding, how, templates,
        clips=tuple(options.clip or [mine]), judge=options.judge_clip or other,
    )  # fmt: skip
    learning = LearningOptions(encoding, gradient, options.reference)
    tuning = TuningOptions("full" if options.full else "lora", options.rank, options.alpha)
    return Plan(name, domain in DRAWN, about, learning, loop, tuning)


def shown_clips(options: argparse.Namespace, plan: Plan, base: EditBase) -> tuple[list[CLIPSimilarity], int]:
    """(the CLIPs to learn from, how often they see each pixel of a picture).

    As the options say; drawings, by default, as often as it takes to fill what the smallest of them sees.
    """
    clips = [load_edit_clip(source) for source in plan.about.clips]
    size = min(max(height_and_width(clip.preprocessing.size, "the CLIP's size")) for clip in clips)
    factor = options.enlarge or (max(1, size // max(base.sample_size)) if plan.drawn else 1)
    return [enlarging(clip, factor) for clip in clips], factor


def enlarging(clip: CLIPSimilarity, factor: int) -> CLIPSimilarity:
    return clip if factor == 1 else EnlargingCLIP(clip, factor)


def planned_loss(options: argparse.Namespace, plan: Plan, base: EditBase, clips: Sequence[CLIPSimilarity]) -> EditLoss:
    """ValueError in one line for texts that a CLIP cannot tell apart."""
    views = Views(options.views)
    scale = min(base.sample_size) / VIEWED_AT
    changes = replace(views.augmentation, shift=views.augmentation.shift * scale, blur=views.augmentation.blur * scale)
    loss = EditLossOptions(l1=options.l1, views=replace(views, augmentation=changes))
    about = plan.about
    return edit_loss(clips, about.source, about.target, about.templates, loss, options.device)
