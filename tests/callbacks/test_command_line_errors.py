"""Mistakes are answered with one line that names the key, its neighbour and the place, and leave nothing behind."""

from pathlib import Path

import pytest
import yaml

import train

MODEL = "model.init_args"
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
            {
                "model": {
                    "init_args": {"net": {"class_path": "tests.callbacks.tiny_run.TinyNet", "init_args": {"wdth": 3}}}
                }
            },
            f"unknown key '{MODEL}.net.init_args.wdth'; nearest valid key: '{MODEL}.net.init_args.width'",
        ),
        ({"callbacks": {"ema": {"init_args": {"dekay": 0.5}}}}, "nearest valid key: 'callbacks.ema.init_args.decay'"),
        (
            {"callbacks": {"emaa": {"init_args": {"decay": 0.5}}}},
            "callbacks.emaa has no class_path; nearest key with one",
        ),
        ({"model": {"init_args": {"lr": "fast"}}}, f"{MODEL}.lr: expected float, got 'fast'"),
        ({"trainer": {"max_steps": "many"}}, "trainer.max_steps: expected int, got 'many'"),
        (
            {"model": {"class_path": "tests.callbacks.tiny_run.TinyModul"}},
            "nearest class: 'tests.callbacks.tiny_run.TinyM",
        ),
        ({"model": {"class_path": f"{TINY}.TinyData"}}, "model: the class is not a LightningModule"),
        ({"wandb": "onlin"}, "wandb: expected 'offline', 'online', 'disabled', got 'onlin'"),
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
    ("arguments", "expected"),
    [
        (["--model.lrr", "3"], f"unknown key '{MODEL}.lrr'; nearest valid key: '{MODEL}.lr' (on the command line)"),
        (["--trainer.max_stepz=3"], "nearest valid key: 'trainer.max_steps' (on the command line)"),
        (["--run_dirr", "x"], "unknown key 'run_dirr'; nearest valid key: 'run_dir' (on the command line)"),
        (["--callbacks.emaa.decay", "0.5"], "unknown key 'callbacks.emaa.decay'; nearest valid key: 'callbacks.ema'"),
        (["--model.net.width", "3"], f"{MODEL}.net has no class_path"),
        (["--callbacks.stop", "EarlyStopping"], "callbacks.stop.init_args.monitor is required"),
        (["--trainer.precision", "13"], "trainer.precision: expected"),
        (["--model.lr", "fast"], f"{MODEL}.lr: expected float, got 'fast' (on the command line)"),
        (["--callbacks.ema.decay", "1.5"], "ema decay is 1.5; choose a value in [0, 1)"),
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
        (["fitt"], "unknown command 'fitt'; choose fit, validate, test or predict"),
        (["fit"], "no model is given; choose a run with -c configs/METHOD/RUN.yaml"),
        (["fit", "--resume"], "expected one argument"),
        (["test", "-c", "tiny.yaml", "--resume", "x/last.ckpt"], "to use its weights: --ckpt_path x/last.ckpt\n"),
        (["predict", "-c", "tiny.yaml", "--resume", "auto"], "--ckpt_path RUN/checkpoints/best.ckpt"),
    ],
)
def test_a_command_that_cannot_start(config, capsys, argv, expected):
    assert train.main(argv) == 2
    assert expected in capsys.readouterr().err


def test_the_traceback_is_there_on_request(fit, monkeypatch):
    monkeypatch.setenv("FEWSTEP_TRACEBACK", "1")
    with pytest.raises(ValueError, match="truncated"):
        fit("--data.path", "late")
