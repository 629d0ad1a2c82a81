"""The two commands on a tiny pipeline: what they write, tell and refuse, and that a killed draw goes on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fewstep.collaboration import cascade as cascade_file
from fewstep.collaboration.__main__ import SOLVERS, main
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.command_line.commands import summary
from fewstep.collaboration.command_line.drawn_files import DrawnFiles, read_drawn
from fewstep.collaboration.oracles import ORACLES, load_oracle
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.teacher import SOLVERS as KNOWN
from fewstep.files.names import safe_name
from fewstep.files.prompt_files import read_prompt_file
from fewstep.rewards.attribute_reader import AttributeReader
from tests.fewstep.collaboration.test_cascade import redness
from tests.tiny_diffusion import CAPTIONS, write_pipeline

SETTINGS = ["--student-steps", "2", "--teacher-steps", "3", "--teacher-scale", "2", "--batch-size", "2"]
COLOURS = {"colour": ["red", "green", "blue", "white"]}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(pipeline, oracle, prompts): a reader of colours as it is made, and the captions with what they ask for."""
    folder = tmp_path_factory.mktemp("command")
    torch.manual_seed(0)
    reader = AttributeReader(COLOURS, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}, 32)
    reader.save_pretrained(folder / "reader")
    rows = [
        {"prompt": CAPTIONS[n % 4], "key": f"{n:02d}", "attributes": {"colour": COLOURS["colour"][n % 4]}}
        for n in range(9)
    ]
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_pipeline(folder / "pipeline", "sd_v"), f"attributes={folder / 'reader'}", str(prompts)


def command(name, places, *more):
    pipeline, oracle, prompts = places
    given = ["--teacher", pipeline, "--oracle", oracle, "--prompts", prompts]
    return [name, pipeline, *given, *SETTINGS, *map(str, more)]


@pytest.fixture(scope="module")
def calibrated(places, tmp_path_factory):
    out = tmp_path_factory.mktemp("calibrated") / "calibration.json"
    assert main(command("calibrate", places, "--out", out, "--rollback-variance", "0.4")) == 0
    return out


def test_calibrating_tells_and_keeps_the_scores(places, calibrated, capsys):
    known = Calibration.load(calibrated)
    assert len(known.strategies[0].scores) == 9
    assert known.strategies[0].policy.rollback.value == 0.4
    assert known.costs.repair == 6
    assert main(command("calibrate", places, "--out", calibrated)) == 2
    assert "is there already; name another file, or give --overwrite" in capsys.readouterr().err
    before = calibrated.read_bytes()
    assert main(command("calibrate", places, "--out", calibrated, "--overwrite", "--rollback-variance", "0.4")) == 0
    assert calibrated.read_bytes() == before
    assert "9 prompts  scores " in (told := capsys.readouterr().out)
    assert f"drafts {known.strategies[0].draft_passes:.2f} passes, with every repair" in told


def test_drawing_keeps_to_its_budget_and_tells_of_every_picture(places, calibrated, tmp_path, capsys):
    known = Calibration.load(calibrated)
    budget = known.strategies[0].draft_passes + 0.45 * known.strategies[0].repair_passes
    out = tmp_path / "drawn"
    argv = command("draw", places, "--out", out, "--calibration", calibrated, "--mean-passes", budget)
    assert main(argv) == 0
    told = capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [f"{n:02d}" for n in range(9)]
    repaired = [row for row in rows if row["route"] == "refine"]
    assert len(repaired) == 3  # the prompts are those of the calibration: floor(0.45 * 10) places, less the last
    assert max(row["draft_score"] for row in repaired) < min(r["draft_score"] for r in rows if r["route"] == "keep")
    mean = sum(row["passes"] for row in rows) / 9
    assert mean <= budget
    assert f"9 pictures, 33% of them refined  passes {mean:.2f} on average" in told
    assert all(Image.open(out / f"{row['key']}.png").size == (16, 16) for row in rows)
    assert all(row["seconds"] > 0 for row in rows)
    assert main(argv) == 0  # nothing is left to draw
    assert f"passes {mean:.2f} on average" in capsys.readouterr().out


