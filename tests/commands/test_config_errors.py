"""Mistakes are answered with one line that names the key, its neighbour and the place, and leave nothing behind."""

import random
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.tuner.lr_finder import _determine_lr_attr_name

import train
from commands.train import exit_codes
from commands.train.scan import callback_keys

MODEL = "model.init_args"
OT = "lightning_modules.OTConditionalModule"
TINY = "tests.callbacks.tiny_run"
NET = {"class_path": f"{TINY}.TinyNet", "init_args": {"wdth": 3}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"trainr": {"max_steps": 3}}, "unknown key 'trainr.max_steps'; nearest valid key: 'trainer.max_steps'"),
        ({"trainer": {"max_stepz": 3}}, "unknown key 'trainer.max_stepz'; nearest valid key: 'trainer.max_steps'"),
        ({"model": {"init_args": {"lrr": 3}}}, f"unknown key '{MODEL}.lrr'; nearest valid key: '{MODEL}.lr'"),
        ({"data": {"init_args": {"batchsize": 3}}}, "nearest valid key: 'data.init_args.batch_size'"),
        ({"model": {"init_arg": {"lr": 3}}}, "unknown key 'model.init_arg'; nearest valid key: 'model.init_args'"),
        (
            {"model": {"class_path": OT, "init_args": {"model": {"class_path": "fewstep.energy.EnergyTransport"}}}},
            "fewstep.energy.EnergyTransport is fewstep.transport.energy.EnergyTransport now; write that",
        ),
        ({"callbacks": {"x": {"class_path": "callbacks.kid.KIDCallback"}}}, "is callbacks.KIDCallback now; write that"),
        ({None: 3}, "the key None is not a name; write KEY: VALUE"),
        ({"trainer": {3: 4}}, "the key 3 is not a name; write KEY: VALUE"),
    ],
)
def test_a_mistake_in_a_file(fit, capsys, content, expected):
    Path("bad.yaml").write_text(yaml.safe_dump(content))
    assert fit("-c", "bad.yaml") == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err
    assert "(in bad.yaml)" in err
    assert out == ""
    assert sorted(p.name for p in Path().iterdir()) == ["bad.yaml", "tiny.yaml"]


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        ({"trainer": {"max_steps": "abc"}}, ["--trainer.max_steps", "5"], "max_steps: expected int, got 'abc'"),
        ({"callbacks": {"k": {"class_path": "killer.K"}}}, ["--callbacks.k", "null"], "add --trust killer"),
    ],
)
def test_a_mistake_in_a_file_is_not_laid_to_the_command_line(fit, capsys, content, arguments, expected):
    Path("bad.yaml").write_text(yaml.safe_dump(content))
    assert fit("-c", "bad.yaml", *arguments) == 2
    assert capsys.readouterr().err.endswith(f"{expected} (in bad.yaml)\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--callbacks.ema=null", "--callbacks.ema.decay", "0.9"],
            "callbacks.ema is null and has options (--callbacks",
        ),
        (["--model.lrr", "3"], "unknown key 'model.lrr'; nearest valid key: 'model.lr' (on the command line)"),
        (["--trainer.max_stepz=3"], "nearest valid key: 'trainer.max_steps' (on the command line)"),
        (["--trainer.max_step", "3"], "unknown key 'trainer.max_step'; nearest valid key: 'trainer.max_steps'"),
        (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches=0: must be at least 1"),
        (["--trainer.val_check_interval", "0"], "val_check_interval=0: give a share of an epoch or a number of"),
        (["--trainer.val_check_interval", "-0.5"], "val_check_interval=-0.5: give a share"),
        (["--trainer.check_val_every_n_epoch", "0"], "check_val_every_n_epoch=0: must be at least 1"),
        (["--num_threads", "-1"], "num_threads=-1: must be at least 1"),
        (["--trainer.limit_train_batches", "0"], "trainer.limit_train_batches=0 leaves nothing to train; give more"),
        (["--trainer.devices", "-1"], "trainer.devices=-1: on a CPU give the number of processes, at least 1"),
        (
            [
                "--callbacks.stop",
                "EarlyStopping",
                "--callbacks.stop.monitor",
                "val/nll",
                "--callbacks.stop.patience=-1",
            ],
            "callbacks.stop.patience=-1: must be at least 0",
        ),
        (["--run_dir", "tiny.yaml"], "run directory tiny.yaml is a file; choose another one"),
        (["--resume", "atuo"], "--resume atuo: give auto, or a checkpoint such as RUN/checkpoints/last.ckpt"),
        (["--run_dirr", "x"], "unknown key 'run_dirr'; nearest valid key: 'run_dir' (on the command line)"),
        (["--callbacks.emaa.decay", "0.5"], "unknown key 'callbacks.emaa.decay'; nearest valid key: 'callbacks.ema'"),
        (["--model.net.width", "3"], "model.net has no class_path"),
        (["--callbacks.stop", "EarlyStopping"], "callbacks.stop.monitor is required (on the command line)"),
        (["--trainer.precision", "13"], "trainer.precision: expected"),
        (["--model.lr", "fast"], "model.lr: expected float, got 'fast' (on the command line)"),
        (["--callbacks.ema.decay", "1.5"], "callbacks.ema.decay=1.5: of the moving average; choose a value in [0, 1)"),
        (["-c", "tinny.yaml"], "config tinny.yaml does not exist; nearest file: 'tiny.yaml'"),
        (["-c"], "expected one argument"),
        (["stray"], "unexpected argument 'stray'"),
        (["--data.path", "missing"], "error: data folder missing does not exist; prepare it first\n"),
        (["--data.path", "late"], "error: shard late-000000.tar is truncated; prepare it again\n"),
        (["--trainer.num_nodes", "2"], "several processes start this run and share no id; add --run_dir DIR"),
    ],
)
def test_a_mistake_on_the_command_line(fit, capsys, arguments, expected):
    assert fit(*arguments) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("model: [", "is not valid YAML"), ("- 3", "must hold keys and values, found list"), ("", "found NoneType")],
)
def test_a_file_that_is_no_config(fit, capsys, text, expected):
    Path("bad.yaml").write_text(text)
    assert fit("-c", "bad.yaml") == 2
    err = capsys.readouterr().err
    assert expected in err
    assert "bad.yaml" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["fitt"], "unknown command 'fitt'; choose fit, validate, test, predict or export"),
        (["fit"], "no model is given; choose a run with -c configs/METHOD/RUN.yaml"),
        (["fit", "--resume"], "expected one argument"),
        (["test", "-c", "tiny.yaml", "--resume", "x/last.ckpt"], "to use its weights: --ckpt_path x/last.ckpt\n"),
        (["predict", "-c", "tiny.yaml", "--resume", "auto"], "--ckpt_path RUN/checkpoints/best.ckpt"),
    ],
)
def test_a_command_that_cannot_start(config, capsys, argv, expected):
    assert train.main(argv) == 2
    assert expected in capsys.readouterr().err


