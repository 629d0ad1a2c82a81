"""The plain loop: it learns, stops, keeps the best, and starts anew whatever was learnt before."""

from dataclasses import asdict

import pytest
import torch

from fewstep.fast_edit.application import Application
from fewstep.fast_edit.direction.clips import edit_loss
from fewstep.fast_edit.direction.edit_loss import EditLossOptions
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.learn import FULL_LR, LORA_LR, LoopOptions, Probing, learn
from fewstep.fast_edit.learning import LearningOptions
from fewstep.fast_edit.probes import TextProbe
from fewstep.fast_edit.tuning import TuningOptions
from fewstep.files.weights import weights_sha256
from tests.tiny_clip import tiny_clip
from tests.tiny_edit_base import base, pictures

ENCODING = Encoding(0.3)
LEARNING = LearningOptions(ENCODING)
QUICK = Application(ENCODING, num_steps=2, projection=0)
LORA, FULL = TuningOptions(), TuningOptions("full")


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def loss_of(clip, target="face with glasses", **options):
    return edit_loss([clip], "face", target, "plain", EditLossOptions(**{"views": Views(1), **options}))


def run(clip, tuning=LORA, names=("edit",), edit="edit", tuned=None, probing=None, learning=LEARNING, **options):
    tuned = tuning.of(base(), names) if tuned is None else tuned
    data = pictures(4)
    loop = LoopOptions(**{"passes": 2, "batch_size": 2, **options})
    return learn(tuned, edit, loss_of(clip), data, ["p", "q", "r", "s"], learning, loop, probing), tuned


def copied(state):
    return {name: weight.clone() for name, weight in state.items()}


class Told:
    """A probe that finds what it is told to, look by look, and keeps the weights that it is asked at."""

    def __init__(self, tuned, *scores, edit="edit"):
        self.tuned, self.scores, self.edit, self.states, self.seen = tuned, list(scores), edit, [], []

    def __call__(self, images):
        self.states.append(copied(self.tuned.state(self.edit)))
        self.seen.append(images)
        return torch.tensor(self.scores.pop(0)).expand(len(images))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.learns
@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_learns(clip, tuning, below):
    """Held-out pictures come nearer to the target text for a judge that asks no direction."""
    tuned = tuning.of(base(seed=torch.initial_seed()), ["edit"], torch.initial_seed())
    probe = TextProbe(clip, "face", "face with glasses", "plain", scale=20)
    held_out = Probing(probe, pictures(4, seed=8), QUICK)
    loop = LoopOptions(passes=10, batch_size=4, lr=1e-2 if tuning is LORA else 3e-3, look_every=40)
    before = probe(pictures(4, seed=8)).mean()
    got = learn(tuned, "edit", loss_of(clip, l1=0.0), pictures(16), learning=LEARNING, loop=loop, probing=held_out)
    below("doubt", 1 - got.history[-1].score, 0.8 * (1 - before.item()))
    below("loss", got.history[-1].loss, 0.8 * got.history[0].loss)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_an_edit_is_learnt_as_if_no_other_had_been(clip, tuning):
    """Defect 5 of the authors' code: the second of two edits went on from the first one's weights and moments."""
    (alone, fresh), tuned = run(clip, tuning), tuning.of(base(), ["other", "edit"])
    learn(tuned, "edit", loss_of(clip, "zombie"), pictures(4, seed=9), None, LEARNING, LoopOptions(passes=1))
    learn(tuned, "other", loss_of(clip, "zombie"), pictures(4), None, LEARNING, LoopOptions(passes=1))
    others = copied(tuned.state("other"))
    again, _ = run(clip, tuned=tuned)
    assert [update.loss for update in again.history] == [update.loss for update in alone.history]
    assert_same(tuned.state("edit"), fresh.state("edit"))
    assert_same(tuned.state("other"), others)


@pytest.mark.parametrize("tuning", [LORA, FULL], ids=["lora", "full"])
def test_only_the_edit_learns(clip, tuning):
    tuned = tuning.of(base(), ["edit", "other"])
    frozen = {name: weight.clone() for name, weight in tuned.base.network.named_parameters() if "lora" not in name}
    other, before, sha256 = copied(tuned.state("other")), copied(tuned.state("edit")), weights_sha256(clip)
    run(clip, tuned=tuned)
    assert not all(torch.equal(before[name], weight) for name, weight in tuned.state("edit").items())
    assert_same(tuned.state("other"), other)
    assert weights_sha256(clip) == sha256
    now = {name: weight for name, weight in tuned.base.network.named_parameters() if "lora" not in name}
    assert_same(now, frozen)


def test_the_weights_of_the_best_look_are_kept(clip):
    tuned = LORA.of(base(), ["edit"])
    probe = Told(tuned, 0.2, 0.6, 0.9, 0.1)
    got, _ = run(clip, tuned=tuned, probing=Probing(probe, pictures(3), QUICK), look_every=1)
    assert (got.best, got.stopped) == (3, False)
    assert [(update.share, round(update.score, 6)) for update in got.history] == [
        (0, 0.2),
        (1, 0.6),
        (1, 0.9),
        (0, 0.1),
    ]
    assert_same(tuned.state("edit"), probe.states[2])
    last, _ = run(clip, tuned=tuned)
    assert last.best == 4
    assert not torch.equal(next(iter(tuned.state("edit").values())), next(iter(probe.states[2].values())))
    assert_same(tuned.state("edit"), probe.states[3])


