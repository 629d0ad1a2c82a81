"""A config that lies in a run folder writes into that folder; one that is named on the command line is one's own."""

from pathlib import Path

import pytest
import yaml

import train
from commands.evaluate.build import locate
from commands.train.scan import with_saved_config

SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
PLAIN = {
    "model": {"class_path": "M", "init_args": {"name": "../model", "folder": "/data/teacher"}},
    "data": {"class_path": "D", "init_args": {"path": "/data/weather", "dir": "/data"}},
    "trainer": {"default_root_dir": None, "logger": None, "strategy": "auto"},
    "callbacks": {"checkpoint": {"class_path": SAVER, "init_args": {"dirpath": None, "filename": "best"}}},
}


def saver(**options: str) -> dict:
    return {"callbacks": {"checkpoint": {"class_path": SAVER, "init_args": options}}}


def logger(**options: str) -> dict:
    return {"trainer": {"logger": [{"class_path": "CSVLogger", "init_args": options}]}}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("run/checkpoints").mkdir(parents=True)
    Path("victim").mkdir()
    return Path("run")


def adopt(run: Path, content: dict) -> list[str]:
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    return with_saved_config(["fit", "--run_dir", str(run), "--resume", "auto"])


@pytest.mark.parametrize(
    "changed",
    [
        {},
        saver(dirpath="run/checkpoints", filename="{epoch}/best"),
        saver(filename="{epoch}"),
        saver(monitor="victim/loss", an_option_of_tomorrow="val/loss"),
        {"trainer": {"default_root_dir": "run"}},
        logger(save_dir="run/logs", name="a", version="v..2"),
    ],
)
def test_what_stays_inside_is_adopted(run, changed):
    assert adopt(run, {**PLAIN, **changed})[:3] == ["fit", "-c", "run/config.yaml"]


@pytest.mark.parametrize(
    "changed",
    [
        saver(dirpath="victim"),
        saver(dirpath="run/../victim"),
        saver(dirpath="run/checkpoints/link"),
        saver(dirpath="s3://bucket/run"),
        saver(an_option_of_tomorrow="victim/x"),
        saver(an_option_of_tomorrow="~/x"),
        {"data": {"class_path": "D", "init_args": {"path": "/data", "cache_dir": "victim"}}},
        saver(dirpath="file:///victim"),
        saver(filename="../../victim/x"),
        saver(filename="/victim/x"),
        {"callbacks": {"last": {"class_path": "callbacks.LastCheckpoint", "init_args": {"folder": "victim"}}}},
        {"trainer": {"default_root_dir": "."}},
        {"trainer": {"profiler": {"class_path": "SimpleProfiler", "init_args": {"dirpath": "victim"}}}},
        {"callbacks": {"checkpoint": f"class_path: {SAVER}\ninit_args: {{dirpath: victim}}"}},
        {"callbacks": {"checkpoint": {"class_path": SAVER, "init_args": "{dirpath: victim}"}}},
        {"trainer": {"profiler": "class_path: SimpleProfiler\ninit_args: {dirpath: victim}"}},
        {"trainer": "default_root_dir: victim"},
        {"data": {"class_path": "D", "init_args": "{cache_dir: victim}"}},
        {
            "callbacks": {
                "spikes": {"class_path": "SpikeDetection", "init_args": {"exclude_batches_path": "victim/x.json"}}
            }
        },
        saver(dirpath="run/checkpoints/a/b/link"),
        logger(save_dir="."),
        logger(save_dir="run", name="../../victim"),
        logger(save_dir="run", version="../../../victim"),
        {"run_dir": "victim"},
        {"resume": "victim/checkpoints/last.ckpt"},
    ],
)
def test_what_leads_outside_is_refused_unless_the_config_is_named(run, changed):
    for link in (Path("run/checkpoints/link"), Path("run/checkpoints/a/b/link")) if "link" in str(changed) else ():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path("victim").absolute())
    with pytest.raises(ValueError, match=r"-c run/config\.yaml|which only a command may|in a text") as error:
        adopt(run, {**PLAIN, **changed})
    assert "\n" not in str(error.value)
    own = ["fit", "-c", "run/config.yaml", "--run_dir", "run", "--resume", "auto"]
    assert with_saved_config(own) == own


@pytest.mark.parametrize("name", ["checkpoints/best.ckpt", "logs", "metrics.csv", "checkpoints/a/b/c"])
def test_links_that_lead_outside_are_refused(run, name):
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(Path("victim").absolute())
    with pytest.raises(ValueError, match="is a link that leads outside the run"):
        adopt(run, PLAIN)


def test_links_inside_the_run_are_its_own(run):
    (run / "latest").symlink_to("checkpoints")
    adopt(run, PLAIN)


def test_the_log_that_w_and_b_links_to_is_no_place_to_write(run):
    part = run / "wandb" / "offline-run-20260101_000000-abc"
    (part / "logs").mkdir(parents=True)
    (part / "logs" / "debug-core.log").symlink_to(Path("victim/core.log").absolute())
    (run / "wandb" / "latest-run").symlink_to(part.name)
    assert adopt(run, PLAIN)[:3] == ["fit", "-c", "run/config.yaml"]
    (run / "wandb" / "offline-run-2").symlink_to(Path("victim").absolute())
    with pytest.raises(ValueError, match=r"offline-run-2 is a link that leads outside the run"):
        adopt(run, PLAIN)


def test_a_run_with_its_default_record_is_resumed_by_the_printed_command(fit, capsys):
    """W&B itself leaves links in the folder."""
    assert fit("--run_dir", "run", "--wandb", "offline", "--trainer.max_steps", "2") == 0
    again = ["fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "4"]
    assert train.main(again) == 0, capsys.readouterr().err


def metric(**options: str) -> dict:
    return {"callbacks": {"kid": {"class_path": "callbacks.KIDCallback", "init_args": options}}}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (metric(cache_dir="victim"), "callbacks.kid.init_args.cache_dir"),
        (metric(of_another_package="victim/x"), "of_another_package"),
        ({"data": {"class_path": "D", "init_args": {"cache_dir": "victim"}}}, "data.init_args.cache_dir"),
        (metric(cache_dir="run/cache", reference="/data/real.npz"), None),
        ({"trainer": {"default_root_dir": "/moved/from"}}, None),  # an evaluation has no trainer of the config's
    ],
)
def test_an_evaluation_keeps_nothing_where_a_folder_says(run, changed, fault):
    (run / "checkpoints" / "last.ckpt").touch()
    (run / "config.yaml").write_text(yaml.safe_dump({**PLAIN, **changed}))
    named = (run / "checkpoints" / "last.ckpt", run / "config.yaml")
    assert locate(run, run / "config.yaml") == named
    if fault is None:
        assert locate(run, None) == named
    else:
        with pytest.raises(ValueError, match=rf"{fault} write to .*--config run/config\.yaml"):
            locate(run, None)
