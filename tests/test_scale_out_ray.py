"""The Ray launcher: its command line, and two workers of which one is killed."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import train
from commands.train import ray
from commands.train.run_directory import RUN_ID_VARIABLE
from tests.conftest import TINY
from tests.patience import PATIENCE

ROOT = Path(train.__file__).parent
SCRIPT = ROOT / "train.py"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(RUN_ID_VARIABLE, "shared")
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path


@pytest.mark.parametrize(("text", "expected"), [("4", (4, 4)), ("2:8", (2, 8)), ("1:1", (1, 1))])
def test_a_number_of_workers_or_a_range(text, expected):
    assert ray.worker_range(text) == expected


@pytest.mark.parametrize("text", ["0", "8:2", "2:", "two", "1:2:3", "-1"])
def test_no_number_of_workers(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"give 4, or 2:8"):
        ray.worker_range(text)


def test_every_start_is_a_resume_with_rays_part_of_the_trainer(folder):
    given = ["fit", "-c", "tiny.yaml", "--trainer.max_steps", "3"]
    ray_config = ["-c", str(ROOT / "configs" / "trainer" / "ray.yaml")]
    assert ray.worker_arguments(SCRIPT, given) == [*given, "--resume", "auto", *ray_config]
    again = ["fit", "--run_dir", "run", "--resume", "auto"]
    Path("run").mkdir()
    Path("run", "config.yaml").write_text("{}\n")  # it is read: it may not write elsewhere
    saved = ["fit", "-c", "run/config.yaml", "--run_dir", "run", "--resume", "auto", *ray_config]
    assert ray.worker_arguments(SCRIPT, again) == saved


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "fit"], "runs `train.py fit ...`, not `train.py fit`"),
        ([str(SCRIPT), "validate"], "not `.*train.py validate`"),
        ([str(SCRIPT), "fit", "--resume", "some.ckpt"], "--resume some.ckpt"),
        ([str(SCRIPT), "fit", "--run_dir", "."], "run directory . is not empty"),
    ],
)
def test_bad_input_is_one_line(folder, capsys, arguments, message):
    assert ray.main(arguments) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1


def test_without_ray_it_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert ray.main([str(SCRIPT), "fit", "-c", "tiny.yaml"]) == 2
    assert "pip install 'fewstep[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_goes_on(folder):
    """SIGKILL before step 12; both workers come back from the checkpoint of step 10. No noise: one process compares."""
    pytest.importorskip("ray")
    death = {"class_path": "tests.tiny_faults.DiesOnce", "init_args": {"rank": 1, "step": 12, "marker": "died"}}
    options = ["--model.noise", "0", "--callbacks.last_checkpoint.every_n_steps", "5", "--num_threads", "1"]
    options += ["--test_after_fit", "false"]
    launcher = [sys.executable, "-m", "commands.train.ray", "--workers", "2", "--max-failures", "1", str(SCRIPT)]
    done = subprocess.run(
        [*launcher, "fit", "-c", "tiny.yaml", "--run_dir", "run", *options, "--callbacks.death", json.dumps(death)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    assert Path("died").read_text() == "2 ranks"
    assert "resume  run/checkpoints/last.ckpt" in said
    assert train.main(["fit", "-c", "tiny.yaml", "--run_dir", "alone", *options]) == 0
    killed, alone = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("run", "alone"))
    assert killed["global_step"] == alone["global_step"] == 20
    for key, value in alone["state_dict"].items():
        torch.testing.assert_close(killed["state_dict"][key], value, rtol=1e-5, atol=1e-6)
