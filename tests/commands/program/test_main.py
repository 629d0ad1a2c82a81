"""The command `fewstep`, in this process and as the wheel installs it, in a folder that holds nothing else."""

import os
import subprocess
import sys

import pytest

import train
from commands.program.main import PACKAGES, main
from tests.built_wheel import ROOT, build_wheel, install
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return install(build_wheel(folder), folder)


@pytest.fixture
def fewstep(installed, tmp_path, monkeypatch):
    """fewstep(*words, path=[...]) in an empty folder; what comes before the installed packages on Python's path."""
    monkeypatch.chdir(tmp_path)

    def run(*words, path=()):
        places = os.pathsep.join([*map(str, path), str(installed.parents[1] / "site")])
        command = [sys.executable, str(installed), *words]
        variables = os.environ | {"PYTHONPATH": places}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE)

    return run


def test_every_package_that_python_runs_has_a_word():
    runnable = {file.parent for name in ("fewstep", "datamodules") for file in (ROOT / name).rglob("__main__.py")}
    assert {module for module, _ in PACKAGES.values()} == {
        ".".join(folder.relative_to(ROOT).parts) for folder in runnable
    }


def test_the_rest_is_what_train_py_does(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("commands.train.start.start", lambda argv, *_: asked.append(argv) or 7)
    words = [line.split()[0] for line in train.__doc__.partition("commands\n")[2].partition("\n\n")[0].splitlines()]
    assert {"fit", "validate", "test", "predict", "export"} <= set(words)
    for word in words:
        assert main([word, "--run_dir", "x"]) == 7
    assert asked == [[word, "--run_dir", "x"] for word in words]


@pytest.mark.parametrize(("word", "hint"), [("evalute", "nearest: 'evaluate'"), ("x", "choose fit, ")])
def test_an_unknown_word_is_answered_at_once(word, hint, capsys):
    assert main([word, "-c", "x"]) == 2
    assert capsys.readouterr().err.startswith(f"error: unknown command {word!r}; {hint}")


def test_help_of_the_installed_command_needs_no_torch(fewstep, installed):
    code = f"""
import runpy, sys
sys.argv = [{str(installed)!r}, "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as stop:
    print(stop.code, "torch" in sys.modules, "lightning" in sys.modules, sys.modules["commands"].__file__)
"""
    variables = os.environ | {"PYTHONPATH": str(installed.parents[1] / "site")}
    run = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    *text, last = run.stdout.splitlines()
    assert last == f"0 False False {installed.parents[1] / 'site' / 'commands' / '__init__.py'}"
    assert text[2].startswith("usage: fewstep {fit,")
    assert all(
        any(line.startswith(f"  {word} ") for line in text) for word in (*PACKAGES, "evaluate", "ot_conditional")
    )
    assert "python train.py" not in run.stdout


def test_a_reader_that_has_enough_is_no_error(installed):
    place = str(installed.parents[1] / "site")
    command = [sys.executable, str(installed), "--help"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end) as nobody:
        variables = os.environ | {"PYTHONPATH": place}
        run = subprocess.run(command, env=variables, stdout=nobody, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (run.returncode, run.stderr) == (1, b"")


def test_each_other_command_calls_itself_so(fewstep):
    for words in (["icd"], ["evaluate"], ["demo"]):
        run = fewstep(*words, "--help")
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith(f"usage: fewstep {words[0]} ")


@pytest.mark.parametrize("name", ["callbacks", "commands", "fewstep"])
def test_a_folder_that_hides_a_package_is_named(fewstep, tmp_path, name):
    (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "mine" / name / "__init__.py").touch()
    run = fewstep("--help", path=[tmp_path / "mine"])
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: {tmp_path / 'mine' / name} hides the package {name} of fewstep; ")
    assert run.stderr.count("\n") == 1


def test_a_config_of_the_users_that_hides_ours_is_named(fewstep, tmp_path):
    (tmp_path / "configs" / "ot_conditional").mkdir(parents=True)
    (tmp_path / "configs" / "ot_conditional" / "weather.yaml").write_text("seed_everything: 1\n")
    run = fewstep("fit", "-c", "configs/ot_conditional/weather.yaml")
    assert run.stdout.splitlines()[0] == (
        "config  configs/ot_conditional/weather.yaml is the one of this folder, not the one that comes along"
    )
    assert run.returncode == 2


@pytest.mark.slow
def test_a_packaged_config_trains_in_an_empty_folder(fewstep, installed, tmp_path):
    run = fewstep("fit", "-c", "ot_conditional/weather", "--dry_run")
    assert run.returncode == 0, run.stderr
    data = installed.parents[1] / "site" / "commands" / "packaged" / "data" / "weather"
    assert f"found   data/weather is not in this folder, read from {data}" in run.stdout.splitlines()
    assert list(tmp_path.iterdir()) == []
    lacking = fewstep("fit", "-c", "configs/icd/avatars.yaml", "--dry_run")
    assert lacking.returncode == 2
    assert lacking.stderr.startswith("error: assets/sd_avatars is neither here nor in the installed package; ")
    assert lacking.stderr.count("\n") == 1
