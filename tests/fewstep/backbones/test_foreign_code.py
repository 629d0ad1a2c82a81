"""Python code that a model's folder brings is not run, asks nothing, and weights that it lacks are not made up."""

import builtins
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import train
from fewstep.backbones import load_autoencoder, load_pipeline, load_prompt_encoder
from fewstep.backbones.foreign_code import no_foreign_code
from fewstep.rewards.clip_scores import load_clip
from tests.tiny_pipeline import save_pipeline

SCORER = Path(train.__file__).parent / "assets" / "clip_emoji_scorer"
CODE = """
import pathlib
import transformers
pathlib.Path({canary!r}).touch()
class Model(transformers.PreTrainedModel): pass
class Words(transformers.CLIPTokenizer): pass
"""
OF_TOKENIZER = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["evil.Words", "evil.Words"]}}


@pytest.fixture(autouse=True)
def canary(tmp_path, monkeypatch):
    """A file that foreign code would make; whoever is asked says yes."""
    monkeypatch.setattr(builtins, "input", lambda prompt="": (tmp_path / "asked").touch() or "y")
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "asked").exists()


def change(file: Path, **entries: object) -> None:
    file.parent.mkdir(exist_ok=True)
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


@pytest.fixture
def clip_folder(tmp_path, canary):
    folder = shutil.copytree(SCORER, tmp_path / "clip")
    (folder / "evil.py").write_text(CODE.format(canary=str(canary)))
    return folder


def test_an_open_clip_folder_cannot_trust_its_own_tokenizer(clip_folder):
    config = json.loads((clip_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}
    (clip_folder / "open_clip_config.json").write_text(json.dumps(config))
    change(clip_folder / "tokenizer_config.json", **OF_TOKENIZER)
    with pytest.raises(ValueError, match=r"cannot load the CLIP local-dir:.*brings code of its own") as error:
        load_clip(f"local-dir:{clip_folder}", None)
    assert "\n" not in str(error.value)


def test_an_open_clip_folder_cannot_bring_its_own_text_tower(clip_folder):
    config = json.loads((clip_folder / "open_clip_config.json").read_text())
    text = {"hf_model_name": str(clip_folder), "hf_tokenizer_name": "x", "hf_model_pretrained": False}
    config["model_cfg"]["text_cfg"] = text | {"context_length": 32, "tokenizer_kwargs": {"trust_remote_code": True}}
    (clip_folder / "open_clip_config.json").write_text(json.dumps(config))
    change(clip_folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.M", "AutoModel": "evil.Model"})
    for read in (load_prompt_encoder, lambda folder: load_clip(f"local-dir:{folder}", None)):
        with pytest.raises(ValueError, match="cannot load"):
            read(clip_folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def pipeline(whole, tmp_path, canary):
    folder = shutil.copytree(whole, tmp_path / "pipeline")
    for place in ("", "text_encoder", "tokenizer", "feature_extractor"):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / "evil.py").write_text(CODE.format(canary=str(canary)))
    return folder


@pytest.mark.parametrize("kind", ["LlavaProcessor", "CLIPProcessor", "Blip2Processor"])
def test_a_processor_of_a_pipeline_brings_no_code(pipeline, kind):
    shutil.copytree(pipeline / "tokenizer", pipeline / "feature_extractor", dirs_exist_ok=True)
    change(pipeline / "feature_extractor" / "tokenizer_config.json", **OF_TOKENIZER)
    change(pipeline / "feature_extractor" / "processor_config.json", processor_class=kind)
    change(pipeline / "model_index.json", feature_extractor=["transformers", kind])
    with pytest.raises(ValueError, match="cannot load the diffusers pipeline") as error:
        load_pipeline(pipeline)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["EncoderDecoderModel", "VisionEncoderDecoderModel", "AutoModel"])
def test_a_network_of_a_pipeline_brings_no_code(pipeline, kind):
    foreign = {"auto_map": dict.fromkeys(("AutoModel", "AutoModelForCausalLM"), f"{pipeline}--evil.Model")}
    parts = {"encoder": {"model_type": "vit", **foreign}, "decoder": {"model_type": "clip_text_model", **foreign}}
    (pipeline / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "encoder-decoder", **parts}))
    change(pipeline / "model_index.json", text_encoder=["transformers", kind])
    with pytest.raises(ValueError, match="cannot load the diffusers pipeline"):
        load_pipeline(pipeline)


def test_the_canary_is_alive_and_the_libraries_are_left_as_they_were(pipeline, canary):
    """Without the protection it does run; and whoever wants that beside this project still can."""
    from transformers import AutoTokenizer

    change(pipeline / "tokenizer" / "tokenizer_config.json", **OF_TOKENIZER)
    with pytest.raises(ValueError, match="brings code of its own"), no_foreign_code():
        AutoTokenizer.from_pretrained(pipeline / "tokenizer", trust_remote_code=True)
    assert not canary.exists()
    AutoTokenizer.from_pretrained(pipeline / "tokenizer", trust_remote_code=True)
    canary.unlink()


def drop(state):
    del state[next(iter(sorted(state)))]


def spoil(state):
    state[next(iter(sorted(state)))].view(-1)[0] = torch.nan


def to_whole(state):
    name = next(iter(sorted(state)))
    state[name] = state[name].to(torch.int32)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [(drop, "entries lacking"), (spoil, "holds NaN or infinity in"), (to_whole, r"in whole numbers \(I32\)")],
)
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_are_not_there_or_no_numbers_are_one_line(pipeline, part, damage, fault):
    (file,) = (pipeline / part).glob("*.safetensors")
    state = load_file(file)
    damage(state)
    save_file(state, file, {"format": "pt"})
    with pytest.raises(ValueError, match=fault) as error:
        load_pipeline(pipeline)
    assert "\n" not in str(error.value)
    if part == "vae":
        with pytest.raises(ValueError, match=fault):
            load_autoencoder(pipeline)


def test_a_whole_pipeline_is_that_of_plain_diffusers(whole):
    from diffusers import StableDiffusionPipeline

    theirs, ours = StableDiffusionPipeline.from_pretrained(whole), load_pipeline(whole)
    assert ours.components.keys() == theirs.components.keys()
    for part in ("unet", "vae", "text_encoder"):
        wanted = getattr(theirs, part).state_dict()
        torch.testing.assert_close(getattr(ours, part).state_dict(), wanted, rtol=0, atol=0)
