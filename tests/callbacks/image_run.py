"""Pictures, a module that "generates" them and loaders that share them among processes as the datamodules do."""

import math

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import functional as F

from fewstep.metrics.features import check_pictures

N, SIZE = 45, 8
FEW = {"subsets": 5, "subset_size": 20}  # options of KID for so few pictures
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


def pictures(seed, num=N, low=0, high=256):
    """uint8 [num, 3, SIZE, SIZE]"""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (num, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8)


def table(num=N):
    """Columns by name: real images, generated ones that overlap them in part, captions, keys."""
    real, made = pictures(0, num), pictures(1, num, high=200)
    return {
        "image": real.float() / 127.5 - 1,
        "made": made.float() / 127.5 - 1,
        "reconstruction": real.add(pictures(2, num, high=20)).float() / 127.5 - 1,
        "caption": [f"picture {i}" for i in range(num)],
        "key": [f"{i:06d}" for i in range(num)],
    }


class Loader:
    """Rows rank::ranks; the last batch is filled with junk of weight 0. `alone`: only the first process has rows."""

    def __init__(self, columns, batch_size=7, alone="", order=None):
        self.columns, self.batch_size, self.alone, self.order = columns, batch_size, alone, order

    def read(self):
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if ranks > 1 else 0
        rows = torch.arange(len(self.columns["key"])) if self.order is None else self.order
        if self.alone == "nothing" and ranks > 1:
            return [] if rank else list(self.batches(rows, -(-len(rows) // self.batch_size)))
        if self.alone == "padding" and ranks > 1:
            batches = list(self.batches(rows, -(-len(rows) // self.batch_size)))
            return [b | {"weight": 0 * b["weight"]} for b in batches] if rank else batches
        count = -(-math.ceil(len(rows) / ranks) // self.batch_size)
        return list(self.batches(rows[rank::ranks], count))

    def batches(self, rows, count):
        for b in range(count):
            index = rows[b * self.batch_size : (b + 1) * self.batch_size]
            filled = torch.cat([index, torch.zeros(self.batch_size - len(index), dtype=torch.long)])
            batch = {
                name: column[filled] if isinstance(column, torch.Tensor) else [column[i] for i in filled]
                for name, column in self.columns.items()
            }
            for name in ("image", "made", "reconstruction"):
                batch[name][len(index) :] = torch.nan  # whoever reads padding will notice
            yield batch | {"weight": (torch.arange(self.batch_size) < len(index)).float()}

    def __iter__(self):
        return iter(self.read())


class SizedLoader(Loader):
    def __len__(self):
        return len(self.read())


class Generator(LightningModule):
    """Returns what stands in the batch under the names in `returns`."""

    def __init__(self, returns=(("image", "made"),)):
        super().__init__()
        self.weight, self.returns = nn.Parameter(torch.zeros(())), dict(returns)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {name: batch[column] for name, column in self.returns.items()}

    test_step = validation_step

    def training_step(self, batch, batch_idx):
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Projection(nn.Module):
    """A feature network of 6 features: means of quarters through a fixed matrix and a kink. Counts its images."""

    num_features, name = 6, "projection"

    def __init__(self, seed=0):
        super().__init__()
        matrix = torch.randn(12, 6, generator=torch.Generator().manual_seed(seed))
        self.matrix = nn.Parameter(matrix, requires_grad=False)
        self.protocol = {"network": "Projection", "seed": str(seed)}
        self.images = 0

    def forward(self, images):
        check_pictures(images)
        self.images += len(images)
        return torch.tanh(F.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1) @ self.matrix)


def run(folder, callbacks, loaders=None, model=None, stage="test", **options):
    """(logged values, trainer) after a test or validation."""
    options = {"accelerator": "cpu", "devices": 1, "default_root_dir": folder, "callbacks": callbacks} | options
    trainer = Trainer(**options, **QUIET, use_distributed_sampler=False)
    loaders = Loader(table()) if loaders is None else loaders
    results = getattr(trainer, stage)(model or Generator(), loaders, verbose=False)
    return {name: value for result in results for name, value in result.items()}, trainer


def to_uint8(images):
    return images.add(1).mul(127.5).round().to(torch.uint8)
