"""A draw by several processes: the pictures of one, each once; parts of killed ones; who dies is told in one line."""

import json
import shutil
import threading
from argparse import Namespace
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from fewstep.collaboration.__main__ import main, parser
from fewstep.collaboration.cascade import Cascade
from fewstep.collaboration.command_line import commands
from fewstep.collaboration.command_line.processes import Ranks, check_count, in_processes, ranks_of_torchrun
from tests.fewstep.collaboration.test_collaboration_command import calibrated, command, places  # noqa: F401
from tests.fewstep.collaboration.work_of_ranks import fail
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def whole(places, calibrated, tmp_path_factory):  # noqa: F811
    """(arguments of a draw, what one process makes of them)."""
    argv = [*command("draw", places, "--calibration", calibrated, "--k", 50), "--batch-size", "1"]
    out = tmp_path_factory.mktemp("whole") / "drawn"
    assert main([*argv, "--out", str(out)]) == 0
    return argv, out


def rows(folder):
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def assert_same(found, whole):
    assert sorted(path.name for path in found.iterdir()) == sorted(path.name for path in whole.iterdir())
    for row, other in zip(rows(found), rows(whole), strict=True):
        assert {**row, "seconds": 0} == {**other, "seconds": 0}
        assert (found / f"{row['key']}.png").read_bytes() == (whole / f"{row['key']}.png").read_bytes()


def killed(whole, folder, *parts):
    """What processes leave that were killed after these keys of theirs, each with a part of a further line."""
    lines = {row["key"]: json.dumps(row) + "\n" for row in rows(whole)}
    folder.mkdir()
    shutil.copy(whole / "draw.json", folder)
    for rank, keys in enumerate(parts):
        name = f"samples.{rank}.jsonl" if rank else "samples.jsonl"
        (folder / name).write_text("".join(lines[key] for key in keys) + '{"key": "08", "rou')
        for key in keys:
            shutil.copy(whole / f"{key}.png", folder)
    return folder


def test_processes_draw_what_one_draws_and_go_on_with_what_others_left(whole, tmp_path, capsys):
    argv, alone = whole
    found = killed(alone, tmp_path / "drawn", ["00", "03"], ["01"], ["02"])
    before = {path.name: path.stat().st_mtime_ns for path in found.glob("*.png")}
    assert main([*argv, "--out", str(found), "--devices", "2"]) == 0
    assert_same(found, alone)
    assert {name: (found / name).stat().st_mtime_ns for name in before} == before  # none was drawn twice
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert "9 pictures, 44% of them refined" in captured.out
    assert captured.err == ""


def test_one_process_goes_on_with_what_several_left(whole, tmp_path):
    argv, alone = whole
    found = killed(alone, tmp_path / "drawn", ["06"], ["05", "01"], ["02"])
    (found / "05.png").unlink()
    assert main([*argv, "--out", str(found)]) == 0
    assert_same(found, alone)
    assert main([*argv, "--out", str(found), "--overwrite"]) == 0
    assert_same(found, alone)


@pytest.mark.parametrize("world", [2, 4])
def test_every_prompt_is_drawn_by_one_rank(whole, calibrated, tmp_path, world, monkeypatch):  # noqa: F811
    """Ranks as threads, which share a store as processes of torchrun do."""
    argv, alone = whole
    found = killed(alone, tmp_path / "drawn", ["00"], ["01", "02"])
    (found / "samples.7.jsonl").write_text("")  # of more processes than now
    loaded = commands._pipeline(parser().parse_args(argv), [{"colour": "red"}], calibrated)
    monkeypatch.setattr(commands, "_pipeline", lambda *_: loaded)  # transformers cannot load in two threads at once
    draw, drawn, answers, store = Cascade.__call__, [], {}, HashStore()
    store.set_timeout(timedelta(seconds=PATIENCE))

    def noted(self, prompts, seeds, *more):
        drawn.extend(seeds)
        return draw(self, prompts, seeds, *more)

    def rank(number):
        options = parser().parse_args([*argv, "--out", str(found)])
        answers[number] = commands.draw_share(options, Ranks(number, world, number, store))

    monkeypatch.setattr(Cascade, "__call__", noted)
    threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drawn) == [f"0:{n:02d}" for n in range(3, 9)]
    assert_same(found, alone)
    assert "9 pictures" in answers.pop(0)
    assert set(answers.values()) == {""}


def test_shares_are_even_and_whole():
    shares = [Ranks(rank, 3).share(range(7)) for rank in range(3)]
    assert sorted(place for share in shares for place in share) == list(range(7))
    assert [len(share) for share in shares] == [3, 2, 2]


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("mistake", "the prompt is wrong"),
        ("die", "process 1 of 2 ended with SIGKILL, and the others with it; the same command goes on"),
    ],
)
def test_a_process_that_fails_ends_all_with_one_line(what, told, capfd):
    with pytest.raises(ValueError, match=told) as caught:
        in_processes(fail, Namespace(what=what, devices=2, device="cpu"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_ranks_of_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_of_torchrun() == Ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="RANK expected, but not set"):
        ranks_of_torchrun()


def test_every_rank_has_its_accelerator():
    assert [Ranks(rank, 4, rank % 2).device("cuda") for rank in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert Ranks(1, 2, 1).device("cpu") == "cpu"
    assert Ranks().device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="--device cuda:0 is one for 2 processes; give cuda, and each takes its own"):
        Ranks(1, 2, 1).device("cuda:0")


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_no_such_number_of_processes(whole, tmp_path, capsys, count):
    assert main([*whole[0], "--out", str(tmp_path / "drawn"), "--devices", str(count)]) == 2
    assert f"--devices {count}: this machine has" in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()


def test_there_are_as_many_processes_as_accelerators(monkeypatch):
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    check_count(2, "cuda")
    with pytest.raises(ValueError, match="--devices 3: this machine has 2 accelerators for --device cuda"):
        check_count(3, "cuda")


def test_progress_is_shown_on_a_terminal_only(whole, tmp_path, capsys, monkeypatch):
    assert main([*whole[0], "--out", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert main([*whole[0], "--out", str(tmp_path / "two")]) == 0
    assert "draws 9 of 9 pictures" in capsys.readouterr().err
