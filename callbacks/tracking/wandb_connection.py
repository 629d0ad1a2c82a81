"""Around a W&B run: is the server there, is there room, which command uploads what was recorded."""

import shlex
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

FULL_DISK = 1 << 20  # bytes


def within(timeout: float, action: Callable[[], Any]) -> Any:
    """The result of action() if it comes within `timeout` seconds, else None while it goes on in a thread."""
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(action()), daemon=True)
    thread.start()
    thread.join(timeout)
    return result[0] if result else None


def unreachable(url: str, timeout: float) -> str | None:
    """None if anything at `url` speaks HTTP within `timeout` seconds, name resolution included; else why not."""

    def ask() -> str:
        try:
            urllib.request.urlopen(url, timeout=timeout).close()
        except urllib.error.HTTPError:  # it answers, whatever it says
            pass
        except (OSError, ValueError, HTTPException) as error:
            return f"{url}: {getattr(error, 'reason', error)}"
        return ""

    answer = within(timeout, ask)
    return f"{url} did not answer within {timeout:g} s" if answer is None else answer or None


def refuse_full_disk(folder: str | Path) -> None:
    """OSError if next to nothing is free: the process that writes the record tells nobody that it cannot."""
    if (free := shutil.disk_usage(folder).free) < FULL_DISK:
        raise OSError(f"the disk is full, {free // 1000} kB free")


def sync_command(save_dir: str | Path, run_id: str, online: bool = False) -> str:
    """The command that uploads every part of a run that is not uploaded yet; wandb takes them in the order of start.

    online: include parts that were recorded while connected, for a run whose connection was lost.
    """
    parts = sorted(Path(save_dir, "wandb").glob(f"*run-*-{run_id}"), key=lambda part: part.name.split("run-", 1)[1])
    parts = [p for p in parts if online or p.name.startswith("offline-")]
    waiting = [p for p in parts if not list(p.glob("*.wandb.synced"))]
    return " ".join(["wandb sync", *["--include-online"] * online, *(shlex.quote(str(p)) for p in waiting)])
