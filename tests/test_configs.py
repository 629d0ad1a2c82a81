"""Every shipped run config is a document and a test: its header says how to run it, and it builds."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = [p for p in (ROOT / "configs").glob("*/*.yaml") if p.parent.name not in ("trainer", "sweeps")]
OPTIONS = ("sdxl_lcm", "sdxl_turbo")  # of another command: tests/fewstep/collaboration/test_sweep_command.py
RUNS = sorted(p for p in FILES if p.stem not in OPTIONS)
PREDICTS = [file for file in RUNS if file.stem in ("edit", "predict")]  # no training: test_predict, test_own_table
PUBLISHED = ("sd15", "sdxl", "celeba_hq", "afhq_dog", "lsun_church")  # on small networks: test_{icd,fast_edit}_runs.py
FROM_A_HUB = [file for file in RUNS if file.stem in PUBLISHED]
FROM_A_PACKAGE = [file for file in RUNS if file.stem == "fashion_mnist"]  # tests/test_label_runs.py: on a few rows
FITS = [file for file in RUNS if file not in PREDICTS]


def title(file):
    return f"{file.parent.name}-{file.stem}"


@pytest.mark.parametrize("file", FITS, ids=title)
def test_header_names_the_command_and_what_to_expect(file):
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert f"python train.py fit -c {file.relative_to(ROOT)}" in "\n".join(header)
    assert "on 2 CPU cores" in "\n".join(header)


@pytest.mark.parametrize("file", RUNS, ids=title)
def test_nests_at_most_two_class_paths(file):
    def depth(node):
        if isinstance(node, dict):
            return ("class_path" in node) + max([depth(v) for v in node.values()], default=0)
        return max([depth(v) for v in node], default=0) if isinstance(node, list) else 0

    assert depth(yaml.safe_load(file.read_text())) <= 2


@pytest.mark.parametrize("file", [file for file in FITS if file not in FROM_A_HUB + FROM_A_PACKAGE], ids=title)
def test_dry_run_passes_and_writes_nothing(file, tmp_path, monkeypatch, capsys):
    import train

    monkeypatch.chdir(tmp_path)
    given = {name: tmp_path / name for name in ("assets", "configs", "data")}
    for name, link in given.items():
        link.symlink_to(ROOT / name)
    small = ["--data.batch_size", "4", "--data.eval_batch_size", "4"] if "ImageText" in file.read_text() else []
    assert train.main(["fit", "-c", str(file), "--dry_run", *small]) == 0, capsys.readouterr().err
    assert set(tmp_path.iterdir()) == set(given.values())
