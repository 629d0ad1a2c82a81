"""Read files out of npm packages: fetched with the npm client, or placed in a folder as .tgz files or unpacked.

Packages are data here: nothing is installed, no script of theirs runs, and nothing is written under a name of theirs.
"""

import json
import os
import re
import subprocess
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare.saying import say
from fewstep.files.places import user_cache

MOST_BYTES_PER_FILE = 1 << 26
MOST_BYTES = 1 << 29  # of all files taken from one package


class Package(NamedTuple):
    name: str  # such as "openmoji" or "@dicebear/core"
    version: str

    @property
    def archive(self) -> str:
        """The file name that `npm pack` gives it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


def package_files(package: Package, folder: str | None, pattern: str) -> dict[str, bytes]:
    """{first group of `pattern`: content} of the files whose path inside the package matches as a whole.

    folder: holds the packages as `npm pack` names them, or unpacked as NAME/ (node_modules is such a folder) or
        ARCHIVE-WITHOUT-.tgz/; None fetches what is missing into the user's cache with npm.
    Raises ValueError in one line if the package is absent, of another version, damaged, or has no such file.
    """
    found = _located(package, Path(folder)) if folder else _fetched(package)
    wanted = re.compile(pattern)
    read = _read_archive if found.is_file() else _read_folder
    try:
        version, files = read(found, wanted)
    except (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{found}: not a readable npm package ({error}); delete it and fetch it again") from error
    if version != package.version:
        raise ValueError(f"{found} is version {version}; this command needs {package.name} {package.version}")
    if not files:
        raise ValueError(f"{found}: holds no file {pattern}; is it the package {package.name}?")
    return files


def located(packages: Iterable[Package], folder: str | None) -> list[Path]:
    """Where packages lie in a user's folder; none without one, since npm brings one version of each."""
    return [_located(package, Path(folder)) for package in packages] if folder else []


def _located(package: Package, folder: Path) -> Path:
    names = [package.archive, package.name, package.archive.removesuffix(".tgz")]
    for path in (folder / name for name in names):
        if path.is_file() or (path / "package.json").is_file():
            return path
        if (path / "package" / "package.json").is_file():
            return path / "package"
    raise ValueError(f"{folder}: no {package.archive} and no folder {package.name}; `npm pack {spec(package)}` there")


def spec(package: Package) -> str:
    return f"{package.name}@{package.version}"


def _fetched(package: Package) -> Path:
    """The archive in the user's cache; npm brings it, and checks it against the registry's hash, if it is not there."""
    cache = user_cache() / "npm"
    if (cache / package.archive).is_file():
        return cache / package.archive
    staging = cache / f"tmp.{os.getpid()}"
    staging.mkdir(parents=True, exist_ok=True)
    say(f"fetching {spec(package)} with npm ...", flush=True)
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(staging), spec(package)]
    by_hand = f"place {package.archive} in a folder and name it with --packages"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    except FileNotFoundError as error:
        raise ValueError(f"npm is not installed; install it, or {by_hand}") from error
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"npm did not fetch {spec(package)} within half an hour; {by_hand}") from error
    if done.returncode or not (staging / package.archive).is_file():
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ValueError(f"npm could not fetch {spec(package)} ({reason}); {by_hand}")
    (staging / package.archive).replace(cache / package.archive)
    staging.rmdir()
    return cache / package.archive


def _read_archive(path: Path, wanted: re.Pattern) -> tuple[str, dict[str, bytes]]:
    """(version, files); the archive is read once, front to back, and only into memory."""
    files, version, total = {}, "", 0
    with tarfile.open(path, "r|gz") as tar:
        for member in tar:
            inside = member.name.partition("/")[2]  # npm puts everything below one folder, mostly "package"
            match = wanted.fullmatch(inside)
            if not member.isreg() or not (match or inside == "package.json"):
                continue
            total += member.size
            if member.size > MOST_BYTES_PER_FILE or total > MOST_BYTES:
                raise ValueError(f"{path}: {member.name[:80]!r} makes it unreasonably large; is this the real package?")
            content = tar.extractfile(member).read()
            if inside == "package.json":
                version = json.loads(content)["version"]
            if match:
                files[match[1]] = content
    return version, files


def _read_folder(path: Path, wanted: re.Pattern) -> tuple[str, dict[str, bytes]]:
    version = json.loads((path / "package.json").read_text())["version"]
    files = {}
    for file in sorted(path.rglob("*")):
        if (match := wanted.fullmatch(file.relative_to(path).as_posix())) and file.is_file():
            files[match[1]] = file.read_bytes()
    return version, files
