"""The SLURM example with stand-ins for srun and scontrol: the command it builds, and when it asks for a requeue."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

import train
from commands.train.run_directory import shared_run_id
from tests.patience import PATIENCE

ROOT = Path(train.__file__).parent
SCRIPT = ROOT / "configs" / "trainer" / "slurm.sh"
JOB = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NTASKS": "16"}


@pytest.fixture
def submit(tmp_path):
    """Run the script; srun ends with this code. Returns (exit code, srun's arguments, scontrol's arguments)."""
    for name in ("srun", "scontrol"):
        program = tmp_path / name
        program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/{name}.called\nexit ${{CODE_{name}:-0}}\n')
        program.chmod(0o755)

    def run(code, *arguments):
        environment = {**os.environ, **JOB, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE_srun": str(code)}
        done = subprocess.run(
            ["bash", SCRIPT, *arguments], env=environment, cwd=ROOT, capture_output=True, timeout=PATIENCE
        )
        called = [tmp_path / f"{name}.called" for name in ("srun", "scontrol")]
        return done.returncode, *[file.read_text().splitlines() if file.exists() else None for file in called]

    return run


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (143, False), (2, False), (1, False)])
def test_only_the_code_for_a_requeue_asks_for_one(submit, code, requeued):
    returned, _, scontrol = submit(code, "configs/ot_conditional/swiss_roll.yaml")
    assert returned == code
    assert scontrol == (["requeue", "4711"] if requeued else None)


def test_srun_starts_a_training_that_parses_and_whose_ranks_agree(submit, capsys, monkeypatch):
    _, command, _ = submit(0, "configs/ot_conditional/swiss_roll.yaml")
    assert command[:3] == ["python", "train.py", "fit"]
    assert command[-2:] == ["--resume", "auto"]
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        train.main([*command[2:], "--print_config"])
    assert stop.value.code == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert (trainer["num_nodes"], int(trainer["devices"])) == (2, 8)
    assert trainer["strategy"]["class_path"].endswith("DDPStrategy")
    assert shared_run_id(JOB, num_nodes=2) == "4711"


def test_the_directives_fit_together():
    found = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE))
    assert found["ntasks-per-node"] == found["gpus-per-node"]  # one process for each GPU
    assert "requeue" in found
    assert re.fullmatch(r"USR1@\d+", found["signal"])  # to the ranks; B: would send it to the script alone
