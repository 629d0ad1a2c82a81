"""evaluate.py on a trained image module: its own metrics, metrics by name, broken-off runs, the report in a browser."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from fewstep.rng import PerSampleRng
from tests.patience import PATIENCE
from tests.tiny_pipeline import CHOSEN, NUM_TEST, TINY, check_one_line, measured, write_pictures

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


def config_of(pictures):
    network = {"class_path": f"{TINY}.Colours", "init_args": {"scale": 2.0}}
    metrics = {
        "fid": {"class_path": "callbacks.FIDCallback", "init_args": {"network": network}},
        "kid": {"class_path": "callbacks.KIDCallback", "init_args": {"network": network, "subset_size": 5}},
        "score": {
            "class_path": "callbacks.CLIPScoreCallback",
            "init_args": {"scorer": {"class_path": f"{TINY}.Brightness"}, "name": "brightness"},
        },
        "grid": {"class_path": "callbacks.SampleGridCallback", "init_args": {"num_images": 4}},
        "checkpoint": None,
    }
    data = {"path": pictures, "image_size": 16, "batch_size": 8, "eval_batch_size": 4, "num_workers": 0}
    data |= {"splits": {"num_val": 5}, "transform": {"flip": True}}
    return {
        "model": {"class_path": f"{TINY}.TinyPainter"},
        "data": {"class_path": "datamodules.ImageTextDataModule", "init_args": data | {"steps_per_epoch": 3}},
        "trainer": {"max_steps": 6, "accelerator": "cpu"},
        "callbacks": metrics,
        "wandb": "disabled",
    }


@pytest.fixture(scope="module")
def run_dir(pictures, tmp_path_factory):
    import train

    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config_of(pictures)))
    assert train.main(["fit", "-c", str(folder / "tiny.yaml"), "--run_dir", str(folder / "runs" / "first")]) == 0
    return folder / "runs" / "first"


def test_the_numbers_are_those_that_training_logged_after_its_test(evaluate, run_dir, tmp_path):
    lines = [json.loads(line) for line in (run_dir / "logs" / "measurements.jsonl").read_text().splitlines()]
    logged = {line["key"]: line for line in lines if line["key"].startswith("test/")}
    assert logged.keys() == {"test/fd_colours", "test/kd_colours", "test/kd_colours_std", "test/brightness"}
    assert evaluate([str(run_dir), "--out", str(tmp_path / "out"), "--bootstrap", "50"]) == 0
    (run,) = measured(tmp_path / "out")
    assert run["metrics"].pop("test/mean") is not None  # of the module itself
    assert run["metrics"] == {key: pytest.approx(line["value"], rel=1e-6) for key, line in logged.items()}
    for key, line in logged.items():
        beside = {name: value for name, value in line.items() if name not in ("key", "value", "step", "epoch")}
        assert run["protocol"][key] == beside
    assert run["step"] == 6
    assert run["sampling"]["samples"] == NUM_TEST
    assert run["sampling"]["nfe"] == 2.0
    assert run["intervals"].keys() == {"test/fd_colours", "test/kd_colours", "test/brightness"}
    for name, (low, high) in run["intervals"].items():
        assert low < run["metrics"][name] < high
    assert (tmp_path / "out" / "samples-first_last.png").is_file()  # of the run's own grid


def test_other_metrics_and_fewer_samples_by_name(evaluate, run_dir, tmp_path):
    arguments = [str(run_dir), *CHOSEN, "--num-samples", "20", "--batch-size", "7"]
    assert evaluate([*arguments, "--out", str(tmp_path)]) == 0
    (run,) = measured(tmp_path)
    assert run["metrics"].keys() == {"test/fd_colours", "test/kd_colours", "test/kd_colours_std", "test/clip_score"} | {
        "test/mean"
    }
    assert run["protocol"]["test/fd_colours"]["num_generated"] == run["sampling"]["samples"] == 20
    assert run["data"]["init_args"]["splits"]["num_test"] == 20
    assert run["data"]["init_args"]["splits"]["num_val"] == 5


def test_groups_of_the_data_are_plain_in_a_checkpoint_and_go_on_from_there(run_dir, tmp_path, capsys):
    import train

    stored = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert {type(stored[group]) for group in ("splits", "transform", "loader")} == {dict}
    names = {"train": "train", "val": "val", "test": "test", "val_path": None, "test_path": None}
    assert stored["splits"] == names | {"num_train": None, "num_val": 5, "num_test": None}
    assert (stored["transform"]["flip"], stored["loader"]["restarts"]) == (True, 3)
    arguments = ["-c", str(run_dir / "config.yaml"), "--resume", str(run_dir / "checkpoints" / "last.ckpt")]
    arguments += ["--run_dir", str(tmp_path / "on")]
    arguments += ["--trainer.max_steps", "9", "--data.splits.num_val", "7", "--data.transform.crop", "random"]
    assert train.main(["fit", *arguments, "--test_after_fit", "false"]) == 0
    shown = capsys.readouterr().out
    assert "data.splits.num_val" in shown
    assert "data.transform.crop" in shown
    stored = torch.load(tmp_path / "on" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 9
    assert stored["datamodule_hyper_parameters"]["splits"]["num_val"] == 7


def test_groups_of_the_data_are_the_same_in_flags_in_a_printed_config_and_in_a_file_of_the_data(
    run_dir, tmp_path, capsys
):
    import train

    def printed(*arguments):
        with pytest.raises(SystemExit) as stop:
            train.main(["fit", *map(str, arguments), "--print_config"])
        assert not stop.value.code
        return yaml.safe_load(capsys.readouterr().out)

    config, again, data = run_dir / "config.yaml", tmp_path / "again.yaml", tmp_path / "data.yaml"
    flags = ["--data.splits.num_val", "4", "--data.transform.crop=random", "--data.loader", "{prefetch: 3}"]
    first = printed("-c", config, *flags)
    arguments = first["data"]["init_args"]
    assert (arguments["splits"]["num_val"], arguments["splits"]["train"]) == (4, "train")
    assert arguments["transform"] == {"crop": "random", "flip": True, "background": "ffffff", "max_pixels": 1 << 26}
    assert arguments["loader"] == {"prefetch": 3, "start_method": None, "restarts": 3}
    again.write_text(yaml.safe_dump(first))
    assert printed("-c", again) == first
    data.write_text(yaml.safe_dump(first["data"]))
    assert printed("-c", config, "--data", data) == first


def test_the_config_of_an_earlier_version_is_told_where_its_keys_are(evaluate, run_dir, tmp_path, capsys):
    import train

    old = tmp_path / "old"
    shutil.copytree(run_dir, old)
    content = yaml.safe_load((old / "config.yaml").read_text())
    arguments = content["data"]["init_args"]
    splits = arguments.pop("splits")
    arguments |= {f"{part}_split": splits[part] for part in ("train", "val", "test")} | arguments.pop("transform")
    arguments |= {"num_val": splits["num_val"], "worker_restarts": arguments.pop("loader")["restarts"]}
    (old / "config.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    said = (
        f"error: unknown key 'data.train_split'; write data.splits.train, .*data.splits.num_val for num_val.*in {old}"
    )
    assert train.main(["fit", "--resume", "auto", "--run_dir", str(old)]) == 2
    assert re.match(said, err := capsys.readouterr().err), err
    assert evaluate([str(old), "--out", str(tmp_path / "out")]) == 2
    assert re.match(said, err := capsys.readouterr().err), err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_other_data_are_not_those_of_the_test_path(evaluate, run_dir, pictures, tmp_path):
    content = yaml.safe_load((run_dir / "config.yaml").read_text())
    content["data"]["init_args"]["splits"] |= {"test_path": str(tmp_path / "nowhere")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    arguments = [str(run_dir), "--config", str(tmp_path / "c.yaml"), "--bootstrap", "50", "--metrics", "clip_score"]
    arguments += ["--metrics.clip_score.scorer", f"{TINY}.Brightness", "--out", str(tmp_path / "out")]
    assert evaluate(arguments) == 2
    assert evaluate([*arguments, "--data", pictures]) == 0
    assert measured(tmp_path / "out")[0]["sampling"]["samples"] == NUM_TEST


def test_a_broken_evaluation_of_a_checkpoint_goes_on(evaluate, run_dir, tmp_path, monkeypatch):
    from tests.tiny_pipeline import TinyPainter

    arguments = [str(run_dir), "--bootstrap", "50", "--out"]
    assert evaluate([*arguments, str(tmp_path / "whole")]) == 0
    step, seen = TinyPainter.test_step, []

    def breaks(self, batch, batch_idx):
        if len(seen) == 3:
            raise RuntimeError("out of memory")
        seen.append(batch_idx)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TinyPainter, "test_step", breaks)
    assert evaluate([*arguments, str(tmp_path / "out")]) == 2
    assert len(list((tmp_path / "out" / "partial" / "000").glob("*.pt"))) == 3
    first = next((tmp_path / "out" / "partial" / "000").glob("*.pt"))
    first.write_bytes(first.read_bytes()[:100])  # a damaged file counts as none
    seen.clear()
    monkeypatch.setattr(TinyPainter, "test_step", lambda self, batch, i: seen.append(i) or step(self, batch, i))
    assert evaluate([*arguments, str(tmp_path / "out")]) == 0
    assert len(seen) == 7 - 2
    whole, again = measured(tmp_path / "whole")[0], measured(tmp_path / "out")[0]
    assert again["metrics"] == whole["metrics"]  # to the bit, what the module logs itself included
    assert again["intervals"] == whole["intervals"]
    assert not (tmp_path / "out" / "partial").exists()


def test_other_metrics_of_kept_samples_may_be_chosen(evaluate, run_dir, tmp_path, monkeypatch):
    from tests.tiny_pipeline import TinyPainter

    arguments = [str(run_dir), "--bootstrap", "50", "--out", str(tmp_path), "--metrics", "kid"]
    arguments += ["--metrics.kid.network", f"{TINY}.Colours"]
    assert evaluate(arguments) == 2  # fewer samples than its default subset_size
    monkeypatch.setattr(TinyPainter, "test_step", lambda *_: pytest.fail("made again"))
    assert evaluate([*arguments, "--metrics.kid.subset_size", "10"]) == 0
    assert "test/kd_colours" in measured(tmp_path)[0]["metrics"]


@pytest.fixture
def illustrator(run_dir, tmp_path):
    """A checkpoint of a module that draws from prompts, and three prompts."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["model"]["class_path"] = f"{TINY}.TinyIllustrator"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    stored = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    stored["hyper_parameters"].pop("_class_path", None)
    torch.save(stored, tmp_path / "illustrator.ckpt")
    (tmp_path / "prompts.txt").write_text("a red cat\n\na blue dog\nein Bär\n", encoding="utf-8")
    chosen = ["--metrics", "clip_score", "--metrics.clip_score.scorer", f"{TINY}.Brightness", "--bootstrap", "50"]
    files = ["--config", str(tmp_path / "config.yaml"), "--prompts", str(tmp_path / "prompts.txt")]
    return [str(tmp_path / "illustrator.ckpt"), *files, *chosen]


