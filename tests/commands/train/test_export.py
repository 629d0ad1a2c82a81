"""What a run leaves for other programs: at its end with and without a test, after a stop, and whenever it is asked."""

import shutil
from pathlib import Path

import pytest
import torch

import lightning_modules
import train
from callbacks.checkpoints.export import averaged_weights
from commands.train.next_use import USES, next_use
from tests.callbacks.tiny_run import TinyModule

EXPORTING = ["--model", "tests.tiny_exporting.ExportingModule", "--callbacks.export", "Export", "--run_dir", "run"]
SHORT = ["--trainer.max_steps", "12"]  # epochs of ten steps
AVERAGED = ["--callbacks.ema.decay", "0.9"]


def exported(run="run"):
    return torch.load(Path(run, "export", "net.pt"), weights_only=True)


def averages(load, name):
    """The averaged weights in a checkpoint, by the names of the network."""
    return {key.removeprefix("net."): value for key, value in load(name)["callbacks"]["EMA"]["average"].items()}


def raw(load, name):
    return {key.removeprefix("net."): value for key, value in load(name)["state_dict"].items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("tested", ["true", "false"])
def test_a_run_exports_its_best_averaged_weights_whether_or_not_it_is_tested(fit, load, capsys, tested):
    assert fit(*EXPORTING, *AVERAGED, "--test_after_fit", tested) == 0
    assert same(exported(), averages(load, "run/checkpoints/best.ckpt"))
    assert not same(exported(), raw(load, "run/checkpoints/best.ckpt"))
    assert "export         run/export" in capsys.readouterr().out.splitlines()[-1]


def test_without_a_monitored_checkpoint_the_last_averaged_weights_are_exported(fit, load):
    assert fit(*EXPORTING, *AVERAGED, *SHORT, "--callbacks.checkpoint", "null") == 0
    assert load("run/checkpoints/last.ckpt")["global_step"] == 12
    assert same(exported(), averages(load, "run/checkpoints/last.ckpt"))


def test_without_an_average_the_weights_themselves_are_exported(fit, load):
    assert fit(*EXPORTING, "--callbacks.ema", "null", "--callbacks.checkpoint", "null") == 0
    assert same(exported(), raw(load, "run/checkpoints/last.ckpt"))


STOPS = ["--callbacks.stop_now", "tests.tiny_exporting.StopsBefore", "--callbacks.stop_now.step", "7"]


def test_a_stopped_run_exports_what_it_has(fit, load, capsys):
    assert fit(*EXPORTING, *AVERAGED, *STOPS) == 143
    assert load("run/checkpoints/last.ckpt")["global_step"] == 8
    assert same(exported(), averages(load, "run/checkpoints/last.ckpt"))
    export, stop = capsys.readouterr().err.splitlines()[-2:]
    assert (export, stop.startswith("stopped by SIGTERM after step 8: saved")) == ("export  run/export", True)


def test_an_export_that_fails_after_a_stop_is_one_line_and_changes_no_code(fit, capsys):
    refusing = ["--model", "tests.tiny_exporting.RefusingModule", *EXPORTING[2:]]
    assert fit(*refusing, *STOPS) == 143
    assert "export  not written: not measured yet: validate before the export\n" in capsys.readouterr().err


def test_an_export_that_breaks_off_leaves_the_one_before(fit, load, monkeypatch, capsys):
    assert fit(*EXPORTING) == 0
    before = exported()

    def half(self, folder):
        Path(folder).mkdir()
        Path(folder, "net.pt").write_bytes(b"half")
        raise ValueError("no space left")

    monkeypatch.setattr("tests.tiny_exporting.ExportingModule.export", half)
    assert train.main(["export", "--run_dir", "run", "--ckpt_path", "run/checkpoints/last.ckpt"]) == 2
    assert "no space left" in capsys.readouterr().err
    assert same(exported(), before)
    assert [path.name for path in Path("run").iterdir() if "export" in path.name] == ["export"]


def test_a_dry_run_exports_nothing(fit):
    assert fit(*EXPORTING, "--dry_run") == 0
    assert [file.name for file in Path().iterdir()] == ["tiny.yaml"]


def test_export_makes_one_at_any_time_of_the_best_the_newest_or_a_given_checkpoint(fit, load, capsys):
    assert fit(*EXPORTING, *AVERAGED) == 0
    of_the_fit = exported()
    shutil.rmtree("run/export")
    capsys.readouterr()
    assert train.main(["export", "--run_dir", "run"]) == 0
    assert capsys.readouterr().out.startswith("checkpoint     run/checkpoints/best.ckpt, step ")
    assert same(exported(), of_the_fit)
    Path("run/checkpoints/best.ckpt").rename("elsewhere.ckpt")
    capsys.readouterr()
    assert train.main(["export", "--run_dir", "run"]) == 0
    assert same(exported(), averages(load, "run/checkpoints/last.ckpt"))
    assert capsys.readouterr().out.splitlines() == [
        "checkpoint     run/checkpoints/last.ckpt, step 20",
        "export         run/export",
    ]
    Path("run/checkpoints/last.ckpt").write_bytes(b"torn")
    assert train.main(["export", "--run_dir", "run"]) == 0
    assert same(exported(), averages(load, "run/checkpoints/last-1.ckpt"))
    assert train.main(["export", "--run_dir", "run", "--ckpt_path", "elsewhere.ckpt"]) == 0
    assert same(exported(), of_the_fit)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "export needs the folder of a run; add --run_dir RUN"),
        (["--run_dir", "nowhere"], "nowhere/config.yaml does not exist: nowhere is no run; nearest runs: "),
        (["--run_dir", "run"], "no checkpoint in run/checkpoints; add --ckpt_path with one of this run"),
        (["--run_dir", "run", "--out", "x"], "unexpected argument '--out'; export takes --run_dir RUN and --ckpt_path"),
        (["--run_dir", "exporting", "--ckpt_path", "torn.ckpt"], "checkpoint torn.ckpt cannot be read"),
        (["--ckpt_path", "exporting/checkpoints/last.ckpt"], "checkpoint exporting/checkpoints/last.ckpt does not"),
    ],
    ids=["no run", "nowhere", "no checkpoint", "other words", "torn", "gone"],
)
def test_mistakes_of_export_are_one_line(config, capsys, words, message):
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/config.yaml").write_text(config.read_text())
    Path("exporting").mkdir()
    Path("exporting/config.yaml").write_text("model: {class_path: tests.tiny_exporting.ExportingModule}")
    Path("torn.ckpt").write_bytes(b"torn")
    assert train.main(["export", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_module_without_export_says_so(fit, capsys):
    assert fit("--run_dir", "run", "--trainer.max_steps", "2") == 0
    assert train.main(["export", "--run_dir", "run"]) == 2
    assert "error: TinyModule has no export" in capsys.readouterr().err


def test_an_average_covers_only_what_it_holds():
    stored = {"state_dict": {"a": 1, "b": 2}, "callbacks": {"EMA": {"average": {"b": 3}}}}
    assert averaged_weights(stored) == {"a": 1, "b": 3}
    assert averaged_weights({"state_dict": {"a": 1}}) == {"a": 1}


def test_every_module_that_exports_names_the_command_that_takes_it():
    kinds = [getattr(lightning_modules, name) for name in lightning_modules.__all__]
    named = {kind.__name__ for kind in kinds if hasattr(kind, "export")}
    assert named == set(USES)

    icd = type("ICDModule", (torch.nn.Module,), {"hparams": {"pipeline": "a", "network": None}})
    assert next_use("my runs/export", icd()).startswith("python -m fewstep.icd edit 'my runs/export' --image")
    assert next_use("export", TinyModule()) is None


def test_a_table_is_asked_of_the_runs_best_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = type("OTConditionalModule", (torch.nn.Module,), {"hparams": {}})
    assert next_use("run/export", table()) is None
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/best.ckpt").touch()
    assert " --ckpt_path run/checkpoints/best.ckpt --data.x TABLE" in next_use("run/export", table())


def test_an_early_stop_is_the_last_line(fit, capsys):
    options = {"": "EarlyStopping", ".monitor": "val/nll", ".min_delta": "100", ".patience": "1"}
    flags = [word for name, value in options.items() for word in (f"--callbacks.early{name}", value)]
    assert fit("--run_dir", "run", "--trainer.max_steps", "200", *flags) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(
        "stopped early  after step 20: Monitored metric val/nll did not improve in the last 1 records"
    )
    assert fit("--run_dir", "whole") == 0
    assert "stopped early" not in capsys.readouterr().out
