"""The completion of `fewstep`, as bash itself does it."""

import subprocess

import pytest

from commands.packaged_files import config_names
from commands.program.main import PACKAGES, main


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """complete(*words): what bash offers for the last one, in an empty folder."""
    folder = tmp_path_factory.mktemp("shell")
    with pytest.MonkeyPatch.context() as patch, open(folder / "script", "w") as script:
        patch.setattr("sys.stdout", script)
        assert main(["--print_completion", "bash"]) == 0
    (folder / "empty").mkdir()

    def run(*words):
        asked = " ".join(f"'{word}'" for word in ("fewstep", *words))
        function = "$(complete -p fewstep | grep -oP '(?<=-F )\\S+')"
        code = f"source ../script; COMP_WORDS=({asked}); COMP_CWORD={len(words)}; {function}"
        command = ["bash", "-c", f'{code}; printf "%s\\n" "${{COMPREPLY[@]}}"']
        done = subprocess.run(command, cwd=folder / "empty", capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.split())

    return run


def test_commands_and_their_own(complete):
    assert complete("") >= {"fit", "validate", "test", "predict", "export", "evaluate", *PACKAGES}
    assert complete("ev") == {"evaluate"}
    assert complete("prepare", "ta") == {"table"}
    assert complete("icd", "edit", "--guidance") == {"--guidance-scale"}


def test_configs_and_keys(complete):
    known = {name for name in config_names() if name.startswith("ot_conditional/w")}
    assert complete("fit", "-c", "ot_conditional/w") == known != set()
    assert complete("fit", "--trainer.max_st") == {"--trainer.max_steps"}
    assert complete("fit", "-c", "ot_conditional/weather", "--data.num_pa") == {"--data.num_pairs"}
    assert complete("test", "--wandb", "") == {"offline", "online", "disabled"}
    assert complete("export", "--") == {"--help", "--run_dir", "--ckpt_path"}
    assert complete("evaluate", "--wandb", "on") == {"online"}


def test_another_shell_is_one_line(capsys):
    assert main(["--print_completion=shtab-powershell"]) == 2
    assert capsys.readouterr().err == "error: --print_completion 'shtab-powershell': choose bash or zsh\n"
