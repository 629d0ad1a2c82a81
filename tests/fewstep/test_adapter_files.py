"""Adapter files against plain diffusers and plain peft, in both directions."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.backbones import STABLE_DIFFUSION_SCHEDULER
from fewstep.backbones.adapter_files import DIFFUSERS_FILE, PEFT_FILE, convert_released, read_adapter
from fewstep.backbones.adapters import Adapters
from fewstep.local_weights import weights_sha256
from tests.fewstep.test_adapters import adapted, call, inputs, plain_peft, tiny_transformer
from tests.tiny_diffusion import unet

SETTINGS = {"rank": 4, "alpha": 3}


@pytest.fixture(scope="module")
def trained():
    return adapted()


@pytest.fixture(scope="module")
def fresh():
    """For files that are loaded whole, or not at all."""
    return Adapters(unet(), **SETTINGS)


@pytest.fixture(scope="module")
def of_peft(trained):
    """What plain peft makes of the adapter for the reverse direction."""
    return call(plain_peft(trained.state("reverse")), *inputs(3)).detach()


def outputs(adapters, name):
    with adapters.rows([(name, 3)]), torch.no_grad():
        return call(adapters.model, *inputs(3))


def pipeline(network):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    scheduler = DDIMScheduler(**STABLE_DIFFUSION_SCHEDULER)
    return StableDiffusionPipeline(unet=network, scheduler=scheduler, **parts, requires_safety_checker=False)


def test_plain_diffusers_and_peft_load_what_is_saved(tmp_path, trained):
    trained.save(tmp_path)
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.*")} == {
        f"{name}/{DIFFUSERS_FILE}" for name in ("forward", "reverse")
    }
    for name in trained.names:
        expected = outputs(trained, name)
        piped, network = pipeline(unet()), unet()
        piped.load_lora_weights(tmp_path / name)
        network.load_lora_adapter(tmp_path / name, prefix="unet", use_safetensors=True)
        peft = plain_peft({k.removeprefix("unet."): v for k, v in load_file(tmp_path / name / DIFFUSERS_FILE).items()})
        for loaded in (piped.unet, network, peft):
            torch.testing.assert_close(call(loaded, *inputs(3)).detach(), expected, rtol=1e-4, atol=1e-5)
            assert loaded.state_dict().keys() != unet().state_dict().keys()
    assert (outputs(trained, "forward") - outputs(trained, "reverse")).abs().max() > 0.1


def test_diffusers_loads_a_transformer_s(tmp_path):
    adapters = adapted(tiny_transformer())
    adapters.save(tmp_path)
    network = tiny_transformer()
    network.load_lora_adapter(tmp_path / "reverse", use_safetensors=True)
    weights = {key: value for key, value in network.state_dict().items() if "lora_" in key}
    assert len(weights) == len(adapters.state("reverse"))
    scaling = {layer.scaling["default_0"] for layer in network.modules() if hasattr(layer, "scaling")}
    assert scaling == {3 / 4}


def test_load_restores_both_and_keeps_them_apart(tmp_path, trained, fresh):
    trained.save(tmp_path)
    fresh.load(tmp_path)
    for name in trained.names:
        torch.testing.assert_close(fresh.state(name), trained.state(name), rtol=0, atol=0)
        assert all(weight.requires_grad for weight in fresh.parameters(name))
    crossed = Adapters(unet(), names=("only",), **SETTINGS)
    crossed.load({"only": tmp_path / "forward" / DIFFUSERS_FILE})
    torch.testing.assert_close(crossed.state("only"), trained.state("forward"), rtol=0, atol=0)


def test_the_header_tells_rank_alpha_and_base(tmp_path, trained):
    trained.save(tmp_path)
    with safe_open(tmp_path / "reverse" / DIFFUSERS_FILE, "pt") as file:
        header = file.metadata()
    settings = json.loads(header["lora_adapter_metadata"])
    assert (settings["unet.r"], settings["unet.lora_alpha"]) == (4, 3)
    assert header["base_sha256"] == weights_sha256(unet())


def renamed(state, form):
    """Peft's names -> those of released files."""
    for key, weight in state.items():
        layer, half = key.removesuffix(".weight").split(".lora_")
        direction = {"A": "down", "B": "up"}[half]
        if form == "authors":
            yield f"unet.base_model.model.{key}", weight
        elif form == "peft":
            yield f"base_model.model.{key}", weight
        elif form == "diffusers":
            yield f"unet.{layer}.lora.{direction}.weight", weight
        elif form == "processors" and ".attn" in layer:
            block, projection = layer.removesuffix(".0").rsplit(".", 1)
            yield f"unet.{block}.processor.{projection}_lora.{direction}.weight", weight
        elif form == "processors":
            yield f"unet.{layer}.lora_linear_layer.{direction}.weight", weight
        elif form == "kohya":
            stem = f"lora_unet_{layer.replace('.', '_')}"
            yield f"{stem}.lora_{direction}.weight", weight
            yield f"{stem}.alpha", torch.tensor(3.0)


