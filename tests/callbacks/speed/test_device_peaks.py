"""The table of peaks: which part a name means, and the rates of Lightning's table where those are dense."""

import pytest
import torch
from lightning.fabric.utilities.throughput import _CUDA_FLOPS, get_available_flops

from callbacks.speed.device_peaks import peak_flops


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A800-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA GH200 480GB", 989.4e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA H200 NVL", 835.5e12),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),  # another part than the A10
        ("NVIDIA H20", None),
        ("Tesla T4", None),  # no bfloat16
        ("Some Future GPU", None),
    ],
)
def test_bfloat16_by_name(name, expected):
    assert peak_flops(name, "bfloat16") == expected


DENSE = {"a100": "NVIDIA A100-SXM4-80GB", "h100 sxm": "NVIDIA H100 80GB HBM3", "h100 pcie": "NVIDIA H100 PCIe"}
FORMATS = {"float32": torch.float32, "tfloat32": "tfloat32", "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("chip", DENSE)
@pytest.mark.parametrize("number_format", FORMATS)
def test_agrees_with_lightning_where_its_rates_are_dense(chip, number_format):
    lightning = _CUDA_FLOPS[chip][FORMATS[number_format]]
    assert peak_flops(DENSE[chip], number_format) == pytest.approx(lightning, rel=0.01)


def test_why_not_lightnings_table(monkeypatch):
    """It holds rates with sparsity for two parts, and does not know what an H100, H200 or B200 calls itself."""
    sparse = {"h200 sxm1": "NVIDIA H200", "h100 nvl": "NVIDIA H100 NVL"}
    for chip, name in sparse.items():
        assert _CUDA_FLOPS[chip][torch.bfloat16] / peak_flops(name, "bfloat16") > 1.9
    for name in ("NVIDIA H100", "NVIDIA H200", "NVIDIA B200"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert get_available_flops(torch.device("cuda"), torch.bfloat16) is None
