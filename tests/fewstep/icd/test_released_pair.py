"""The two files of iCD's authors, written here under their names, on a base that is given beside them."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewstep.distillation.boundaries import Boundaries
from fewstep.icd import __main__ as icd
from fewstep.icd.pair import InvertibleConsistency
from fewstep.icd.released_pair import load_released_pair
from fewstep.rng import PerSampleRng
from tests.tiny_export import BOUNDARIES, SCALES, write_export

PROMPTS = ["a red square", "a blue cube"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export, and its adapters as the authors wrote theirs: peft's names below unet., no alpha, no settings."""
    folder = tmp_path_factory.mktemp("released")
    export = write_export(folder)
    for role in ("forward", "reverse"):
        weights = load_file(export / role / "pytorch_lora_weights.safetensors")
        theirs = {f"unet.base_model.model.{key.removeprefix('unet.')}": weight for key, weight in weights.items()}
        save_file(theirs, folder / f"{role}.safetensors")
    return folder


def options(folder, **others):
    given = {"forward": folder / "forward.safetensors", "reverse": folder / "reverse.safetensors"}
    given |= {"pipeline": str(folder / "pipeline"), "network": str(folder / "guided"), "boundaries": BOUNDARIES}
    return given | others


def test_it_is_the_pair_of_the_export(folder):
    """Rank 2 is read from the files, alpha is 8 as none is told, the scales are those of the network's folder."""
    export, released = InvertibleConsistency.load(folder / "export"), load_released_pair(**options(folder))
    assert released.guidance_scales == SCALES
    assert released.code_scale is None
    images = torch.linspace(-1, 1, 1536).reshape(2, 3, 16, 16)
    codes = [pair.encode(images, PROMPTS, PerSampleRng(0, list("ab")))[-1] for pair in (export, released)]
    torch.testing.assert_close(*codes)
    torch.testing.assert_close(*(pair.decode(codes[0], PROMPTS, 4.0, 0.8) for pair in (export, released)))
    swapped = options(folder, forward=folder / "reverse.safetensors", reverse=folder / "forward.safetensors")
    other = load_released_pair(**swapped).encode(images, PROMPTS, PerSampleRng(0, list("ab")))[-1]
    assert (other - codes[0]).abs().max() > 1e-3


def test_boundaries_and_scales_are_those_that_are_given(folder):
    ends = Boundaries((0, 0.34, 0.7, 1), 0.0)
    pair = load_released_pair(**options(folder, boundaries=ends, trained_scales=(1.0, 12.0)))
    assert pair.boundaries == ends
    assert pair.guidance_scales == (1.0, 12.0)


def test_a_base_that_tells_no_scales_needs_them(folder, tmp_path):
    """As sd15_cfg_distill.pt, a state dict without them."""
    shutil.copytree(folder / "guided", tmp_path / "guided")
    (tmp_path / "guided" / "guidance.json").unlink()
    given = options(folder, network=str(tmp_path / "guided"))
    with pytest.raises(ValueError, match="guided does not tell its guidance scales: give the trained ones, 1"):
        load_released_pair(**given)
    assert load_released_pair(**given, trained_scales=(1.0, 8.0)).guidance_scales == (1.0, 8.0)
    with pytest.raises(ValueError, match=re.escape("guidance_scales [8.0]: say which the network was trained on")):
        load_released_pair(**given, trained_scales=(8.0,))


def test_files_of_two_runs_and_files_that_are_missing_are_named(folder, tmp_path):
    wider = {}
    for key, weight in load_file(folder / "forward.safetensors").items():
        wider[key] = torch.cat([weight, weight], 0 if "lora_A" in key else 1).contiguous()
    save_file(wider, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"have ranks \[2, 4\]; both are of one run"):
        load_released_pair(**options(folder, forward=tmp_path / "wide.safetensors"))
    with pytest.raises(ValueError, match=r"no file .*none\.safetensors"):  # before the network, which is not there
        load_released_pair(**options(folder, reverse=tmp_path / "none.safetensors", pipeline="nowhere"))


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        code = icd.main(list(arguments))
        out, err = capsys.readouterr()
        return code, out + err

    return run


def files(folder):
    return [f"--{role}-adapter={folder / role}.safetensors" for role in ("forward", "reverse")]


def test_the_shell_draws_what_the_export_draws(folder, run, tmp_path):
    drawing = ["generate", "--prompt", "a red square", "--guidance-scale", "4"]
    base = [f"--pipeline={folder / 'pipeline'}", f"--network={folder / 'guided'}"]
    told = json.loads((folder / "export" / "icd.json").read_text())
    assert told["boundaries"]["start"] == 0.02
    assert run(*drawing, str(folder / "export"), "--out", "export.png")[0] == 0
    code, told = run(*drawing, *files(folder), *base, "--out", "released.png")
    assert (code, "4 network calls" in told) == (0, True)
    assert (tmp_path / "export.png").read_bytes() == (tmp_path / "released.png").read_bytes()
    ends = ["--boundaries", "0,0.34,0.7,1", "--start", "0", "--trained-scales", "1,4"]
    code, told = run(*drawing, *files(folder), *base, *ends, "--out", "three.png")
    assert (code, "3 network calls" in told) == (0, True)


def test_what_is_lacking_is_named(folder, run):
    drawing = ["generate", "--prompt", "a red square"]
    for arguments, message in (
        ([], "give EXPORT, the folder that an ICD run exported, or --forward-adapter and --reverse-adapter"),
        (files(folder)[:1], "give EXPORT, the folder that an ICD run exported, or --forward-adapter and"),
        (files(folder), "adapters of others need --pipeline"),
        ([*files(folder), "--pipeline=x", "--boundaries=0,0.5"], "must begin with 0 and end with 1"),
    ):
        code, told = run(*drawing, *arguments)
        assert code == 2
        assert message in told
