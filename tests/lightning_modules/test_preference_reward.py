"""Training of a reward on scenes of two colours: what counts, what lacks, and that it learns all kinds of pairs."""

import itertools
import json

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.checkpoints.export import Export
from fewstep.augmentation import Augmentation
from fewstep.contrastive.vocabulary import write_vocabulary
from fewstep.optimizers import AdamW
from fewstep.rewards.preference import PreferenceReward, load_preference_reward
from fewstep.rewards.preference_pairs import WORSE
from lightning_modules import PreferenceRewardModule

COLOURS = ("red", "green", "blue")
SIZE = 32
PAIRS = list(itertools.product(COLOURS, COLOURS))


def picture(colours):
    """A person is a square of its colour on black."""
    image = torch.full((3, SIZE, SIZE * len(colours)), -0.8)
    for place, colour in enumerate(colours):
        image[COLOURS.index(colour), 8:24, place * SIZE + 8 : place * SIZE + 24] = 0.8
    return image


def caption(colours):
    return f"left {colours[0]}, right {colours[1]}"


def batch(scenes):
    """Every scene with its first person in the next colour."""
    edits = [(COLOURS[(COLOURS.index(first) + 1) % 3], second) for first, second in scenes]
    rows = {"key": [f"k{place}" for place in range(len(scenes))], "weight": torch.ones(len(scenes))}
    for before, several in (("", scenes), ("edited_", edits)):
        rows[before.strip("_") or "image"] = torch.stack([picture(colours) for colours in several])
        rows[f"{before}caption"] = [caption(colours) for colours in several]
        rows[f"{before}attributes"] = [[{"shirt": colour} for colour in colours] for colours in several]
    return rows


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "bpe.txt.gz"
    write_vocabulary([caption(colours) for colours in PAIRS], 560, path)
    return path


def module(vocabulary, **options):
    torch.manual_seed(torch.initial_seed())  # the same weights in every call
    trunk = {"depths": [1] * 4, "dims": [16] * 4}
    sizes = {"context_length": 8, "width": 32, "heads": 2, "text_layers": 1, "cross_layers": 1}
    model = PreferenceReward(vocabulary, trunk_options=trunk, image_size=(SIZE, 2 * SIZE), **sizes)
    return PreferenceRewardModule(model, degradation=Augmentation(blur=4.0, noise=0.5), **options)


def trainer(folder, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **quiet,
        **options,
    )


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


@pytest.mark.learns
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_it_learns_every_kind_of_pair_and_its_export_scores_alike(vocabulary, tmp_path, below):
    net = module(vocabulary, optimizer=AdamW(lr=1e-3, warmup_steps=10), export_dtype="float32")
    rows = batch(PAIRS)
    fit = trainer(tmp_path, max_steps=250, gradient_clip_val=1.0, callbacks=[Export()])
    before = fit.validate(net, loader(rows), verbose=False)[0]
    fit.fit(net, loader(*[rows] * 250), loader(rows))
    last = fit.test(net, loader(rows), verbose=False)[0]
    below("loss", last["test/loss"], 0.65 * before["val/loss"])
    below("wrong pairs", 1 - last["test/pair_accuracy"], 0.3)
    again = load_preference_reward(tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["width"] == 32
    with torch.no_grad():
        trained = net.model.eval().requires_grad_(False)
        assert torch.equal(again(rows["image"], rows["caption"]), trained(rows["image"], rows["caption"]))


def test_evaluation_counts_pairs_that_say_something_of_samples_that_count(vocabulary):
    """Of three scenes the first shows two alike, who have no other place, and the last is padding."""
    net, logged = module(vocabulary).eval(), {}
    net.log = lambda key, value, batch_size, **_: logged.update({key: (value.item(), batch_size)})
    rows = batch([("red", "red"), ("red", "blue"), ("green", "red")])
    rows["weight"][2], rows["image"][2], rows["caption"][2], rows["edited_attributes"][2] = 0.0, torch.nan, None, None
    with torch.no_grad():
        outputs = net.validation_step(rows, 0)
        better = net.model(rows["image"][:2], rows["caption"][:2])
        swapped = net.model(rows["image"][1:2].roll(SIZE, -1), rows["caption"][1:2])
        caption = net.model(rows["image"][:2], rows["edited_caption"][:2])
    assert outputs["pair_accuracy_swapped"][1].item() == float(better[1] > swapped[0])
    assert outputs["pair_accuracy_swapped"][[0, 2]].isnan().all()
    assert logged["val/pair_accuracy_swapped"] == (float(better[1] > swapped[0]), 1.0)
    assert logged["val/pair_accuracy_caption"] == ((better > caption).float().mean().item(), 2.0)
    kinds = torch.stack([outputs[f"pair_accuracy_{kind}"] for kind in WORSE])
    torch.testing.assert_close(outputs["pair_accuracy"][:2], kinds.nanmean(0)[:2])
    assert outputs["loss"][2] == outputs["pair_accuracy"][2] == 0.0
    assert logged["val/loss"] == (pytest.approx(outputs["loss"][:2].mean().item()), 2.0)
    net.validation_step({**rows, "weight": torch.zeros(3)}, 0)
    assert logged["val/loss"] == (0.0, 0.0)


def test_a_step_lifts_what_is_better(vocabulary):
    """Plain gradient descent on one batch, with nothing random but which end is the better one."""
    net = module(vocabulary)
    net.log = lambda *_, **__: None
    rows = batch(PAIRS)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        losses.append(net.training_step(rows, 0))
        if len(losses) == 1:
            losses[0].backward()
            with torch.no_grad():
                for weight in net.parameters():
                    weight -= 0.01 * weight.grad
    assert losses[1] < losses[0]


@pytest.mark.parametrize("field", ["edited_caption", "attributes", "edited_attributes"])
def test_fields_that_lack_are_named(vocabulary, field):
    net, rows = module(vocabulary), batch(PAIRS)
    with pytest.raises(ValueError, match=rf"the batch has no '{field}': list it in --data\.metadata"):
        net.training_step({name: value for name, value in rows.items() if name != field}, 0)
    rows[field][1] = None
    with pytest.raises(ValueError, match=f"sample k1 has no '{field}' in its json"):
        net.training_step(rows, 0)
    with pytest.raises(ValueError, match=r"the batch has no 'edited': list it in --data\.images"):
        net.training_step({n: v for n, v in batch(PAIRS).items() if n != "edited"}, 0)


def test_options_that_teach_nothing_are_refused(vocabulary):
    model = module(vocabulary).model
    with pytest.raises(ValueError, match="degradation changes nothing"):
        PreferenceRewardModule(model, degradation=Augmentation())
    with pytest.raises(ValueError, match="export_dtype='int8'"):
        PreferenceRewardModule(model, export_dtype="int8")
