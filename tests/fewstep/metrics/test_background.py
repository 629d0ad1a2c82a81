"""Background outside a mask: against NumPy, SciPy's filter and the package lpips, as PIE-Bench takes them."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from fewstep.metrics.background import SqueezeLPIPS, background_values
from fewstep.metrics.perceptual import LPIPS


def data(num=3, size=40):
    rng = torch.Generator().manual_seed(0)
    source = torch.randint(0, 256, (num, 3, size, size), generator=rng).byte()
    edited = (source.int() + torch.randint(-40, 41, source.shape, generator=rng)).clamp(0, 255).byte()
    mask = torch.zeros(num, 1, size, size)
    for row in range(num):
        mask[row, :, 5 : 15 + 4 * row, 8:30] = 1
    return edited, source, mask


def ssim(a, b):
    """Wang et al. 2004 in windows of 11, the picture mirrored at its borders, [3, H, W] in [0, 1]."""
    blur = lambda x: np.stack([gaussian_filter(c, 1.5, mode="mirror", truncate=3.5) for c in x])  # noqa: E731
    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def test_the_values_are_those_of_the_blackened_pictures():
    edited, source, mask = data()
    network = LPIPS("alex")
    found = background_values(edited, source, mask, network)
    for row in range(len(edited)):
        kept = 1 - mask[row].double().numpy()
        a, b = (side[row].double().numpy() / 255 * kept for side in (edited, source))
        mse = ((a - b) ** 2).mean()
        assert found["mse"][row].item() == pytest.approx(mse, abs=1e-7)
        assert found["psnr"][row].item() == pytest.approx(10 * np.log10(1 / mse), abs=1e-4)
        assert found["ssim"][row].item() == pytest.approx(ssim(a, b), abs=1e-5)
        alone = network(*(torch.from_numpy(side * 2 - 1).float()[None] for side in (a, b)))
        assert found["lpips"][row].item() == pytest.approx(alone.item(), abs=1e-5)


def test_what_happens_inside_the_mask_does_not_matter():
    edited, source, mask = data()
    other = torch.where(mask.bool(), 255 - edited, edited)
    network = LPIPS("alex")
    first, second = (background_values(each, source, mask, network) for each in (edited, other))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    same = background_values(torch.where(mask.bool(), edited, source), source, mask, network)
    assert same["psnr"].tolist() == [100.0] * 3
    assert same["mse"].tolist() == [0.0] * 3


def test_a_mask_that_leaves_nothing_has_no_value():
    edited, source, mask = data()
    mask[1] = 1
    found = background_values(edited, source, mask, LPIPS("alex"))
    for name, value in found.items():
        assert value.isnan().tolist() == [False, True, False], name


def test_the_lpips_of_the_tables_is_that_of_its_package(monkeypatch):
    import lpips
    from torchvision.models import _api, squeezenet1_1

    torch.manual_seed(0)
    state = squeezenet1_1(weights=None).state_dict()
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *_, **__: state)
    ours = SqueezeLPIPS()
    theirs = lpips.LPIPS(net="squeeze", pretrained=True, pnet_rand=True, verbose=False).eval()
    plain = squeezenet1_1(weights=None)
    plain.load_state_dict(state)
    for name, value in theirs.net.named_parameters():  # slices hold features.N under their numbers
        value.data = plain.features.get_parameter(name.split(".", 1)[1]).data
    a, b = (side.float() / 127.5 - 1 for side in data()[:2])
    with torch.no_grad():
        torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=0, atol=1e-5)


def test_lacking_weights_and_other_sizes_are_one_line(monkeypatch):
    from torchvision.models import _api

    def refuse(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(_api, "load_state_dict_from_url", refuse)
    with pytest.raises(ValueError, match=r"cannot fetch the weights of SqueezeNet .*; measure LPIPS with alex or vgg"):
        SqueezeLPIPS()
    edited, source, mask = data()
    with pytest.raises(ValueError, match="pictures and their mask must have one size"):
        background_values(edited, source, mask[..., 1:], LPIPS("alex"))
    with pytest.raises(ValueError, match="SSIM needs pictures of 11 pixels or more"):
        background_values(edited[..., :8, :8], source[..., :8, :8], mask[..., :8, :8], LPIPS("alex"))
