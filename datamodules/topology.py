"""Which of how many processes this is, asked in the parent: worker processes of a loader do not know it."""

from lightning.pytorch import Trainer


def topology(trainer: Trainer | None) -> tuple[int, int]:
    """(rank, number of processes); (0, 1) for a datamodule without a trainer."""
    return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
