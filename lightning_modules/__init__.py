"""One method, one file, one class. A class path stored in a checkpoint is public: `lightning_modules.OTConditionalModule`.

A module computes, logs and returns; schedules, solvers, files, plots and metric objects live elsewhere. What
`validation_step` and `test_step` return is read by the callbacks: `image` [B, 3, H, W] in [-1, 1] in batch order with optional
`reference`, `reconstruction`, `score` [B], `nfe` [B] for images; `nll` [B] and `sample` [B, Dy] for vectors.
"""

from lightning_modules.ot_conditional import OTConditionalModule

__all__ = ["OTConditionalModule"]
