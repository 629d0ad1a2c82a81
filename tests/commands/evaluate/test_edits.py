"""evaluate.py --edits: numbers against an independent computation, resumption, our own data, bad input in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from commands.evaluate import edits as command
from commands.evaluate.edit_sets import kind_of, networks, read_edits
from fewstep.backbones import load_latent_diffusion
from fewstep.editors.named import make_editor
from fewstep.editors.pie_bench import read_pie_bench
from fewstep.metrics.intervals import bootstrap_mean
from tests.tiny_diffusion import write_pipeline
from tests.tiny_pie_bench import write_pie_bench
from tests.tiny_pipeline import check_one_line
from tests.tiny_vit import write_vit

SCORER = "assets/clip_avatars_scorer"
JOBS = [(name, w) for name in ("ddim", "sdedit") for w in (2.0, 4.0)]
NUM = 5


@pytest.fixture(scope="module")
def evaluate():
    import evaluate

    return evaluate.main


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    write_pie_bench(folder / "edits", NUM)
    write_vit(folder / "vit")
    write_pipeline(folder / "pipeline", "sd_v")
    return folder


def arguments(places, out, *more, editors=("ddim", "sdedit")):
    given = ["--edits", str(places / "edits"), "--pipeline", str(places / "pipeline"), "--editors", *editors]
    given += ["--w", "2", "4", "--tau", "0.6", "--steps", "3", "--batch-size", "2", "--lpips", "vgg"]
    given += ["--clip", f"local-dir:{SCORER}", "--structure", str(places / "vit"), "--bootstrap", "50"]
    return [*given, "--out", str(out), *more]


@pytest.fixture(scope="module")
def whole(evaluate, places, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert evaluate(arguments(places, out)) == 0
    return out


def numbers(out):
    return json.loads((out / "metrics.json").read_text())["runs"]


def rows(out):
    return [run["rows"] for run in json.loads((out / "rows.json").read_text())["runs"]]


def test_all_files_are_there_and_nothing_else(whole):
    assert {file.name for file in whole.iterdir()} == {
        "report.md", "front.svg", "edits.png", "metrics.json", "rows.json",
    }  # fmt: skip
    told = (whole / "report.md").read_text()
    for name, w in JOBS:
        assert f"| {name}, w {w:g}, tau 0.6 |" in told
    assert "Difference from ddim at the same w and tau" in told
    assert (whole / "front.svg").read_text().count("sdedit") >= 1


def test_values_are_those_of_an_independent_computation(whole, places):
    """The same networks, called picture by picture as PIE-Bench does, on the editors' 8-bit pictures."""
    import open_clip
    from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure
    from torchmetrics.regression import MeanSquaredError
    from transformers import ViTModel

    from fewstep.metrics.perceptual import LPIPS

    edits = read_pie_bench(places / "edits", (16, 16)).to("cpu")
    model = load_latent_diffusion(str(places / "pipeline"))
    vit, lpips = ViTModel.from_pretrained(places / "vit", add_pooling_layer=False).eval(), LPIPS("vgg")
    clip, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{SCORER}")
    clip, tokens = clip.eval().float(), open_clip.get_tokenizer(f"local-dir:{SCORER}")
    found = rows(whole)
    for number, (name, w) in enumerate(JOBS):
        batches = [edits[rows] for rows in ((0, 1), (2, 3), (4,))]  # others round a pixel otherwise here and there
        edited = torch.cat([make_editor(name, model, 3)(batch)(w, 0.6) for batch in batches])
        pixels = ((edited + 1) * 127.5).round().clamp(0, 255).byte()
        expected = {key: [] for key in found[number]}
        for row in range(NUM):
            kept = 1 - edits.mask[row].numpy()
            a, b = (np.float32(side) / 255 for side in (pixels[row], (edits.image[row] + 1) * 127.5))
            a_, b_ = (torch.from_numpy(side * kept)[None].float().contiguous() for side in (a, b))
            expected["test/psnr_background"].append(PeakSignalNoiseRatio(data_range=1.0)(a_, b_).item())
            expected["test/ssim_background"].append(StructuralSimilarityIndexMeasure(data_range=1.0)(a_, b_).item())
            expected["test/mse_background"].append(MeanSquaredError()(a_, b_).item())
            expected["test/lpips_vgg_background"].append(lpips(a_ * 2 - 1, b_ * 2 - 1).item())
            similar = [_similar(vit, torch.from_numpy(side)[None].float()) for side in (a, b)]
            expected["test/structure_vit"].append(F.mse_loss(*similar).item())
            for key, shown in (("clip_similarity", pixels[row].numpy()), ("clip_similarity_edited", None)):
                shown = shown if shown is not None else pixels[row].numpy() * edits.mask[row].byte().numpy()
                cosine = _cosine(clip, prepare, tokens, shown, edits.target[row])
                expected[f"test/{key}"].append(100 * cosine)
        for key, values in expected.items():
            scale = 100 if "clip" in key or "psnr" in key else 1
            apart = np.abs(np.array(values) - found[number][key]) / scale
            assert apart.max() < 1e-5, (name, w, key, apart)