@pytest.mark.parametrize("form", ["authors", "peft", "diffusers", "processors", "kohya"])
def test_released_names_are_read(tmp_path, form, trained, of_peft):
    save_file(dict(renamed(trained.state("reverse"), form)), tmp_path / "released.safetensors")
    adapters = Adapters(unet(), **SETTINGS)
    adapters.load({"reverse": tmp_path / "released.safetensors"})
    torch.testing.assert_close(outputs(adapters, "reverse"), of_peft, rtol=1e-4, atol=1e-5)
    assert not any(weight.any() for key, weight in adapters.state("forward").items() if "lora_B" in key)


def test_half_precision_is_read(tmp_path, trained, fresh):
    state = {key: weight.half() for key, weight in trained.state("reverse").items()}
    save_file(dict(renamed(state, "authors")), tmp_path / "released.safetensors")
    fresh.load({"reverse": tmp_path / "released.safetensors"})
    wanted = {key: weight.float() for key, weight in state.items()}
    torch.testing.assert_close(fresh.state("reverse"), wanted, rtol=0, atol=0)


def test_the_authors_names_as_their_script_writes_them(tmp_path):
    """Through the three calls of the released training script; rank 64, and alpha 8 as peft has it by default."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    layers = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2"]
    layers += ["conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
    theirs = get_peft_model(unet(), LoraConfig(r=64, target_modules=layers, init_lora_weights=False))
    state = get_peft_model_state_dict(theirs, adapter_name="default")
    StableDiffusionPipeline.save_lora_weights(tmp_path / "unet_lora", state)
    theirs.save_pretrained(tmp_path / "peft")
    assert all(key.startswith("unet.base_model.model.") for key in load_file(tmp_path / "unet_lora" / DIFFUSERS_FILE))
    expected = call(theirs, *inputs(3)).detach()
    adapters = Adapters(unet())
    for folder in ("unet_lora", "peft"):
        adapters.load({"reverse": tmp_path / folder})
        torch.testing.assert_close(outputs(adapters, "reverse"), expected, rtol=1e-4, atol=1e-4)
    assert read_adapter(tmp_path / "peft", list(adapters._layers)).alpha == 8
    assert read_adapter(tmp_path / "unet_lora", list(adapters._layers)).alpha is None


def test_an_adapter_for_another_base_is_refused_in_one_line(tmp_path, trained):
    trained.save(tmp_path)
    other = Adapters(unet(seed=5), **SETTINGS)
    with pytest.raises(ValueError, match=f"another base .{trained.base_sha256}, here {other.base_sha256}") as error:
        other.load(tmp_path)
    assert "\n" not in str(error.value)
    assert not any(weight.any() for key, weight in other.state("forward").items() if "lora_B" in key)
    other.load(tmp_path, other_base=True)
    torch.testing.assert_close(other.state("forward"), trained.state("forward"), rtol=0, atol=0)


FIRST = "unet.conv_in"
LAST = "unet.up_blocks.1.resnets.1.conv2.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != LAST},
            "another base: it lacks up_blocks.1.resnets.1.conv2.lora_B",
        ),
        (lambda s: s | {f"{FIRST}.lora_A.weight": torch.ones(4, 2)}, "another base: it has an unknown conv_in.lora_A"),
        (
            lambda s: s | {LAST: torch.ones(9, 4, 1, 1)},
            r"conv2.lora_B.weight of shape \[9, 4, 1, 1\], needed is \[8, 4,",
        ),
        (lambda s: s | {"unet.conv_in.weight": torch.ones(2)}, "unknown unet.conv_in.weight; only LoRA"),
        (
            lambda s: s | {LAST.replace("B.weight", "magnitude_vector"): torch.ones(2)},
            "lora_magnitude_vector; only LoRA",
        ),
        (lambda s: s | {"unet.mid_block.alpha": torch.tensor(8.0)}, "has alpha 8, these adapters have 3; give alpha=8"),
        (lambda s: {k: v[:2] if "_A" in k else v[:, :2] for k, v in s.items()}, "has rank 2, .* 4; give rank=2"),
        (lambda s: s | {f"{FIRST}.lora_A.weight": torch.ones(9, 2)}, r"one rank and one alpha, it has \[4, 9\]"),
        (lambda s: {}, r"one rank and one alpha, it has \[\]"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, change, message, trained, fresh):
    state = change({f"unet.{key}": weight for key, weight in trained.state("reverse").items()})
    save_file({key: weight.contiguous() for key, weight in state.items()}, tmp_path / "broken.safetensors")
    before = {key: weight.clone() for key, weight in fresh.state("reverse").items()}
    with pytest.raises(ValueError, match=message) as error:
        fresh.load({"forward": tmp_path / "broken.safetensors", "reverse": tmp_path / "broken.safetensors"})
    assert "\n" not in str(error.value)
    torch.testing.assert_close(fresh.state("reverse"), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"lora_adapter_metadata": "{"}, "unreadable settings"),
        ({"lora_adapter_metadata": "[]"}, "unreadable settings"),
        ({"lora_adapter_metadata": '{"unet.lora_alpha": [1]}'}, "unreadable settings"),
        ({"lora_adapter_metadata": '{"unet.use_rslora": true}'}, "scales its layers differently"),
        ({"lora_adapter_metadata": '{"unet.alpha_pattern": {"a": 1}}'}, "scales its layers differently"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(tmp_path, header, message):
    save_file({"unet.a.lora_A.weight": torch.ones(2, 2)}, tmp_path / DIFFUSERS_FILE, metadata=header)
    with pytest.raises(ValueError, match=message) as error:
        read_adapter(tmp_path, ["a"])
    assert "\n" not in str(error.value)


def test_a_pickle_is_not_executed(tmp_path):
    import os

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"a": Bomb()}, tmp_path / "adapter.bin")
    with pytest.raises(ValueError, match="cannot read weights"):
        read_adapter(tmp_path / "adapter.bin", ["a"])
    assert not (tmp_path / "executed").exists()


def test_missing_files_and_names_are_told(tmp_path, fresh):
    with pytest.raises(ValueError, match=DIFFUSERS_FILE):
        fresh.load(tmp_path)
    (tmp_path / "reverse").mkdir()
    with pytest.raises(ValueError, match=f"no {DIFFUSERS_FILE}"):
        fresh.load({"reverse": tmp_path / "reverse"})
    with pytest.raises(ValueError, match="'inverse'; choose one of"):
        fresh.load({"inverse": tmp_path / PEFT_FILE})


def test_kohya_underscores_are_read_by_the_names_of_the_base():
    entry = {"lora_unet_up_0_to_out_0.lora_down.weight": torch.ones(2, 2)}
    assert convert_released(entry, ["up.0.to_out.0"])[0].keys() == {"up.0.to_out.0.lora_A.weight"}
    assert convert_released(entry, ["up_0.to_out.0"])[0].keys() == {"up_0.to_out.0.lora_A.weight"}
