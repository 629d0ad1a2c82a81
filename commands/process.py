"""Silence what Lightning says about itself; warnings about the user's data, model or machine stay."""

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
    """Keep Lightning's loggers to warnings and drop the warnings listed above; call it once per process."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports on stderr that it found no GPU to profile
    os.environ.setdefault("WANDB_DISABLE_WEAVE", "true")  # else W&B advertises it where gradio is imported
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's calls, not the user's
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", message=pattern)
