"""A tiny pair of students: what is trained and stored, whom the losses reach, and pictures that come and go."""

from dataclasses import replace
from itertools import pairwise

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from fewstep.backbones import add_guidance_embedding, load_latent_diffusion, save_guided_network
from fewstep.distillation.boundaries import Boundaries
from fewstep.distillation.consistency import Weights
from fewstep.distillation.network_calls import SeparateNetworks
from fewstep.distillation.options import DistillationOptions, SecondPhase
from fewstep.distillation.students import StudentOptions
from fewstep.icd import pair_distillation
from fewstep.icd.pair import Editing, InvertibleConsistency
from fewstep.optimizers import AdamW
from fewstep.rng import PerSampleRng
from lightning_modules.icd import ICDModule
from tests.tiny_diffusion import CAPTIONS, batch, unet, write_pipeline

SCALES = (1.0, 4.0)
OPTIMIZER = AdamW(3e-3, warmup_steps=2, schedule="constant")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """(pipeline, its guidance-distilled network), whose embedding of w says something."""
    folder = tmp_path_factory.mktemp("teacher")
    guided = unet(torch.initial_seed(), time_cond_proj_dim=16)
    torch.nn.init.normal_(guided.time_embedding.cond_proj.weight, std=0.3)
    save_guided_network(folder / "guided", guided, SCALES)
    return write_pipeline(folder / "pipeline", "sd"), str(folder / "guided")


def module(teacher, **options):
    return ICDModule(*teacher, **{"students": StudentOptions(rank=4), "optimizer": OPTIMIZER, **options})


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([batch(range(8))], batch_size=None)

    def val_dataloader(self):
        return DataLoader([batch(range(4), weight=[1.0, 1.0, 1.0, 0.0])], batch_size=None)

    test_dataloader = val_dataloader


def trainer(folder, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(accelerator="cpu", num_sanity_val_steps=0, default_root_dir=folder, **quiet, **options)


@pytest.fixture(scope="module")
def fitted(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    net = module(teacher)
    runner = trainer(folder, max_steps=20, check_val_every_n_epoch=20)
    first = runner.validate(net, Data(), verbose=False)[0]
    runner.fit(net, Data())
    runner.save_checkpoint(folder / "end.ckpt")
    return net, first, runner.validate(net, Data(), verbose=False)[0], folder / "end.ckpt"


@pytest.mark.learns
def test_learns(fitted, below):
    _, first, last, _ = fitted
    below("loss", last["val/loss"], 0.9 * first["val/loss"])


def test_the_reconstruction_is_compared_with_the_clean_data(fitted, tmp_path, monkeypatch):
    """The authors' error was against the noised start, and 0.018 at best."""
    net = fitted[0]
    monkeypatch.setattr(pair_distillation, "encode", lambda forward, model, ends, data, noise, condition: [data])
    monkeypatch.setattr(pair_distillation, "decode", lambda reverse, model, ends, x, condition, guidance=None: x)
    assert trainer(tmp_path).validate(net, Data(), verbose=False)[0]["val/latent_mse"] == 0


def test_only_the_students_are_trained_and_stored(fitted, teacher):
    net, *_, checkpoint = fitted
    stored = torch.load(checkpoint, weights_only=True)
    assert all(name.startswith("weights.") and "lora" in name for name in stored["state_dict"])
    assert len(stored["state_dict"]) == len(list(net.parameters())) > 0
    assert set(stored["frozen"]) == {"autoencoder", "text_encoder", "network"}
    untouched, trained = (
        load_latent_diffusion(*teacher).network.state_dict(),
        net.distillation.model.network.state_dict(),
    )
    for name, weight in untouched.items():
        kept = (
            name
            if name in trained
            else name.replace(".weight", ".base_layer.weight").replace(".bias", ".base_layer.bias")
        )
        assert torch.equal(trained[kept], weight), name
    for adapter in ("forward", "reverse"):
        moved = [p for n, p in net.named_parameters() if f"{adapter}_adapter" in n and "lora_B" in n]
        assert moved
        assert all(weight.any() for weight in moved)  # each began at zero


def test_one_optimizer_step_serves_all_terms(fitted):
    """The authors took two for each student, under which the weights of the terms hardly matter."""
    stored = torch.load(fitted[3], weights_only=True)
    moments = stored["optimizer_states"][0]["state"].values()
    assert [int(moment["step"]) for moment in moments] == [stored["global_step"]] * len(list(fitted[0].parameters()))


def test_given_boundaries_are_those_of_the_losses_and_of_the_pictures(teacher):
    """One of the authors' scripts trained on the default ones whatever it was given, and measured on the given."""
    times = (0, 0.34, 0.7, 1)
    net, given = module(teacher, distillation=DistillationOptions(times)), Boundaries(times, 0.02)
    assert net.distillation.losses.boundaries == net.pair.boundaries == given != Boundaries.even(3)


def test_students_begin_as_their_teacher(teacher):
    net = module(teacher)
    x, condition = net.encoders.read(batch(), training=False)
    t, w = torch.full((4,), 0.5), torch.full((4,), 4.0)
    networks = net.distillation.students.networks
    answers = [denoiser(x, t, w, condition) for denoiser in (networks.teacher, networks.forward, networks.reverse)]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    merged = module(teacher, students=StudentOptions(rank=4, merged=True)).distillation.students.networks
    torch.testing.assert_close(merged.reverse(x, t, w, condition), answers[0])
    assert not torch.equal(answers[0], networks.teacher(x, t, torch.ones(4), condition))  # w is heard


def test_one_pass_for_all_terms_is_the_passes_one_by_one(fitted):
    """Losses and gradients of three joint calls of one network against ten calls of it."""
    net = fitted[0]
    shared = net.distillation.students.networks
    separate = SeparateNetworks(shared.teacher, shared.forward, shared.reverse)
    x, condition = net.encoders.read(batch(range(8)), training=False)
    torch.manual_seed(0)
    uniform, w = torch.rand(8, 3), torch.tensor([1.0, 4.0] * 4)
    draw = net.distillation.losses.draw(x, torch.randn_like(x), uniform, w, condition)
    found = []
    for networks in (shared, separate):
        net.zero_grad()
        total, terms = net.distillation.losses.objective(networks, draw)
        total.mean().backward()
        found.append((terms, [p.grad.clone() for p in net.parameters()]))
    for name, values in found[0][0].items():
        torch.testing.assert_close(values, found[1][0][name], rtol=1e-4, atol=1e-6)
    for joint, single in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(joint, single, rtol=1e-3, atol=1e-6)
    calls = []
    handle = net.distillation.model.network.register_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0]))
    )
    net.distillation.losses.objective(shared, draw)
    handle.remove()
    assert calls == [32, 16, 32]