def test_a_checkpoint_draws_from_prompts(evaluate, illustrator, tmp_path):
    from commands.evaluate.prompts import read_prompts
    from tests.tiny_pipeline import Brightness, TinyIllustrator

    arguments = [*illustrator, "--num-samples", "5", "--batch-size", "2", "--seed", "3", "--steps", "1", "4"]
    assert evaluate([*arguments, "--out", str(tmp_path / "out")]) == 0
    one, four = measured(tmp_path / "out")
    assert [run["sampling"]["steps"] for run in (one, four)] == [1, 4]
    assert one["data"] == {"prompts": str(tmp_path / "prompts.txt"), "num_samples": 5}
    assert one["sampling"]["samples"] == 5
    prompts = ["a red cat", "a blue dog", "ein Bär", "a red cat", "a blue dog"]
    rng = PerSampleRng(3, [key for key, _ in read_prompts(tmp_path / "prompts.txt", 5)])
    images = TinyIllustrator().eval().generate_images(prompts, rng, num_steps=4)  # in one batch
    expected = Brightness()(images.add(1).mul(127.5).round() / 127.5 - 1, prompts).mean()
    assert four["metrics"]["test/clip_score"] == pytest.approx(expected.item(), abs=1e-6)


def test_an_option_that_the_module_lacks_is_one_line(evaluate, illustrator, tmp_path, capsys):
    arguments = [*illustrator, "--guidance-scale", "3", "--out", str(tmp_path / "out")]
    message = "--guidance-scale 3.0: the TinyIllustrator of this checkpoint takes no guidance_scale"
    check_one_line(evaluate, arguments, message, capsys)


