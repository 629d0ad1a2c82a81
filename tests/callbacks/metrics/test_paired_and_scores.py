"""CLIP score, ImageReward, paired metrics, CMMD, diversity and the grid, on the pictures of image_run.py."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from callbacks import (
    CLIPScoreCallback,
    CMMDCallback,
    DiversityCallback,
    ImageRewardCallback,
    PairedImageCallback,
    RewardCallback,
    SampleGridCallback,
)
from callbacks.metrics.rows import SampleValues
from callbacks.pictures.sample_grid import draw_grid
from fewstep.metrics.kernel_distance import cmmd
from fewstep.metrics.perceptual import LPIPS
from fewstep.metrics.precision_recall import precision_recall_density_coverage
from fewstep.pixels import CutPrompts
from tests.callbacks.image_run import SIZE, Generator, Loader, N, Projection, pictures, run, table, to_uint8

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|biased upwards|sync_dist)")
PAIRS = {"reconstruction": "reconstruction"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Brightness(nn.Module):
    """A score that a test can compute: mean grey level plus the number at the end of the prompt."""

    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(()))
        self.cut_prompts = CutPrompts("Brightness", 10)

    def forward(self, images, prompts):
        assert images.dtype == torch.float32
        assert len(images) == len(prompts)
        self.cut_prompts.count([prompt.endswith("0") for prompt in prompts])
        return images.mean((1, 2, 3)) + torch.tensor([float(prompt.split()[1]) for prompt in prompts])


def scores():
    made = to_uint8(table()["made"]).double() / 127.5 - 1
    return made.mean((1, 2, 3)) + torch.arange(N)


@pytest.mark.filterwarnings("ignore:Brightness reads 10 tokens")
@pytest.mark.parametrize("alone", [None, "", "padding", "nothing"])
def test_scores_are_means_over_images(tmp_path, alone):
    options = {} if alone is None else {"devices": 2, "strategy": "ddp_fork"}
    callbacks = [
        CLIPScoreCallback(scorer=Brightness()),
        ImageRewardCallback(scorer=Brightness(), name="my_image_reward"),
        RewardCallback(Brightness(), "hpsv2"),
    ]
    logged = run(tmp_path, callbacks, Loader(table(), alone=alone or ""), **options)[0]
    assert logged == pytest.approx(
        dict.fromkeys(["test/clip_score", "test/my_image_reward", "test/hpsv2"], scores().mean().item()), rel=1e-6
    )
    lines = [json.loads(line) for line in (tmp_path / "logs" / "measurements.jsonl").read_text().splitlines()]
    assert [(line["num_generated"], line["prompts_cut"]) for line in lines] == [(N, 5)] * 3


def test_scores_keep_their_rows_and_intervals(tmp_path):
    callback = CLIPScoreCallback(scorer=Brightness())
    with pytest.warns(UserWarning, match="Brightness reads 10 tokens of a prompt: 1 of"):
        run(tmp_path, [callback], stage="validate")
    torch.testing.assert_close(callback.rows["val/clip_score"], scores(), rtol=1e-6, atol=1e-6)
    low, high = callback.intervals(num_draws=200)["val/clip_score"]
    assert low < scores().mean() < high
    assert callback.measured["val/clip_score"]["model"] == "Brightness"


def test_clip_score_is_a_hundred_cosines(tmp_path):
    """Against open_clip's own use of its classes, on a small CLIP in a local folder."""
    import open_clip

    config = {"embed_dim": 16, "text_cfg": {"context_length": 8, "width": 32, "heads": 2, "layers": 1}}
    config["vision_cfg"] = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    network = open_clip.CLIP(**config).eval()
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    columns = {name: column[:5] for name, column in table().items()}
    callback = CLIPScoreCallback(f"local-dir:{folder}", None)
    logged = run(tmp_path, [callback], Loader(columns, 2))[0]
    prepare = open_clip.image_transform(32, is_train=False)
    pixels = torch.stack([prepare(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in to_uint8(columns["made"])])
    with torch.no_grad():
        image = network.encode_image(pixels, normalize=True)
        text = network.encode_text(open_clip.SimpleTokenizer(context_length=8)(columns["caption"]), normalize=True)
    assert logged["test/clip_score"] == pytest.approx(100 * (image * text).sum(1).mean().item(), rel=1e-4)
    assert len(callback.measured["test/clip_score"]["weights_sha256"]) == 16


def test_prompts_and_images_of_different_number(tmp_path):
    columns = {name: column for name, column in table().items() if name != "caption"}
    with pytest.raises(ValueError, match="clip_score needs `caption`"):
        run(tmp_path, [CLIPScoreCallback(scorer=Brightness())], Loader(columns))

    class Short(Brightness):
        def forward(self, images, prompts):
            return images.mean((1, 2, 3))[:3]

    with pytest.raises(ValueError, match=r"score must be one value per image, \[7\], got shape \[3\]"):
        run(tmp_path, [CLIPScoreCallback(scorer=Short())])


def test_weights_that_are_missing_stop_the_run_before_it_starts(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*; give the path of ImageReward\.pt, its folder, or a hub id"):
        run(tmp_path, [ImageRewardCallback(str(tmp_path / "ImageReward.pt"))])
    with pytest.raises(ValueError, match="neither a file nor a tag of ViT-B-32"):
        run(tmp_path, [CLIPScoreCallback("ViT-B-32", str(tmp_path / "none.pt"))])


# ---- pairs ----------------------------------------------------------------------------------------------------------


def ssim(a, b):
    """Wang et al. 2004, Eq. 13, of uint8 [C, H, W]: each Gaussian window of 11 x 11 inside the picture."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    found = []
    for x, y in zip(a.double().numpy(), b.double().numpy(), strict=True):
        for top in range(x.shape[0] - 10):
            for left in range(x.shape[1] - 10):
                u, v = (side[top : top + 11, left : left + 11] for side in (x, y))
                mu, mv = (window * u).sum(), (window * v).sum()
                vu, vv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum()
                cov = (window * (u - mu) * (v - mv)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append((2 * mu * mv + c1) * (2 * cov + c2) / ((mu**2 + mv**2 + c1) * (vu + vv + c2)))
    return np.mean(found)


def doubled(columns):
    """With pictures of twice the size, for the windows of SSIM."""
    pictures = ("image", "made", "reconstruction")
    return columns | {name: columns[name].repeat_interleave(2, 2).repeat_interleave(2, 3) for name in pictures}


@pytest.mark.parametrize("alone", [None, "padding"])
def test_pairs_are_measured_one_by_one(tmp_path, alone):
    options = {} if alone is None else {"devices": 2, "strategy": "ddp_fork"}
    callback = PairedImageCallback(("psnr", "ssim"))
    columns = doubled(table())
    logged = run(tmp_path, [callback], Loader(columns, alone=alone or ""), Generator(PAIRS), **options)[0]
    a, b = (to_uint8(columns[name]).double() for name in ("reconstruction", "image"))
    psnr = 10 * torch.log10(255**2 / (a - b).square().mean((1, 2, 3)))
    assert logged["test/psnr"] == pytest.approx(psnr.mean().item(), rel=1e-5)
    assert logged.keys() == {"test/psnr", "test/ssim"}
    if alone is None:
        torch.testing.assert_close(callback.rows["test/psnr"], psnr, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(11, 11), (12, 30), (21, 13)])
def test_ssim_is_the_definition_inside_the_picture(size):
    rng = torch.Generator().manual_seed(sum(size))
    a, b = (torch.randint(0, 256, (2, 3, *size), generator=rng, dtype=torch.uint8) for _ in range(2))
    for other in (b, a.float().mul(0.5).round().to(torch.uint8)):
        found = PairedImageCallback(("ssim",))._measure(a, other)["ssim"]
        assert found.tolist() == pytest.approx([ssim(x, y) for x, y in zip(a, other, strict=True)], abs=1e-5)
    with pytest.raises(ValueError, match=r"SSIM needs pictures of 11 pixels or more, got \[10, "):
        PairedImageCallback(("ssim",))._measure(a[..., :10, :], b[..., :10, :])


def test_equal_pictures_are_perfect(tmp_path):
    model = Generator({"image": "made", "reference": "made"})
    callback = PairedImageCallback(("psnr", "ssim"), field="image", prefix="edit_")
    logged = run(tmp_path, [callback], Loader(doubled(table())), model)[0]
    assert logged == pytest.approx({"test/edit_psnr": 100.0, "test/edit_ssim": 1.0})


def test_the_target_may_be_named(tmp_path):
    model = Generator({"image": "made", "reference": "image"})
    to_reference = run(tmp_path, [PairedImageCallback(("psnr",), "image")], model=model)[0]
    to_image = run(tmp_path, [PairedImageCallback(("psnr",), "image", "image")], model=model)[0]
    to_made = run(tmp_path, [PairedImageCallback(("psnr",), "image", "made")], model=model)[0]
    assert to_reference["test/psnr"] < 20
    assert to_image["test/psnr"] == 100.0  # outputs come first: `image` of the outputs is the image itself
    assert to_made["test/psnr"] == 100.0
    assert math.isfinite(to_reference["test/psnr"])


def test_lpips_and_dinov2_are_those_of_the_networks(tmp_path):
    lpips = LPIPS()
    columns = table(4)
    for name in ("image", "made", "reconstruction"):
        columns[name] = torch.nn.functional.interpolate(columns[name], (32, 32))
    callback = PairedImageCallback(("lpips", "dinov2"), lpips=lpips, dinov2=Projection())
    logged = run(tmp_path, [callback], Loader(columns, 3), Generator(PAIRS))[0]
    a, b = columns["reconstruction"], columns["image"]
    with torch.no_grad():
        assert logged["test/lpips"] == pytest.approx(lpips(a, b).mean().item(), rel=1e-4)
    features = [Projection()(to_uint8(side)) for side in (a, b)]
    assert logged["test/dinov2"] == pytest.approx(torch.cosine_similarity(*features).mean().item(), rel=1e-5)
    assert callback.measured["test/lpips"]["features"]["metric"] == "LPIPS 0.1 alex"


def test_wrong_pairs_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"metrics=\['psnr', 'mse'\]: choose from psnr, ssim, lpips, dinov2"):
        PairedImageCallback(("psnr", "mse"))
    with pytest.raises(ValueError, match="return a dict with `reconstruction`"):
        run(tmp_path, [PairedImageCallback(("psnr",))])
    columns = table() | {"image": torch.zeros(N, 3, 16, 16)}
    with pytest.raises(ValueError, match=r"`reconstruction` \[3, 8, 8\] and `image` \[3, 16, 16\] differ in size"):
        run(tmp_path, [PairedImageCallback(("psnr",))], Loader(columns), Generator(PAIRS))


def test_values_of_equal_keys_are_all_kept():
    values = SampleValues()
    values.add(["b", "a"], score=torch.tensor([2.0, 3.0]))
    values.add([], score=torch.zeros(0))
    values.add(["a"], score=torch.tensor([1.0]))

    keys, columns = values.gather()
    assert keys == ["a", "a", "b"]
    assert columns["score"].tolist() == [1.0, 3.0, 2.0]


# ---- sets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [None, "", "nothing"])
def test_cmmd_and_diversity_are_those_of_the_features(tmp_path, alone):
    options = {} if alone is None else {"devices": 2, "strategy": "ddp_fork"}
    network = Projection()
    callbacks = [CMMDCallback(network), DiversityCallback(network, neighbours=3)]
    logged = run(tmp_path, callbacks, Loader(table(), alone=alone or ""), **options)[0]
    real, made = (network(to_uint8(table()[name])) for name in ("image", "made"))
    expected = {f"test/{name}": value for name, value in precision_recall_density_coverage(real, made, 3).items()}
    expected["test/cmmd_projection"] = cmmd(real, made)
    assert logged == pytest.approx(expected, rel=1e-4)


def test_only_a_part_is_kept_of_many_images(tmp_path):
    callback = DiversityCallback(Projection(), neighbours=2, max_images=20)
    logged = run(tmp_path, [callback])[0]
    assert callback.measured["test/recall"]["num_used"] == [20, 20]
    assert callback.measured["test/recall"]["num_generated"] == N
    other = run(tmp_path, [DiversityCallback(Projection(), 2, 20)], Loader(table(), 45))[0]
    assert other == logged
    with pytest.raises(ValueError, match="neighbours=20: needed are 1 or more, and fewer than max_images=20"):
        DiversityCallback(neighbours=20, max_images=20)


# ---- the grid -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [None, "", "nothing"])
def test_the_grid_shows_the_lowest_keys(tmp_path, alone):
    options = {} if alone is None else {"devices": 2, "strategy": "ddp_fork"}
    order = torch.randperm(N, generator=torch.Generator().manual_seed(3))
    model = Generator({"image": "made", "reconstruction": "reconstruction"})
    callback = SampleGridCallback(num_images=6, columns=3, original="image")
    run(tmp_path, [callback], Loader(table(), alone=alone or "", order=order), model, **options)
    (path,) = (tmp_path / "pictures" / "test_samples").iterdir()
    page = np.asarray(Image.open(path)).transpose(2, 0, 1)
    for name in ("made", "image", "reconstruction"):
        for row in (0, 5):
            wanted = np.kron(to_uint8(table()[name])[row].numpy(), np.ones((1, 14, 14), np.uint8))
            assert contains(page, wanted)
    assert not contains(page, np.kron(to_uint8(table()["made"])[6].numpy(), np.ones((1, 14, 14), np.uint8)))


def contains(page, picture):
    """Whether the picture lies somewhere on the page, by its first row of pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(page[0], picture.shape[2], axis=1)
    places = np.argwhere((windows == picture[0, 0]).all(-1))
    h, w = picture.shape[1:]
    return any(np.array_equal(page[:, y : y + h, x : x + w], picture) for y, x in places)


def test_the_grid_goes_to_the_loggers(tmp_path):
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger

    class Album(CSVLogger):
        def log_image(self, key, images):
            self.shown = [key, *images]

    album = Album(tmp_path)
    trainer = Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[SampleGridCallback(4)], logger=album,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.validate(Generator(), Loader(table()), verbose=False)
    assert album.shown == ["val/samples", str(tmp_path / "pictures" / "val_samples" / "00000000.png")]


@pytest.mark.parametrize("caption", ["", "word " * 200, "漢字 and emoji 🎈\x00\n\t", "x" * 500])
def test_any_caption_can_be_drawn(caption):
    sample = {"key": "0", "caption": caption, "score": 0.25, "nfe": 4.0, "image": pictures(0)[0].numpy()}
    page = draw_grid([sample] * 3, 2)
    assert page.size == (2 * (14 * SIZE + 8) + 8, page.height)
    assert (np.asarray(page)[: 14 * SIZE] != 255).any()


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"num_images=0, columns=8, fields=\[.*\]: give 1 or more of each"):
        SampleGridCallback(0)
