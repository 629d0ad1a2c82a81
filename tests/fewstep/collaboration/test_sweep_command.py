"""`sweep` and `bench` as a user starts them, with options from a file."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from fewstep.collaboration.__main__ import main, parser
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.command_line import bench
from fewstep.collaboration.command_line.bench import benched, one_by_one
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.sweep.ways import Way
from fewstep.rewards.attribute_reader import AttributeReader
from tests.fewstep.collaboration.test_cascade import PROMPTS, SEEDS, redness
from tests.fewstep.collaboration.test_collaboration_command import COLOURS, calibrated, command, places
from tests.fewstep.collaboration.test_rehearsal import cascade

__all__ = ["calibrated", "cascade", "places"]  # fixtures
CONFIGS = Path(__file__).parents[3] / "configs" / "collaboration"


def test_a_sweep_writes_rows_and_a_picture(places, calibrated, tmp_path, capsys):
    out = tmp_path / "sweep"
    torch.manual_seed(1)
    other = AttributeReader(COLOURS, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    other.save_pretrained(tmp_path / "judge")
    asked = ["--judge", f"all_right={tmp_path / 'judge'}", "--teachers", 2, "--best-of", 2]
    argv = command("sweep", places, "--out", out, "--calibration", calibrated, *asked)
    assert main(argv) == 0
    told = capsys.readouterr().out
    head, *rows = [json.loads(line) for line in (out / "sweep.jsonl").read_text().splitlines()]
    assert len(head["keys"]) == 9
    families = [row["family"] for row in rows]
    assert families.count("adaptive") == families.count("random") == 8
    assert {"teacher", "student", "best of n", "refine everything"} < set(families)
    known = Calibration.load(calibrated).strategies[0]
    adaptive = [row for row in rows if row["family"] == "adaptive"]
    assert adaptive[0]["passes"] == pytest.approx(known.draft_passes)
    assert adaptive[-1]["repaired"] == 1.0
    assert len(set(adaptive[0]["values"]["oracle"])) > 1
    judge = asked[1]
    for row in rows:
        assert row["name"] in told
        assert all(0 <= value <= 1 for value in row["values"][judge])
    assert set(adaptive[0]["values"][judge]) <= {0.0, 1.0}
    with Image.open(out / "sweep.png") as picture:
        assert picture.width > 900
    assert main(argv) == 2
    assert f"--out {out} holds something; name another folder, or give --overwrite" in capsys.readouterr().err


def without_seconds(told):
    """The table of a sweep, without where it is and how long it took."""
    return re.sub(r"  \S+ s in all$", "", told.strip()).splitlines()[1:]


def test_a_killed_sweep_goes_on_and_is_the_same(places, calibrated, tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    other = AttributeReader(COLOURS, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    other.save_pretrained(tmp_path / "judge")
    asked = ["--judge", f"all_right={tmp_path / 'judge'}", "--teachers", 2, 3, "--best-of", 2, "--budgets", 5, 8]
    argv = command("sweep", places, "--calibration", calibrated, *asked)
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    expected = without_seconds(capsys.readouterr().out)
    out, row, rows = tmp_path / "killed", Way.row, []

    def killed(way):
        if len(rows) == 6:  # between a policy and its random twin
            raise KeyboardInterrupt
        rows.append(way.name)
        return row(way)

    monkeypatch.setattr(Way, "row", killed)
    assert main([*argv, "--out", str(out)]) == 130
    assert rows == ["teacher 2", "teacher 3", "student", "best of 2", "refine everything 0.5", "adaptive 5"]
    lines = (out / "sweep.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 7
    (out / "sweep.jsonl").write_text("".join(lines) + '{"family": "ran')  # what a kill leaves of a line
    assert not (out / "sweep.png").exists()
    for changes, told in (
        (["--seed", "1"], "sweep.jsonl is of seed 0, this is of 1; name another --out, or give --overwrite"),
        (["--budgets", "5", "9"], "is of budgets [5.0, 8.0], this is of [5.0, 9.0]"),
        (["--rollbacks", "0.3"], "is of rollbacks [0.5], this is of [0.3]"),
    ):
        assert main([*argv, "--out", str(out), *changes]) == 2
        assert told in capsys.readouterr().err
    again = []
    monkeypatch.setattr(Way, "row", lambda way: (again.append(way.name), row(way))[1])
    assert main([*argv, "--out", str(out)]) == 0
    assert again == ["random 5", "adaptive 8", "random 8"]
    assert without_seconds(capsys.readouterr().out) == expected
    whole, found = (
        [json.loads(line) for line in (tmp_path / name / "sweep.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    )
    assert found == whole
    assert (out / "sweep.png").exists()
    judge, first = asked[1], whole[3]["values"]
    right = first[judge]
    if 2 <= sum(right) <= len(right) - 2:
        assert whole[0]["auc"][judge]["value"] == pytest.approx(roc_auc_score(right, first["oracle"]))
    assert main([*argv, "--out", str(out)]) == 2
    assert f"--out {out} holds something" in capsys.readouterr().err


def test_what_cannot_be_swept_is_one_line(places, calibrated, tmp_path, capsys):
    argv = command("sweep", places, "--out", tmp_path / "a", "--calibration", calibrated, "--judge", places[1])
    assert main(argv) == 2
    assert "is given twice: oracle and judges must be different networks" in capsys.readouterr().err
    same = places[1].replace("attributes=", "all_right=")
    argv = command("sweep", places, "--out", tmp_path / "a", "--calibration", calibrated, "--judge", same)
    assert main(argv) == 2
    assert f"{same} has the weights of the oracle" in capsys.readouterr().err
    argv = command("sweep", places, "--out", tmp_path / "a", "--calibration", calibrated, "--budgets", 1)
    assert main(argv) == 2
    assert "mean_passes=1: drafts and the oracle alone take" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_bench_prints_a_ratio(places, calibrated, capsys):
    assert main(command("bench", places, "--calibration", calibrated, "--k", 50, "--repeats", 1)) == 0
    told = capsys.readouterr().out
    assert "9 prompts, 1 rounds: " in told
    assert "; ratio " in told


def test_one_by_one_is_the_cascade_with_pictures_of_8_bits_in_between(cascade):
    """Where nothing is refined, they differ by the rounding; where all is, by what the autoencoder loses, too."""
    kept = one_by_one(cascade, Policy(), PROMPTS, SEEDS, PROMPTS)
    torch.testing.assert_close(kept, cascade(PROMPTS, SEEDS, Policy()).images, atol=1 / 127, rtol=0)
    policy, latents = Policy(math.inf, "refine", Rollback(0.5)), cascade.teacher.model.latents
    drafts = latents.encode(kept[:2])
    expected = cascade.improved(drafts, PROMPTS[:2], SEEDS[:2], [0, 0], policy)
    found = one_by_one(replace(cascade, oracle=redness), policy, PROMPTS[:2], SEEDS[:2], PROMPTS[:2])
    torch.testing.assert_close(found, latents.decode(expected), atol=1 / 64, rtol=0)
    with pytest.raises(ValueError, match="the authors' code refines the one draft of each prompt"):
        benched(cascade, Policy(repair="regenerate"), PROMPTS, SEEDS, PROMPTS, 1)


def test_bench_holds_the_pictures_of_a_few_batches(cascade, monkeypatch):
    sizes = []
    monkeypatch.setattr(Cascade, "__call__", lambda self, prompts, *rest: sizes.append(len(prompts)))
    monkeypatch.setattr(bench, "one_by_one", lambda cascade, policy, prompts, *rest: sizes.append(len(prompts)))
    told = benched(replace(cascade, batch_size=2), Policy(), PROMPTS, SEEDS, PROMPTS, 2)
    assert sizes == [8, 8, 2, 2] * 3  # four batches and the rest, a round that warms up and two
    assert told.startswith("10 prompts, 2 rounds: ")
    with pytest.raises(ValueError, match="repeats=0: must be at least 1"):
        benched(cascade, Policy(), PROMPTS, SEEDS, PROMPTS, 0)


def test_options_from_a_file(tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text("# a comment\nstudent: some/where  # with one\n\nteacher-scale: 3.5\ndevice: cuda\n")
    read = parser().parse_args(["draw", f"@{file}", "--prompts", "a.txt", "--k", "50", "--device", "cpu"])
    assert (read.student, read.teacher_scale, read.device) == ("some/where", 3.5, "cpu")  # what follows counts
    file.write_text("teacher-scale\n")
    with pytest.raises(SystemExit):
        parser().parse_args(["draw", f"@{file}"])
    assert "'teacher-scale' in the file of options is no `option: value`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sdxl_lcm", "sdxl_turbo"])
def test_shipped_options_are_read_by_every_command_of_their_header(name):
    lines = [line[1:].split() for line in (CONFIGS / f"{name}.yaml").read_text().splitlines() if line.startswith("#  ")]
    assert len(lines) == 2
    for line in lines:
        assert line[:3] == ["python", "-m", "fewstep.collaboration"]
        line = [word.replace("@configs/collaboration", f"@{CONFIGS}") for word in line]
        read = parser().parse_args(line[3:])
        assert read.teacher.startswith("stabilityai/")
        assert read.solver == "unipc"
