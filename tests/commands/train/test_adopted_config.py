"""A config that lies in a run folder writes into that folder; one that is named on the command line is one's own."""

import shutil
from pathlib import Path

import pytest
import yaml

import evaluate
import train
from commands.evaluate.build import Options, build, locate
from commands.train.adopted_config import refuse_writes_outside
from commands.train.scan import with_saved_config
from tests.conftest import TINY

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
    """As train.py does; of `content` the parser would make the same."""
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    argv = with_saved_config(["fit", "--run_dir", str(run), "--resume", "auto"])
    refuse_writes_outside(content, run / "config.yaml")
    return argv


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
    with pytest.raises(ValueError, match=r"-c run/config\.yaml|which only a command may") as error:
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


HIDDEN = {  # ways to say: write to victim, and the files beside the config that they need
    "root with dots": ({"trainer.default_root_dir": "victim"}, {}),
    "folder with dots": ({"callbacks.checkpoint.init_args.dirpath": "victim"}, {}),
    "section with dots": ({"callbacks.more": {"class_path": SAVER, "init_args": {"dirpath": "victim"}}}, {}),
    "section in a file": ({"trainer": "part.yaml"}, {"part.yaml": {"default_root_dir": "victim"}}),
    "section in a file elsewhere": ({"trainer": "../part.yaml"}, {"../part.yaml": {"default_root_dir": "victim"}}),
    "callback in a file": (
        {"callbacks": {"more": "part.yaml"}},
        {"part.yaml": {"class_path": SAVER, "init_args": {"dirpath": "victim"}}},
    ),
    "callback in a text": ({"callbacks": {"more": f"class_path: {SAVER}\ninit_args: {{dirpath: victim}}"}}, {}),
    "arguments of another kind": (
        {"callbacks": {"more": {"class_path": SAVER, "dict_kwargs": {"dirpath": "victim"}}}},
        {},
    ),
    "section in a text": ({"trainer": "default_root_dir: victim"}, {}),
    "list of a section with dots": (
        {"trainer.logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "victim"}}]},
        {},
    ),
}


@pytest.mark.parametrize("way", HIDDEN)
def test_however_it_is_written_what_counts_is_what_the_parser_made_of_it(config, capsys, way):
    """A run may be started with each of these by whoever names the config."""
    content, files = HIDDEN[way]
    (config.parent / "run" / "checkpoints").mkdir(parents=True)
    for name, part in {**files, "config.yaml": {**TINY, **content}}.items():
        (config.parent / "run" / name).write_text(yaml.safe_dump(part))
    before = sorted(config.parent.rglob("*"))
    assert train.main(["fit", "--run_dir", "run", "--resume", "auto"]) == 2
    err = capsys.readouterr().err
    assert "write to 'victim', outside the run" in err
    assert err.count("\n") == 1
    assert sorted(config.parent.rglob("*")) == before


def test_flags_lead_where_the_user_likes(fit):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    again = ["fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "3"]
    assert train.main([*again, "--callbacks.last_checkpoint.folder", "mine"]) == 0
    assert Path("mine/last.ckpt").is_file()


def metric(**options: str) -> dict:
    return {"callbacks": {"kid": {"class_path": "callbacks.KIDCallback", "init_args": options}}}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        (metric(cache_dir="victim"), "callbacks.kid.init_args.cache_dir write to"),
        ({"data": {"class_path": "datamodules.ImageTextDataModule", "init_args": {"path": "x", "cache_dir": "victim"}}},
         "data.init_args.cache_dir write to"),
        ({"data.init_args.more": 5}, "has the key 'data.init_args.more'; write it without dots"),
        ({"callbacks.kid": {"class_path": "callbacks.KIDCallback"}}, "has the key 'callbacks.kid'"),
        ({"callbacks": {"kid.class_path": "callbacks.KIDCallback"}}, "has the key 'kid.class_path'"),
        ({"model": {**TINY["model"], "init_args.lr": 0.1}}, "has the key 'init_args.lr'"),
        (metric(cache_dir="run/cache"), None),
        ({"trainer": {"default_root_dir": "/moved/from"}}, None),  # an evaluation has no trainer of the config's
    ],
)  # fmt: skip
def test_an_evaluation_keeps_nothing_where_a_folder_says(trained, changed, fault):
    content = yaml.safe_load((trained / "config.yaml").read_text())
    (trained / "config.yaml").write_text(yaml.safe_dump({**content, "callbacks": {}, **changed}))
    checkpoint, config = locate(trained, None)
    if fault is None:
        build(checkpoint, config, None, Options(), adopted=True)
        return
    with pytest.raises(ValueError, match=fault) as error:
        build(checkpoint, config, None, Options(), adopted=True)
    assert "\n" not in str(error.value)
    if "write to" in fault:
        assert "--config" in str(error.value)


def test_the_command_line_of_an_evaluation_takes_a_named_config_only_at_its_word(trained, capsys):
    content = yaml.safe_load((trained / "config.yaml").read_text())
    more = {"data.more": 1, **metric(cache_dir="victim")}
    (trained / "config.yaml").write_text(yaml.safe_dump({**content, **metric(cache_dir="victim")}))
    assert evaluate.main(["run", "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert "lets callbacks.kid.init_args.cache_dir write to 'victim'" in err
    assert err.count("\n") == 1
    assert not Path("out").exists()
    assert not any(Path("victim").glob("*"))
    (trained / "config.yaml").write_text(yaml.safe_dump({**content, **more}))
    assert evaluate.main(["run", "--out", "out", "--config", "run/config.yaml"]) == 2
    assert "has the key 'data.more'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    file = tmp_path_factory.mktemp("original") / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    run = file.parent / "run"
    options = ["--trainer.max_steps", "1", "--test_after_fit", "false"]
    assert train.main(["fit", "-c", str(file), "--run_dir", str(run), *options]) == 0
    return run


@pytest.fixture
def trained(original, tmp_path, monkeypatch) -> Path:
    """A run that has a checkpoint, in the working directory."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(original, Path("run"))
