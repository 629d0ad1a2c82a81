import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewstep.metrics.features import CLIPImage, DINOv2, FIDInception, MobileNetV2, check_pictures

torch.set_num_threads(1)


def pictures(num=3, size=40):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, size, size), generator=rng, dtype=torch.uint8)


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """An Inception of torch-fidelity's architecture with random weights."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    extractor = module.FeatureExtractorInceptionV3
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extractor, "load_state_dict", lambda self, state: None)
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
        network = extractor("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


def test_inception_is_torch_fidelitys_pixel_for_pixel(inception_file):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("x", ["2048"], str(inception_file))
    ours = FIDInception(str(inception_file))
    assert torch.equal(ours(pictures()), theirs(pictures())[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(pictures()), theirs(pictures())[0]) is False  # theirs falls to half precision
        assert ours(pictures()).dtype == torch.float32


def test_only_the_published_weights_are_called_fid(inception_file, monkeypatch):
    ours = FIDInception(str(inception_file.parent / "inception.pth"))
    assert ours.name == "inception"
    monkeypatch.setattr("fewstep.metrics.features.INCEPTION_SHA256", ours.protocol["weights_sha256"][:8])
    assert FIDInception(str(inception_file)).name == "fid"


def test_missing_inception_says_which_file_to_put_where(monkeypatch, tmp_path):
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))

    def unreachable(url, path, **options):
        raise OSError("no network\nand more")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    where = tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    with pytest.raises(
        ValueError, match=r"\(no network and more\); without a network, put https://github.com/\S+ at "
    ) as caught:
        FIDInception()
    assert str(where) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"no file .*; give the path of weights-inception"):
        FIDInception(str(tmp_path / "else.pth"))
    torch.save({"a": torch.zeros(2)}, tmp_path / "else.pth")
    with pytest.raises(ValueError, match=r"else\.pth is not weights-inception-2015-12-05-6726825d\.pth"):
        FIDInception(str(tmp_path / "else.pth"))


def test_mobilenet_is_torchvisions_before_its_classifier():
    ours = MobileNetV2(size=64)
    from torchvision.models import mobilenet_v2
    from torchvision.transforms import v2

    theirs = mobilenet_v2()
    theirs.features.load_state_dict(ours.features.state_dict())
    theirs.classifier = torch.nn.Identity()
    prepare = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((64, 64), antialias=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        expected = theirs.eval()(prepare(pictures()))
    torch.testing.assert_close(ours(pictures()), expected, rtol=1e-4, atol=1e-5)
    assert ours.protocol["weights_sha256"].startswith("b0353104")  # torchvision's name of the file
    assert (ours.name, ours.num_features) == ("mobilenet", 1280)


def test_dinov2_is_transformers_class_token(tmp_path):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=28, patch_size=14, mlp_ratio=2
    )
    torch.manual_seed(0)
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    ours = DINOv2(str(tmp_path), size=40)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = model((pictures() / 255 - mean) / std).last_hidden_state[:, 0]
    torch.testing.assert_close(ours(pictures()), expected)
    assert ours.num_features == 32
    assert len(ours.protocol["weights_sha256"]) == 16
    with pytest.raises(ValueError, match=r"cannot get model.safetensors of \S+nowhere"):
        DINOv2(str(tmp_path / "nowhere"))


def test_clip_embeddings_are_open_clips(tmp_path):
    import open_clip
    from PIL import Image

    config = {"embed_dim": 16, "text_cfg": {"context_length": 8, "width": 32, "heads": 2, "layers": 1}}
    config["vision_cfg"] = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    network = open_clip.CLIP(**config).eval()
    torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    ours = CLIPImage(f"local-dir:{tmp_path}", None)
    prepare = open_clip.image_transform(32, is_train=False, resize_mode="squash")
    wide = pictures(size=60)[..., :30]
    pixels = torch.stack([prepare(Image.fromarray(p.permute(1, 2, 0).numpy())) for p in wide])
    with torch.no_grad():
        torch.testing.assert_close(ours(wide), network.encode_image(pixels, normalize=True))
    assert (ours.name, ours.num_features) == ("clip", 16)
    assert ours.protocol["resize"] == "PIL bicubic to 32"


def test_other_input_is_one_line():
    for wrong in (pictures().float(), pictures()[:, :1], pictures()[0]):
        with pytest.raises(ValueError, match=r"features need uint8 images \[B, 3, H, W\], got torch\.\w+ \["):
            check_pictures(wrong)


def test_full_float32_holds_whatever_was_set_and_puts_everything_back():
    """In processes of their own: the settings are global, and mixing the old and the new ones cannot be undone."""
    code = """
import os, torch
from fewstep.metrics.features import full_float32

SETTINGS = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.backends.cudnn.allow_tf32 = True; torch.backends.cuda.matmul.fp32_precision = 'tf32'",
]
b, one = torch.backends, torch.ones(2, 2)

def state():
    return [o.fp32_precision for o in (b.cudnn.conv, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul)]

def check(setting):
    exec(setting)
    before = state()
    with torch.autocast("cpu", torch.bfloat16):
        with full_float32(torch.device("cpu")):
            assert (one @ one).dtype == torch.float32
            assert state() == ["ieee"] * 4, state()
        assert (one @ one).dtype == torch.bfloat16
    assert state() == before, (before, state())
    assert "medium" not in setting or torch.get_float32_matmul_precision() == "medium"

for setting in SETTINGS:
    child = os.fork()
    if not child:
        try:
            check(setting)
            os._exit(0)
        except BaseException as error:
            print(setting, repr(error), flush=True)
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, setting
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert run.returncode == 0, run.stdout + run.stderr
