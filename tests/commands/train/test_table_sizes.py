"""Sizes of a model by its table: only where they are left out, by what is given last, and the components' rule."""

import numpy as np
import pytest
import yaml

from commands.train.table_sizes import components, with_table_sizes
from datamodules.prepare.shard_writing import Description, write_folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    for name, x_dim in (("three", 3), ("five", 5)):
        rows = {"x": np.zeros((80, x_dim)), "y": np.zeros((80, 2))}
        splits = {"train_paired": rows, "val": rows, "train_x": {"x": rows["x"]}, "train_y": {"y": rows["y"]}}
        write_folder(str(folder / name), splits, Description(name, "", ""))
    return folder


@pytest.fixture
def sized(table, tmp_path):
    def sized(*arguments, network="LightTransport", command="fit", **options):
        data = {"class_path": "datamodules.PairedVectorsDataModule", "init_args": {"path": str(table / "three")}}
        inner = {"class_path": f"fewstep.transport.x.{network}", "init_args": options}
        model = {"class_path": "lightning_modules.OTConditionalModule", "init_args": {"model": inner}}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": data, "model": model}))
        given = [command, "-c", str(tmp_path / "run.yaml"), *arguments]
        return [word.removeprefix("--model.model.") for word in with_table_sizes(given)[len(given) :]]

    return sized


def test_what_is_left_out_is_taken_from_the_table(sized, capsys):
    assert sized() == ["x_dim=3", "y_dim=2", "num_potential=5", "num_cost=2"]
    assert "x_dim 3, y_dim 2, num_potential 5, num_cost 2 by 80 training pairs in" in capsys.readouterr().out
    assert sized("--print_config") == sized()
    assert "sizes" not in capsys.readouterr().out.partition("\n")[2]
    assert sized(network="EnergyTransport") == ["x_dim=3", "y_dim=2"]
    assert sized(network="DiscreteTransport") == ["x_dim=3"]
    assert sized(network="StackedTransport") == ["x_dim=3", "y_dim=2"]


def test_flags_and_configs_keep_the_last_word(sized, table):
    assert sized("--data.path", str(table / "five"))[0] == "x_dim=5"
    assert sized(f"--data.init_args.path={table / 'five'}")[0] == "x_dim=5"
    assert sized("--data.num_pairs", "64", "--data.val_fraction=0.5")[2:] == ["num_potential=2", "num_cost=1"]
    assert sized("--model.model.num_cost=7", "--model.init_args.model.init_args.y_dim", "2") == [
        "x_dim=3",
        "num_potential=5",
    ]
    assert sized(num_potential=1) == ["x_dim=3", "y_dim=2", "num_cost=2"]


def test_a_config_that_tells_its_dimensions_is_left_alone(sized):
    assert sized(x_dim=3, y_dim=2) == []
    assert sized(command="predict") == []
    assert sized("--help") == []
    assert sized(network="SomebodysNetwork") == []
    assert sized("--data.num_pairs", "many") == []  # the parser says so


def test_a_table_that_is_not_there_is_one_line(sized):
    with pytest.raises(ValueError, match="no folder 'nowhere'"):
        sized("--data.path", "nowhere")


def test_components_grow_with_the_pairs_within_bounds():
    found = [tuple(components(pairs).values()) for pairs in (1, 31, 96, 800, 10**6)]
    assert found == [(1, 1), (1, 1), (6, 3), (50, 25), (50, 25)]
