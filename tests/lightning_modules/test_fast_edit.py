"""A tiny base of 8 px that learns an edit: what is trained and stored, what is answered, the file in other hands."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from callbacks.checkpoints.monitored_metrics import MonitoredMetrics
from fewstep.backbones.pipelines import save_ddpm
from fewstep.contrastive.network import CLIPNetwork
from fewstep.fast_edit.application import Application, apply_edit
from fewstep.fast_edit.direction.clips import load_edit_clip
from fewstep.fast_edit.direction.edit_loss import EditLossOptions
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import read_edit
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.growth import Growth
from fewstep.fast_edit.learning import LearningOptions
from fewstep.fast_edit.loaded_edits import load_edits
from fewstep.fast_edit.probe_options import ProbeOptions
from fewstep.fast_edit.probes import AttributeProbe, TextProbe
from fewstep.fast_edit.tuning import TuningOptions
from fewstep.optimizers import AdamW
from fewstep.rewards.attribute_reader import AttributeReader
from fewstep.rng import PerSampleRng
from lightning_modules import FastEditModule
from tests.tiny_edit_base import Calls, pictures, pixel_unet

ENCODING = Encoding(0.3)
QUICK = Application(ENCODING, num_steps=2)
EFF = LearningOptions(ENCODING, GradientMode("eff", 3))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(base, CLIP), as folders."""
    folder = tmp_path_factory.mktemp("edit")
    save_ddpm(folder / "base", pixel_unet())
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    torch.manual_seed(0)
    clip = CLIPNetwork(8, vision, {"context_length": 16, "width": 16, "heads": 2, "layers": 1})
    for weight in clip.clip.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.3)
    clip.export(folder / "clip", torch.float32)
    return str(folder / "base"), str(folder / "clip")


def module(places, kind=FastEditModule, **options):
    base, clip = places
    settings = {"source": "face", "target": "face with glasses", "templates": "plain", "enlarge": 2}
    settings |= {"learning": LearningOptions(ENCODING), "application": QUICK, "tuning": TuningOptions(rank=2)}
    settings |= {"loss": EditLossOptions(views=Views(1)), "optimizer": AdamW(1e-2, schedule="constant")}
    return kind(base, "glasses", [clip], **{**settings, **options})


def batch(rows, **fields):
    keys = [f"k{row}" for row in range(rows)]
    return {"image": pictures(rows), "key": keys, "weight": torch.ones(rows), **fields}


class Data(L.LightningDataModule):
    """Pictures alone."""

    def train_dataloader(self):
        return DataLoader([batch(4)], batch_size=None)

    def val_dataloader(self):
        return DataLoader([batch(3, weight=torch.tensor([1.0, 1.0, 0.0]))], batch_size=None)

    test_dataloader = predict_dataloader = val_dataloader


def trainer(folder, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(accelerator="cpu", num_sanity_val_steps=0, default_root_dir=folder, **quiet, **options)


def moved(net, before):
    return {name for name, weight in net.state_dict().items() if not torch.equal(weight, before[name])}


@pytest.mark.learns
def test_learns(places, tmp_path, below):
    torch.manual_seed(torch.initial_seed())
    net = module(
        places, loss=EditLossOptions(views=Views(1), l1=0.0), application=Application(ENCODING, 1, projection=0)
    )
    runner = trainer(tmp_path, max_steps=40, check_val_every_n_epoch=40)
    first = runner.validate(net, Data(), verbose=False)[0]
    runner.fit(net, Data())
    last = runner.validate(net, Data(), verbose=False)[0]
    below("direction", last["val/direction_loss"], 0.8 * first["val/direction_loss"])


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_only_the_edit_is_trained_and_stored(places, tmp_path, kind):
    net = module(places, tuning=TuningOptions(kind, rank=2))
    before = {name: weight.clone() for name, weight in net.state_dict().items()}
    loaded = load_base(places[0])
    trained = {
        id(weight) for group in net.configure_optimizers()["optimizer"].param_groups for weight in group["params"]
    }
    assert trained == {id(weight) for weight in net.tuned.parameters("glasses")}
    assert len(before) == len(net.tuned.state("glasses"))
    runner = trainer(tmp_path, max_steps=2, gradient_clip_val=1.0)
    runner.fit(net, Data())
    assert len(moved(net, before)) > len(before) / 3
    x, t = pictures(), torch.tensor([0.3, 0.6])
    torch.testing.assert_close(net.tuned.predict(x, t, None), loaded.predict(x, t))
    assert all(weight.grad is None for clip in net.loss.clips for weight in clip.parameters())
    runner.save_checkpoint(tmp_path / "end.ckpt")
    again = module(places, tuning=TuningOptions(kind, rank=2))
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert stored["state_dict"].keys() == before.keys()
    again.on_load_checkpoint(stored)
    again.load_state_dict(stored["state_dict"])
    assert torch.equal(again.tuned.predict(x, t, "glasses"), net.tuned.predict(x, t, "glasses"))


def test_a_checkpoint_of_another_base_or_clip_is_refused(places, tmp_path):
    net, checkpoint = module(places), {}
    net.on_save_checkpoint(checkpoint)
    assert checkpoint["frozen"].keys() == {"base", "clip 0"}
    save_ddpm(tmp_path / "other", pixel_unet(seed=5))
    with pytest.raises(ValueError, match="the checkpoint was trained with another base") as caught:
        module((str(tmp_path / "other"), places[1])).on_load_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="trained with another clip 0"):
        net.on_load_checkpoint({"frozen": {**checkpoint["frozen"], "clip 0": "0"}})


