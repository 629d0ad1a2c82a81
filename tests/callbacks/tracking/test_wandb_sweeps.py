"""Sweep files: what W&B's own agent would run is a command line that train.py understands."""

import copy
from pathlib import Path

import pytest
import yaml
from wandb import wandb_agent

ROOT = Path(__file__).parents[3]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
KEYS = {"program", "method", "run_cap", "metric", "early_terminate", "parameters", "command"}


def corners(parameters):
    """Assignments in which every value, or every end of a range, of every parameter occurs."""
    values = {
        name: p.get("values", [p["value"]] if "value" in p else [p.get("min"), p.get("max")])
        for name, p in parameters.items()
    }
    for i in range(max(map(len, values.values()))):
        yield {name: column[i % len(column)] for name, column in values.items()}


def agents_command(sweep, values, monkeypatch, tmp_path):
    """The argv with which wandb's agent starts a trial."""
    started = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them: restored after the test
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or Trial())
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="abc")
    agent._sweep_command = copy.deepcopy(sweep["command"])
    args = {name: {"value": value} for name, value in values.items()}
    agent._command_run({"run_id": "r1", "program": sweep["program"], "args": args})
    return started[0]


class Trial:
    last_sigterm_time = None


def test_there_are_three():
    assert [file.stem for file in SWEEPS] == ["emoji_clip", "swiss_roll", "weather"]


@pytest.mark.parametrize("file", SWEEPS, ids=lambda f: f.stem)
def test_method_metric_and_ranges_are_what_a_sweep_can_have(file):
    sweep = yaml.safe_load(file.read_text())
    assert set(sweep) <= KEYS
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("minimize", "maximize")
    for name, parameter in sweep["parameters"].items():
        assert set(parameter) in ({"value"}, {"values"}, {"distribution", "min", "max"}), name
        if "min" in parameter:
            assert sweep["method"] != "grid"
            assert parameter["min"] < parameter["max"]
            assert parameter["min"] > 0 or not parameter["distribution"].startswith("log")
    assert f"wandb sweep --project fewstep {file.relative_to(ROOT)}" in file.read_text()


@pytest.mark.parametrize("file", SWEEPS, ids=lambda f: f.stem)
def test_the_metric_is_the_one_that_the_run_selects_checkpoints_by(file):
    sweep = yaml.safe_load(file.read_text())
    run = yaml.safe_load((ROOT / sweep["command"][sweep["command"].index("-c") + 1]).read_text())
    default = yaml.safe_load((ROOT / "configs" / "trainer" / "default.yaml").read_text())
    chosen = default["callbacks"]["checkpoint"]["init_args"]
    chosen |= run["callbacks"].get("checkpoint", {}).get("init_args", {})
    assert sweep["metric"] == {"name": chosen["monitor"], "goal": f"{chosen['mode']}imize"}


@pytest.mark.parametrize("file", SWEEPS, ids=lambda f: f.stem)
def test_every_corner_parses_and_reaches_its_key(file, monkeypatch, capsys, tmp_path):
    import train

    sweep = yaml.safe_load(file.read_text())
    before = copy.deepcopy(sweep["command"])
    for values in corners(sweep["parameters"]):
        command = agents_command(sweep, values, monkeypatch, tmp_path)
        assert command[:3] == ["/usr/bin/env", "python", "train.py"]
        assert not [part for part in command if "${" in part]
        monkeypatch.chdir(ROOT)
        with pytest.raises(SystemExit) as stop:
            train.main([*command[3:], "--print_config"])
        assert stop.value.code == 0
        resolved = yaml.safe_load(capsys.readouterr().out)
        assert (resolved["wandb"], resolved["test_after_fit"]) == ("online", False)
        for name, value in values.items():
            assert find(resolved, name) == value, name
    assert sweep["command"] == before


def find(config, dotted):
    """A value of a resolved config by the name that the command line has for it."""
    for part in dotted.split("."):
        config = config[part] if part in config else config["init_args"][part]
    return config


def test_an_unknown_parameter_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path):
    import train

    sweep = yaml.safe_load(SWEEPS[-1].read_text())
    command = agents_command(sweep, {"model.cost_lrr": 0.1}, monkeypatch, tmp_path)
    monkeypatch.chdir(ROOT)
    assert train.main([*command[3:], "--print_config"]) == 2
    assert "cost_lrr" in capsys.readouterr().err
