"""Commands and flags that a run prints: each can be pasted into a shell, whatever its paths hold."""

import shlex
from pathlib import Path

from callbacks.trusted_code import trust_flags


def evaluate_command(checkpoint: str | Path, out: Path) -> str:
    return shlex.join(["python", "evaluate.py", str(checkpoint), "--out", str(out), *trust_flags()])


def resume_flags(folder: str | Path) -> str:
    return shlex.join(["--run_dir", str(folder), "--resume", "auto", *trust_flags()])