def test_a_checkpoint_of_another_teacher_is_refused(fitted, teacher, tmp_path):
    other = unet(seed=5, time_cond_proj_dim=16)
    save_guided_network(tmp_path / "guided", other, SCALES)
    stranger = module((teacher[0], str(tmp_path / "guided")))
    with pytest.raises(ValueError, match="trained with another network"):
        stranger.on_load_checkpoint(torch.load(fitted[3], weights_only=True))


def test_exports_load_without_lightning_and_answer_alike(fitted, teacher, tmp_path):
    net = fitted[0]
    net.export(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"forward", "reverse", "icd.json", "README.md"}
    assert f"by {net.pair.code_scale:.4g}**" in (tmp_path / "README.md").read_text()
    loaded = InvertibleConsistency.load(tmp_path)
    assert loaded.code_scale == net.pair.code_scale is not None
    assert loaded.guidance_scales == SCALES
    assert loaded.boundaries == net.distillation.losses.boundaries

    def rng():
        return PerSampleRng(0, range(4))

    images, prompts = batch()["image"], CAPTIONS
    torch.testing.assert_close(loaded.generate(prompts, rng(), 4.0), net.pair.generate(prompts, rng(), 4.0))
    for ours, theirs in zip(
        net.pair.encode(images, prompts, rng()), loaded.encode(images, prompts, rng()), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match=r"icd\.json"):
        InvertibleConsistency.load(tmp_path / "forward")


@pytest.mark.parametrize("backend", ["prompt_switch", "prompt_to_prompt"])
def test_edits_change_pictures_and_replay_without_an_edit_does_not(fitted, backend):
    pair, images = fitted[0].pair, batch()["image"]
    edited = pair.edit(images, CAPTIONS, CAPTIONS[::-1], PerSampleRng(0, range(4)), Editing(backend, 4.0))
    assert edited.shape == images.shape
    kept = Editing(backend, guidance_scale=1.0, replay=True)
    same = pair.edit(images, CAPTIONS, CAPTIONS, PerSampleRng(0, range(4)), kept)
    latents = pair.model.latents
    torch.testing.assert_close(same, latents.decode(latents.encode(images)), rtol=1e-3, atol=1e-3)
    assert (edited - same).abs().max() > 1e-2
    mask = torch.zeros(4, 1, 16, 16)
    masked = pair.edit(images, CAPTIONS, CAPTIONS[::-1], PerSampleRng(0, range(4)), Editing(backend, 4.0), mask)
    torch.testing.assert_close(masked, latents.decode(latents.encode(images)))


