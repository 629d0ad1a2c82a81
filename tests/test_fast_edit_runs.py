"""The published settings of fast editing through train.py, on small random networks in place of the released ones."""

from pathlib import Path

import pytest
import yaml

import train
from benchmarks.reliability.methods import CONFIGS, options, write_edit_parts
from fewstep.fast_edit.dictionary import known_edit
from fewstep.fast_edit.growth import Growth

ROOT = Path(train.__file__).parent
PUBLISHED = ("fast_edit_faces", "fast_edit_dogs", "fast_edit_churches")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    write_edit_parts(folder / "edit")  # by a fork elsewhere, which threads here forbid
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_rehearsed(name, shared, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (shared / name).mkdir()  # where the run writes the keys of its samples
    assert train.main(["fit", *options(name, shared / name), "--dry_run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_the_published_numbers(name):
    """250 updates of one picture; 1.3 after each pass, which no cap cuts."""
    told = yaml.safe_load((ROOT / "configs" / f"{CONFIGS[name]}.yaml").read_text())
    model, data = told["model"]["init_args"], told["data"]["init_args"]
    passes = told["trainer"]["max_steps"] / data["steps_per_epoch"]
    assert (data["batch_size"], data["splits"]["num_train"], data["steps_per_epoch"], passes) == (1, 50, 50, 5)
    assert (model["optimizer"]["lr"], model["loss"]["clip"], model["loss"]["l1"]) == (6e-6, 3, 1)
    growth = Growth(**model["growth"])
    assert [growth(step) for step in (0, 49, 50, 249)] == pytest.approx([1, 1, 1.3, 1.3**4])
    t0 = known_edit(model["edit"]).t0
    assert model["learning"]["encoding"]["t0"] == model["application"]["encoding"]["t0"] == t0
