"""Checkpoints and shards that carry code: it never runs. The canary is a file that the code would create."""

import os
import pickle
import random
import tarfile
from pathlib import Path

from benchmarks.reliability.methods import options
from benchmarks.reliability.promises import load, no_traceback, require, says
from benchmarks.reliability.training import start


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.canary}",)


def hostile_checkpoint(folder: Path, trial: int, rng: random.Random) -> str:
    """Given by name it is refused; as the newest file of a run it is passed over for a good one."""
    import torch

    canary, bad = folder / "CANARY", folder / "bad.ckpt"
    with start(folder, options("ot", folder, steps=10)) as training:
        training.finishes()
    good = folder / "run" / "checkpoints" / "last.ckpt"
    contents = load(good)
    contents["callbacks"]["EMA"] = Payload(canary)
    torch.save(contents, bad)
    more = options("ot", folder, steps=20)
    with start(folder, [*more, "--resume", str(bad), "--run_dir", f"{folder}/other"]) as named:
        codes = named.codes(240)
        require(codes == [2], f"exit codes {codes}, promised 2: {named.tail()}")
        says(named.text(), "^error: .*bad.ckpt")
        no_traceback(named.text())
    bad.rename(good.with_name("newest.ckpt"))
    with start(folder, [*more, "--resume", "auto"]) as automatic:
        automatic.finishes()
        says(automatic.text(), "^skipped .*newest.ckpt")
    require(not canary.exists(), "the code in the checkpoint has run")
    return "refused with exit 2; --resume auto took the good one"


def hostile_shard(folder: Path, trial: int, rng: random.Random) -> str:
    """Pickles, scripts, arrays of objects and commands as names, beside every sample and in its place."""
    from tests.datamodules.picture_shards import sample, write_folder
    from tests.datamodules.test_hostile_shards import SUFFIXES, add

    canary, shards = folder / "CANARY", write_folder(folder / "shards", [5], "val")
    payload = pickle.dumps(Payload(canary))
    with tarfile.open(shards / "train-000000.tar", "w") as tar:
        for number in range(16):
            for suffix, content in sample(number).items():
                add(tar, f"{number:05d}.{suffix}", content)
            for suffix in SUFFIXES:
                add(tar, f"{number:05d}.{suffix}", payload)
        for name in (f"pipe:touch {canary}", "../../escape"):
            for suffix, content in sample(20).items():
                add(tar, f"{name}.{suffix}", content)
    places = {"data__path": shards, "data__splits__num_train": "null", "data__splits__num_val": "null"}
    with start(folder, options("contrastive", folder, workers=1, **places)) as training:
        training.finishes()
    no_traceback(training.text())
    require(not canary.exists(), "the code in the shard has run")
    require(not (folder.parent / "escape.png").exists(), "a member was written outside")
    return f"{16 * len(SUFFIXES)} payloads, none has run"
