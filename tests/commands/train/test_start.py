"""What ends a command before or beside its work: Ctrl-C while everything is imported, and errors without words."""

import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import evaluate
import train
from commands.evaluate import run as evaluation
from commands.train import exit_codes
from datamodules.prepare import __main__ as prepare
from datamodules.prepare import check
from fewstep.icd import __main__ as icd
from fewstep.one_line import one_line
from tests.patience import PATIENCE

ROOT = Path(train.__file__).parent


def test_ctrl_c_during_imports_is_one_line():
    """A real signal, where train.py has set its handlers and has imported nothing else."""
    code = "import os, signal, commands.train.start as s; s.end_at_signals(); os.kill(os.getpid(), signal.SIGINT)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "stopped by SIGINT before anything was begun\n"


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt  # what Python's own handler does


def test_ctrl_c_ends_the_other_commands_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "run", interrupt)
    monkeypatch.setattr(check, "run", interrupt)
    monkeypatch.setattr("fewstep.shell_command.import_module", interrupt)
    commands = {
        "evaluate": lambda: evaluate.main(["RUN", "--out", str(tmp_path / "out")]),
        "prepare": lambda: prepare.main(["check", str(tmp_path)]),
        "icd": lambda: icd.main(["edit", "E", "--image", "i", "--source", "s", "--target", "t"]),
    }
    for command in commands.values():
        assert command() == 130
        err = capsys.readouterr().err
        assert err.startswith("stopped by SIGINT")
        assert err.count("\n") == 1


def wordless(*_: object) -> None:
    raise ValueError


def test_an_error_without_words_gets_its_type_and_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "run", wordless)
    monkeypatch.setattr(evaluation, "evaluate", wordless)
    monkeypatch.setattr("fewstep.shell_command.import_module", wordless)
    place = f"ValueError in line {wordless.__code__.co_firstlineno + 1} of {__file__}"
    assert prepare.main(["check", str(tmp_path)]) == 2
    assert evaluate.main(["RUN", "--out", str(tmp_path / "out")]) == 2
    assert icd.main(["edit", "E", "--image", "i", "--source", "s", "--target", "t"]) == 2
    with pytest.raises(ValueError, match=r"^$") as caught:
        wordless()
    assert exit_codes.report(caught.value, None) == 2
    assert capsys.readouterr().err == f"error: {place}\n" * 4
    assert one_line(ValueError("some\n words")) == "some words"
    assert one_line(OSError()) == "OSError"


def test_a_machine_without_the_accelerator_is_told_which_it_has(fit, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    for name in ("gpu", "cuda"):
        assert fit("--trainer.accelerator", name) == 2
        err = capsys.readouterr().err
        assert err.endswith("; this machine has none: --trainer.accelerator cpu\n")
        assert err.count("\n") == 1
    assert exit_codes.report(MisconfigurationException("no such strategy"), None) == 2
    assert capsys.readouterr().err == "error: no such strategy\n"
