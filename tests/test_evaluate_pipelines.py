"""evaluate.py on a diffusers pipeline folder."""

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from fewstep.rng import mix_seed
from tests.forks import finish, two_ranks
from tests.tiny_pipeline import CHOSEN, NUM_TEST, TINY, check_one_line, measured, save_pipeline, write_pictures

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    write_pictures(folder, train=24, val=9, test=NUM_TEST)
    return str(folder)


@pytest.fixture(scope="module")
def evaluate():
    import evaluate

    return evaluate.main


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("models") / "painter-v1.5")


def pipeline_arguments(pipeline, pictures, *more):
    return [str(pipeline), "--data", pictures, *CHOSEN, "--steps", "2", "--guidance-scale", "1", *more]


@pytest.fixture(scope="module")
def whole(evaluate, pipeline, pictures, tmp_path_factory):
    """What one process measures with batches of 6."""
    out = tmp_path_factory.mktemp("whole")
    assert evaluate(pipeline_arguments(pipeline, pictures, "--batch-size", "6", "--out", str(out))) == 0
    return measured(out)[0]


def close(values):
    """Equal but for a grey level here and there: other batches round differently in the last bit of a float."""
    return {key: pytest.approx(value, rel=2e-3, abs=2e-5) for key, value in values.items()}


def test_batches_and_repetition_change_nothing(evaluate, pipeline, pictures, whole, tmp_path):
    assert evaluate(pipeline_arguments(pipeline, pictures, "--batch-size", "25", "--out", str(tmp_path))) == 0
    (run,) = measured(tmp_path)
    assert run["metrics"] == close(whole["metrics"])
    assert run["sampling"]["nfe"] == whole["sampling"]["nfe"] == 2.0  # two steps without guidance
    assert whole["sampling"]["guidance_scale"] == 1.0
    assert whole["checkpoint"] == str(pipeline)