def _similar(vit, pixels):
    from torchvision.transforms.functional import normalize, resize

    pixels = normalize(resize(pixels, 224, antialias=True), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    last = vit.layers[-1] if hasattr(vit, "layers") else vit.encoder.layer[-1]
    with torch.no_grad():
        states = vit(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[-2]
        keys = last.attention.k_proj(last.layernorm_before(states))[0]
    return F.normalize(keys, dim=1) @ F.normalize(keys, dim=1).T


def _cosine(clip, prepare, tokens, pixels, caption):
    from PIL import Image

    with torch.no_grad():
        image = clip.encode_image(prepare(Image.fromarray(pixels.transpose(1, 2, 0)))[None])
        return F.cosine_similarity(image, clip.encode_text(tokens([caption]))).item()


def test_means_and_intervals_are_those_of_the_rows_and_differences_are_paired(whole):
    for run, kept in zip(numbers(whole), rows(whole), strict=True):
        for name, values in kept.items():
            assert len(values) == NUM
            assert run["metrics"][name] == pytest.approx(np.mean(values))
            column = torch.tensor(values, dtype=torch.float64)
            assert run["intervals"][name] == pytest.approx(list(bootstrap_mean(column, 50, seed=0)))
        assert run["sampling"]["nfe"] == (3 + 3 + 1 if run["settings"]["editor"] == "ddim" else 4)
    a, b = rows(whole)[0]["test/psnr_background"], rows(whole)[2]["test/psnr_background"]
    low, high = bootstrap_mean(torch.tensor(b, dtype=torch.float64) - torch.tensor(a, dtype=torch.float64))
    lines = (whole / "report.md").read_text().split("Difference from ddim")[1].splitlines()
    head = next(line for line in lines if line.startswith("| editor")).split("|")
    column = next(place for place, title in enumerate(head) if title.startswith(" PSNR of the background"))
    cell = next(line for line in lines if line.startswith("| sdedit, w 2")).split("|")[column]
    assert float(cell.replace("−", "-").split("[")[0]) == pytest.approx(np.mean(b) - np.mean(a), abs=0.06)
    ends = [float(part) for part in cell.replace("−", "-").replace("]", "").split("[")[1].split("…")]
    assert ends == pytest.approx([low, high], abs=0.06)


def test_a_broken_command_goes_on_where_it_was(whole, evaluate, places, tmp_path, monkeypatch):
    kept, drawn = [], []
    keep, make = command.keep_image, command.make_editor

    def broken(files, key, image):
        if len(kept) == 7:
            raise KeyboardInterrupt
        kept.append(key)
        keep(files, key, image)

    monkeypatch.setattr(command, "keep_image", broken)
    assert evaluate(arguments(places, tmp_path)) == 130
    assert not (tmp_path / "metrics.json").exists()
    monkeypatch.setattr(command, "keep_image", lambda *given: (drawn.append(given[1]), keep(*given)))
    monkeypatch.setattr(command, "make_editor", make)
    assert evaluate(arguments(places, tmp_path)) == 0
    assert 4 * NUM - 7 <= len(drawn) < 4 * NUM
    assert not (tmp_path / "partial").exists()
    for ours, theirs in zip(rows(tmp_path), rows(whole), strict=True):
        for name, values in ours.items():
            assert values == pytest.approx(theirs[name], abs=1e-3 * (1 + abs(np.mean(theirs[name])))), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"editors": ["dimm"]}, "unknown editor 'dimm'; the nearest is 'ddim'"),
        ({"editors": ["icd"]}, "give icd=EXPORT"),
        ({"editors": ["ddim", "ddim"]}, "--editors ddim is given twice"),
        ({"extra": ["--num-samples", "1"]}, "too few edits: 1 to measure, and intervals need 2 or more"),
        ({"extra": ["--w", "1", "1"]}, "--w 1.0 is given twice"),
        ({"extra": ["--structure", "nowhere/vit"]}, "cannot get model.safetensors of nowhere/vit"),
        ({"extra": ["--edits", "tests"]}, "has neither the mapping_file.json of PIE-Bench nor shards"),
    ],
)
def test_bad_input_is_one_line(more, message, evaluate, places, tmp_path, capsys):
    given = arguments(places, tmp_path, *more.get("extra", ()), editors=more.get("editors", ("ddim",)))
    check_one_line(evaluate, given, message, capsys)
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": [70000, 3]}, "it is of a picture of other size"),
        ({"image_path": "gone.png"}, "gone.png does not exist"),
    ],
)
def test_a_bad_folder_is_one_line(changes, message, evaluate, places, tmp_path, capsys):
    write_pie_bench(tmp_path / "edits", n2=changes)
    given = arguments(places, tmp_path / "out", "--edits", str(tmp_path / "edits"))
    check_one_line(evaluate, given, message, capsys)


