"""Under which id a tracker knows a run: a file in the run's own folder, so that it goes where the folder goes."""

import re
import secrets
from pathlib import Path

from fewstep.files.durable import replace_file

ID_FILE = "run_id.txt"  # in RUN/wandb and RUN/trackio


def stored_run_id(save_dir: str | Path, name: str, tracker: str = "wandb") -> str:
    """The id in SAVE_DIR/TRACKER/run_id.txt; where there is none, or no valid one, a new one from `name` and chance.

    A folder that is moved, renamed or deleted and used again therefore never writes into another run on the server.
    """
    file = Path(save_dir, tracker, ID_FILE)
    known = file.read_text(errors="replace").strip() if file.is_file() else ""
    if re.fullmatch(r"[\w-]{1,100}", known, re.ASCII):
        return known
    return f"{re.sub(r'[^a-zA-Z0-9-]+', '_', name)[-60:]}-{secrets.token_hex(3)}"


def store_run_id(save_dir: str | Path, run_id: str, tracker: str = "wandb") -> None:
    """Write the id that `stored_run_id` reads, so that a resumed run goes on under it."""
    file = Path(save_dir, tracker, ID_FILE)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, f"{run_id}\n".encode())
