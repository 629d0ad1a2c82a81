"""A rehearsal makes of every policy what the cascade makes, and draws nothing twice."""

import math
from dataclasses import replace

import pytest
import torch

from fewstep.backbones import load_latent_diffusion
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Judge, Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.student import load_a_student
from fewstep.collaboration.teacher import Teacher
from tests.fewstep.collaboration.test_cascade import PROMPTS, SEEDS, redness
from tests.tiny_diffusion import write_pipeline


def blueness(images, asked):
    assert all(text.startswith("as blue as scene") for text in asked)
    return images[:, 2].mean((1, 2))


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    student = load_a_student(write_pipeline(tmp_path_factory.mktemp("rehearsal") / "pipeline", "sd_v"))
    return Cascade(student, Teacher(student.model, 3, 2.0), redness, student_steps=2, batch_size=4)


@pytest.fixture(scope="module")
def rehearsal(cascade):
    judges = {"blue": Judge(blueness, [f"as blue as {seed}" for seed in SEEDS])}
    return Rehearsal(cascade, PROMPTS, SEEDS, judges=judges)


@pytest.fixture(scope="module")
def middle(cascade):
    """Between the fifth and the sixth score of ten drafts."""
    return cascade(PROMPTS, SEEDS, Policy()).scores.sort().values[4:6].mean().item()


POLICIES = [
    Policy(),
    Policy(repair="keep", drafts=3),
    Policy(repair="refine", rollback=Rollback(0.3)),
    Policy(repair="refine", rollback=Rollback(0.7), drafts=2),
    Policy(repair="refine", rollback=Rollback(0.7, "time"), drafts=3, keep_best=True),
    Policy(repair="regenerate"),
    Policy(repair="regenerate", drafts=3, keep_best=True),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("where", ["nobody", "half", "everybody"])
def test_a_played_policy_is_what_the_cascade_makes(cascade, rehearsal, middle, policy, where):
    threshold = {"nobody": -math.inf, "half": middle, "everybody": math.inf}[where]
    policy = Policy(threshold, policy.repair, policy.rollback, policy.drafts, policy.keep_best)
    played, drawn = rehearsal.play(policy), cascade(PROMPTS, SEEDS, policy)
    close = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(played.scores["oracle"], redness(drawn.images, SEEDS).double(), **close)
    torch.testing.assert_close(played.scores["blue"], drawn.images[:, 2].mean((1, 2)).double(), **close)
    torch.testing.assert_close(played.draft_scores, drawn.draft_scores.double(), **close)
    assert torch.equal(played.drafts, drawn.drafts)
    assert torch.equal(played.repaired, drawn.repaired)


def test_nothing_is_drawn_twice(cascade, middle, monkeypatch):
    drawn = []
    for name in ("drafted", "improved"):
        original = getattr(Cascade, name)

        def noted(self, *args, name=name, original=original):
            drawn.extend((name, seed) for seed in args[1 if name == "drafted" else 2])
            return original(self, *args)

        monkeypatch.setattr(Cascade, name, noted)
    rehearsal = Rehearsal(cascade, PROMPTS, SEEDS)
    rehearsal.play(Policy(middle, "regenerate"))
    assert len(drawn) == 10 + 5
    rehearsal.play(Policy(middle, "regenerate", keep_best=True))
    assert len(drawn) == 15
    rehearsal.play(Policy(math.inf, "regenerate"))
    assert len(drawn) == len(set(drawn)) == 20


def test_what_is_not_of_the_same_length_is_refused(cascade):
    with pytest.raises(ValueError, match="blue: 10 prompts with 10 seeds and 9 of what is asked"):
        Rehearsal(cascade, PROMPTS, SEEDS, judges={"blue": Judge(blueness, SEEDS[:9])})


def test_drafts_are_shown_by_the_autoencoder_of_the_student(tmp_path):
    """As the cascade shows them, where that of the teacher has other weights."""
    folder = write_pipeline(tmp_path, "sd_v")
    other = load_latent_diffusion(folder)
    with torch.no_grad():
        other.latents.autoencoder.decoder.conv_out.bias.add_(torch.tensor([0.2, 0.0, -0.2]))
    student = load_a_student(folder)
    cascade = Cascade(student, Teacher(other, 2, 2.0), redness, student_steps=1)
    rehearsal, close = Rehearsal(cascade, PROMPTS, SEEDS), {"atol": 2e-5, "rtol": 1e-4}
    for threshold in (-math.inf, math.inf):
        policy = Policy(threshold, "refine", keep_best=True)
        played, drawn = rehearsal.play(policy), cascade(PROMPTS, SEEDS, policy)
        torch.testing.assert_close(played.draft_scores, drawn.draft_scores.double(), **close)
        torch.testing.assert_close(played.scores["oracle"], redness(drawn.images, SEEDS).double(), **close)
    shown = other.latents.decode(rehearsal.latents(0, range(10)))
    assert (redness(shown, SEEDS) - played.draft_scores).mean() > 0.05  # the teacher's autoencoder is redder
    broken = replace(cascade, student=replace(student, denoiser=lambda x, *rest: x * math.nan))
    with pytest.raises(ValueError, match="the student made no numbers of 'a red square'"):
        Rehearsal(broken, PROMPTS, SEEDS).play(Policy())


def test_latents_are_kept_of_what_was_drawn_alone(cascade, middle):
    rehearsal = Rehearsal(cascade, PROMPTS, SEEDS)
    drafts = rehearsal.play(Policy(middle, "keep", drafts=2)).drafts
    assert drafts.tolist().count(2) == 5
    again = (drafts > 1).nonzero()[:, 0].tolist()
    expected = cascade.drafted([PROMPTS[place] for place in again], [SEEDS[place] for place in again], [1] * 5)
    torch.testing.assert_close(rehearsal.latents(1, again), expected, atol=2e-5, rtol=1e-4)
    with pytest.raises(KeyError):
        rehearsal.latents(1, [drafts.tolist().index(1)])


def test_a_rehearsal_without_latents_plays_all_but_refinements(cascade, rehearsal, middle):
    without = Rehearsal(cascade, PROMPTS, SEEDS, keep_latents=False)
    for policy in (Policy(), Policy(middle, "regenerate", drafts=2)):
        assert torch.equal(without.play(policy).scores["oracle"], rehearsal.play(policy).scores["oracle"])
    with pytest.raises(ValueError, match="keeps no latents of drafts, which refining needs"):
        without.play(Policy(middle, "refine"))