FOUND_WHILE_MEASURING = (
    "subset_size=1000 images on either side", "a dict with `reconstruction`", "a `sample` for each row"
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "fidd"], "unknown metric 'fidd'; the nearest is 'fid'"),
        (["--metrics", "clip-score"], "unknown metric 'clip-score'; the nearest is 'clip_score'"),
        (["--metrics", "kid", "--metrics.kid.subsetsize", "5"], "unknown key 'kid.init_args.subsetsize'; nearest"),
        (["--metrics", "kid", "--metrics.fid.reference", "x"], "--metrics.fid.reference is given without --metrics"),
        (["--metrics", "kid", "--metrics.kid.network", f"{TINY}.Colours"], "subset_size=1000 images on either side"),
        (["--metrics", "fid", "--metrics.fid.network", f"{TINY}.Nothing"], "has no attribute 'Nothing'"),
        (["--metrics", "kid", "kid"], "'kid' is named twice"),
        (["--num_samples", "5"], "unexpected argument '--num_samples'"),
        (["--data", "nowhere"], "nowhere"),
        (["--steps", "4"], "--steps is for diffusers folders and for --prompts"),
        (["--guidance-scale", "4"], "--guidance-scale is for diffusers folders and for --prompts"),
        (["--prompts", "x.txt"], "--prompts needs --metrics"),
        (["--prompts", "x.txt", "--metrics", "kid"], "--metrics kid compares with real images; give --data"),
        (["--prompts", "x.txt", "--metrics", "clip_score"], "--prompts x.txt does not exist"),
        (["--prompts", __file__, "--metrics", "clip_score"], "a TinyPainter draws no pictures from prompts alone"),
        (["--metrics", "image_reward", "--metrics.image_reward.source", "gone/ImageReward.pt"], "no file gone/"),
        (["--metrics", "hpsv2", "--metrics.hpsv2.reward.source", "gone/HPS.pt"], "no file gone/HPS.pt"),
        (["--metrics", "psnr"], "a dict with `reconstruction`"),
        (["--metrics", "transport"], "a `sample` for each row"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_nothing(evaluate, run_dir, tmp_path, capsys, arguments, message):
    check_one_line(evaluate, [str(run_dir), *arguments, "--out", str(tmp_path / "out")], message, capsys)
    started = message in FOUND_WHILE_MEASURING  # then the samples that were made are kept, and nothing else
    assert [p.name for p in tmp_path.glob("out/*")] == ["partial"] * started


def test_images_out_of_range_are_one_line(evaluate, run_dir, tmp_path, capsys):
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["model"]["init_args"]["gain"] = 3.0
    (tmp_path / "gain.yaml").write_text(yaml.safe_dump(config))
    arguments = [str(run_dir), "--config", str(tmp_path / "gain.yaml"), "--out", str(tmp_path / "out")]
    check_one_line(evaluate, arguments, "`image` of the outputs: images must lie in [-1, 1], got values from", capsys)


BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here; install it to see the report in a real browser")
def test_the_report_opens_in_a_browser(evaluate, run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "second")
    arguments = [str(run_dir), str(tmp_path / "second"), "--out", str(tmp_path / "out"), "--bootstrap", "50"]
    assert evaluate(arguments) == 0
    address = (tmp_path / "out" / "report.html").as_uri()
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    options += ["--hide-scrollbars", "--window-size=1200,2400"]

    def browse(*more):
        command = [BROWSER, *options, *more, address]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    document = browse("--dump-dom")
    assert "Fréchet distance, colours" in document
    assert document.count("<svg") >= 3
    browse(f"--screenshot={tmp_path / 'page.png'}")
    with Image.open(tmp_path / "page.png") as page:
        pixels = np.asarray(page.convert("RGB"))
    assert pixels.shape == (2400, 1200, 3)
    colours = {tuple(c) for c in pixels.reshape(-1, 3)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= colours  # the dots of both runs were drawn
    assert len(colours) > 200  # and their samples
