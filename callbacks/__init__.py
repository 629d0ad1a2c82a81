"""Callbacks: run care (weights, checkpoints, seeds, progress) and metrics that read what a module returns."""

from callbacks.atomic_checkpoint import AtomicCheckpointIO
from callbacks.ema import EMA
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.progress import Progress
from callbacks.sample_picture import SamplePicture
from callbacks.step_seed import StepSeed
from callbacks.transport_metrics import TransportMetrics

__all__ = ["EMA", "AtomicCheckpointIO", "LastCheckpoint", "Progress", "SamplePicture", "StepSeed", "TransportMetrics"]