def test_predict_generates_reconstructs_and_edits(fitted):
    net, whole = fitted[0], batch()
    net.editing = Editing(guidance_scale=4.0)
    drawn = net.predict_step({"caption": CAPTIONS, "key": whole["key"]}, 0)["image"]
    rebuilt = net.predict_step(whole, 0)["image"]
    edited = net.predict_step(whole | {"target": CAPTIONS[::-1]}, 0)["image"]
    assert drawn.shape == rebuilt.shape == edited.shape == (4, 3, 16, 16)
    rng = PerSampleRng(0, whole["key"])
    expected = net.pair.decode(net.pair.encode(whole["image"], CAPTIONS, rng)[-1], CAPTIONS)
    torch.testing.assert_close(rebuilt, expected)
    assert (edited - rebuilt).abs().max() > 1e-3
    part = net.predict_step({"caption": CAPTIONS[2:3], "key": whole["key"][2:3]}, 0)["image"]
    torch.testing.assert_close(part, drawn[2:3], rtol=1e-4, atol=1e-5)  # noise belongs to the key


def test_pictures_are_guided_from_the_given_time_on(fitted, monkeypatch):
    """The authors' sampler ignored what it was told of dynamic guidance."""
    net, keys = fitted[0], batch()["key"]
    monkeypatch.setattr(net, "editing", Editing(guidance_scale=4.0, guided_below=0.5))
    late, always = (net.pair.generate(CAPTIONS, PerSampleRng(0, keys), 4.0, below) for below in (0.5, 1.0))
    torch.testing.assert_close(net.predict_step({"caption": CAPTIONS, "key": keys}, 0)["image"], late)
    assert (late - always).abs().max() > 1e-3


def test_a_step_for_each_term_counts_once_and_uses_the_new_weights(teacher, tmp_path):
    net = module(teacher, objective="separate")
    seen = []
    for role, wanted in (("reverse", [0, 3]), ("forward", [1, 2])):
        first = next(p for n, p in net.named_parameters() if f"{role}_adapter" in n and "lora_B" in n)
        seen.append((first, wanted))
    moments = []
    term = net.distillation.losses.term

    def recorded(name, networks, draw):
        moments.append((name, [weight.detach().clone() for weight, _ in seen]))
        return term(name, networks, draw)

    object.__setattr__(net.distillation.losses, "term", recorded)
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(net, Data())
    assert runner.global_step == 2
    assert runner.lr_scheduler_configs[0].scheduler.last_epoch == 2  # the authors' schedule ran twice as fast
    names = [name for name, _ in moments]
    assert names == ["reverse_cd", "forward_cd", "forward_preservation", "reverse_preservation"] * 2
    changed = [[not torch.equal(a, b) for a, b in zip(x[1], y[1], strict=True)] for x, y in pairwise(moments)]
    assert changed[:4] == [[True, False], [False, True], [False, True], [True, False]]


@pytest.mark.parametrize("silent", ["forward_preservation", "reverse_preservation"])
def test_a_term_of_weight_zero_makes_no_step_and_stops_no_other(teacher, tmp_path, silent):
    """The authors' reverse preservation was switched by the weight of the forward one, and stepped at weight 0."""
    without = DistillationOptions(loss_weights=Weights(**{silent: 0.0}))
    net, asked = module(teacher, objective="separate", distillation=without), []
    term = net.distillation.losses.term

    def recorded(name, networks, draw):
        asked.append(name)
        return term(name, networks, draw)

    object.__setattr__(net.distillation.losses, "term", recorded)
    trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(net, Data())
    both = ("forward", "reverse")
    assert sorted(asked) == sorted({f"{way}_{kind}" for way in both for kind in ("cd", "preservation")} - {silent})