def test_what_lightning_says_about_an_option_is_one_line_and_a_slip_keeps_its_traceback(capsys):
    def fails(call) -> Exception:
        with pytest.raises((AttributeError, TypeError)) as error:
            call()
        return error.value

    for call, said in (
        (
            lambda: _determine_lr_attr_name(LightningModule(), "lr"),
            "error: The attribute name for the learning rate",
        ),
        (lambda: CPUAccelerator.parse_devices(-1), "error: `devices` selected with `CPUAccelerator`"),
    ):
        assert exit_codes.report(fails(call), None) == 2
        err = capsys.readouterr().err
        assert err.startswith(said)
        assert err.count("\n") == 1
    for slip in (lambda: torch.nn.Linear(1, 1).lr, lambda: CPUAccelerator.parse_devices(), lambda: 1 + "1"):
        with pytest.raises((AttributeError, TypeError)):
            exit_codes.report(fails(slip), None)


def test_the_traceback_is_there_on_request(fit, monkeypatch):
    monkeypatch.setenv("FEWSTEP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="truncated"):
        fit("--data.path", "late")


DEFAULTS = yaml.safe_load((Path(train.__file__).parent / "configs" / "trainer" / "default.yaml").read_text())


def misspelt(name: str, draw: random.Random) -> str:
    """One letter lost, doubled, changed, or swapped with its neighbour."""
    at = draw.randrange(len(name) - 1)
    parts = (name[:at], name[at], name[at + 1], name[at + 2 :])
    ways = (parts[0] + parts[2] + parts[3], parts[0] + parts[1] * 2 + parts[2] + parts[3])
    ways += (parts[0] + "q" + parts[2] + parts[3], parts[0] + parts[2] + parts[1] + parts[3])
    return draw.choice([way for way in ways if way not in DEFAULTS["callbacks"]])


@pytest.mark.parametrize("name", DEFAULTS["callbacks"])
@pytest.mark.parametrize("seed", range(5))
def test_a_misspelt_callback_is_not_switched_off_in_silence(name, seed):
    wrong = misspelt(name, random.Random(f"{name} {seed}"))
    configs = {"default.yaml": DEFAULTS, "c.yaml": {}}
    ways = [({"callbacks": {wrong: null}}, []) for null in (None, {}, {"init_args": {}}, {"decay": 1})]
    ways += [({f"callbacks.{wrong}": None}, []), ({f"callbacks.{wrong}.decay": 1}, [])]
    ways += [({}, [f"--callbacks.{wrong}", "null"]), ({}, [f"--callbacks.{wrong}=null"])]
    for content, argv in ways:
        with pytest.raises(ValueError, match=rf"callbacks\.{wrong}.*nearest .*'callbacks\.{name}' \((in c|on the)"):
            callback_keys(configs | {"c.yaml": content}, argv)
    for content, argv in (
        ({"callbacks": {wrong: "EMA"}}, []),
        ({"callbacks": {wrong: {"class_path": "callbacks.EMA"}}}, [f"--callbacks.{wrong}", "null"]),
        ({f"callbacks.{wrong}.class_path": "callbacks.EMA"}, []),
        ({"callbacks": {wrong: None}}, [f"--callbacks.{wrong}", "EMA"]),
        ({"callbacks": {name: None}}, [f"--callbacks.{name}=null", f"--callbacks.{wrong}.class_path=EMA"]),
        ({"callbacks": {wrong: None}, "num_threads": None, "test_after_fit": True, "wandb_project": "p"}, []),
    ):
        assert wrong in callback_keys(configs | {"c.yaml": content}, argv)


@pytest.mark.parametrize("value", [None, [], ["EMA"], "EMA", 3])
def test_callbacks_are_named(value):
    with pytest.raises(ValueError, match=r"callbacks in c\.yaml must be"):
        callback_keys({"c.yaml": {"callbacks": value}}, [])


def test_a_resumed_run_may_have_switched_off_what_only_its_config_had(fit):
    Path("more.yaml").write_text(yaml.safe_dump({"callbacks": {"extra": {"class_path": "callbacks.SkippedSamples"}}}))
    off = ["--callbacks.extra", "null", "--callbacks.skipped_samples", "null"]
    assert fit("-c", "more.yaml", *off, "--trainer.max_steps", "2", "--run_dir", "run") == 0
    assert yaml.safe_load(Path("run/config.yaml").read_text())["callbacks"]["extra"] is None
    assert train.main(["fit", "--resume", "auto", "--run_dir", "run", "--trainer.max_steps", "3"]) == 0
