"""One picture edited by what is learnt from it alone: the pass that a judge likes best is kept."""

import argparse
from dataclasses import replace

from fewstep.fast_edit.application import apply_edit
from fewstep.fast_edit.command_line.application import put_picture
from fewstep.fast_edit.command_line.given_pictures import fitted, given_pictures
from fewstep.fast_edit.command_line.learning import enlarging, planned, planned_loss, shown_clips
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.learn import Probing, learn
from fewstep.fast_edit.own_size import edit_at_own_size, shown_to
from fewstep.fast_edit.probes import TextProbe
from fewstep.files.pictures import read_whole
from fewstep.picture_size import height_and_width
from fewstep.rng import PerSampleRng


def single(options: argparse.Namespace) -> str:
    """Starodubcev et al. 2023 (arXiv 2304.04344): the picture is its own training set; nothing but it is kept."""
    plan = planned(options)
    (picture,) = given_pictures([options.picture])[:1]
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out {options.out}: give the edited picture a name that ends in .png")
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
    clips, factor = shown_clips(options, plan, base)
    loss = planned_loss(options, plan, base, clips)
    assert plan.about.judge is not None
    judge = enlarging(load_edit_clip(plan.about.judge), factor).to(options.device)
    probe = TextProbe(judge, plan.about.source, plan.about.target, plan.about.templates)
    tuned = plan.tuning.of(base, [plan.name], options.seed)
    loop = replace(plan.loop, batch_size=1, look_every=1)
    learnt = learn(tuned, plan.name, loss, shown, [picture.key], plan.learning, loop, Probing(probe, application=how))
    rng = PerSampleRng(options.seed, [picture.key], options.device)
    edited = (edit_at_own_size if crop is None else apply_edit)(tuned, given, plan.name, rng, how)
    path = put_picture(options.out, edited, options.overwrite, [picture])
    best = learnt.history[learnt.best - 1]
    told = f"kept after update {learnt.best} of {len(learnt.history)}, score {best.score:.2f}"
    return f"{path}  {plan.name}  {told}  learnt in {learnt.history[-1].seconds:.1f} s"
