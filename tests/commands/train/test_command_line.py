"""The command line: how configs merge, where a run writes, what it leaves behind."""

from pathlib import Path

import pytest
import torch
import yaml

import train

EMA_OFF = ["--callbacks.ema", "null"]


def write(name: str, **content: object) -> str:
    Path(name).write_text(yaml.safe_dump(content))
    return name


def saved(run_dir: str = "run") -> dict:
    return yaml.safe_load(Path(run_dir, "config.yaml").read_text())


def test_default_then_files_then_flags(fit):
    one = write("one.yaml", callbacks={"ema": {"init_args": {"decay": 0.5, "start_step": 3}}}, trainer={"max_steps": 4})
    two = write("two.yaml", callbacks={"ema": {"init_args": {"decay": 0.6}}, "step_seed": None})
    assert fit("-c", one, "-c", two, "--callbacks.ema.every_n_steps", "2", "--run_dir", "run") == 0
    config = saved()
    assert config["callbacks"]["ema"] == {
        "class_path": "callbacks.EMA",
        "init_args": {"decay": 0.6, "start_step": 3, "every_n_steps": 2},
    }
    assert config["callbacks"]["step_seed"] is None
    assert config["callbacks"]["checkpoint"]["init_args"]["monitor"] == "val/nll"
    assert config["trainer"]["max_steps"] == 4


def test_a_config_or_a_flag_may_add_a_callback(fit, load):
    extra = write("extra.yaml", callbacks={"second_ema": {"class_path": "callbacks.EMA", "init_args": {"decay": 0.1}}})
    stop = ["--callbacks.stop", "EarlyStopping", "--callbacks.stop.monitor", "val/nll"]
    assert fit("-c", extra, *EMA_OFF, *stop, "--run_dir", "run") == 0
    states = load("run/checkpoints/last.ckpt")["callbacks"]
    assert "EMA" in states
    assert any(name.startswith("EarlyStopping") for name in states)
    assert saved()["callbacks"]["ema"] is None


def test_run_directory_holds_config_checkpoints_and_metrics(fit, load):
    assert fit("--run_dir", "run", "--trainer.log_every_n_steps", "5") == 0
    assert sorted(p.name for p in Path("run").iterdir()) == [".lock", "checkpoints", "config.yaml", "logs"]
    assert sorted(p.name for p in Path("run/checkpoints").iterdir()) == ["best.ckpt", "last-1.ckpt", "last.ckpt"]
    assert load("run/checkpoints/last.ckpt")["global_step"] == 20
    header, *rows = Path("run/logs/metrics.csv").read_text().splitlines()
    assert {"step", "train/loss", "val/nll", "test/nll"} <= set(header.split(","))
    assert [r.split(",")[1] for r in rows if r.split(",")[3]] == ["4", "9", "14", "19"]  # steps with a train/loss


def test_default_run_directory_is_named_after_the_run_config_not_the_shared_parts(config):
    Path("trainer").mkdir()
    shared = write("trainer/cpu.yaml", trainer={"accelerator": "cpu"})
    assert train.main(["fit", "-c", str(config), "-c", shared]) == 0
    (run,) = Path("runs/tiny").iterdir()
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_the_saved_config_repeats_the_run_bit_by_bit(fit, load):
    assert fit("--run_dir", "one", "--model.lr", "0.03", "--seed_everything", "5") == 0
    assert train.main(["fit", "-c", "one/config.yaml", "--run_dir", "two"]) == 0
    one, two = (load(f"{d}/checkpoints/last.ckpt")["state_dict"] for d in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert saved("one") == saved("two")


def test_an_occupied_run_directory_is_refused_and_left_alone(fit, capsys):
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    assert fit("--run_dir", "run") == 2
    assert "run directory run is not empty; continue it with --resume auto" in capsys.readouterr().err
    assert [p.name for p in Path("run").iterdir()] == ["notes.txt"]


def test_the_best_checkpoint_is_tested_once_and_the_next_command_is_named(fit, capsys):
    assert fit("--run_dir", "run") == 0
    out = capsys.readouterr().out
    assert out.count("test/nll") == 1
    assert "python evaluate.py run/checkpoints/best.ckpt --out run/evaluation" in out


def test_test_after_fit_can_be_switched_off(fit, capsys):
    assert fit("--run_dir", "run", "--test_after_fit", "false") == 0
    assert "test/nll" not in capsys.readouterr().out


def test_without_a_checkpoint_callback_nothing_is_saved_and_lightning_adds_none(fit):
    off = [x for name in ("checkpoint", "last_checkpoint", "progress") for x in (f"--callbacks.{name}", "null")]
    assert fit("--run_dir", "run", *off) == 0
    assert not Path("run/checkpoints").exists()


def test_a_run_shorter_than_an_epoch_still_keeps_its_last_step(fit, load):
    assert fit("--run_dir", "run", "--trainer.max_steps", "3") == 0
    assert load("run/checkpoints/last.ckpt")["global_step"] == 3


def test_loggers_of_the_user_replace_ours(fit):
    csv = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "elsewhere"}}
    assert fit("--run_dir", "run", "-c", write("log.yaml", trainer={"logger": csv})) == 0
    assert Path("elsewhere").is_dir()
    assert not Path("run/logs").exists()


def test_the_other_commands_use_the_checkpoint_and_print_one_table(config, fit, capsys):
    assert fit("--run_dir", "run") == 0
    for command, metric in (("validate", "val/nll"), ("test", "test/nll"), ("predict", "")):
        capsys.readouterr()
        assert train.main([command, "-c", str(config), "--ckpt_path", "run/checkpoints/best.ckpt"]) == 0
        assert capsys.readouterr().out.count("nll") == (1 if metric else 0)
    assert not Path("runs").exists()


def test_a_checkpoint_that_is_tested_does_not_change_the_config(fit, config, capsys):
    """Lightning would replace the net of the command line by that of the checkpoint and say nothing."""
    assert fit("--run_dir", "run") == 0
    other = ["--model.net", "tests.callbacks.tiny_run.TinyNet", "--model.net.width", "9"]
    assert train.main(["test", "-c", str(config), "--ckpt_path", "run/checkpoints/best.ckpt", *other]) == 2
    assert "the checkpoint does not fit the model: " in capsys.readouterr().err


def test_an_error_in_the_first_step_is_one_line(fit, capsys):
    """The data lack a field that a module asks for: no slip of the code."""
    assert fit("--run_dir", "run", "--model.fail_at", "0") == 2
    assert capsys.readouterr().err == "error: training went wrong\n"


def test_an_error_after_the_first_step_keeps_its_traceback(fit):
    with pytest.raises(ValueError, match="training went wrong"):
        fit("--run_dir", "run", "--model.fail_at", "2")


def test_what_a_run_prints(fit, capsys):
    """No tips, no hardware notes, no second table; warnings would be on stderr."""
    assert fit("--run_dir", "run") == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["run", "model", "data", "device"]
    assert "17 trainable parameters" in out
    assert err == ""
