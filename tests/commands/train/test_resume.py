"""Going on: the same result as without the break, and the config always wins over the checkpoint."""

from pathlib import Path

import pytest
import torch

import train


def same_weights(one: dict, two: dict) -> bool:
    averages = [c["callbacks"]["EMA"]["average"] for c in (one, two)]
    states = (one["state_dict"], two["state_dict"])
    return all(torch.equal(a[name], b[name]) for a, b in (states, averages) for name in a)


@pytest.fixture
def interrupted(fit) -> None:
    assert fit("--run_dir", "run", "--trainer.max_steps", "13") == 0


@pytest.mark.parametrize("steps", [3, 10, 13, 20, 26])
def test_resumed_equals_uninterrupted_bit_by_bit(fit, load, steps):
    assert fit("--run_dir", "full", "--trainer.max_steps", "27") == 0
    assert fit("--run_dir", "run", "--trainer.max_steps", str(steps)) == 0
    assert fit("--run_dir", "run", "--trainer.max_steps", "27", "--resume", "auto") == 0
    full, resumed = (load(f"{d}/checkpoints/last.ckpt") for d in ("full", "run"))
    assert resumed["global_step"] == 27
    assert resumed["epoch"] == full["epoch"]
    assert same_weights(full, resumed)


def test_resumed_in_an_epoch_with_several_validations(fit, load):
    often = ["--trainer.val_check_interval", "4"]
    assert fit("--run_dir", "full", "--trainer.max_steps", "27", *often) == 0
    assert fit("--run_dir", "run", "--trainer.max_steps", "14", *often) == 0
    assert fit("--run_dir", "run", "--trainer.max_steps", "27", "--resume", "auto", *often) == 0
    assert same_weights(load("full/checkpoints/last.ckpt"), load("run/checkpoints/last.ckpt"))


def test_the_last_checkpoint_is_written_on_a_plateau_too(fit, load):
    """Lightning's own save_last would keep the first one: with noise-free data and lr 0 nothing ever improves."""
    assert fit("--run_dir", "run", "--model.lr", "0", "--trainer.max_steps", "35") == 0
    assert load("run/checkpoints/best.ckpt")["global_step"] == 10
    assert load("run/checkpoints/last.ckpt")["global_step"] == 35


def test_without_the_step_seed_the_noise_differs(fit, load):
    """The comparison above can fail."""
    off = ["--callbacks.step_seed", "null"]
    assert fit("--run_dir", "full", "--trainer.max_steps", "27", *off) == 0
    assert fit("--run_dir", "run", "--trainer.max_steps", "13", *off) == 0
    assert fit("--run_dir", "run", "--trainer.max_steps", "27", "--resume", "auto", *off) == 0
    assert not same_weights(load("full/checkpoints/last.ckpt"), load("run/checkpoints/last.ckpt"))


def test_the_saved_config_is_used_when_none_is_given_and_metrics_are_appended(interrupted):
    before = Path("run/logs/metrics.csv").read_text().splitlines()
    assert train.main(["fit", "--run_dir", "run", "--resume", "auto", "--trainer.max_steps", "20"]) == 0
    after = Path("run/logs/metrics.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_flags_win_over_the_checkpoint_and_the_difference_is_shown(fit, interrupted, capsys, load):
    path = "run/checkpoints/last.ckpt"
    assert fit("--resume", path, "--model.lr", "0.5", "--data.batch_size", "8", "--trainer.max_steps", "14") == 0
    out = capsys.readouterr().out
    assert {"model.lr", "0.01", "0.5", "data.batch_size"} <= set(out.replace("│", " ").split())
    assert "data.path" not in out
    assert load(path)["hyper_parameters"]["lr"] == 0.5
    assert load(path)["optimizer_states"][0]["param_groups"][0]["lr"] == 0.5


def test_auto_skips_broken_checkpoints(fit, interrupted, capsys):
    last = Path("run/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:-500])
    assert fit("--run_dir", "run", "--resume", "auto") == 0
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("skipped checkpoint run/checkpoints/last.ckpt cannot be read (truncated")
    assert "resume  run/checkpoints/last-1.ckpt" in out


def test_auto_without_a_checkpoint_starts_from_the_beginning(fit, capsys):
    assert fit("--run_dir", "run", "--resume", "auto") == 0
    assert "no checkpoint in run, starting from the beginning" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--resume", "auto"], "cannot know which run you mean; add --run_dir runs/tiny/ID"),
        (["--resume", "run"], "--resume run is a folder; use --run_dir run --resume auto"),
        (["--resume", "run/checkpoints/none.ckpt"], "checkpoint run/checkpoints/none.ckpt does not exist"),
        (["--resume", "run/checkpoints/cut.ckpt"], "cut.ckpt cannot be read (truncated"),
        (
            ["--resume", "run/checkpoints/last.ckpt", "--model", "tests.callbacks.tiny_run.OtherModule"],
            "holds a tests.callbacks.tiny_run.TinyModule, the config asks for a tests.callbacks.tiny_run.OtherModule",
        ),
        (
            ["--resume", "run/checkpoints/last.ckpt", "--model.net", "TinyNet", "--model.net.width", "9"],
            "the checkpoint does not fit the model: ",
        ),
        (["--resume", "run/checkpoints/last.ckpt", "--data", "tests.callbacks.tiny_run.OtherData"], "trained on a"),
        (["--resume", "run/checkpoints/bare.ckpt"], "holds no optimizer_states: it has weights only"),
        (["--resume", "run/checkpoints/flip.ckpt"], "flip.ckpt cannot be read"),
        (["--resume", "run/checkpoints/last.ckpt", "--run_dir", "busy"], "run directory busy is not empty"),
    ],
)
def test_what_cannot_be_resumed(fit, interrupted, capsys, arguments, expected):
    content = Path("run/checkpoints/last.ckpt").read_bytes()
    Path("run/checkpoints/cut.ckpt").write_bytes(content[:-300])
    Path("run/checkpoints/flip.ckpt").write_bytes(content[:3000] + b"\xff\xff" + content[3002:])
    stored = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    torch.save({k: v for k, v in stored.items() if k != "optimizer_states"}, "run/checkpoints/bare.ckpt")
    Path("busy").mkdir()
    Path("busy/file").touch()
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in Path().rglob("*")}
    assert fit(*arguments) == 2
    assert {p: p.stat().st_mtime_ns for p in Path().rglob("*")} == before
    err = capsys.readouterr().err
    assert expected in err
    assert err.count("\n") == 1
    assert Path("run/checkpoints/last.ckpt").read_bytes() == content


