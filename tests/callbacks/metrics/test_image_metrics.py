import gc
import json
import math
import warnings

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, Trainer

from callbacks import FIDCallback, KIDCallback
from callbacks.metrics.feature_cache import FeatureCache, content_ids
from callbacks.metrics.image_outputs import counted
from callbacks.metrics.two_samples import FeatureSample
from fewstep.metrics.frechet import FeatureMoments, frechet_distance
from fewstep.metrics.kernel_distance import kid
from tests.callbacks.image_run import (
    FEW,
    QUIET,
    Generator,
    Loader,
    N,
    Projection,
    SizedLoader,
    pictures,
    run,
    table,
    to_uint8,
)

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|biased upwards|sync_dist)")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def metrics(network=None):
    network = network or Projection()
    return [FIDCallback(network), KIDCallback(network, **FEW)]


def moments(features):
    result = FeatureMoments(features.shape[1])
    result.add(features)
    return result.gaussian()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What one process measures with batches of 7."""
    folder = tmp_path_factory.mktemp("expected")
    network = Projection()
    callbacks = [FIDCallback(network, cache_dir=folder), KIDCallback(network, cache_dir=folder, **FEW)]
    return run(folder, callbacks)[0]


def test_values_are_those_of_the_plain_features(expected):
    assert expected.keys() == {"test/fd_projection", "test/kd_projection", "test/kd_projection_std"}
    columns, network = table(), Projection()
    real, made = network(to_uint8(columns["image"])), network(to_uint8(columns["made"]))
    assert expected["test/fd_projection"] == pytest.approx(frechet_distance(moments(real), moments(made)), rel=1e-5)
    whole = kid(real, made, 1, N).mean  # of which the subsets are estimates
    assert expected["test/kd_projection"] == pytest.approx(whole, abs=4 * expected["test/kd_projection_std"])


def test_values_are_those_of_torchmetrics(expected, tmp_path):
    pytest.importorskip("torch_fidelity")
    from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

    columns = table()
    fid = FrechetInceptionDistance(Projection())
    whole = KernelInceptionDistance(Projection(), subsets=2, subset_size=N)
    for name, real in (("image", True), ("made", False)):
        fid.update(to_uint8(columns[name]), real=real)
        whole.update(to_uint8(columns[name]), real=real)
    assert expected["test/fd_projection"] == pytest.approx(fid.compute().item(), rel=1e-4)
    ours = run(tmp_path, [KIDCallback(Projection(), subsets=2, subset_size=N)])[0]["test/kd_projection"]
    assert ours == pytest.approx(whole.compute()[0].item(), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_values_do_not_depend_on_batches_or_order(tmp_path, expected, batch_size):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    logged = run(tmp_path, metrics(), Loader(table(), batch_size, order=order))[0]
    assert logged == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alone", ["", "padding", "nothing"])
def test_two_processes_measure_what_one_does(tmp_path, expected, alone):
    logged = run(tmp_path, metrics(), Loader(table(), alone=alone), devices=2, strategy="ddp_fork")[0]
    assert logged == pytest.approx(expected, rel=1e-5)


def test_a_set_is_at_no_distance_from_itself(tmp_path):
    logged = run(tmp_path, metrics(), model=Generator({"image": "image"}))[0]
    assert abs(logged["test/fd_projection"]) < 1e-6
    assert logged["test/kd_projection"] < 0  # the unbiased estimate of 0 counts no point against itself


def test_only_the_fid_inception_gives_an_fid(tmp_path):
    network = Projection()
    network.name = "fid"
    logged = run(tmp_path, [FIDCallback(network), KIDCallback(network, **FEW)], stage="validate")[0]
    assert logged.keys() == {"val/fid", "val/kid", "val/kid_std"}


def test_equal_networks_run_once_per_batch(tmp_path):
    first, second = Projection(), Projection()
    other = Projection(seed=1)
    callbacks = [FIDCallback(first), KIDCallback(second, **FEW), FIDCallback(other)]
    run(tmp_path, callbacks)
    assert callbacks[0].samples.network is callbacks[1].samples.network is first
    assert (first.images, second.images, other.images) == (2 * N, 0, 2 * N)


def test_real_images_are_read_from_the_cache(tmp_path, expected, cache):
    def images(network, batch_size=10):
        gc.collect()  # what an earlier run left is shared as long as it lives
        assert run(tmp_path, metrics(network), Loader(table(), batch_size))[0] == pytest.approx(expected, rel=1e-5)
        return network.images

    assert images(Projection()) == 2 * N
    assert images(Projection()) == N  # the generated ones only
    other = Projection(seed=1)
    run(tmp_path, metrics(other))
    assert other.images == 2 * N  # another network, another cache
    gc.collect()
    for file in cache.rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:90])
    assert images(Projection()) == 2 * N


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, expected):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="features of real images cannot be kept"):
        logged = run(tmp_path, [FIDCallback(Projection(), cache_dir=tmp_path / "file")])[0]
    assert logged["test/fd_projection"] == pytest.approx(expected["test/fd_projection"], rel=1e-6)


def test_the_protocol_stands_beside_the_number(tmp_path, expected):
    callbacks = metrics()
    run(tmp_path, callbacks)
    lines = [json.loads(line) for line in (tmp_path / "logs" / "measurements.jsonl").read_text().splitlines()]
    found = {line["key"]: line for line in lines}
    assert {key: line["value"] for key, line in found.items()} == pytest.approx(expected, rel=1e-5)
    for line in (*callbacks[0].measured.values(), found["test/fd_projection"]):
        assert (line["num_generated"], line["num_real"], line["num_features"]) == (N, N, 6)
        assert line["features"] == {"network": "Projection", "seed": "0"}
    line = found["test/kd_projection"]
    assert (line["subsets"], line["subset_size"], line["seed"], line["num_used"]) == (5, 20, 0, [N, N])


def test_few_images_are_said(tmp_path):
    with pytest.warns(
        UserWarning, match=r"test/fd_projection of 5 generated and 5 real images with 6 features: .*bias"
    ):
        run(tmp_path, [FIDCallback(Projection())], Loader(table(5)))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*biased")
        run(tmp_path, [FIDCallback(Projection())], Loader(table(7)))
    with pytest.raises(ValueError, match="subset_size=20 images on either side, got 7 real and 7 generated"):
        run(tmp_path, metrics()[1:], Loader(table(7)))
    with pytest.raises(ValueError, match="at least 2 images on either side, got 1"):
        run(tmp_path, metrics()[:1], Loader(table(1)))


def test_a_reference_file_replaces_the_real_images(tmp_path, expected):
    side = moments(Projection()(to_uint8(table()["image"])))
    np.savez(tmp_path / "reference.npz", mu=side.mean.numpy(), sigma=side.covariance.numpy())
    network = Projection()
    callback = FIDCallback(network, reference=str(tmp_path / "reference.npz"))
    logged = run(tmp_path, [callback])[0]
    assert logged["test/fd_projection"] == pytest.approx(expected["test/fd_projection"], rel=1e-5)
    assert network.images == N
    assert callback.measured["test/fd_projection"]["real"].endswith("reference.npz")


def test_training_with_half_precision_changes_nothing_and_checkpoints_hold_no_network(tmp_path, expected):
    callbacks = metrics()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=2, precision="bf16-mixed", num_sanity_val_steps=2,
        default_root_dir=tmp_path, callbacks=callbacks, use_distributed_sampler=False, val_check_interval=1,
        **QUIET,
    )  # fmt: skip
    model = Generator()
    trainer.fit(model, SizedLoader(table()), SizedLoader(table()))
    values = {key.replace("val", "test"): value.item() for key, value in trainer.callback_metrics.items()}
    assert {key: values[key] for key in expected} == pytest.approx(expected, rel=1e-5)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert list(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]) == ["weight"]
    lines = (tmp_path / "logs" / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 2  # two validations, the sanity check is none


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image * 1.5, r"`image` of the outputs: images must lie in \[-1, 1\], got values from -1.5 to"),
        (lambda image: image + math.nan, r"images must lie in \[-1, 1\], got values from nan to nan"),
        (lambda image: image[:, :1], r"`image` of the outputs must be \[7, 3, H, W\], got shape \[7, 1, 8, 8\]"),
        (lambda image: image[:3], r"`image` of the outputs must be \[7, 3, H, W\], got shape \[3, 3, 8, 8\]"),
        (lambda image: image.mul(9).int(), r"images must be float in \[-1, 1\], got torch.int32"),
    ],
)
def test_images_that_are_none_are_one_line(tmp_path, change, message):
    class Wrong(Generator):
        def test_step(self, batch, batch_idx):
            return {"image": change(batch["made"])}

    with pytest.raises(ValueError, match=message):
        run(tmp_path, metrics(), model=Wrong())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="validation_step and test_step that return a dict with `image`"):
        run(tmp_path, metrics(), model=Generator({"score": "made"}))
    with pytest.raises(ValueError, match="batch has no `photo` to compare with; its fields are image, "):
        run(tmp_path, [FIDCallback(Projection(), real_field="photo")])
    with pytest.raises(ValueError, match=r"Linear has no name; see fewstep/metrics/features\.py"):
        run(tmp_path, [FIDCallback(torch.nn.Linear(2, 2))])
    with pytest.raises(ValueError, match="need evaluation batches with `key`"):
        counted({"image": torch.zeros(2, 3, 4, 4), "weight": torch.ones(2)})
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        counted({"key": ["a", "b"], "caption": ["a"], "weight": torch.ones(2)})


def test_every_callback_can_stand_in_a_config(tmp_path):
    """As `trainer.callbacks` of a config does; networks by class_path."""
    network = {"class_path": "tests.callbacks.image_run.Projection", "init_args": {"seed": 3}}
    written = [
        {"class_path": "FIDCallback", "init_args": {"network": network, "cache_dir": "here"}},
        {"class_path": "KIDCallback", "init_args": {"network": network, "subset_size": 50}},
        {"class_path": "DiversityCallback", "init_args": {"network": network, "neighbours": 3}},
        {"class_path": "CMMDCallback", "init_args": {"network": network}},
        {"class_path": "CLIPScoreCallback", "init_args": {"model": "ViT-B-32", "pretrained": "openai"}},
        {"class_path": "ImageRewardCallback", "init_args": {"source": "somewhere/ImageReward.pt"}},
        {"class_path": "PairedImageCallback", "init_args": {"metrics": ["psnr", "ssim"], "field": "image"}},
        {"class_path": "SampleGridCallback", "init_args": {"fields": ["image"], "num_images": 4}},
    ]
    for entry in written:
        entry["class_path"] = f"callbacks.{entry['class_path']}"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[Callback])
    built = parser.instantiate_classes(parser.parse_object({"callbacks": written})).callbacks
    assert [type(callback).__name__ for callback in built] == [e["class_path"].split(".")[1] for e in written]
    assert built[0].samples.network.protocol["seed"] == "3"
    assert built[6].metrics == ("psnr", "ssim")


# ---- the cache and the sample ---------------------------------------------------------------------------------------


def test_content_ids_tell_pictures_apart():
    images = pictures(0, 200)
    images[1] = images[0]
    images[2] = images[0]
    images[2, 0, 0, 0] ^= 1  # one grey level of one pixel
    images[3] = images[0].flip(-1)
    ids = content_ids(images)
    assert ids[0] == ids[1]
    assert len(ids.unique()) == 199
    assert torch.equal(content_ids(images[5:6]), ids[5:6])
    assert not set(ids.tolist()) & set(content_ids(images.view(200, 3, 4, 16)).tolist())


def test_the_cache_keeps_parts_of_several_writers(tmp_path):
    stores = [FeatureCache(tmp_path, {"network": "x"}, 4) for _ in range(3)]
    ids, rows = torch.arange(10), torch.randn(10, 4)
    for store, part in ((stores[0], slice(0, 6)), (stores[1], slice(4, 10))):
        store.add(ids[part], rows[part])
        store.flush()
    stores[2].refresh()
    found = stores[2].find(ids)
    assert np.array_equal(np.stack(found), rows.numpy())
    assert stores[2].find(torch.tensor([99])) == [None]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_sample_is_the_same_whatever_comes_first():
    keys, rows = [f"{i}" for i in range(500)], torch.arange(500.0)[:, None].expand(500, 3)
    samples = []
    for order in (torch.arange(500), torch.randperm(500, generator=torch.Generator().manual_seed(0))):
        sample = FeatureSample(3, limit=50)
        for part in order.split(13):
            sample.add([keys[i] for i in part], rows[part])
            assert sum(len(ranks) for ranks, _ in sample._new) < 50 + 13
        samples.append(sample.gather())
    assert torch.equal(samples[0][0], samples[1][0])
    assert samples[0][1] == 500
    chosen = samples[0][0][:, 0]
    assert len(chosen.unique()) == 50
    assert abs(chosen.mean() - 249.5) < 4 * 500 / 12**0.5 / 50**0.5  # uniform
