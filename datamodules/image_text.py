"""Captioned images, streamed from WebDataset shards (shard_sources.py says which folders and addresses are read).

train      image [B,3,H,W], caption list[str], key list[str]; the data set is walked through in one endless shuffle;
           with captions: none, image and key
val, test  the same and weight float32 [B]: every sample once, 0 marks padding and unreadable samples
Images are uint8 until they are on the device and float32 in [-1, 1] from there on. Beside them stand, if asked for,
further images (such as the target of an edit) in the same form, arrays [B, ...] and lists of metadata.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch import Tensor

from datamodules.image_options import LoaderOptions, Splits, TransformOptions, check_options
from datamodules.image_samples import ImageSamples, SampleDecoder
from datamodules.image_splits import ImageSplits
from datamodules.image_stream import EvaluationImages, TrainImages, TrainPlan, Workers
from datamodules.resampled_stream import ResampledImages
from datamodules.sample_index import SampleIndex
from datamodules.sample_order import ORDER, EndlessOrder, local_permutation
from datamodules.shard_sources import Shard, shards_of
from datamodules.skipped import Skipped
from datamodules.topology import topology
from fewstep.picture_size import Size, as_stored


class ImageTextDataModule(LightningDataModule):
    """Captioned images from shards.

    Args:
        path: shard folder (with or without index.json), .tar file, brace expansion `a/{000..127}.tar` or a list of
            these; local, s3://, gs://, https:// or hf://.
        image_size: of every image in pixels, one number for squares or [height, width].
        batch_size: images per training step over all processes. eval_batch_size: per process.
        steps_per_epoch: batches between two validations; None for one walk through the training split.
        splits: names, sources and sizes of the three splits, see image_options.Splits.
        select: keep only samples whose metadata match, such as {style: noto, skin_tone: [light, dark]} or, of an object
            in them, {attributes.glasses: none}.
        captions: "first" or "random" (training only): one of the sample's captions; "none": batches have no `caption`,
            and samples need none.
        transform: crop, mirroring, background and largest size of pictures, see image_options.TransformOptions.
        images, arrays, metadata: further fields of the batch, see SampleDecoder.
        max_skipped: share of unusable samples that stops the run; strict: the first one does.
        sampling: "exact", or "resampled" for shards that cannot be read at random places (see ResampledImages).
        shuffle_window: shuffle within shards of about this many samples in all, for slow disks; None for everything.
        num_workers: loader processes. loader: how they start, read ahead and are replaced, see LoaderOptions.
        worker_timeout: seconds a worker may take for one sample before it is ended and replaced; 0 means for ever.
        verify: compare the sha256 of every shard with the index before training.
        cache_dir: where remote shards are kept; None for the user's cache folder.
        seed: order, crops, captions and subsets.
    """

    def __init__(
        self,
        path: str | list[str],
        image_size: Size = 64,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        steps_per_epoch: int | None = None,
        splits: Splits = Splits(),
        select: dict[str, Any] | None = None,
        captions: str = "random",
        transform: TransformOptions = TransformOptions(),
        images: list[str] | None = None,
        arrays: list[str] | None = None,
        metadata: list[str] | None = None,
        max_skipped: float = 0.1,
        strict: bool = False,
        sampling: str = "exact",
        shuffle_window: int | None = None,
        num_workers: int = 1,
        loader: LoaderOptions = LoaderOptions(),
        worker_timeout: float = 300.0,
        verify: bool = False,
        cache_dir: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.splits, self.transform, self.loader = (
            kind(**given) if isinstance(given, Mapping) else given  # a mapping: as stored in a checkpoint
            for kind, given in ((Splits, splits), (TransformOptions, transform), (LoaderOptions, loader))
        )
        # Hyper-parameters go into checkpoints, which hold plain types only.
        splits, transform, loader = map(asdict, (self.splits, self.transform, self.loader))
        image_size = as_stored(image_size)
        self.save_hyperparameters()
        check_options(self.hparams)
        self.skipped = Skipped(max_skipped, strict)  # of all loaders; progress and loggers show it
        self.train_decoder, self.eval_decoder = self._decoder(True), self._decoder(False)

    @property
    def parts(self) -> ImageSplits:
        """What is read for training, validation and test."""
        h = self.hparams
        return ImageSplits(h.path, self.splits, h.select, h.images, h.cache_dir, h.seed)

    def prepare_data(self) -> None:
        """Fetch remote shards and index new ones once per machine, before the processes read them together."""
        for part in ("train", "val", "test"):
            if self.parts.exists(part) and not (part == "train" and self.hparams.sampling == "resampled"):
                self.parts.fetch(part, self.hparams.verify)

    def setup(self, stage: str) -> None:
        """Open what this stage reads, so that a bad folder is reported before any step."""
        if stage == "fit":
            _ = self.train_index if self.hparams.sampling == "exact" else self.train_shards
            self.parts.tell(topology(self.trainer)[0], self.hparams.image_size, self.transform.crop)
        if stage in ("fit", "validate"):
            _ = self.val_index
        if stage in ("test", "predict"):
            _ = self.test_index

    @cached_property
    def train_index(self) -> SampleIndex:
        return self.parts.open("train", self.skipped)

    @cached_property
    def train_shards(self) -> list[Shard]:
        """Shards of the training split, for sampling=resampled."""
        return shards_of(self.hparams.path, self.splits.train)

    @cached_property
    def val_index(self) -> SampleIndex | None:
        """None when the folder has no such split."""
        return self.parts.open("val", self.skipped, topology(self.trainer)[0]) if self.parts.exists("val") else None

    @cached_property
    def test_index(self) -> SampleIndex:
        return self.parts.open("test", self.skipped, topology(self.trainer)[0])

    def train_dataloader(self) -> TrainImages | ResampledImages:
        h, (rank, world) = self.hparams, topology(self.trainer)
        if h.batch_size % world:
            raise ValueError(f"batch_size={h.batch_size} cannot be shared by {world} processes; choose a multiple")
        if h.sampling == "resampled":
            plan = (h.batch_size, h.steps_per_epoch, h.seed, rank, world)
            return ResampledImages(self.train_shards, self.train_decoder, *plan, self._workers(), self.skipped)
        index = self.train_index
        sizes = np.bincount(index.shard, minlength=len(index.paths))
        draw = partial(local_permutation, sizes, h.shuffle_window) if h.shuffle_window else None
        order = EndlessOrder(len(index), h.seed, ORDER, draw=draw)
        steps = h.steps_per_epoch or max(1, len(index) // h.batch_size)
        plan = TrainPlan(order, h.batch_size, steps, rank, world)
        return TrainImages(ImageSamples(index, self.train_decoder, replace=True), plan, self._workers(), self.skipped)

    def val_dataloader(self) -> EvaluationImages | list:
        """An empty list when the folder has no split of this name."""
        return self._evaluation(self.val_index) if self.val_index is not None else []

    def test_dataloader(self) -> EvaluationImages:
        return self._evaluation(self.test_index)

    def predict_dataloader(self) -> EvaluationImages:
        return self._evaluation(self.test_index)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """uint8 -> float32 in [-1, 1], on the device: a quarter of the bytes to transfer, no work for the workers."""
        for name in ("image", *self.train_decoder.images):
            batch[name] = to_unit_range(batch[name])
        return batch

    def _decoder(self, training: bool) -> SampleDecoder:
        h = self.hparams
        return SampleDecoder(
            self.transform.of(h.image_size, training),
            captions=h.captions if training or h.captions == "none" else "first",
            images=tuple(h.images or ()),
            arrays=tuple(h.arrays or ()),
            metadata=tuple(h.metadata or ()),
            background=self.transform.color,
            max_pixels=self.transform.max_pixels,
            seed=h.seed,
        )

    def _workers(self) -> Workers:
        h, loader = self.hparams, self.loader
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return Workers(h.num_workers, loader.prefetch, loader.start_method, on_gpu, loader.restarts, h.worker_timeout)

    def _evaluation(self, index: SampleIndex) -> EvaluationImages:
        samples = ImageSamples(index, self.eval_decoder, replace=False)
        return EvaluationImages(
            samples, self.hparams.eval_batch_size, *topology(self.trainer), self._workers(), self.skipped
        )


def to_unit_range(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 [-1, 1]."""
    return image.float().div_(127.5).sub_(1.0)