@pytest.mark.parametrize("limit", [["--trainer.max_steps", "13"], ["--trainer.max_steps", "5"]])
def test_a_run_without_a_step_left_says_so_and_is_fine(fit, interrupted, capsys, load, limit):
    last = load("run/checkpoints/last.ckpt")
    capsys.readouterr()
    assert fit("--run_dir", "run", "--resume", "auto", *limit) == 0
    out, err = capsys.readouterr()
    assert (
        f"no step is left to train: the checkpoint is of step 13 in epoch 1, trainer.max_steps is {limit[1]}\n" in err
    )
    assert err.count("\n") == 1
    assert "test/nll" in out
    assert same_weights(last, load("run/checkpoints/last.ckpt"))


def test_a_new_run_without_a_step_is_an_error(fit, capsys):
    assert fit("--run_dir", "run", "--trainer.max_time", "00:00:00:00") == 2
    assert capsys.readouterr().err == (
        "error: not one training step was made: a limit of the trainer or of the data leaves no batch\n"
    )


def test_a_checkpoint_may_start_another_run(fit, interrupted, load):
    assert fit("--resume", "run/checkpoints/last.ckpt", "--run_dir", "branch") == 0
    assert load("branch/checkpoints/last.ckpt")["global_step"] == 20
    assert load("run/checkpoints/last.ckpt")["global_step"] == 13


def test_what_a_checkpoint_says_steers_no_terminal(fit, interrupted, capsys):
    path = "run/checkpoints/last.ckpt"
    stored = torch.load(path, weights_only=True)
    stored["hyper_parameters"]["lr"] = "\x1b[2J"
    torch.save(stored, path)
    assert fit("--resume", path, "--trainer.max_steps", "13") == 0
    assert "\x1b" not in capsys.readouterr().out
    stored["hyper_parameters"]["_class_path"] = "evil.\x1b]0;owned\x07Net"
    torch.save(stored, path)
    assert fit("--resume", path) == 2
    err = capsys.readouterr().err
    assert "evil.\\x1b]0;owned\\x07Net" in err
    assert "\x1b" not in err


def test_a_folder_named_like_a_flag_is_refused(fit, capsys):
    """Neither the resume that a run prints nor evaluate.py could be given it."""
    assert fit("--run_dir=-run") == 2
    assert capsys.readouterr().err == "error: --run_dir -run: a name that begins so looks like a flag; give ./-run\n"


def test_a_checkpoint_of_another_class_or_kind_is_not_measured(config, fit, interrupted, capsys):
    path = "run/checkpoints/last.ckpt"
    stored = torch.load(path, weights_only=True)
    whole = {name: weight.long() for name, weight in stored["state_dict"].items()}
    torch.save({**stored, "state_dict": whole}, "whole.ckpt")
    torch.save({**stored, "hyper_parameters": {"_class_path": "os.system"}}, "other.ckpt")
    for file, expected in (("whole.ckpt", "is of torch.int64"), ("other.ckpt", "holds a system, the config asks for")):
        for command in ("test", "validate"):
            assert train.main([command, "-c", str(config), "--ckpt_path", file]) == 2
            assert expected in capsys.readouterr().err


def test_a_checkpoint_elsewhere_needs_a_folder_to_write_to(fit, interrupted, capsys):
    """Its own may hold anything, such as the config that was given."""
    Path("run/checkpoints/last.ckpt").rename("start.ckpt")
    before = sorted(Path().iterdir())
    assert fit("--resume", "start.ckpt") == 2
    assert capsys.readouterr().err == (
        "error: --resume start.ckpt is in no RUN/checkpoints; add --run_dir with a folder for this run\n"
    )
    assert sorted(Path().iterdir()) == before


def test_a_checkpoint_may_be_named_from_within_its_folder(fit, interrupted, load, monkeypatch):
    run = Path("run").absolute()
    monkeypatch.chdir(run / "checkpoints")
    assert fit("--resume", "last.ckpt") == 0
    assert load(run / "checkpoints/last.ckpt")["global_step"] == 20
    assert not (run / "checkpoints" / "config.yaml").exists()


def test_a_moved_run_keeps_its_best_checkpoint(fit, load):
    """Were the best score forgotten, the first validation after the resume would overwrite best.ckpt."""
    assert fit("--run_dir", "run", "--model.lr", "0.1") == 0
    best = load("run/checkpoints/best.ckpt")
    Path("run").rename("moved")
    spoil = ["--model.lr", "30.0", "--trainer.max_steps", "30"]  # every later validation is worse
    assert fit("--run_dir", str(Path("moved").absolute()), "--resume", "auto", *spoil) == 0
    assert same_weights(best, load("moved/checkpoints/best.ckpt"))