def test_the_same_seed_learns_the_same(places, tmp_path):
    """Noise belongs to keys and steps, adapters begin by the seed: torch's own generator decides nothing."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = module(places, loss=EditLossOptions(views=Views(2)))
        trainer(tmp_path, max_steps=2).fit(net, Data())
        states.append(net.state_dict())
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_validation_answers_edits_their_sources_and_what_they_cost(places, tmp_path):
    net = module(places)
    calls = Calls(net.tuned.base.network)
    (found,) = trainer(tmp_path).validate(net, Data(), verbose=False)
    outputs = None
    calls.rows.clear()
    with torch.no_grad():
        outputs = module_outputs(net)
    edited = apply_edit(net.tuned, pictures(3), "glasses", PerSampleRng(0, ["k0", "k1", "k2"]), QUICK)
    torch.testing.assert_close(outputs["image"], edited)
    assert torch.equal(outputs["reference"], pictures(3))
    assert outputs["nfe"].tolist() == [QUICK.passes("glasses")] * 3
    losses = net.loss(edited, pictures(3), net.loss.reference(pictures(3)), 0)
    assert found["val/l1_loss"] == pytest.approx(losses.terms["l1"][:2].mean().item(), rel=1e-4)
    assert found["val/direction_loss"] == pytest.approx(losses.terms["direction"][:2].mean().item(), rel=1e-4)


def module_outputs(net):
    net.log = lambda *_, **__: None
    return net.validation_step(batch(3), 0)


def test_the_efficient_mode_steps_at_every_estimate_and_once_for_the_learning_rate(places, tmp_path, monkeypatch):
    """Three updates of the weights, each clipped to 1, are one step of the trainer and of the schedule."""
    net = module(places, learning=EFF, optimizer=AdamW(1e-2, warmup_steps=10, schedule="constant"))
    steps, norms, rates = [], [], []
    plain = torch.optim.AdamW.step

    def step(self, closure=None):
        steps.append(net.tuned.state("glasses")[next(iter(net.tuned.state("glasses")))].clone())
        norms.append(torch.stack([weight.grad.norm() for weight in net.parameters()]).norm().item())
        rates.append(self.param_groups[0]["lr"])
        return plain(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(net, Data())
    assert len(steps) == 6
    assert runner.global_step == 2
    assert max(norms) <= 1.001
    assert rates == pytest.approx([1e-3] * 3 + [2e-3] * 3)
    assert len({str(weights) for weights in steps[1:]}) == 5
    with pytest.raises(MisconfigurationException, match="gradient clipping is not supported for manual"):
        trainer(tmp_path, max_steps=1, gradient_clip_val=1.0).fit(module(places, learning=EFF), Data())


def test_the_learning_rate_grows_to_its_cap_and_a_resumed_run_goes_on(places, tmp_path):
    growth, rates = Growth(2.0, every=2, cap=3.0), []

    class Noted(FastEditModule):
        def on_train_batch_start(self, *_):
            rates.append(self.optimizers().param_groups[0]["lr"])

    def run(steps, checkpoint=None):
        net = module(places, growth=growth, kind=Noted)
        runner = trainer(tmp_path, max_steps=steps)
        runner.fit(net, Data(), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        return net, runner

    whole, _ = run(6)
    assert rates == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.03, 0.03])
    rates.clear()
    _, first = run(3)
    first.save_checkpoint(tmp_path / "third.ckpt")
    resumed, _ = run(6, str(tmp_path / "third.ckpt"))
    assert rates == pytest.approx([0.01, 0.01, 0.02, 0.02, 0.03, 0.03])
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_growth_without_end_meets_its_cap():
    assert [Growth(1.3)(step) for step in (0, 49, 50, 10**6)] == pytest.approx([1, 1, 1.3, 3])
    assert Growth(0.5, every=1)(3) == pytest.approx(0.125)
    assert Growth()(10**6) == 1
    with pytest.raises(ValueError, match=r"growth\.cap=0\.5"):
        Growth(cap=0.5)


@pytest.mark.parametrize("kind", ["reader", "clip"])
def test_a_probe_looks_at_the_edits_of_validation(places, tmp_path, kind):
    """The third row, which only fills up the batch, does not count."""
    torch.manual_seed(0)
    values = {"glasses": ["none", "round"]}
    reader = AttributeReader(values, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32).eval()
    reader.save_pretrained(tmp_path / "reader")
    told = (
        {"reader": str(tmp_path / "reader"), "wanted": {"glasses": "round"}}
        if kind == "reader"
        else {"clip": places[1]}
    )
    net = module(places)
    stored = set(net.state_dict())
    edits = module_outputs(net)["image"]
    if kind == "reader":
        scores = AttributeProbe(reader, told["wanted"])(edits)
    else:
        scores = TextProbe(load_edit_clip(places[1], 2), "face", "face with glasses", "plain")(edits)
    between = scores[:2].mean().item()  # one of the two is above
    net = module(places, probe=ProbeOptions(**told, threshold=between))
    (found,) = trainer(tmp_path).validate(net, Data(), verbose=False)
    assert found["val/probe_share"] == 0.5
    assert found["val/probe_score"] == pytest.approx(between, rel=1e-4)
    assert set(net.state_dict()) == stored


def test_what_the_probe_finds_ends_the_run_and_a_resumed_one(places, tmp_path):
    def run(threshold, checkpoint=None):
        stopping = EarlyStopping("val/probe_share", mode="max", stopping_threshold=0.9, patience=1000)
        runner = trainer(tmp_path, max_steps=4, callbacks=[stopping, MonitoredMetrics()])
        net = module(places, probe=ProbeOptions(clip=places[1], threshold=threshold))
        runner.fit(net, Data(), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        return runner

    stopped = run(0.0)
    assert stopped.global_step == 1
    stopped.save_checkpoint(tmp_path / "stopped.ckpt")
    assert run(0.0, str(tmp_path / "stopped.ckpt")).global_step == 1
    assert run(1.0).global_step == 4


def test_predict_edits_within_the_mask(places, tmp_path):
    net = module(places)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.1)
    (found,) = trainer(tmp_path).predict(net, Data())
    assert found["image"].shape == (3, 3, 8, 8)
    assert not torch.allclose(found["image"], pictures(3), atol=0.05)
    mask = torch.zeros(3, 1, 8, 8)
    mask[..., :4] = 1
    kept = net.predict_step(batch(3, mask=mask), 0)["image"]
    assert torch.equal(kept[..., 4:], pictures(3)[..., 4:])
    torch.testing.assert_close(kept[..., :4], found["image"][..., :4])
    with pytest.raises(ValueError, match="there is no picture to edit"):
        net.predict_step({"caption": ["a"], "key": ["a"]}, 0)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_exported_file_edits_as_the_module_does(places, tmp_path, kind):
    net = module(places, tuning=TuningOptions(kind, rank=2))
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.05)
    net.export(str(tmp_path / "export"))
    net.export(str(tmp_path / "export"))  # as after another test: the same file
    (file,) = (tmp_path / "export").iterdir()
    stored = read_edit(file)
    assert (stored.name, stored.about.source, stored.about.target) == ("glasses", ("face",), ("face with glasses",))
    assert (stored.about.application, stored.about.encoding, stored.about.base) == (QUICK, ENCODING, places[0])
    assert (stored.about.clips, stored.about.enlarge) == ((places[1],), 2)
    rng = PerSampleRng(0, ["k0", "k1", "k2"])
    edited = apply_edit(load_edits(load_base(places[0]), [stored]), pictures(3), "glasses", rng, QUICK)
    torch.testing.assert_close(net.predict_step(batch(3), 0)["image"], edited, atol=1e-5, rtol=1e-5)


def test_an_edit_of_the_dictionary_brings_its_texts_and_time(places):
    net = FastEditModule(places[0], "makeup", [places[1]], templates="plain")
    assert net.texts.target == ("person with makeup",)
    assert net.application.encoding.t0 == net.learning.encoding.t0 == 0.35


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edit": "glases", "source": None, "target": None}, "no edit 'glases' in edits.yaml; did you mean .*glasses"),
        ({"target": None}, "give source and target texts, or neither"),
        ({"source": "same", "target": "same"}, "source and target are both 'same'"),
        ({"edit": "two words"}, "edit"),
        ({"clips": []}, "0 CLIPs and 0 directions"),
        ({"clips": ["nowhere"]}, "there is no CLIP 'nowhere'"),
        ({"base": "nowhere"}, "nowhere"),
    ],
    ids=["name", "half", "equal", "words", "clips", "clip", "base"],
)
def test_mistakes_are_one_line(places, options, message):
    given = {
        "base": places[0],
        "edit": "glasses",
        "clips": [places[1]],
        "source": "face",
        "target": "face with glasses",
    }
    with pytest.raises(ValueError, match=message) as caught:
        FastEditModule(**{**given, "templates": "plain", **options})
    assert "\n" not in str(caught.value)
