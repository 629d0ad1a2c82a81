"""Where in its loops a training stands: what a checkpoint written now would leave out."""

from lightning.pytorch import Trainer


def validation_follows(trainer: Trainer) -> bool:
    """Whether this batch is followed by a validation, which a run that went on from here would not make up for."""
    loop = trainer.fit_loop.epoch_loop
    loop.val_loop.setup_data()  # does nothing a second time
    batches = sum(loop.val_loop.max_batches)
    return bool(batches and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)) and not loop._skip_next_val


def epoch_ends(trainer: Trainer) -> bool:
    """Whether this batch is the last of its epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()
