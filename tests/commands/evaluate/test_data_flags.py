"""The data of a config with what a command line of evaluate.py replaces, however the config writes its groups."""

from argparse import ArgumentError
from dataclasses import asdict, replace

import pytest
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule

from commands.evaluate.data_flags import DATA_KEYS, in_flags, metadata_of, with_changes, with_metadata
from datamodules.image_options import Splits

WAYS = {  # of one config
    "absent": ({}, Splits()),
    "null": ({"splits": None}, Splits()),
    "empty": ({"splits": {}}, Splits()),
    "group": ({"splits": {"test": "dev", "num_val": 3}}, Splits(test="dev", num_val=3)),
    "same": ({"splits": {"num_test": 3, "train": "a"}}, Splits(train="a")),
    "dotted": ({"splits.test": "dev", "splits.num_val": 3}, Splits(test="dev", num_val=3)),
    "same, dotted": ({"splits.num_test": 3, "splits.train": "a"}, Splits(train="a")),
    "both": ({"splits": {"test": "dev"}, "splits.num_val": 3}, Splits(test="dev", num_val=3)),
    "own path": ({"splits": {"test_path": "y", "val_path": "z"}}, Splits(val_path="z")),
    "own path, dotted": ({"splits.test_path": "y"}, Splits()),
}


def parsed(arguments):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
    content = {"class_path": "datamodules.ImageTextDataModule", "init_args": arguments}
    return parser.parse_object({"data": content}).data.init_args


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_given_is_replaced(way):
    given, chosen = WAYS[way]
    arguments = {"path": "x", **given, "seed": 3}
    before = repr(arguments)
    changed = with_changes(arguments, {"path": "new", "splits.num_test": 20, "eval_batch_size": 7})
    assert repr(arguments) == before
    found = parsed(changed)
    assert (found.path, found.eval_batch_size, found.seed) == ("new", 7, 3)
    assert found.splits.as_dict() == asdict(replace(chosen, num_test=20))


def test_without_other_data_the_path_of_the_test_split_stays():
    arguments = {"path": "x", "splits": {"test_path": "y"}}
    assert parsed(with_changes(arguments, {"splits.num_test": 20})).splits.test_path == "y"
    assert with_changes(arguments, {}) == arguments


def test_what_the_data_say_is_said_in_the_words_of_the_command_line():
    message = "splits.num_test=0: must be at least 1"
    assert in_flags(message, {"num_samples": 0}) == message.replace("splits.num_test=", "--num-samples ")
    assert in_flags(message, {"num_samples": None}) == message
    taken = set(vars(parsed({"path": "x"}))) | {f"splits.{name}" for name in asdict(Splits())}
    assert set(DATA_KEYS) <= taken


def test_metadata_of_a_config_that_are_no_list_are_left_to_the_parser():
    """A text would be taken apart into letters, and the run measured without what it reads."""
    for wrong in ("caption", 5, {"a": 1}):
        given = with_metadata({"path": "x", "metadata": wrong}, ["attributes"])
        with pytest.raises(ArgumentError, match="metadata"):
            parsed(given)


@pytest.mark.parametrize("field", [None, ["attributes"], 5, ""])
def test_a_field_of_metadata_is_a_name(field):
    with pytest.raises(ValueError, match=r"^--metrics\.attributes\.field .*: give the name"):
        metadata_of(["attributes"], {"attributes": {"field": field}})