def test_attributes_of_every_sample_are_read_for_the_metric_that_needs_them(evaluate, pipeline, tmp_path, capsys):
    """A reader of untrained weights, on avatars whose attributes no config mentions."""
    from fewstep.rewards.attribute_reader import AttributeReader

    config = yaml.safe_load((ROOT / "configs" / "attribute_reader" / "avatars.yaml").read_text())
    values = config["model"]["init_args"]["model"]["init_args"]["values"]
    small = {"depths": [1] * 4, "dims": [8] * 4}
    AttributeReader(values, trunk_options=small, image_size=32).save_pretrained(tmp_path / "reader")
    chosen = ["--metrics", "attributes", "--metrics.attributes.reader.source", str(tmp_path / "reader")]
    arguments = [str(pipeline), *chosen, "--num-samples", "4", "--steps", "1", "--out", str(tmp_path / "out")]
    assert evaluate([*arguments, "--data", str(ROOT / "data" / "avatars64")]) == 0
    (run,) = measured(tmp_path / "out")
    assert 0 <= run["metrics"]["test/all_right"] <= run["metrics"]["test/attributes_right"] <= 1
    assert {f"test/right_{name}" for name in values} <= run["metrics"].keys()
    assert run["data"]["init_args"]["metadata"] == ["attributes"]
    (tmp_path / "prompts.txt").write_text("an avatar\n")
    arguments[-1] = str(tmp_path / "other")
    arguments += ["--prompts", str(tmp_path / "prompts.txt")]
    check_one_line(evaluate, arguments, "needs attributes of every sample; give --data FOLDER", capsys)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(pipeline, pictures, whole, tmp_path, monkeypatch):
    """25 samples in batches of 6: one process has 13, the other 12."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    out = tmp_path / "out"
    arguments = pipeline_arguments(pipeline, pictures, "--batch-size", "6", "--devices", "2", "--out", str(out))
    text = finish(two_ranks("evaluate", arguments, tmp_path))
    (run,) = measured(out)
    assert run["device"] == "2 x cpu"
    assert run["metrics"] == close(whole["metrics"])
    assert run["sampling"]["samples"] == NUM_TEST
    assert text.count("report  ") == 1
    assert not (out / "partial").exists()


def test_an_image_is_that_of_the_plain_pipeline_with_the_samples_own_generator(pipeline, tmp_path):
    from diffusers import StableDiffusionPipeline

    from commands.evaluate.partial import Partial
    from commands.evaluate.pipeline import PipelineModule
    from fewstep.backbones import load_pipeline

    module = PipelineModule(load_pipeline(pipeline), steps=3, guidance_scale=4.0, seed=5)
    module.kept = Partial(tmp_path, "command", {}, [], ()).of_run(0)
    batch = {"key": ["a", "/b", "c"], "caption": ["red cat", "blue dog", ""], "weight": torch.tensor([1.0, 1.0, 0.0])}
    made = module.test_step(batch, 0)
    plain = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(mix_seed(5, "/b"))
    image = plain("blue dog", num_inference_steps=3, guidance_scale=4.0, generator=generator, output_type="np").images
    ours = made["image"][1].permute(1, 2, 0).add(1).div(2).numpy()
    assert np.abs(ours - image[0]).max() < 1.5 / 255
    assert made["nfe"].tolist() == [6.0, 6.0, 0.0]
    again = module.test_step(batch, 0)  # read from the folder
    assert torch.equal(again["image"], made["image"])
    assert torch.equal(again["seconds"], made["seconds"])
    assert len(list((tmp_path / "partial" / "000").iterdir())) == 2  # padding is not kept


def test_a_broken_evaluation_goes_on(evaluate, pipeline, pictures, whole, tmp_path, monkeypatch, capsys):
    from commands.evaluate.pipeline import PipelineModule

    generate, keys = PipelineModule._generate, []

    def breaks(self, names, prompts):
        if len(keys) == 2 * 6 + NUM_TEST:
            raise KeyboardInterrupt
        keys.extend(names)
        return generate(self, names, prompts)

    monkeypatch.setattr(PipelineModule, "_generate", breaks)
    arguments = pipeline_arguments(pipeline, pictures, "--batch-size", "6", "--out", str(tmp_path))
    arguments[arguments.index("--steps") + 1 : arguments.index("--guidance-scale")] = ["1", "2"]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        evaluate(arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["partial"]
    assert len(list((tmp_path / "partial" / "001").glob("*.png"))) == 12

    capsys.readouterr()
    for other in ([*arguments, "--seed", "1"], [*arguments, "--num-samples", "12"]):
        assert evaluate(other) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{tmp_path / 'partial'} holds a broken-off evaluation by `python evaluate.py {pipeline}" in error

    again = []
    monkeypatch.setattr(PipelineModule, "_generate", lambda *a: again.extend(a[1]) or generate(*a))
    assert evaluate([*arguments, "--batch-size", "5"]) == 0
    assert len(again) == NUM_TEST - 12
    assert set(again).isdisjoint(keys[NUM_TEST:])
    one, two = measured(tmp_path)
    assert [run["sampling"]["steps"] for run in (one, two)] == [1, 2]
    assert two["metrics"] == close(whole["metrics"])
    assert not (tmp_path / "partial").exists()
    page = (tmp_path / "report.html").read_text()
    assert "Along the steps" in page
    assert "Quality against its cost" in page


def test_prompts_from_a_file(evaluate, pipeline, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red cat\n\n  a blue dog \nein Bär\n", encoding="utf-8")
    chosen = ["--metrics", "clip_score", "--metrics.clip_score.scorer", f"{TINY}.Brightness", "--num-samples", "5"]
    arguments = [str(pipeline), "--prompts", str(tmp_path / "prompts.txt"), *chosen, "--steps", "1"]
    assert evaluate([*arguments, "--batch-size", "2", "--out", str(tmp_path / "out")]) == 0
    (run,) = measured(tmp_path / "out")
    assert run["protocol"]["test/clip_score"]["num_generated"] == 5
    assert run["data"] == {"prompts": str(tmp_path / "prompts.txt"), "num_samples": 5}
    assert run["sampling"]["nfe"] == 2.0  # one step, guided by the pipeline's own scale


def test_prompts_are_lines_and_repeat_under_new_keys(tmp_path):
    from commands.evaluate.prompts import PromptData, read_prompts

    file = tmp_path / "prompts.txt"
    file.write_text("one\n\n two \n")
    assert read_prompts(file, None) == [("1-one", "one"), ("3-two", "two")]
    assert read_prompts(file, 3) == [("1-one", "one"), ("3-two", "two"), ("1-one.2", "one")]
    data = PromptData(file, 3, batch_size=1)
    seen = []
    for rank in range(2):
        data.trainer = type("Trainer", (), {"global_rank": rank, "world_size": 2})()
        batches = list(data.test_dataloader())
        assert len(batches) == 2  # as many on each, the rest is padding
        seen += [(b["key"][0], b["weight"].item()) for b in batches]
    assert [key for key, weight in sorted(seen) if weight] == ["1-one", "1-one.2", "3-two"]
    for content, message in ((b"\n \n", "holds nothing"), (b"a\nf\xfcr", "is not UTF-8 text: .* line 2")):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_prompts(file, None)


@pytest.mark.parametrize("scale", ["inf", "nan", "-2", "much"])
def test_a_scale_that_is_none_is_refused_before_anything_is_read(evaluate, scale, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate(["nowhere", "--guidance-scale", scale])
    assert ended.value.code == 2
    assert f"{scale!r} is not a number of at least 0; 1 is unguided" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "choose --metrics, such as fid clip_score"),
        (["--metrics", "clip_score"], "from either --data FOLDER or --prompts FILE"),
        (["--metrics", "kid", "--prompts", "{prompts}"], "--metrics kid compares with real images; give --data"),
        (["--metrics", "clip_score", "--prompts", "gone.txt"], "gone.txt"),
        (["--metrics", "clip_score", "--data", "{pictures}", "--guidance-scale", "0.5"], "a number of at least 1"),
        (["--metrics", "clip_score", "--data", "{pictures}", "--steps", "1", "2", "1"], "--steps 1 is given twice"),
        (["--metrics", "clip_score", "--data", "{pictures}", "--config", "c.yaml"], "--config is for checkpoints; "),
    ],
)  # fmt: skip
def test_mistakes_with_a_pipeline(evaluate, pipeline, pictures, tmp_path, capsys, arguments, message):
    (tmp_path / "prompts.txt").write_text("one\n")
    arguments = [a.format(prompts=tmp_path / "prompts.txt", pictures=pictures) for a in arguments]
    check_one_line(evaluate, [str(pipeline), *arguments, "--out", str(tmp_path / "out")], message, capsys)
    assert not (tmp_path / "out").exists()


def test_a_damaged_pipeline_is_one_line(evaluate, pipeline, tmp_path, capsys, monkeypatch):
    logged = io.StringIO()  # what diffusers says by itself goes to the stderr of whoever imported it first
    for handler in logging.getLogger("diffusers").handlers:
        if type(handler) is logging.StreamHandler:
            monkeypatch.setattr(handler, "stream", logged)
    broken = tmp_path / "broken"
    shutil.copytree(pipeline, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (broken / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle, which is not read")
    (tmp_path / "prompts.txt").write_text("one\n")
    arguments = [str(broken), "--prompts", str(tmp_path / "prompts.txt"), "--metrics", "clip_score"]
    check_one_line(evaluate, [*arguments, "--out", str(tmp_path / "out")], "cannot load the diffusers pipeline", capsys)
    assert logged.getvalue() == ""
