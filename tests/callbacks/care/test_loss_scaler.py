"""The loss scaler of 16-bit training comes back; GradScaler works on the CPU too, so no GPU is needed to see it."""

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import MixedPrecision

from callbacks import AtomicCheckpointIO, FinishedEpochs, LastCheckpoint, StepSeed
from tests.callbacks.tiny_run import TinyData, TinyModule


def train(folder, steps: int, checkpoint=None) -> tuple[dict, dict]:
    """Weights and scaler state after `steps` steps; the scale doubles every 4 steps from 8."""
    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=4)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = Trainer(
        plugins=[MixedPrecision("16-mixed", "cpu", scaler), AtomicCheckpointIO()],
        callbacks=[StepSeed(0), FinishedEpochs(), LastCheckpoint()],
        default_root_dir=folder,
        max_steps=steps,
        limit_val_batches=0,
        use_distributed_sampler=False,
        **options,
    )
    module = TinyModule()
    trainer.fit(module, TinyData(), ckpt_path=checkpoint, weights_only=True)
    return module.state_dict(), scaler.state_dict()


def test_scale_and_growth_count_go_on(tmp_path):
    weights, scaler = train(tmp_path / "whole", 19)
    train(tmp_path / "run", 10)
    resumed_weights, resumed_scaler = train(tmp_path / "run", 19, tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert scaler["scale"] == 8.0 * 2**4
    assert scaler["_growth_tracker"] == 3
    assert resumed_scaler == scaler
    assert all(torch.equal(resumed_weights[name], weights[name]) for name in weights)
    stored = AtomicCheckpointIO().load_checkpoint(tmp_path / "run" / "checkpoints" / "last-1.ckpt")
    assert stored["MixedPrecision"]["scale"] == 8.0 * 2**2
