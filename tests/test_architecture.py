"""The picture in the README, enforced: who may import whom, what `import fewstep` costs, what the wheel holds."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.built_wheel import build_wheel, sources

ROOT = Path(__file__).parents[1]
MIDDLE = ("lightning_modules", "datamodules", "callbacks")
OURS = ("fewstep", *MIDDLE, "commands")
# A room imports only those before it; "" is the ground floor of its package.
ROOMS = {
    "fewstep": "|files|diffusion|backbones|distillation|transport|contrastive|rewards|metrics"
    "|icd|editors|collaboration|fast_edit|demo",
    "datamodules": "|prepare",
    "callbacks": "checkpoints|care|metrics|pictures|speed|tracking",
    "commands": "|packaged|train|report|evaluate|program",
}
FULLEST = 30  # files in a folder
PLUMBING = {"lightning", "pytorch_lightning", "webdataset", "wandb", "trackio"}
FOREIGN_BACKBONES = {"diffusers", "transformers", "peft"}


def imported(file: Path) -> set[str]:
    """Top-level names that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", OURS)
def test_packages_import_only_downwards(package):
    above = {"train", "evaluate", "benchmarks", "tests"}
    above |= set() if package == "commands" else set(OURS) - {package, "fewstep"}
    offenders = {str(f.relative_to(ROOT)): imported(f) & above for f in files(package) if imported(f) & above}
    assert offenders == {}


def room(file: Path, package: str) -> str:
    inside = file.relative_to(ROOT / package).parts
    return inside[0] if len(inside) > 1 else ""


def imported_rooms(file: Path, package: str) -> set[str]:
    """Rooms of its own package that a file imports, wherever in the file."""
    rooms = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == package:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            places = [ROOT / name.replace(".", "/") for name in [node.module, *names]]
            rooms |= {room(place.with_suffix(".py"), package) for place in places if place.with_suffix(".py").is_file()}
            rooms |= {place.name for place in places if place.parent == ROOT / package and place.is_dir()}
    return rooms


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_import_only_those_below(package):
    order = ROOMS[package].split("|")
    assert {room(f, package) for f in files(package)} <= {"", *order}
    for file in files(package):
        if file.parent == ROOT / package and file.name == "__init__.py":
            continue  # it shows what the package offers
        own = room(file, package)
        assert imported_rooms(file, package) <= set(order[: order.index(own) + 1]), file


@pytest.mark.parametrize("package", OURS)
def test_every_room_says_its_rule_and_is_not_a_warehouse(package):
    for init in (ROOT / package).rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(init.read_text())), init
        assert package == "datamodules" or len(list(init.parent.glob("*.py"))) <= FULLEST, init.parent


def test_the_maths_knows_no_plumbing():
    forbidden = PLUMBING | set(OURS) - {"fewstep"}
    assert {f.name: imported(f) & forbidden for f in files("fewstep") if imported(f) & forbidden} == {}


def test_one_folder_knows_diffusers_transformers_and_peft():
    users = {f.relative_to(ROOT) for package in OURS for f in files(package) if imported(f) & FOREIGN_BACKBONES}
    others = {str(f) for f in users if f.parent != Path("fewstep/backbones")}
    assert others <= {"fewstep/rewards/image_reward.py"}


def test_no_drawer_for_nameless_things():
    drawers = {"utils", "common", "base", "helpers", "misc"}
    assert [f for package in OURS for f in files(package) if f.stem in drawers or f.parent.name in drawers] == []


def test_importing_fewstep_is_light():
    code = "import sys, fewstep; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"lightning", "diffusers", "transformers", "torch"} & set(out)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_answers_without_torch(script):
    code = f"""
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print("torch" in sys.modules, "lightning" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False False"
    assert "usage" in run.stdout.lower()


def test_benchmarks_that_import_one_another_run_as_files():
    """`python benchmarks/x/y.py` knows its own folder only."""
    for file in (ROOT / "benchmarks").rglob("*.py"):
        text = file.read_text()
        if '__name__ == "__main__"' in text and "benchmarks" in imported(file):
            assert "sys.path.insert(0, str(" in text, file


def test_wheel_holds_exactly_the_packages(tmp_path):
    names = set(zipfile.ZipFile(build_wheel(tmp_path)).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {*OURS, "fewstep_command.py"}
    ours = {name for name in sources() if name.startswith(tuple(f"{package}/" for package in OURS))}
    beside = {name for name in sources() if name.startswith(("configs/", "data/weather/", "data/swiss_roll/"))}
    beside |= {"train.py", "evaluate.py", "fewstep_command.py"}
    held = ours | {"fewstep_command.py"} | {f"commands/packaged/{name}" for name in beside}
    assert {name for name in names if ".dist-info" not in name} == held