def test_it_stops_when_enough_pictures_have_it(clip):
    tuned = LORA.of(base(), ["edit"])
    probe = Told(tuned, 0.4, 0.8)
    got, _ = run(clip, tuned=tuned, probing=Probing(probe, None, QUICK), look_every=1, passes=9, enough=1.0)
    assert (len(got.history), got.best, got.stopped) == (2, 2, True)
    probe = Told(tuned, 0.4, 0.8)
    got, _ = run(clip, tuned=tuned, probing=Probing(probe, None, QUICK), look_every=3, threshold=0.9)
    assert [update.share for update in got.history] == [None, None, 0, 0]  # every third one, and the last
    assert not got.stopped


def test_looks_change_nothing_and_always_see_the_same_noise(clip):
    tuned = LORA.of(base(), ["edit"])
    probe = Told(tuned, *[0.0] * 4)
    looked, _ = run(clip, tuned=tuned, probing=Probing(probe), look_every=1, lr=1e-12)
    torch.testing.assert_close(probe.seen[0], probe.seen[3])
    blind, _ = run(clip, lr=1e-12)
    assert [update.loss for update in looked.history] == [update.loss for update in blind.history]
    assert [update.passes for update in looked.history] == [2, 4, 6, 8]


def test_the_learning_rate_grows_by_the_pass_up_to_its_cap(clip):
    """1.3 a pass without a cap is 23 after 12 passes."""
    got, _ = run(clip, passes=5, batch_size=4, lr=1e-3, lr_growth=1.3, lr_cap=2)
    assert [update.lr for update in got.history] == pytest.approx([1e-3, 1.3e-3, 1.69e-3, 2e-3, 2e-3])
    assert {update.lr for update in run(clip)[0].history} == {LORA_LR}
    assert {update.lr for update in run(clip, FULL)[0].history} == {FULL_LR}


def test_every_pass_takes_all_pictures_in_an_order_of_its_own():
    loop = LoopOptions(batch_size=3)
    passes = [loop.order(8, number) for number in range(4)]
    assert all(sorted(row for batch in batches for row in batch) == list(range(8)) for batches in passes)
    assert [len(batch) for batch in passes[0]] == [3, 3, 2]
    assert len({str(batches) for batches in passes}) == 4
    assert loop.order(8, 1) == passes[1]
    assert LoopOptions(seed=1).order(8, 0) != LoopOptions().order(8, 0)
    assert LoopOptions(batch_size=3, shuffle=False).order(5, 2) == [[0, 1, 2], [3, 4]]


def test_the_efficient_mode_takes_a_step_at_every_estimate(clip):
    learning = LearningOptions(ENCODING, GradientMode("eff", 3))
    got, _ = run(clip, learning=learning, passes=1)
    assert [(update.number, update.passes) for update in got.history] == [(n, 2 * n) for n in range(1, 7)]
    seconds = [update.seconds for update in got.history]
    assert seconds == sorted(seconds)
    assert got.history[0].row().keys() == {
        *("number", "lr", "loss", "seconds", "passes", "share", "score", "direction", "l1")
    }


def test_a_single_picture(clip):
    tuned = LORA.of(base(), ["edit"])
    probe, data = Told(tuned, 0.3, 0.7, 0.5), pictures(1)
    probing, loop = Probing(probe, None, QUICK), LoopOptions(passes=3, look_every=1)
    got = learn(tuned, "edit", loss_of(clip), data, None, LEARNING, loop, probing)
    assert (got.best, len(got.history)) == (2, 3)
    assert_same(tuned.state("edit"), probe.states[1])
    assert probe.seen[0].shape == (1, 3, 8, 8)
    assert torch.equal(data, pictures(1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pictures": pictures(0)}, "0 pictures and 0 different keys"),
        ({"keys": ["a", "a"]}, "2 pictures and 1 different keys: give one for each"),
        ({"keys": ["a"]}, "2 pictures and 1 different keys"),
        ({"pictures": 2 * pictures(2)}, r"pictures must lie in \[-1, 1\], got values from"),
        ({"pictures": pictures(2, 8, 7)}, "multiples of 2"),
        ({"edit": "hat"}, "no edit is named 'hat'; choose one of edit"),
        ({"loop": LoopOptions(lr=1e30, passes=9)}, r"the loss of update \d is (nan|inf); give a lower lr than 1e\+30"),
    ],
    ids=["none", "twice", "few", "range", "size", "name", "lr"],
)
def test_mistakes_are_one_line(clip, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        learn(
            **{
                "tuned": LORA.of(base(), ["edit"]),
                "edit": "edit",
                "loss": loss_of(clip),
                "pictures": pictures(),
                **given,
            }
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("passes", 0), ("batch_size", 0), ("lr", 0.0), ("lr_growth", 0.0), ("lr_cap", 0.5), ("look_every", 0)),
        *(("enough", 0.0), ("enough", 1.5), ("threshold", -0.1)),
    ],
)
def test_options_that_cannot_learn(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}: must be"):
        LoopOptions(**{**asdict(LoopOptions()), name: value})
