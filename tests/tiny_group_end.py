"""train.py, and what is left of its process group when the interpreter ends: `group {BACKEND} INITIALIZED`."""

import atexit

from lightning.pytorch import Callback
from torch import distributed

import train


def main() -> int:
    seen = set()
    Callback.on_fit_end = lambda *_: seen.add(distributed.get_backend())
    atexit.register(lambda: print("group", seen, distributed.is_initialized()))
    return train.main()