def test_a_killed_draw_goes_on_with_the_same_pictures(places, calibrated, tmp_path, monkeypatch, capsys):
    argv = [*command("draw", places, "--calibration", calibrated, "--k", 50), "--batch-size", "1"]
    assert main([*argv, "--out", str(tmp_path / "whole")]) == 0
    killed = [*argv, "--out", str(tmp_path / "killed")]
    repair, calls = cascade_file.Cascade.__call__, []

    def once(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return repair(self, *args, **options)

    monkeypatch.setattr(cascade_file.Cascade, "__call__", once)
    assert main(killed) == 130
    samples = tmp_path / "killed" / "samples.jsonl"
    assert len(samples.read_text().splitlines()) == 4
    with pytest.raises(ValueError, match="is not drawn to its end"):
        read_drawn(samples.parent)
    with samples.open("a") as file:
        file.write('{"key": "04", "rou')  # what a kill leaves of a line
    assert main(killed) == 0
    whole, found = ((tmp_path / name) for name in ("whole", "killed"))
    for number in range(9):
        assert (found / f"{number:02d}.png").read_bytes() == (whole / f"{number:02d}.png").read_bytes()
    lines = [
        [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()] for folder in (whole, found)
    ]
    for one, other in zip(*lines, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert len(read_drawn(found)[1]) == 9


def test_a_folder_of_something_else_is_not_drawn_into(places, calibrated, tmp_path, capsys):
    out = tmp_path / "drawn"
    argv = command("draw", places, "--out", out, "--calibration", calibrated)
    assert main([*argv, "--k", "0"]) == 0
    assert main([*argv, "--k", "100"]) == 2
    assert f"--out {out} has pictures of policy Policy(threshold=-inf" in capsys.readouterr().err
    assert main([*argv, "--k", "0", "--seed", "1"]) == 2
    assert "has pictures of seed 0, these are of 1" in capsys.readouterr().err
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("dear")
    assert main([*argv[:-2], "--calibration", str(calibrated), "--k", "0", "--out", str(other)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--k", "101"], "k=101.0: must be at least 0 and at most 100"),
        (["--mean-passes", "0.1"], r"mean_passes=0.1: drafts and the oracle alone take"),
        (["--k", "50", "--student-steps", "3"], "the calibration is of student steps 2, this is 3; calibrate again"),
        (["--k", "50", "--solver", "ddim"], "the calibration is of solver dpm_solver, this is ddim"),
        (["--k", "50", "--oracle", "taste"], "oracle 'taste': choose one of image_reward, clip"),
        (["--k", "50", "--oracle", "attributes"], "oracle 'attributes': say where its weights are"),
        (["--k", "50", "--prompts", "none.txt"], "none.txt does not exist"),
        (["--k", "50", "--calibration", "none.json"], "--calibration none.json is not there; make it with `calibrate`"),
        (["--k", "50", "--device", "cuda:9"], "--device 'cuda:9'"),
        (["--k", "50", "--student-scale", "8"], "guidance_scale 8: this student is not guided; give 1"),
    ],
)
def test_mistakes_are_one_line(places, calibrated, tmp_path, capsys, more, told):
    argv = command("draw", places, "--out", tmp_path / "drawn", "--calibration", calibrated)
    assert main([*argv, *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--rollback-variance", "1.5"], r"rollback_variance=1.5: must be inside (0, 1)"),
        (["--rollback-time", "0"], r"rollback_time=0.0: must be inside (0, 1)"),
        (["--drafts", "2"], "--drafts above 1 and --good-enough belong together"),
        (["--teacher-steps", "0"], "teacher steps=0: must be at least 1"),
        (["--rollback-variance", "0.999"], "the schedule ends with less noise; regenerate instead"),
        (["--prompts", "none.txt"], "none.txt does not exist"),
    ],
)
def test_mistakes_of_a_calibration_are_one_line(places, tmp_path, capsys, more, told):
    assert main(command("calibrate", places, "--out", tmp_path / "deep" / "c.json", *more)) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()


def test_a_place_that_no_file_can_have_is_said_before_drafts(places, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(command("calibrate", places, "--out", tmp_path / "file" / "deep" / "c.json")) == 2
    assert f"lies in {tmp_path / 'file'}, which is a file; name another place" in capsys.readouterr().err


def test_budgets_and_files_are_checked_before_anything_is_loaded(places, calibrated, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Collaboration, "from_pretrained", None)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for name, *more, told in (
        ("draw", "--k", 101, "k=101.0: must be at least 0 and at most 100"),
        ("draw", "--mean-passes", 0.1, "mean_passes=0.1: drafts and the oracle alone take"),
        ("draw", "--k", 50, "--calibration", broken, "cannot read the calibration"),
        ("sweep", "--calibration", broken, "cannot read the calibration"),
        ("bench", "--mean-passes", 0, "mean_passes=0.0: must be above 0"),
        ("bench", "--k", 50, "--repeats", 0, "repeats=0: must be at least 1"),
    ):
        out = [] if name == "bench" else ["--out", tmp_path / "out"]
        assert main(command(name, places, "--calibration", calibrated, *out, *more)) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_class_reads_its_calibration_before_networks(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the calibration .*none\.json"):
        Collaboration.from_pretrained(tmp_path, tmp_path, redness, tmp_path / "none.json")


def test_a_calibration_that_no_repair_can_follow_is_refused_before_its_folder(places, calibrated, tmp_path, capsys):
    content, file = json.loads(calibrated.read_text()), tmp_path / "c.json"
    content["strategies"][0]["policy"]["rollback"] = 0.999
    file.write_text(json.dumps(content))
    assert main(command("draw", places, "--out", tmp_path / "drawn", "--calibration", file, "--k", 50)) == 2
    assert "rollback_variance=0.999: the schedule ends with less noise" in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()


@pytest.mark.parametrize("policy", [Policy(), None])
def test_latents_are_kept_where_repairs_are_played_alone(places, monkeypatch, policy):
    pipeline, kept = places[0], []
    pipe = Collaboration.from_pretrained(pipeline, pipeline, redness, student_steps=1, teacher_steps=1)

    def noted(rehearsal, costs, policy):
        rehearsal.play(Policy())
        try:
            kept.append(rehearsal.latents(0, [0, 1]).shape)
        except ValueError:
            kept.append(None)

    monkeypatch.setattr(Calibration, "of", noted)
    pipe.calibrated(CAPTIONS, list("abcd"), policy)
    assert kept == [None if policy else (2, 4, 8, 8)]


def test_the_class_is_what_the_commands_use(places, calibrated):
    pipeline, oracle, file = places
    prompts = read_prompt_file(file)
    asked = [prompt.attributes for prompt in prompts]
    settings = {"teacher": pipeline, "student_steps": 2, "teacher_steps": 3, "teacher_scale": 2.0, "asked": asked[0]}
    pipe = Collaboration.from_pretrained(pipeline, oracle=oracle, calibration=calibrated, **settings)
    texts, seeds = [p.text for p in prompts], [f"0:{p.key}" for p in prompts]
    result = pipe(texts, seeds, k=45, asked=asked)  # the median itself may be scored a bit lower in another batch
    assert result.repaired.sum() == 4
    passes = pipe.passes(result, pipe.chosen(k=45))
    assert passes.unique().numel() == 2
    assert passes.max() == pytest.approx(pipe.costs.judged_draft + 6 + pipe.costs.decode)
    for wrong in ({}, {"k": 50, "mean_passes": 9}):
        with pytest.raises(ValueError, match="give one of mean_passes, k and policy"):
            pipe(texts, seeds, asked=asked, **wrong)
    with pytest.raises(ValueError, match="is a pipeline that names no teacher: give the teacher"):
        Collaboration.from_pretrained(pipeline, oracle=redness)
    bare = Collaboration.from_pretrained(pipeline, pipeline, redness, student_steps=2, teacher_steps=3)
    with pytest.raises(ValueError, match="mean_passes and k need a calibration"):
        bare(texts, seeds, k=50)
    kept = bare(texts[:2], seeds[:2], policy=Policy())
    torch.testing.assert_close(kept.images, replace(pipe, calibration=None)(
        texts[:2], seeds[:2], policy=Policy(), asked=asked[:2]
    ).images)  # fmt: skip


def test_a_changed_prompt_or_a_lost_picture_is_noticed(places, calibrated, tmp_path, capsys):
    rows = [json.loads(line) for line in Path(places[2]).read_text().splitlines()][:3]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "drawn"

    def drawn(rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        argv = [*command("draw", places, "--out", out, "--calibration", calibrated, "--k", 0), "--prompts", str(file)]
        return main(argv)

    assert drawn(rows) == 0
    for change in ({"prompt": "a blue square"}, {"attributes": {"colour": "white"}}):
        assert drawn([rows[0] | change, *rows[1:]]) == 2
        assert "has 00.png of 'a red square', which is asked for otherwise now" in capsys.readouterr().err
    before = (out / "01.png").read_bytes()
    (out / "01.png").unlink()
    assert drawn(rows) == 0
    assert (out / "01.png").read_bytes() == before
    assert len((out / "samples.jsonl").read_text().splitlines()) == 3
    for line in ("[]", "{}", '{"key": []}', '{"key": "../a"}', "["):
        (out / "samples.jsonl").write_text(line + "\n")
        assert drawn(rows) == 2
        assert "samples.jsonl, line 1, is not of a draw" in (error := capsys.readouterr().err)
        assert error.count("\n") == 1


def test_what_cannot_be_drawn_is_said_before_a_draft(places, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cascade_file.Cascade, "__call__", None)
    good = json.loads(Path(places[2]).read_text().splitlines()[0])
    for row, told in (
        (good | {"prompt": "a red square " * 9}, "tokens, at most 12; shorten"),
        (good | {"attributes": {"colour": "mauve"}}, "attribute colour='mauve': known values are red"),
        (good | {"attributes": {}}, "has no attributes"),
        (good | {"attributes": [good["attributes"]] * 2}, "equally many of each"),
    ):
        file = tmp_path / "prompts.jsonl"
        file.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
        assert main([*command("calibrate", places, "--out", tmp_path / "c.json"), "--prompts", str(file)]) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "folder").mkdir()
    assert main(command("calibrate", places, "--out", tmp_path / "folder", "--overwrite")) == 2
    assert "is a folder; name another file" in capsys.readouterr().err


def test_prompt_files(tmp_path):
    text = tmp_path / "prompts.txt"
    text.write_text("a red square\n\n a blue square \n", encoding="utf-8-sig")
    assert [(p.key, p.text) for p in read_prompt_file(text)] == [
        ("1-a-red-square", "a red square"),
        ("3-a-blue-square", "a blue square"),
    ]
    lines = tmp_path / "prompts.jsonl"
    lines.write_text('{"prompt": "a"}\n{"prompt": "b", "key": "../x"}\n{"prompt": "c", "key": "x"}\n')
    assert [p.key for p in read_prompt_file(lines)] == ["1-a", "x", "x-2"]
    long = f"{'a' * 77}.bcd"
    for key in (long, "aux", "com1.png", "x." * 39 + "yz"):
        lines.write_text("".join(json.dumps({"prompt": "a", "key": key}) + "\n" for _ in range(11)))
        found = [p.key for p in read_prompt_file(lines)]
        assert len(set(found)) == 11
        assert found == [safe_name(key) for key in found]
    for content, told in (
        ("", "holds no prompt; write one to a line"),
        ("{", "line 1 is no JSON"),
        ("[]", "line 1: give an object with a prompt"),
        ('{"prompt": " "}', "line 1: give an object with a prompt"),
        ('{"prompt": "a", "promt": 1}', "has 'promt'; fields are prompt, key, attributes"),
        ('{"prompt": "a", "key": 1}', "its key is no text"),
        ("[" * 100_000, "line 1 is no JSON"),
        ('{"prompt": "a", "attributes": {"p": NaN}}', "line 1 is no JSON: NaN"),
        ('{"prompt": "a", "attributes": ' + "9" * 400 + "}", "a whole number of 400 digits"),
        ('{"prompt": "a", "attributes": ' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64 levels"),
    ):
        lines.write_text(content)
        with pytest.raises(ValueError, match=told) as caught:
            read_prompt_file(lines)
        assert "\n" not in str(caught.value)


def test_what_its_own_reader_refuses_is_not_written(tmp_path):
    row = {"key": "a", "prompt": "b", "attributes": None, "route": "keep", "draft_score": 0, "passes": 1, "seconds": 1}
    files = DrawnFiles(tmp_path, {})
    for score in (math.inf, -math.inf, math.nan):
        with pytest.raises(
            ValueError, match=r"'a' cannot be told of in samples.jsonl .*; mend its prompt, or the oracle"
        ):
            files.add([row, {**row, "draft_score": score}], [b"", b""])
    assert [path.name for path in tmp_path.iterdir()] == ["draw.json"]


def test_a_prompt_that_cannot_be_told_of_is_refused_before_a_network_is_loaded(
    places, calibrated, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Collaboration, "from_pretrained", None)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a red\\u0000square", "attributes": {"colour": "red"}}')
    argv = command("draw", places, "--calibration", calibrated, "--k", 0, "--out", tmp_path / "drawn")
    assert main([*argv, "--prompts", str(prompts)]) == 2
    error = capsys.readouterr().err
    assert "cannot be told of in samples.jsonl (prompt is 'a red\\x00square', expected a text)" in error


def test_the_summary_tells_what_was_done():
    rows = [{"route": "refine" if n < 3 else "keep", "passes": float(n)} for n in range(12)]
    told = summary(Path("drawn"), rows, Policy())
    assert "12 pictures, 25% of them refined  passes 5.50 on average, half within 6.00, 95 % within 11.00" in told
    assert "25% of them regenerated, the better picture kept" in summary(
        Path("drawn"), rows, Policy(repair="regenerate", keep_best=True)
    )
    assert "12 pictures, all of them drafts  passes" in summary(Path("drawn"), rows, Policy(repair="keep"))


def test_names_are_told_before_anything_is_imported():
    assert set(SOLVERS) == set(KNOWN)
    for name in ORACLES:
        if name in ("attributes", "aesthetic"):
            with pytest.raises(ValueError, match=f"oracle '{name}': say where its weights are"):
                load_oracle(name)
