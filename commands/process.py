"""A process of ours: what Lightning says about itself is not heard, and its group ends before the interpreter."""

import gc
import logging
import os
import warnings

_NOISE = (
    r".*does not have many workers.*",  # vector data are gathered in memory: workers would only cost
    r".*`training_step` method.*log_every_n_steps.*",
    r".*number of training batches .* is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",  # true of every resumed run
    r".*The dirpath has changed from.*",  # true of a run that starts from another run's checkpoint
    r".*recommended to use .*devices=1.*",  # our test loaders weigh padded rows with 0, so each row counts once
    r".*LightningCLI's args parameter.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*GPU available but not used.*",  # the first lines of a run name the device
    r".*You are using a CUDA device .* Tensor Cores.*",
)


def quiet() -> None:
    """Keep Lightning's loggers to warnings and drop the warnings listed above; call it once per process.

    Warnings about the user's data, model or machine stay.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports on stderr that it found no GPU to profile
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # else W&B advertises it where gradio is imported
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not the user's
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", message=pattern)


def leave_process_group() -> None:
    """Take the default process group down, if there is one; for ranks that are done, all of them.

    Lightning does so for NCCL and leaves gloo's group to the end of the interpreter. A thread of gloo that still holds
    a tensor by then aborts the process, whose exit code becomes -6 after a whole run (seen once, with two hosts;
    https://github.com/pytorch/pytorch/issues/190489). Not after an error: other ranks may be in a collective.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        gc.collect()  # what wrapped the model holds the group too
        distributed.destroy_process_group()