def test_full_students_are_two_networks_and_come_back(teacher, tmp_path):
    net = module(teacher, students=StudentOptions("full"), optimizer=replace(OPTIMIZER, lr=1e-3))
    assert {name.split(".")[1] for name, _ in net.named_parameters()} == {"forward_student", "reverse_student"}
    trainer(tmp_path / "run", max_steps=2).fit(net, Data())
    net.export(str(tmp_path / "export"))
    loaded = InvertibleConsistency.load(tmp_path / "export")
    prompts = CAPTIONS[:2]
    drawn = (pair.generate(prompts, PerSampleRng(0, range(2)), 4.0) for pair in (net.pair, loaded))
    torch.testing.assert_close(*drawn)
    teacher_weights = dict(load_latent_diffusion(*teacher).network.named_parameters())
    assert all(torch.equal(p, teacher_weights[n]) for n, p in net.distillation.model.network.named_parameters())


def test_boundaries_by_log_snr_are_those_of_the_same_noise(teacher):
    by_time = module(teacher).pair.boundaries
    schedule = load_latent_diffusion(*teacher).parametrization.schedule
    inner = schedule.log_snr(torch.tensor([0.26, 0.52, 0.78], dtype=torch.float64)).tolist()
    start = schedule.log_snr(torch.tensor(0.02, dtype=torch.float64)).item()
    for begin, expected in ((start, by_time), (None, Boundaries(by_time.times, 0.0))):
        given = DistillationOptions(inner, "log_snr", begin)
        assert module(teacher, distillation=given).pair.boundaries == expected


@pytest.mark.parametrize("kind", ["sd_v", "sdxl", "sd3"])
def test_a_step_on_every_kind_of_teacher(kind, tmp_path):
    """v-prediction, two text encoders with pooled states, and a rectified flow."""
    pipeline = write_pipeline(tmp_path / "pipeline", kind)
    model = load_latent_diffusion(pipeline)
    guided = add_guidance_embedding(model.network, 16)
    save_guided_network(tmp_path / "guided", guided, SCALES)
    net = module((pipeline, str(tmp_path / "guided")))
    before = [p.detach().clone() for p in net.parameters()]
    trainer(tmp_path, max_steps=3).fit(net, Data())
    assert any(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in net.parameters())
    assert net.pair.generate(CAPTIONS, PerSampleRng(0, range(4)), 4.0).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_scales": [1.0, 8.0]}, "guidance_scale 8 was not trained; choose one of 1, 4"),
        ({"guidance_scales": [4.0]}, "1 among them"),
        ({"editing": Editing(guidance_scale=2.0)}, "guidance_scale 2 was not trained"),
        ({"objective": "added"}, "objective='added': choose one of summed, separate"),
        ({"students": StudentOptions(targets=["to_nowhere"])}, "no Linear or Conv2d layer"),
    ],
)
def test_mistakes_are_named(teacher, options, message):
    with pytest.raises(ValueError, match=message):
        module(teacher, **options)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (StudentOptions, {"kind": "dora"}, "students.kind='dora': choose one of lora, full"),
        (DistillationOptions, {"boundaries_in": "snr"}, "boundaries_in='snr': choose one of time, log_snr"),
        (
            DistillationOptions,
            {"full_cycle_distance": "ssim"},
            "full_cycle_distance='ssim': choose one of l2, l1, pseud",
        ),
        (SecondPhase, {"from_step": 0}, "second_phase.from_step=0: must be at least 1"),
        (AdamW, {"lr": 0.0}, "lr=0.0: must be positive"),
        (AdamW, {"schedule": "linear"}, "schedule='linear': choose one of constant, cosine"),
    ],
)
def test_mistakes_in_groups_are_named(options, given, message):
    with pytest.raises(ValueError, match=message):
        options(**given)


def test_a_teacher_without_w_and_pictures_and_prompts_that_do_not_fit_are_named(teacher, fitted):
    with pytest.raises(ValueError, match="no guidance embedding: train GuidanceDistillationModule"):
        ICDModule(teacher[0], students=StudentOptions(rank=4))
    pair = fitted[0].pair
    with pytest.raises(ValueError, match=r"images must be \[B, 3, 16, 16\], got \[4, 3, 16, 24\]"):
        pair.encode(torch.zeros(4, 3, 16, 24), CAPTIONS, PerSampleRng(0, range(4)))
    with pytest.raises(ValueError, match="tokens, at most 12"):
        pair.generate(["red " * 40], PerSampleRng(0, range(1)), 4.0)
    with pytest.raises(ValueError, match="guidance_scale 3 was not trained"):
        pair.generate(CAPTIONS, PerSampleRng(0, range(4)), 3.0)
