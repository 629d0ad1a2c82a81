"""Commands are told as this process was started."""

import pytest

from fewstep.installed_command import in_its_words

TOLD = {
    "python train.py fit -c x": "fewstep fit -c x",
    "run python evaluate.py RUN --out DIR": "run fewstep evaluate RUN --out DIR",
    "python -m fewstep.icd edit; python -m datamodules.prepare check": "fewstep icd edit; fewstep prepare check",
    "python -m fewstep.fast_edit apply": "fewstep fast_edit apply",
    "python -m commands.train.ray train.py fit": "python -m commands.train.ray train.py fit",
}


@pytest.mark.parametrize("text", TOLD)
def test_commands_of_a_checkout_and_of_an_installation(text, monkeypatch):
    for program in ("train.py", "-c", "/usr/lib/fewstep/icd/__main__.py", ""):
        monkeypatch.setattr("sys.argv", [program])
        assert in_its_words(text) == text
    for program in ("/usr/bin/fewstep", "fewstep.exe"):
        monkeypatch.setattr("sys.argv", [program])
        assert in_its_words(text) == TOLD[text]
