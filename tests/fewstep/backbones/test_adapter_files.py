"""Adapter files against plain diffusers and plain peft, in both directions."""

import json
import math
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.backbones import STABLE_DIFFUSION_SCHEDULER
from fewstep.backbones.adapter_files import DIFFUSERS_FILE, PEFT_FILE, convert_released, read_adapter
from fewstep.backbones.adapters import Adapters
from fewstep.files.weights import weights_sha256
from tests.fewstep.backbones.test_adapters import adapted, call, inputs, plain_peft, tiny_transformer
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


@pytest.mark.parametrize("form", ["authors", "peft", "kohya"])
def test_released_names_are_read(tmp_path, form, trained, of_peft):
    save_file(dict(renamed(trained.state("reverse"), form)), tmp_path / "released.safetensors")
    adapters = Adapters(unet(), **SETTINGS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapters.load({"reverse": tmp_path / "released.safetensors"})
    assert [str(w.message).endswith("tells no alpha; it is read with alpha=3") for w in told] == [True] * (
        form != "kohya"
    )
    torch.testing.assert_close(outputs(adapters, "reverse"), of_peft, rtol=1e-4, atol=1e-5)
    assert not any(weight.any() for key, weight in adapters.state("forward").items() if "lora_B" in key)


def of_kohya(state, layers_with_alpha):
    """Kohya's names; as many layers with an alpha of 3 as wanted."""
    entries = dict(renamed(state, "kohya"))
    alphas = [key for key in entries if key.endswith(".alpha")]
    return {key: value for key, value in entries.items() if key not in alphas[layers_with_alpha:]}


@pytest.mark.parametrize("form", ["diffusers", "processors", "kohya"])
def test_a_file_without_alpha_means_its_rank_as_in_diffusers(tmp_path, form, trained):
    state = trained.state("reverse")
    released = of_kohya(state, 0) if form == "kohya" else dict(renamed(state, form))
    save_file(released, tmp_path / "released.safetensors")
    found = read_adapter(tmp_path / "released.safetensors", list(trained._layers))
    assert (found.alpha, found.states_alpha) == (4, False)


@pytest.mark.parametrize("alpha", [4, 3, 8])
def test_plain_diffusers_agrees_on_a_file_without_alpha(tmp_path, trained, alpha):
    state = {f"unet.{key}": weight.contiguous() for key, weight in trained.state("reverse").items()}
    save_file(state, tmp_path / DIFFUSERS_FILE)
    theirs, ours = unet(), Adapters(unet(), rank=4, alpha=alpha)
    theirs.load_lora_adapter(tmp_path, prefix="unet", use_safetensors=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours.load({"reverse": tmp_path})
    said = f"means its rank, 4; its weights are scaled to compute the same with alpha={alpha}"
    assert [said in str(w.message) for w in told] == [True] * (alpha != 4)
    torch.testing.assert_close(outputs(ours, "reverse"), call(theirs, *inputs(3)).detach(), rtol=1e-4, atol=1e-5)


def test_layers_without_an_alpha_beside_others_are_refused_unless_it_is_the_rank(tmp_path, trained):
    entries = of_kohya(trained.state("reverse"), 2)
    save_file(entries, tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"needs one rank and one alpha, it has \[4\] and \[3.0, 4.0\]"):
        read_adapter(tmp_path / "some.safetensors", list(trained._layers))
    equal = {key: torch.tensor(4.0) if key.endswith(".alpha") else value for key, value in entries.items()}
    save_file(equal, tmp_path / "equal.safetensors")
    assert read_adapter(tmp_path / "equal.safetensors", list(trained._layers)).alpha == 4


def test_an_alpha_of_no_layer_is_refused(tmp_path, trained):
    entries = of_kohya(trained.state("reverse"), 10**6)
    save_file(entries | {"lora_unet_another_layer.alpha": torch.tensor(3.0)}, tmp_path / "stray.safetensors")
    with pytest.raises(ValueError, match="has an alpha for lora_unet_another_layer, and no weights"):
        read_adapter(tmp_path / "stray.safetensors", list(trained._layers))


OF_TEXT_ENCODERS = [
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{}.weight",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{}.weight",
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_{}.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.{}.weight",
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora.{}.weight",
]


@pytest.mark.parametrize("name", OF_TEXT_ENCODERS)
def test_a_text_encoder_s_part_is_left_out_and_said(tmp_path, trained, fresh, name):
    other = {name.format("down"): torch.ones(2, 8), name.format("up"): torch.ones(8, 2)}
    other |= {f"{name.partition('.lora_')[0]}.alpha": torch.tensor(1.0)} if "lora_te" in name else {}
    save_file(of_kohya(trained.state("reverse"), 10**6) | other, tmp_path / "both.safetensors")
    with pytest.warns(UserWarning, match=rf"adapts the text encoder too \({len(other)} entries\)"):
        fresh.load({"reverse": tmp_path / "both.safetensors"})
    torch.testing.assert_close(fresh.state("reverse"), trained.state("reverse"), rtol=0, atol=0)
    save_file(other, tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match="adapts a text encoder only"):
        fresh.load({"reverse": tmp_path / "text.safetensors"})


def test_settings_of_a_text_encoder_are_not_the_network_s(tmp_path, trained):
    settings = {"unet.lora_alpha": 3, "text_encoder.lora_alpha": 16, "text_encoder.use_rslora": True}
    state = {f"unet.{key}": weight.contiguous() for key, weight in trained.state("reverse").items()}
    save_file(state, tmp_path / DIFFUSERS_FILE, metadata={"lora_adapter_metadata": json.dumps(settings)})
    assert read_adapter(tmp_path, list(trained._layers)).alpha == 3


def test_settings_that_contradict_each_other_are_refused(tmp_path, trained):
    settings = {"unet.lora_alpha": 3, "transformer.lora_alpha": 16}
    state = {f"unet.{key}": weight.contiguous() for key, weight in trained.state("reverse").items()}
    save_file(state, tmp_path / DIFFUSERS_FILE, metadata={"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ValueError, match=r"unreadable settings \(unet.lora_alpha is 3 and 16\)"):
        read_adapter(tmp_path, list(trained._layers))


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
OF_LAST = LAST.removesuffix(".lora_B.weight") + ".alpha"


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
        (lambda s: s | {OF_LAST: torch.tensor(8.0)}, r"one alpha, it has \[4\] and \[3.0, 8.0\]"),
        (lambda s: {k: v[:2] if "_A" in k else v[:, :2] for k, v in s.items()}, "has rank 2, .* 4; give rank=2"),
        (lambda s: s | {f"{FIRST}.lora_A.weight": torch.ones(9, 2)}, r"one rank and one alpha, it has \[4, 9\]"),
        (lambda s: {}, r"one rank and one alpha, it has \[\]"),
        (lambda s: s | {OF_LAST: torch.tensor(-3.0)}, "states alpha -3"),
        (lambda s: s | {OF_LAST: torch.tensor(math.inf)}, "states alpha inf"),
        (lambda s: s | {LAST: torch.full_like(s[LAST], math.nan)}, "holds NaN or infinity in"),
        (lambda s: s | {LAST.replace("lora_B", "lora.up"): s[LAST].clone()}, "twice, under"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, change, message, trained, fresh):
    state = change({f"unet.{key}": weight for key, weight in trained.state("reverse").items()})
    header = {"lora_adapter_metadata": '{"unet.lora_alpha": 3}'}
    save_file({key: weight.contiguous() for key, weight in state.items()}, tmp_path / "broken.safetensors", header)
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
