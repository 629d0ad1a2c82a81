"""What sweeps of several seeds say together, on sweeps written by hand."""

import json

import pytest

from benchmarks.collaboration.claims import baseline, read_sweeps, with_teachers
from benchmarks.collaboration.keep_sweeps import kept

JUDGE = "all_right"


def sweep(folder, seed, student, ways, keys=("a", "b", "c", "d")):
    """ways: {(family, name): (passes, values)}."""
    rows = [
        {"family": f, "name": n, "passes": float(p), "passes_p95": float(p), "values": {JUDGE: values}}
        for (f, n), (p, values) in ways.items()
    ]
    folder.mkdir()
    head = {"about": {"student": student}, "seed": seed, "keys": list(keys)}
    (folder / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [head, *rows]))
    return folder


def test_values_are_means_over_seeds_and_teachers_come_from_another_student(tmp_path):
    first = [
        sweep(tmp_path / f"1_{seed}", seed, "one step", {("student", "student"): (1, [seed, 0, 1, 1])})
        for seed in (0, 1)
    ]
    values = {("teacher", "teacher 2"): (4, [0, 1, 1, 1]), ("student", "student"): (2, [1, 1, 1, 1])}
    second = [sweep(tmp_path / f"2_{seed}", seed, "two steps", values) for seed in (0, 1)]
    ways = with_teachers(first, second, [JUDGE])
    assert ways["student"]["scores"][JUDGE].tolist() == [0.5, 0, 1, 1]
    assert ways["teacher 2"]["scores"][JUDGE].tolist() == [0, 1, 1, 1]
    assert list(ways) == ["teacher 2", "student"]
    assert baseline(ways, JUDGE) == "teacher 2"


def test_a_kept_sweep_reads_as_its_folder_and_is_always_the_same_file(tmp_path):
    way = {("student", "student"): (1, [0.1234567891, 0, 1, 1]), ("teacher", "teacher 2"): (4, [1, 1, 1, 1])}
    folder, file = sweep(tmp_path / "s", 0, "one", way), tmp_path / "s.jsonl.gz"
    file.write_bytes(kept(folder))
    found, whole = (read_sweeps([place], [JUDGE]) for place in (file, folder))
    assert found["student"]["scores"][JUDGE].tolist() == pytest.approx([0.123457, 0, 1, 1], abs=1e-12)
    assert found["teacher 2"]["scores"][JUDGE].tolist() == whole["teacher 2"]["scores"][JUDGE].tolist()
    assert kept(file) == kept(folder)


def test_sweeps_that_do_not_belong_together_are_refused(tmp_path):
    way = {("student", "student"): (1, [0, 0, 1, 1])}
    a, b = sweep(tmp_path / "a", 0, "one", way), sweep(tmp_path / "b", 1, "two", way)
    other = sweep(tmp_path / "c", 0, "one", way, keys="wxyz")
    with pytest.raises(SystemExit, match="other networks, prompts or budgets"):
        read_sweeps([a, b], [JUDGE])
    with pytest.raises(SystemExit, match="of the same seed"):
        read_sweeps([a, a], [JUDGE])
    for teachers in ([b], [other]):
        with pytest.raises(SystemExit, match="other prompts or seeds"):
            with_teachers([a], teachers, [JUDGE])


def test_the_baseline_is_the_cheapest_teacher_within_noise_of_the_best(tmp_path):
    keys = [str(number) for number in range(200)]
    weak, good = [0] * 200, [1, 0, 1, 1] * 50
    ways = {
        ("teacher", "teacher 1"): (2, weak),
        ("teacher", "teacher 2"): (4, good),
        ("teacher", "teacher 4"): (8, good),
    }
    assert baseline(read_sweeps([sweep(tmp_path / "s", 0, "one", ways, keys)], [JUDGE]), JUDGE) == "teacher 2"
