"""Files of other code bases against forward passes of their architectures that are written out here."""

import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from fewstep.backbones.pipelines import save_ddpm
from fewstep.backbones.released_unets import load_released_unet
from fewstep.fast_edit.edit_base import load_base


class Weights(dict):
    """A state dict that draws what is asked for the first time: the names and shapes of a whole network."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)

    def drawn(self, name, *shape, mean=0.0):
        if name not in self:
            scale = 0.2 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
            self[name] = mean + scale * torch.randn(*shape, generator=self.generator)
        return self[name]

    def conv(self, name, x, out, size=3, stride=1, padding=None):
        weight, bias = self.drawn(f"{name}.weight", out, x.shape[1], size, size), self.drawn(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, stride, size // 2 if padding is None else padding)

    def linear(self, name, x, out):
        return F.linear(x, self.drawn(f"{name}.weight", out, x.shape[1]), self.drawn(f"{name}.bias", out))

    def norm(self, name, x, eps):
        scale, shift = self.drawn(f"{name}.weight", x.shape[1], mean=1.0), self.drawn(f"{name}.bias", x.shape[1])
        return F.group_norm(x, 32, scale, shift, eps)


def attend(q, k, v):
    """One head, each [B, D, L]."""
    scores = torch.einsum("bdi,bdj->bij", q, k) / math.sqrt(q.shape[1])
    return torch.einsum("bij,bdj->bdi", scores.softmax(2), v)


def adm(
    w, x, steps, width=32, mult=(1, 2), layers=1, attends=(1,), resnets=True, shift=True, head=16, heads_first=True
):
    """Dhariwal and Nichol 2021: numbered blocks; steps down and up by residual blocks or by convolutions."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = steps[:, None] * frequencies
    emb = w.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], 1), 4 * width)
    emb = w.linear("time_embed.2", F.silu(emb), 4 * width)

    def half(h):
        return F.avg_pool2d(h, 2)

    def double(h):
        return h.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def block(name, h, out, resize=lambda h: h):
        inner = resize(F.silu(w.norm(f"{name}.in_layers.0", h, 1e-5)))
        inner = w.conv(f"{name}.in_layers.2", inner, out)
        told = w.linear(f"{name}.emb_layers.1", F.silu(emb), 2 * out if shift else out)[:, :, None, None]
        if shift:
            inner = w.norm(f"{name}.out_layers.0", inner, 1e-5) * (1 + told[:, :out]) + told[:, out:]
        else:
            inner = w.norm(f"{name}.out_layers.0", inner + told, 1e-5)
        inner = w.conv(f"{name}.out_layers.3", F.silu(inner), out)
        h = resize(h)
        return inner + (h if h.shape[1] == out else w.conv(f"{name}.skip_connection", h, out, 1))

    def attention(name, h):
        size = h.shape[1]
        flat = w.norm(f"{name}.norm", h, 1e-5).flatten(2)
        qkv = F.conv1d(flat, w.drawn(f"{name}.qkv.weight", 3 * size, size, 1), w.drawn(f"{name}.qkv.bias", 3 * size))
        answers = []
        for place in range(size // head):
            starts = [(3 * place + part) * head if heads_first else part * size + place * head for part in range(3)]
            answers.append(attend(*(qkv[:, start : start + head] for start in starts)))
        weight, bias = w.drawn(f"{name}.proj_out.weight", size, size, 1), w.drawn(f"{name}.proj_out.bias", size)
        return h + F.conv1d(torch.cat(answers, 1), weight, bias).view_as(h)

    h = w.conv("input_blocks.0.0", x, width)
    kept, number = [h], 1
    for level, factor in enumerate(mult):
        for _ in range(layers):
            h = block(f"input_blocks.{number}.0", h, factor * width)
            h = attention(f"input_blocks.{number}.1", h) if level in attends else h
            kept.append(h)
            number += 1
        if level < len(mult) - 1:
            name = f"input_blocks.{number}.0"
            h = block(name, h, factor * width, half) if resnets else w.conv(f"{name}.op", h, factor * width, stride=2)
            kept.append(h)
            number += 1
    h = block("middle_block.0", h, h.shape[1])
    h = block("middle_block.2", attention("middle_block.1", h), h.shape[1])
    number = 0
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            h = block(f"output_blocks.{number}.0", torch.cat([h, kept.pop()], 1), mult[level] * width)
            place = 1
            if level in attends:
                h, place = attention(f"output_blocks.{number}.1", h), 2
            if level and layer == layers:
                name = f"output_blocks.{number}.{place}"
                h = block(name, h, h.shape[1], double) if resnets else w.conv(f"{name}.conv", double(h), h.shape[1])
            number += 1
    return w.conv("out.2", F.silu(w.norm("out.0", h, 1e-5)), 6)


def ddpm(w, x, steps, width=32, mult=(1, 2), layers=1, attends=(1,)):
    """Ho et al. 2020, appendix B."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2 - 1))
    angles = steps[:, None] * frequencies
    emb = w.linear("temb.dense.0", torch.cat([angles.sin(), angles.cos()], 1), 4 * width)
    emb = w.linear("temb.dense.1", F.silu(emb), 4 * width)

    def block(name, h, out):
        inner = w.conv(f"{name}.conv1", F.silu(w.norm(f"{name}.norm1", h, 1e-6)), out)
        inner = inner + w.linear(f"{name}.temb_proj", F.silu(emb), out)[:, :, None, None]
        inner = w.conv(f"{name}.conv2", F.silu(w.norm(f"{name}.norm2", inner, 1e-6)), out)
        return inner + (h if h.shape[1] == out else w.conv(f"{name}.nin_shortcut", h, out, 1))

    def attention(name, h):
        size, inner = h.shape[1], w.norm(f"{name}.norm", h, 1e-6)
        answer = attend(*(w.conv(f"{name}.{part}", inner, size, 1).flatten(2) for part in "qkv"))
        return h + w.conv(f"{name}.proj_out", answer.view_as(h), size, 1)

    h = w.conv("conv_in", x, width)
    kept = [h]
    for level, factor in enumerate(mult):
        for layer in range(layers):
            h = block(f"down.{level}.block.{layer}", h, factor * width)
            h = attention(f"down.{level}.attn.{layer}", h) if level in attends else h
            kept.append(h)
        if level < len(mult) - 1:
            h = w.conv(f"down.{level}.downsample.conv", F.pad(h, (0, 1, 0, 1)), h.shape[1], stride=2, padding=0)
            kept.append(h)
    h = attention("mid.attn_1", block("mid.block_1", h, h.shape[1]))
    h = block("mid.block_2", h, h.shape[1])
    for level in reversed(range(len(mult))):
        for layer in range(layers + 1):
            h = block(f"up.{level}.block.{layer}", torch.cat([h, kept.pop()], 1), mult[level] * width)
            h = attention(f"up.{level}.attn.{layer}", h) if level in attends else h
        if level:
            h = w.conv(f"up.{level}.upsample.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3), h.shape[1])
    return w.conv("conv_out", F.silu(w.norm("norm_out", h, 1e-6)), 3)


CASES = {
    "adm": (adm, {}, {}),
    "adm_by_convolutions": (adm, {"resnets": False, "shift": False}, {}),
    "adm_three_levels": (adm, {"mult": (1, 1, 2), "layers": 2, "attends": (0, 2)}, {}),
    "adm_new_order": (adm, {"heads_first": False}, {"interleaved": False}),
    "ddpm": (ddpm, {}, {}),
    "ddpm_three_levels": (ddpm, {"mult": (1, 2, 1), "layers": 2}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_converted_network_answers_as_the_original(case, tmp_path):
    architecture, sizes, options = CASES[case]
    weights = Weights()
    x, steps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 700])
    expected = architecture(weights, x, steps, **sizes)
    torch.save(dict(weights), tmp_path / "released.pt")
    options = options | ({"head_channels": 16} if architecture is adm else {})
    found = load_released_unet(tmp_path / "released.pt", 8, **options)
    with torch.no_grad():
        torch.testing.assert_close(found(x, steps).sample, expected, rtol=1e-3, atol=1e-3)
        assert expected.std() > 0.1
        if architecture is adm:  # a wrong order of heads is seen
            other = load_released_unet(tmp_path / "released.pt", 8, **options | {"head_channels": 32})
            assert (other(x, steps).sample - expected).abs().max() > 1e-2
    save_ddpm(tmp_path / "folder", found)
    base = load_base(tmp_path / "folder")
    with torch.no_grad():
        assert torch.equal(base.predict(x, torch.tensor([0.004, 0.701])), found(x, steps).sample[:, :3])


# What the architecture is read off.
READ = ("input_blocks.0.0.weight", "input_blocks.1.0.out_layers.3.weight", "input_blocks.1.0.emb_layers.1.weight")
READ += ("out.2.weight", "conv_in.weight", "conv_out.weight", "temb.dense.0.weight", "down.1.block.0.conv2.weight")


@pytest.mark.parametrize("architecture", [adm, ddpm])
def test_a_file_that_lacks_a_weight_or_its_shape_is_one_line(architecture, tmp_path):
    weights, path = Weights(), tmp_path / "x.safetensors"
    architecture(weights, torch.randn(1, 3, 8, 8), torch.tensor([3]))
    names = [name for name in weights if name.endswith("weight")]
    for state in (
        *({other: weight for other, weight in weights.items() if other != name} for name in names[::6]),
        *({other: weight for other, weight in weights.items() if other != name} for name in READ if name in names),
        {name: weight.flatten() for name, weight in weights.items()},
        {name: weight.sum() for name, weight in weights.items()},
        {name: weights[name] for name in names[:4]},
    ):
        save_file(dict(state), path)
        with pytest.raises(ValueError, match=r"x\.safetensors") as caught:
            load_released_unet(path, 8, 16)
        assert "\n" not in str(caught.value)


def test_what_it_cannot_convert_is_one_line(tmp_path):
    weights = Weights()
    adm(weights, torch.randn(1, 3, 8, 8), torch.tensor([3]))

    def refused(match, state, **options):
        save_file(dict(state), tmp_path / "x.safetensors")
        with pytest.raises(ValueError, match=match) as caught:
            load_released_unet(tmp_path / "x.safetensors", 8, **{"head_channels": 16} | options)
        assert "\n" not in str(caught.value)

    refused("is told classes", {**weights, "label_emb.weight": torch.zeros(10, 128)})
    refused("has neither the names", {"conv.weight": torch.zeros(1)})
    refused(r"has an unknown encoder\.0 \(1 such\)", {**weights, "encoder.0": torch.zeros(1)})
    refused("head_channels=48 does not divide 64", weights, head_channels=48)
    lacking = {name: weight for name, weight in weights.items() if name != "middle_block.0.in_layers.2.weight"}
    refused("lacks mid_block.resnets.0.conv1.weight", lacking)
    refused("NaN or infinity in conv_in.bias", {**weights, "input_blocks.0.0.bias": torch.full((32,), math.nan)})
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot read weights"):
        load_released_unet(tmp_path / "broken.pt", 8)
