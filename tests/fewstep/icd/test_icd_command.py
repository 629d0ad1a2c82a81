"""`python -m fewstep.icd`: from files to files."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fewstep.files.pictures import read_picture
from fewstep.icd import __main__ as icd
from fewstep.icd.pair import InvertibleConsistency
from fewstep.icd.watched_pair import Watch
from fewstep.rng import PerSampleRng
from tests.tiny_export import write_export


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return str(write_export(tmp_path_factory.mktemp("icd")))


@pytest.fixture
def run(export, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    gradient = np.linspace(0, 255, 30 * 20 * 3).reshape(20, 30, 3).astype(np.uint8)
    Image.fromarray(gradient).save("cat.png")

    def run(command, *arguments, fails=False):
        capsys.readouterr()
        assert icd.main([command, export, *arguments]) == (2 if fails else 0)
        out, err = capsys.readouterr()
        return err if fails else out

    return run


CAT = ["--image", "cat.png", "--source", "a red square"]
EDIT = [*CAT, "--target", "a blue square"]


def pixels(name):
    return np.asarray(Image.open(name).convert("RGB")).astype(int)


def test_an_edit_is_what_the_library_gives(run, export):
    assert re.fullmatch(r"edit\.png  8 network calls  \d+\.\d s in all\n", run("edit", *EDIT, "--guidance-scale", "4"))
    pair = InvertibleConsistency.load(export)
    image = read_picture("cat.png", 16)
    edited = pair.decode(
        pair.encode(image, ["a red square"], PerSampleRng(0, ["cat"]))[-1], ["a blue square"], 4.0, 0.8
    )
    assert np.abs(pixels("edit.png") - ((edited[0] + 1) * 127.5).permute(1, 2, 0).numpy()).max() <= 0.501


def test_prompt_to_prompt_mask_and_replay(run):
    Image.new("L", (30, 20), 0).save("none.png")
    run("invert", *CAT, "--out", "same.png")
    run("edit", *EDIT, "--backend", "prompt_to_prompt", "--guided-below", "0.8", "--out", "p2p.png")
    run("edit", *EDIT, "--replay", "--mask", "none.png", "--out", "masked.png")
    run("edit", *CAT, "--target", "a red square", "--replay", "--guidance-scale", "1", "--out", "replayed.png")
    assert np.abs(pixels("p2p.png") - pixels("same.png")).max() > 0
    assert np.abs(pixels("masked.png") - pixels("replayed.png")).max() <= 1  # both are the autoencoder's own answer


def test_the_difference_of_equal_prompts_is_the_unguided_reconstruction(run):
    run("invert", *CAT, "--out", "same.png")
    told = run("edit", *CAT, "--target", "a red square", "--guidance-scale", "12", "--guide-by", "difference")
    assert "8 network calls" in told
    assert np.abs(pixels("edit.png") - pixels("same.png")).max() <= 1
    run("edit", *CAT, "--target", "a red square", "--guidance-scale", "12", "--out", "guided.png")
    assert np.abs(pixels("guided.png") - pixels("same.png")).max() > 1


def test_noise_is_of_the_scale_that_the_export_tells_or_the_option(run, export, tmp_path):
    told = json.loads(Path(export, "icd.json").read_text())
    shutil.copytree(export, tmp_path / "scaled")
    (tmp_path / "scaled" / "icd.json").write_text(json.dumps(told | {"code_scale": 0.5}))
    drawing = ("--prompt", "a red square", "--guidance-scale", "4")
    for name, options in (("one", []), ("half", ["--noise-scale", "0.5"])):
        run("generate", *drawing, *options, "--out", f"{name}.png")
    for name, options in (("measured", []), ("off", ["--noise-scale", "1"])):
        assert icd.main(["generate", str(tmp_path / "scaled"), *drawing, *options, "--out", f"{name}.png"]) == 0
    one, half, measured, off = (pixels(f"{name}.png") for name in ("one", "half", "measured", "off"))
    assert (measured == half).all()
    assert (off == one).all()
    assert (half != one).any()


def test_a_code_is_written_and_decoded_again(run):
    told = run("invert", *CAT, "--code", "code.safetensors")
    assert re.search(r"invert\.png  8 network calls  reconstruction -?\d+\.\d dB", told)
    assert "4 network calls" in run(
        "generate", "--prompt", "a red square", "--code", "code.safetensors", "--guidance-scale", "1"
    )
    assert (pixels("generate.png") == pixels("invert.png")).all()


def test_the_seed_decides_what_is_generated_and_nothing_is_overwritten(run):
    for seed in ("0", "0", "1"):
        run("generate", "--prompt", "a red square", "--seed", seed, "--out", "new/g.png")
    first, again, other = (pixels(f"new/g{number}.png") for number in ("", "-2", "-3"))
    assert (first == again).all()
    assert (first != other).any()
    assert "new/g.png" in run(
        "generate", "--prompt", "a red square", "--seed", "1", "--out", "new/g.png", "--overwrite"
    )
    assert (pixels("new/g.png") == other).all()


def test_a_sheet_of_the_steps(run):
    run("edit", *EDIT, "--steps-sheet", "steps.png")
    assert Image.open("steps.png").width == 6 * 168 + 8  # the source, four steps, the result
    last = pixels("steps.png")[8:168, 848:1008]
    assert (last[::10, ::10] == pixels("edit.png")).all()


def test_the_last_view_of_the_decoder_is_its_answer(export):
    """Its end is t = 0, where the data that it expects are what it returns."""
    pair, watch = InvertibleConsistency.load(export), Watch()
    code = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    decoded = watch.pair(pair).decode(code, ["a red square"])
    views = watch.pictures(pair)
    assert [round(t, 2) for t, _ in views] == [1.0, 0.78, 0.52, 0.26]
    torch.testing.assert_close(views[-1][1], decoded, atol=5e-3, rtol=0)  # alpha is 0.9996 at 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", *EDIT, "--image", "no.png"], "the picture no.png does not exist"),
        (["edit", *EDIT, "--guidance-scale", "7"], "guidance_scale 7 was not trained; choose one of 1, 4, 12"),
        (["edit", *EDIT, "--target", "a red square " * 9], "token"),
        (["edit", *EDIT, "--mask", "small.png"], "the mask has 5 x 5 pixels, its picture 30 x 20"),
        (["edit", *EDIT, "--guide-by", "difference", "--backend", "prompt_to_prompt"], "does not share attention"),
        (
            ["generate", "--prompt", "red", "--noise-scale", "0"],
            "noise_scale=0.0: must be at least 0.01 and at most 100",
        ),
        (
            ["generate", "--prompt", "red", "--noise-scale", "1", "--code", "other.safetensors"],
            "--noise-scale is of noise",
        ),
        (["edit", *EDIT, "--start", "0"], "--start is of adapters of others; an export tells its own"),
        (
            ["edit", *EDIT, "--forward-adapter", "f"],
            "give EXPORT, or --forward-adapter and --reverse-adapter, not both",
        ),
        (["edit", *EDIT, "--prompt-below", "2"], "prompt_below=2.0: must be at least 0 and at most 1"),
        (["generate", "--prompt", "red", "--code", "no.safetensors"], "no.safetensors holds no code"),
        (["generate", "--prompt", "red", "--code", "other.safetensors"], "the code has shape [1, 4, 9, 9]"),
        (
            ["generate", "--prompt", "red", "--code", "nan.safetensors"],
            "nan.safetensors holds no code (its torch.float32",
        ),
        (["generate", "--prompt", "red", "--code", "whole.safetensors"], "holds no code (its torch.int64 are not all"),
        (
            ["invert", *CAT, "--code", "cat.png"],
            "--code cat.png: give the code's file a name that ends in .safetensors",
        ),
        (["edit", *EDIT, "--device", "gpu"], "--device 'gpu': Expected one of cpu, cuda"),
        (["edit", *EDIT, "--device", "cuda:77"], "--device 'cuda:77': "),
        (["edit", *EDIT, "--device", "meta"], "--device 'meta' holds no values; cpu is always there"),
    ],
)
def test_a_mistake_is_one_line(run, arguments, message):
    Image.new("L", (5, 5)).save("small.png")
    save_file({"code": torch.zeros(1, 4, 9, 9)}, "other.safetensors")
    save_file({"code": torch.full((1, 4, 8, 8), torch.nan)}, "nan.safetensors")
    save_file({"code": torch.zeros(1, 4, 8, 8, dtype=torch.int64)}, "whole.safetensors")
    error = run(*arguments, fails=True).splitlines()[-1]  # before it the bars of libraries, if imported before us
    assert error.startswith("error: ")
    assert message in error
    assert not list(Path().glob("edit*.png"))


def test_codes_and_sheets_replace_nothing(run):
    Path("code.safetensors").write_text("precious")
    Path("steps.png").write_text("precious")
    told = run("invert", *CAT, "--code", "code.safetensors", "--steps-sheet", "steps.png")
    assert "steps steps-2.png" in told
    assert "code code-2.safetensors" in told
    assert Path("code.safetensors").read_text() == Path("steps.png").read_text() == "precious"
    run("invert", *CAT, "--code", "code.safetensors", "--overwrite")
    assert Path("code.safetensors").read_bytes() == Path("code-2.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: [], "it is [], no mapping"),
        (lambda told: told | {"boundaries": {"foo": 1}}, "boundaries has an unknown key 'foo'"),
        (lambda told: told | {"boundaries": [0, 1]}, "boundaries is [0, 1], expected a mapping"),
        (lambda told: told | {"guidance_scales": 5}, "guidance_scales is 5, expected a list"),
        (lambda told: told | {"guidance_scales": ["a"]}, "guidance_scales[0] is 'a', expected a positive number"),
        (lambda told: told | {"guidance_scales": []}, "guidance_scales is empty"),
        (lambda told: told | {"students": {}}, "students has no kind"),
        (lambda told: told | {"students": {"kind": "lora", "rank": -1, "alpha": 1}}, "students.rank is -1"),
        (lambda told: told | {"schema": 2}, "schema is 2, expected 1"),
        (lambda told: {k: v for k, v in told.items() if k != "network"}, "has no network"),
        (lambda told: told | {"code_scale": 1e300}, "code_scale is 1e+300, expected a number from 0.01 to 100"),
        (lambda told: told | {"code_scale": -0.5}, "code_scale is -0.5, expected a number from 0.01 to 100"),
        (lambda told: told | {"code_scale": "0.5"}, "code_scale is '0.5', expected a number from 0.01 to 100"),
        (lambda told: told | {"code_scale": True}, "code_scale is True, expected a number from 0.01 to 100"),
    ],
)
def test_an_export_of_another_kind_is_named(export, tmp_path, change, message):
    told = json.loads(Path(export, "icd.json").read_text())
    (tmp_path / "icd.json").write_text(json.dumps(change(told)))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        InvertibleConsistency.load(tmp_path)
    assert "icd.json is not what an ICD run exports" in str(error.value)


def test_a_folder_that_is_no_export(tmp_path, capsys):
    assert icd.main(["generate", str(tmp_path), "--prompt", "red"]) == 2
    assert "icd.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["edit", "--help"]])
def test_help_does_not_import_torch(arguments):
    code = f"""
import sys
from fewstep.icd import __main__ as icd
try:
    icd.main({arguments})
except SystemExit as stop:
    assert not stop.code
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: python -m fewstep.icd" in result.stdout
