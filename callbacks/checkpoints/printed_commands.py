"""Commands and flags that a run prints: each can be pasted into a shell, whatever its paths hold."""

import os
import shlex
from pathlib import Path

from fewstep.installed_command import in_its_words

also: list[str] = []  # flags of this process that a command for the same run needs again; commands/ fills it


def evaluate_command(checkpoint: str | Path, out: Path) -> str:
    uv = ["uv", "run"] if "UV_RUN_RECURSION_DEPTH" in os.environ else []  # as this process was started
    words = in_its_words("python evaluate.py").split()
    return shlex.join([*uv, *words, str(checkpoint), "--out", str(out), *also])


def resume_flags(folder: str | Path) -> str:
    return shlex.join(["--run_dir", str(folder), "--resume", "auto", *also])
