"""One picture edited by what is learnt from it alone: the pass that a gate likes best is kept, and a judge looks."""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from fewstep.fast_edit.application import apply_edit
from fewstep.fast_edit.command_line.application import put_picture
from fewstep.fast_edit.command_line.auditing import words_for_judge
from fewstep.fast_edit.command_line.given_pictures import fitted, given_pictures
from fewstep.fast_edit.command_line.learning import Plan, enlarging, load_clips, make_loss, plan_edit, views_on
from fewstep.fast_edit.command_line.readers import load_gate
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.edit_base import EditBase, load_base
from fewstep.fast_edit.learn import Probing, learn
from fewstep.fast_edit.own_size import edit_at_own_size, shown_to
from fewstep.fast_edit.probes import Probe, TextProbe, ViewedProbe
from fewstep.files.pictures import read_whole
from fewstep.files.places import require_writable
from fewstep.picture_size import height_and_width
from fewstep.rewards.clip_scores import CLIPSimilarity
from fewstep.rng import PerSampleRng, mix_seed

GATES = {"avatar": "assets/avatar_gate"}  # by domain, for edits of the dictionary that name an attribute
NUM_VIEWS = 9  # of the training's CLIP, where no reader can choose


def edit_picture(options: argparse.Namespace) -> str:
    """Starodubcev et al. 2023 (arXiv 2304.04344): the picture is its own training set; nothing but it is kept.

    What chooses the pass is not what is told of the result: the gate chooses, the held-out CLIP tells.
    """
    plan = plan_edit(options)
    gate = options.gate or (GATES.get(plan.domain or "") if plan.asked else None)
    if options.asked and gate is None:
        raise ValueError("--asked needs a reader to ask: --gate FOLDER")
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out {options.out}: give the edited picture a name that ends in .png")
    require_writable(options.out.parent)
    (picture,) = given_pictures([options.picture])[:1]
    how = plan.about.application
    crop = options.crop or (None if how.residual and options.size is None else "center")
    base = load_base(options.base).to(options.device)
    if crop is None:
        given = read_whole(picture.content).to(options.device)
        shown = shown_to(base, given)
    else:
        size = height_and_width(options.size or base.sample_size, "--size")
        given = shown = fitted(picture.content, size, crop).to(options.device)
    base.check_pictures(shown)
    clips, factor = load_clips(options, plan, base)
    loss = make_loss(options, plan, base, clips)
    if gate is not None:
        probe: Probe = load_gate(gate, plan.asked, factor, base, options.device)
    else:
        probe = _held_back(options, plan, base, clips[0])
    assert plan.about.judge is not None
    judge = TextProbe(
        enlarging(load_edit_clip(plan.about.judge), factor).to(options.device), *words_for_judge(plan.about)
    )
    tuned = plan.tuning.of(base, [plan.name], options.seed)
    loop = replace(plan.loop, look_every=1)
    learnt = learn(tuned, plan.name, loss, shown, [picture.key], plan.learning, loop, Probing(probe, application=how))

    def edited(image: Tensor, at_own_size: bool) -> Tensor:
        rng = PerSampleRng(options.seed, [picture.key], options.device)
        return (edit_at_own_size if at_own_size else apply_edit)(tuned, image, plan.name, rng, how)

    path = put_picture(options.out, edited(given, crop is None), options.overwrite, [picture])
    before, after = judge(torch.cat([shown, edited(shown, at_own_size=False)])).tolist()
    best = learnt.history[learnt.best - 1]
    chooser = gate or f"held-back views of {plan.about.clips[0]}"
    told = f"update {learnt.best} of {len(learnt.history)} chosen by {chooser} ({best.score:.2f})"
    told += f"  {plan.about.judge} says {after:.2f}, and {before:.2f} of the picture as it was"
    return f"{path}  {plan.name}  {told}  learnt in {learnt.history[-1].seconds:.1f} s"


def _held_back(options: argparse.Namespace, plan: Plan, base: EditBase, clip: CLIPSimilarity) -> ViewedProbe:
    """Views that the loss has not seen, of its own CLIP."""
    about, seed = plan.about, mix_seed(options.seed, "views that are held back")
    return ViewedProbe(TextProbe(clip, about.source, about.target, about.templates), views_on(base, NUM_VIEWS), seed)
