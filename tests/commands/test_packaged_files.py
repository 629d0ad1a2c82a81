"""Configs, data and assets by name: what is in the working directory comes first, then what comes with the code."""

import pytest
from jsonargparse import Namespace

from commands import packaged_places
from commands.config_errors import read_configs
from commands.packaged_files import ROOT, config_file, config_names
from commands.packaged_places import locate, located, require_located
from commands.train.scan import with_local_paths

WEATHER = str(ROOT / "configs" / "ot_conditional" / "weather.yaml")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("head", ["", "configs/"])
@pytest.mark.parametrize("tail", ["", ".yaml"])
def test_a_config_has_four_names(head, tail):
    name = f"{head}ot_conditional/weather{tail}"
    assert config_file(name) == WEATHER
    assert name in config_names(like=name)
    for argv in (["fit", "-c", name], ["fit", f"--config={name}"]):
        assert with_local_paths(argv)[-1].removeprefix("--config=") == WEATHER


def test_the_users_own_file_comes_first(tmp_path):
    (tmp_path / "ot_conditional").mkdir()
    (tmp_path / "ot_conditional" / "weather").touch()
    assert config_file("ot_conditional/weather") == "ot_conditional/weather"


@pytest.mark.parametrize(
    "name", ["", "nothing", "trainer", "../pyproject.toml", "/etc/hosts", WEATHER, "x" * 300, "\0"]
)
def test_what_is_no_name_comes_back(name):
    assert config_file(name) == name


def test_a_slip_in_a_name_is_answered_with_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"nearest file: 'configs/ot_conditional/weather\.yaml'"):
        read_configs(["configs/ot_conditional/wether.yaml"])


def test_places_are_found_wherever_they_stand_in_settings(tmp_path):
    (tmp_path / "data" / "swiss_roll").mkdir(parents=True)
    given = {
        "data": {"path": ["data/weather", "data/swiss_roll"], "monitor": "data/skipped"},
        "judge": Namespace(init_args=Namespace(source="assets/avatar_judge", steps=3)),
        "text": "data/../pyproject.toml",
    }
    settings = Namespace(seed=0, off=None, **given)
    lines = locate(settings)
    assert settings.data["path"] == [str(ROOT / "data/weather"), "data/swiss_roll"]
    assert settings.judge.init_args == Namespace(source=str(ROOT / "assets/avatar_judge"), steps=3)
    assert (settings.data["monitor"], settings.text, settings.seed) == ("data/skipped", "data/../pyproject.toml", 0)
    assert sorted(lines) == [
        f"{name} is not in this folder, read from {ROOT / name}" for name in ("assets/avatar_judge", "data/weather")
    ]
    assert located({"a": [Namespace(b="data/weather")]}) == {"a": [Namespace(b=str(ROOT / "data/weather"))]}


@pytest.mark.parametrize(
    ("place", "hint"),
    [("data/none", "build it with fewstep prepare, run in a clone"), ("assets/none", "run in a clone")],
)
def test_what_a_wheel_does_not_hold_is_said_in_one_line(place, hint, monkeypatch, tmp_path):
    configs = {WEATHER: {"model": {"init_args": {"pipeline": place}}}}
    settings = Namespace(model=Namespace(init_args=Namespace(pipeline=place)))
    require_located(settings, configs)  # a checkout
    monkeypatch.setattr(packaged_places, "IN_WHEEL", True)
    with pytest.raises(ValueError, match=rf"^{place} is neither here nor .*; {hint}.*another --model.pipeline$"):
        require_located(settings, configs)
    require_located(settings, {"mine.yaml": configs[WEATHER]})  # the class that reads it knows better
    require_located(Namespace(model="other"), configs)
    (tmp_path / place).mkdir(parents=True)
    require_located(settings, configs)
