"""The wheel of this tree, built as a release is, and an environment that has nothing else of ours."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("assets/", "data/", "docs/images/", "tests/", "benchmarks/")  # what no wheel holds, but for two of data/
KEPT = ("data/weather/", "data/swiss_roll/")


def sources() -> list[str]:
    """Files of the tree that git has or would take."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def build_wheel(folder: Path) -> Path:
    """Built from a copy in the folder: a build writes its scratch folders beside the sources."""
    for name in sources():
        if not name.startswith(HEAVY) or name.startswith(KEPT):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    code = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder / "source", check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Unpack the wheel into folder/site, as installers do, and write its command; returns the command's file.

    The command runs with PYTHONPATH=folder/site, which comes before what this environment has.
    """
    zipfile.ZipFile(wheel).extractall(folder / "site")
    (points,) = folder.glob("site/*.dist-info/entry_points.txt")
    name, _, place = points.read_text().splitlines()[1].partition(" = ")
    module, _, function = place.partition(":")
    command = folder / "bin" / name
    command.parent.mkdir()
    command.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return command
