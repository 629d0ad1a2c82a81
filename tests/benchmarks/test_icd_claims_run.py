"""A whole run of benchmarks/icd/claims.py in the small, on random students of a random pipeline."""

import io
import json

import numpy as np
import pytest
import torch

from benchmarks.icd import bench, claims, judge, table
from benchmarks.icd.predicates import Found
from benchmarks.icd.results import read_rows
from tests.tiny_diffusion import COLOURS, unet, write_pipeline

STYLES = ("noto", "twemoji", "fluent")
SIDE = 32


class Scorer:
    """In place of a CLIP: pictures are their mean colour, captions the colour that they name."""

    def to(self, device):
        return self

    def embed_images(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)) + 1.1, dim=1)

    def embed_prompts(self, prompts):
        words = [next((COLOURS[word] for word in prompt.split() if word in COLOURS), (0.0,) * 3) for prompt in prompts]
        return torch.nn.functional.normalize(torch.tensor(words) + 1.1, dim=1)


class Features(torch.nn.Module):
    """In place of MobileNetV2: the mean of each colour and its square."""

    num_features = 6

    def __init__(self, size):
        super().__init__()

    def forward(self, images):
        mean = images.float().mean((2, 3)) / 255
        return torch.cat([mean, mean**2], 1)


def write_drawings(folder):
    """Squares of four colours in three styles; captions that the tiny tokenizer fits."""
    from PIL import Image

    from datamodules.prepare.image_shard_writing import Samples, write_image_folder

    kinds = [(number, colour, style) for number, colour in enumerate(COLOURS) for style in STYLES]

    def render(key):
        number, colour, style = kinds[int(key)]
        pixels = np.random.default_rng(int(key)).normal(0, 5 + 10 * STYLES.index(style), (SIDE, SIDE, 3))
        pixels = (np.array(COLOURS[colour]) * 80 + 127 + pixels).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "png")
        told = {"captions": [f"a {colour} square"], "scoring_captions": [f"{colour} square"]}
        told |= {"concept": f"c{number}", "style": style}
        return {"png": file.getvalue(), "json": json.dumps(told).encode()}

    samples = {split: Samples([f"{i:06d}" for i in range(len(kinds))], render) for split in ("train", "test")}
    write_image_folder(str(folder), samples, {"name": "t", "license": "none", "command": "none"}, progress=False)


def write_export(folder, pipeline, network, seed):
    from fewstep.backbones import load_latent_diffusion
    from fewstep.distillation.boundaries import Boundaries
    from fewstep.distillation.students import adapter_students
    from fewstep.icd.pair import InvertibleConsistency

    model = load_latent_diffusion(pipeline, network)
    students = adapter_students(model, rank=2)
    torch.manual_seed(seed)
    for weight in students.weights.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    students.save(str(folder))
    ends = Boundaries((0.0, 0.5, 0.78, 1.0))
    pair = InvertibleConsistency(model, students.networks.forward, students.networks.reverse, ends, (1.0, 4.0, 8.0))
    pair.describe(folder, str(pipeline), str(network), students.settings)


def test_a_whole_run_gives_every_row_once(tmp_path, monkeypatch, capsys):
    from fewstep.backbones import add_guidance_embedding, save_guided_network

    monkeypatch.setattr(judge, "load_clip", lambda *_: Scorer())
    monkeypatch.setattr(judge, "MobileNetV2", Features)
    monkeypatch.setattr(bench, "FINE", 5)
    write_drawings(tmp_path / "data")
    pipeline = write_pipeline(tmp_path / "pipeline", "sd", unet(sample_size=SIDE // 2))
    network = tmp_path / "network"
    save_guided_network(network, add_guidance_embedding(unet(sample_size=SIDE // 2)), (1.0, 4.0, 8.0))
    exports = [str(tmp_path / f"export{seed}") for seed in range(2)]
    for seed, folder in enumerate(exports):
        write_export(folder, pipeline, network, seed)
    out = tmp_path / "rows.jsonl"
    arguments = [f"--export=G={exports[0]}", f"--export=G={exports[1]}", f"--out={out}", "--num=3", "--num-generated=6"]
    arguments += [f"--data={tmp_path / 'data'}"]
    claims.main(arguments)
    rows = read_rows([out])
    claims.main(arguments)
    assert read_rows([out]) == rows  # nothing is measured again

    found = Found(rows)
    assert len(found.get("inversion", "G", "iCD", "w=1")) == 2
    calls = {
        method: found.scalar("nfe", "inversion", *method, "w=1") for method in (("teacher", "DDIM 50+50"), ("G", "iCD"))
    }
    assert calls == {("teacher", "DDIM 50+50"): 10, ("G", "iCD"): 6}
    assert found.get("inversion", "teacher", "DDIM 50+50", "w=1", 0.0)[0]["start"] == 0
    # The guided network answers as the plain one for every w, so no chain of the teacher depends on it.
    same = [found.values("latent_mse", "inversion", "teacher", "DDIM 50+50", w) for w in ("w=1", "w=8", "w=8, t<=0.7")]
    torch.testing.assert_close(same[0], same[1])
    torch.testing.assert_close(same[0], same[2])
    npi = found.values("latent_mse", "inversion", "teacher", "NPI 50+50", "any")
    torch.testing.assert_close(same[0], npi, rtol=1e-3, atol=1e-5)
    assert found.values("latent_mse", "inversion", "teacher", "autoencoder").max() == 0

    chosen = [row for row in rows if (row["part"], row["guidance"]) == ("editing", "w=8, t<=0.8")]
    text = "\n".join(table.table("editing", chosen, ["psnr_to_source", "margin"]))
    assert "| G | iCD prompt-to-prompt, replay | 0.02 | w=8, t<=0.8 |" in text
    open_claims = [line.split("|")[1].strip() for line in table.verdicts(found) if "not measured" in line]
    assert open_claims == ["C3", "C4", "C5", "G+", "goal 1", "goal 2"]


def test_a_folder_that_is_no_export_is_one_line(tmp_path, capsys):
    folder = tmp_path / "export"
    folder.mkdir()
    with pytest.raises(SystemExit):
        claims.main([f"--export={folder}"])
    assert "icd.json" in capsys.readouterr().err.splitlines()[-1]
