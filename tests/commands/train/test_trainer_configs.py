"""Every shared trainer config parses together with a run; those that a CPU can run are run."""

import subprocess
from pathlib import Path

import pytest
import yaml

import train

TRAINER = Path(train.__file__).parent / "configs" / "trainer"


@pytest.mark.parametrize("file", sorted(TRAINER.glob("*.yaml")), ids=lambda file: file.stem)
def test_it_parses_says_when_to_use_it_and_wins_over_the_default(fit, capsys, file):
    assert file.read_text().startswith("# ")
    if file.stem == "ray":
        pytest.importorskip("ray")
    content = yaml.safe_load(file.read_text())
    with pytest.raises(SystemExit) as caught:
        fit("-c", str(file), "--print_config")
    assert caught.value.code == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    plain = {k: v for k, v in content.get("trainer", {}).items() if not isinstance(v, dict | list)}
    assert {k: resolved["trainer"][k] for k in plain} == plain


@pytest.mark.parametrize("name", ["cpu", "bf16_mixed", "deterministic"])
def test_it_runs(fit, name):
    assert fit("-c", str(TRAINER / f"{name}.yaml"), "--trainer.accelerator", "cpu", "--dry_run") == 0


def test_fsdp_and_the_average_exclude_each_other():
    assert yaml.safe_load((TRAINER / "fsdp.yaml").read_text())["callbacks"]["ema"] is None


def test_the_slurm_example_is_a_shell_script():
    subprocess.run(["bash", "-n", str(TRAINER / "slurm.sh")], check=True)
