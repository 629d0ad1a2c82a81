"""Pixels that are moved to please the loss do please it, and the audit is not deceived."""

from pathlib import Path

import pytest
import torch

from benchmarks.avatars.evaluation_set import read_avatars
from datamodules.prepare.avatar_captions import scoring_caption
from fewstep.fast_edit.audit.auditor import Auditor, Direction
from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.audit.pixel_control import optimise_pixels
from fewstep.fast_edit.dictionary import known_edit
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.text_direction import text_direction
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.edit_base import load_base
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.clip_scores import load_clip
from tests.tiny_clip import tiny_clip

ASSETS = Path(__file__).parents[4] / "assets"
DATA = str(Path(__file__).parents[4] / "data" / "avatars64")


def loss_of(clip, direction):
    return EditLoss([clip], [direction], EditLossOptions(views=Views(1)))


def test_pixels_lower_the_loss_and_nothing_else_changes():
    clip = tiny_clip()
    loss = loss_of(clip, text_direction(clip, "face", "face with glasses", "imagenet_small"))
    sources = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9
    kept, known = sources.clone(), loss.reference(sources)
    edits = optimise_pixels(loss, sources, steps=20)
    assert torch.equal(sources, kept)
    assert edits.abs().max() <= 1
    assert not edits.requires_grad
    assert not any(weight.grad is not None for weight in clip.parameters())
    before, after = (loss(images, sources, known).total for images in (sources, edits))
    assert (after < before * 0.6).all()
    assert torch.equal(edits, optimise_pixels(loss, sources, steps=20))
    (first,) = optimise_pixels(loss, sources[:1], steps=1, lr=0.05)
    moved = (first - sources[0]).abs()
    assert moved.max() == pytest.approx(0.05, rel=1e-3)  # Adam's first step is the sign of the gradient
    with pytest.raises(ValueError, match="steps=0: must be at least 1"):
        optimise_pixels(loss, sources, steps=0)


@pytest.mark.slow
def test_the_audit_catches_pixels_and_lets_true_edits_pass():
    splits = [read_avatars(DATA, split) for split in ("val", "test")]
    found = [
        (avatars.image[row], avatars.edited[row], avatars.attributes[row], avatars.edited_attributes[row])
        for avatars in splits
        for row in range(len(avatars))
        if avatars.changed[row] == "glasses" and avatars.edited_attributes[row]["glasses"] == "glasses"
    ][:8]
    sources, true = (torch.stack(column) for column in list(zip(*found, strict=True))[:2])
    clip = load_clip(f"local-dir:{ASSETS / 'clip_avatars'}", None, differentiable=True)
    other = load_clip(f"local-dir:{ASSETS / 'clip_avatars_scorer'}", None)
    known = known_edit("avatar_glasses")
    direction = text_direction(clip, known.source, known.target, known.templates)
    before, after = ([scoring_caption([row[place]]) for row in found] for place in (2, 3))
    auditor = Auditor(
        Direction(clip, direction),
        Direction(other, text_direction(other, before, after, "plain")),
        load_base(ASSETS / "sd_avatars"),
        Judge(load_attribute_reader(ASSETS / "avatar_judge"), {"glasses": "glasses"}),
        references=torch.cat([avatars.image for avatars in splits])[:80],
    )
    control = auditor(sources, optimise_pixels(loss_of(clip, direction), sources))
    failed = {signal.name for signal in control.signals if not signal.passed}
    values = {signal.name: signal.value for signal in control.signals}
    assert values["trained_direction"] > 0.8
    assert {"realism", "direction_gap", "asked"} <= failed
    assert values["realism"] > 3
    report = auditor(sources, true)
    assert report.passed, report.verdict