def test_an_editor_without_a_pipeline_is_told(evaluate, places, tmp_path, capsys):
    given = ["--edits", str(places / "edits"), "--editors", "ddim", "--out", str(tmp_path)]
    check_one_line(evaluate, given, "give --pipeline, or ddim=PIPELINE", capsys)


def test_another_set_of_editors_is_not_replaced_unasked(whole, evaluate, places, capsys):
    given = arguments(places, whole, editors=("flowedit",))
    check_one_line(evaluate, given, "holds a report about ddim, w 2, tau 0.6", capsys)


def test_avatars_have_their_true_edits_and_their_scorers_words():
    kind = kind_of("data/avatars64")
    edits = read_edits("data/avatars64", kind, (64, 64), "test", True)
    assert len(edits) == 143
    assert (
        edits.wording[0]
        == "pale blue backdrop; figure: skin dark, shirt black, hair length short, no glasses, hat black"
    )
    assert edits.target[0].startswith("a pixel art avatar with dark skin, short hair and a black hat")
    outside = (edits.edited.int() - edits.image.int()).abs() * (1 - edits.mask)
    assert outside.max() <= 1
    assert 0 < edits.mask.float().mean() < 0.5
    assert len(read_edits("data/avatars64", kind, (64, 64), "test", False, 3)) == 3
    assert networks(kind, None, None, None) == (f"local-dir:{SCORER}", None, "mobilenet")
    assert networks(kind, "ViT-B-32", None, "a/b") == ("ViT-B-32", "openai", "a/b")


def test_emoji_are_paired_by_concept():
    kind = kind_of("data/emoji64")
    edits = read_edits("data/emoji64", kind, (64, 64), "test", True)
    assert len(edits) > 100
    for key, source, target in zip(edits.key[:20], edits.source, edits.target, strict=False):
        before, after = key.split("_")[1].split(" as ")
        assert before != after
        assert source != target
    assert kind.scorer == "assets/clip_emoji_scorer"


def test_pie_bench_is_measured_by_the_networks_of_photographs(places):
    kind = kind_of(str(places / "edits"))
    assert networks(kind, None, None, None) == ("ViT-L-14-quickgelu", "openai", "facebook/dino-vitb8")
    assert Path(SCORER).is_dir()


def test_pictures_without_a_background_are_left_out_of_its_means(evaluate, places, tmp_path):
    write_pie_bench(tmp_path / "edits", 4, n1={"mask": [0, 256]})
    given = arguments(places, tmp_path / "out", "--edits", str(tmp_path / "edits"), "--w", "1", editors=("sdedit",))
    assert evaluate(given) == 0
    (run,) = rows(tmp_path / "out")
    assert len(run["test/psnr_background"]) == len(run["test/lpips_vgg_background"]) == 3
    assert len(run["test/clip_similarity"]) == len(run["test/clip_similarity_edited"]) == 4


def test_help_needs_no_folder(evaluate, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate(["--edits", "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "flowedit" in told
    assert "--clip-pretrained" in told
