"""Callbacks: run care (weights, checkpoints, seeds, progress) and metrics that read what a module returns."""

from callbacks.care.ema import EMA
from callbacks.care.fully_sharded import FullySharded
from callbacks.care.loss_spikes import LossSpikes
from callbacks.care.numeric_guard import NumericGuard
from callbacks.care.preemption import Preemption
from callbacks.care.skipped_samples import SkippedSamples
from callbacks.care.step_seed import StepSeed
from callbacks.checkpoints.atomic_checkpoint import AtomicCheckpointIO
from callbacks.checkpoints.data_identity import DataIdentity
from callbacks.checkpoints.export import Export
from callbacks.checkpoints.finished_epochs import FinishedEpochs
from callbacks.checkpoints.last_checkpoint import LastCheckpoint
from callbacks.checkpoints.monitored_metrics import MonitoredMetrics
from callbacks.metrics.accuracy import AccuracyCallback
from callbacks.metrics.attributes import AttributeCallback
from callbacks.metrics.feature_distances import CMMDCallback, DiversityCallback, KIDCallback
from callbacks.metrics.fid import FIDCallback
from callbacks.metrics.paired_image import PairedImageCallback
from callbacks.metrics.readable import ReadableCallback
from callbacks.metrics.retrieval import RetrievalMetrics
from callbacks.metrics.rewards import CLIPScoreCallback, ImageRewardCallback, RewardCallback
from callbacks.metrics.transport_metrics import TransportMetrics
from callbacks.pictures.picture_writer import PictureWriter
from callbacks.pictures.sample_grid import SampleGridCallback
from callbacks.pictures.sample_picture import SamplePicture
from callbacks.pictures.sample_table import SampleTableCallback
from callbacks.pictures.table_writer import TableWriter
from callbacks.speed.no_profiler import NoProfiler
from callbacks.speed.progress import Progress
from callbacks.speed.throughput import Throughput
from callbacks.tracking.wandb_artifacts import WandbArtifacts

__all__ = [
    "EMA",
    "AccuracyCallback",
    "AtomicCheckpointIO",
    "AttributeCallback",
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
    "ReadableCallback",
    "RetrievalMetrics",
    "RewardCallback",
    "SampleGridCallback",
    "SamplePicture",
    "SampleTableCallback",
    "SkippedSamples",
    "StepSeed",
    "TableWriter",
    "Throughput",
    "TransportMetrics",
    "WandbArtifacts",
]
