"""Callbacks: run care (weights, checkpoints, seeds, progress) and metrics that read what a module returns."""

from callbacks.atomic_checkpoint import AtomicCheckpointIO
from callbacks.cmmd import CMMDCallback
from callbacks.data_identity import DataIdentity
from callbacks.diversity import DiversityCallback
from callbacks.ema import EMA
from callbacks.export import Export
from callbacks.fid import FIDCallback
from callbacks.finished_epochs import FinishedEpochs
from callbacks.fully_sharded import FullySharded
from callbacks.kid import KIDCallback
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.loss_spikes import LossSpikes
from callbacks.monitored_metrics import MonitoredMetrics
from callbacks.no_profiler import NoProfiler
from callbacks.numeric_guard import NumericGuard
from callbacks.paired_image import PairedImageCallback
from callbacks.picture_writer import PictureWriter
from callbacks.preemption import Preemption
from callbacks.progress import Progress
from callbacks.retrieval import RetrievalMetrics
from callbacks.reward_scores import CLIPScoreCallback, ImageRewardCallback
from callbacks.sample_grid import SampleGridCallback
from callbacks.sample_picture import SamplePicture
from callbacks.sample_table import SampleTableCallback
from callbacks.skipped_samples import SkippedSamples
from callbacks.step_seed import StepSeed
from callbacks.throughput import Throughput
from callbacks.transport_metrics import TransportMetrics
from callbacks.wandb_artifacts import WandbArtifacts

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "CLIPScoreCallback",
    "CMMDCallback",
    "DataIdentity",
    "DiversityCallback",
    "Export",
    "FIDCallback",
    "FinishedEpochs",
    "FullySharded",
    "ImageRewardCallback",
    "KIDCallback",
    "LastCheckpoint",
    "LossSpikes",
    "MonitoredMetrics",
    "NoProfiler",
    "NumericGuard",
    "PairedImageCallback",
    "PictureWriter",
    "Preemption",
    "Progress",
    "RetrievalMetrics",
    "SampleGridCallback",
    "SamplePicture",
    "SampleTableCallback",
    "SkippedSamples",
    "StepSeed",
    "Throughput",
    "TransportMetrics",
    "WandbArtifacts",
]
