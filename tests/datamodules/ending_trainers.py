"""A trainer's end while workers are in no state to end: run by test_worker_ends.py, each case in its own process.

ending_trainers CASE SHARDS EMPTY_FOLDER
"""

import gc
import os
import signal
import sys
import time
from multiprocessing import util

import torch
from torch.utils.data import _utils
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules import bounded_reader, silent_workers
from datamodules.image_stream import Workers
from datamodules.image_transforms import ImageTransform
from tests.datamodules.fatal_decoder import FatalDecoder
from tests.datamodules.test_worker_restart import evaluation, halt_a_worker, kill_a_worker, training

FORK = {"start_method": "fork", "timeout": 3.0, "restarts": 99}


def main() -> int:
    case, shards, empty = sys.argv[1:]
    for module, name in ((silent_workers, "LOST"), (silent_workers, "WAKE"), (bounded_reader, "SHUTDOWN")):
        setattr(module, name, 2.0)
    silent_workers.LOOK = 0.05
    _MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.2,)
    _utils.MP_STATUS_CHECK_INTERVAL = 0.5
    kept = CASES[case](shards, empty)
    gc.collect()
    if kept is not None:  # what torch has registered for the end of the interpreter, and then multiprocessing
        _MultiProcessingDataLoaderIter._clean_up_persistent_workers_atexit()
    util._exit_function()
    return 0


def stopped_and_dropped(shards, empty):
    """Nothing holds the loader any more when the run ends."""
    stream = training(shards, workers=Workers(2, **FORK))
    list(stream)
    halt_a_worker(stream.loader, 1)
    told(stream)


def stopped_and_held(shards, empty):
    stream = training(shards, workers=Workers(2, **FORK))
    list(stream)
    halt_a_worker(stream.loader, 1)
    told(stream)
    return stream


def half_a_batch_pinned(shards, empty):
    """The thread that pins batches waits for the rest of one whose worker died; a restart has left that thread."""
    pretend_to_pin()
    decoder = FatalDecoder(ImageTransform(8), fatal=("00017",), how="half", once=empty)
    stream = training(shards, decoder, Workers(2, pin_memory=True, **FORK))
    assert len(list(stream)) == 13
    told(stream)
    return stream


def left_half_way_pinned(shards, empty):
    """A pass is left, a worker dies with half a batch in the pipe, and nobody waits for it."""
    pretend_to_pin()
    decoder = FatalDecoder(ImageTransform(8), fatal=("00012",), how="half")
    stream = evaluation(shards, decoder, Workers(2, pin_memory=True, **FORK))
    batches = iter(stream)
    next(batches)
    while all(worker.exitcode is None for worker in stream.loader.reader._workers):
        time.sleep(0.05)
    told(stream)
    return stream, batches


def killed_itself(shards, empty):
    """The trainer is killed while its workers have more to send than a pipe holds."""
    stream = training(shards, workers=Workers(2, prefetch=8, **FORK))
    batches = iter(stream)
    next(batches)
    told(stream)
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGKILL)


def killed_worker(shards, empty):
    """An ordinary end after a death, for comparison."""
    stream = training(shards, workers=Workers(2, **FORK))
    for number, _ in enumerate(stream):
        if number == 3:
            kill_a_worker(stream.loader)
    told(stream)
    return stream


def told(stream):
    print(*[worker.pid for worker in stream.loader.reader._workers], flush=True)


def pretend_to_pin():
    """As on a machine with a GPU, but for the copy itself."""
    torch.accelerator.is_available = lambda: True
    torch.accelerator.current_accelerator = lambda *_, **__: torch.device("cpu")
    torch.accelerator.current_device_index = lambda: 0
    torch.accelerator.set_device_index = lambda *_: None
    _utils.pin_memory.pin_memory = lambda data, device=None: data


CASES = {
    case.__name__: case
    for case in (
        stopped_and_dropped, stopped_and_held, half_a_batch_pinned, left_half_way_pinned, killed_itself, killed_worker
    )
}  # fmt: skip
