"""Names, ids and the refusal to mix two runs."""

import re

import pytest

from commands.train.run_directory import RUN_ID_VARIABLE, new_run_id, refuse_occupied, run_name, shared_run_id


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WORLD_SIZE": "1"}, None),
        ({RUN_ID_VARIABLE: "abc", "WORLD_SIZE": "4"}, "abc"),
        ({"TORCHELASTIC_RUN_ID": "exp-7", "WORLD_SIZE": "4"}, "exp-7"),
        ({"SLURM_JOB_ID": "99", "SLURM_NTASKS": "8"}, "99"),
        ({"SLURM_JOB_ID": "99", "SLURM_NTASKS": "1"}, None),  # several runs may follow each other in one allocation
    ],
)
def test_ranks_agree_on_an_id(environment, expected):
    assert shared_run_id(environment) == expected


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}])
def test_ranks_without_a_common_id_are_refused(environment):
    with pytest.raises(ValueError, match="add --run_dir DIR"):
        shared_run_id(environment)
    with pytest.raises(ValueError, match="add --run_dir DIR"):
        shared_run_id({}, num_nodes=2)


def test_a_new_id_is_dated_unique_and_published(monkeypatch):
    monkeypatch.setenv(RUN_ID_VARIABLE, "to be restored after the test")
    ids = {new_run_id() for _ in range(20)}
    assert len(ids) == 20
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", name) for name in ids)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["configs/ot/weather.yaml"], "weather"),
        (["configs/ot/weather.yaml", "configs/trainer/ddp.yaml"], "weather"),
        (["configs/ot/weather.yaml", "mine/more.yaml"], "more"),
        (["runs/weather/2026/config.yaml"], "weather"),
        ([], "unnamed"),
    ],
)
def test_run_name(files, expected):
    assert run_name(files) == expected


def test_only_an_empty_folder_is_free(tmp_path):
    refuse_occupied(tmp_path)
    refuse_occupied(tmp_path / "absent")
    (tmp_path / "file").touch()
    for taken, said in ((tmp_path, "not empty"), (tmp_path / "file", "is a file")):
        with pytest.raises(ValueError, match=said):
            refuse_occupied(taken)
