"""Every method on networks and data so small that a step takes milliseconds: options of train.py."""

from pathlib import Path

from benchmarks.reliability.processes import fork
from benchmarks.reliability.promises import require
from benchmarks.reliability.training import ROOT

STEPS, VALIDATE_EVERY, CHECKPOINT_EVERY = 30, 10, 7
PAUSE = 0.01  # seconds in each step of a run that waits for a fault
METHODS = ("ot", "contrastive", "icd")
READS_IMAGES = ("contrastive", "icd")  # with loader processes; tables of numbers are read in the process itself


def options(
    method: str, folder: Path, steps: int = STEPS, hold: int | None = None, workers: int = 0, **changes: object
) -> list[str]:
    """Arguments of `train.py fit` for a run in folder/run that writes its samples to folder/keys.

    hold: the step that waits for a fault. changes: further keys, such as trainer__log_every_n_steps=1. The parent of
    `folder` keeps what ICD needs.
    """
    values: dict[str, object] = {
        "run_dir": folder / "run",
        "wandb": "disabled",
        "test_after_fit": "false",
        "num_threads": 1,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": steps,
        "trainer.log_every_n_steps": 1,
        "data.steps_per_epoch": VALIDATE_EVERY,
        "callbacks.last_checkpoint.every_n_steps": CHECKPOINT_EVERY,
        "callbacks.key_log": "benchmarks.reliability.key_log.KeyLog",
        "callbacks.key_log.path": folder / "keys",
    }
    if hold is not None:
        values |= {"callbacks.key_log.hold": hold, "callbacks.key_log.pause": PAUSE}
    values |= {"ot": _transport, "contrastive": _contrastive, "icd": _icd}[method](folder.parent)
    if method in READS_IMAGES:
        values["data.num_workers"] = workers
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    config = {"ot": "ot_conditional/swiss_roll", "contrastive": "contrastive/emoji", "icd": "icd/emoji"}[method]
    return ["-c", str(ROOT / "configs" / f"{config}.yaml"), *(f"--{name}={value}" for name, value in values.items())]


def _transport(shared: Path) -> dict[str, object]:
    small = {"model.model.num_potential": 8, "model.model.num_cost": 4, "model.model.objective": "inverse_ot"}
    table = {"data.path": ROOT / "data" / "swiss_roll", "data.batch_size": 16}
    return table | {"callbacks.metrics": "null", "callbacks.picture": "null"} | small


def _images(size: int, train: int, batch: int) -> dict[str, object]:
    return {
        "data.path": ROOT / "data" / "emoji64",
        "data.image_size": size,
        "data.num_train": train,
        "data.num_val": 8,
        "data.num_test": 4,
        "data.batch_size": batch,
        "data.eval_batch_size": 4,
        "callbacks.export": "null",
    }


def _contrastive(shared: Path) -> dict[str, object]:
    return {
        **_images(size=16, train=VALIDATE_EVERY * 3 * 8, batch=8),  # STEPS steps are one walk through the data
        "model.model.embed_dim": 8,
        "model.model.vision_cfg": "{image_size: 16, patch_size: 8, width: 16, head_width: 8, layers: 1}",
        "model.model.text_cfg": "{context_length: 16, width: 8, heads: 2, layers: 1}",
    }


def _icd(shared: Path) -> dict[str, object]:
    teacher = shared / "teacher"
    if not (teacher / "done").exists():
        made = fork(lambda: _write_teacher(teacher), shared / "teacher.output")
        require(made.wait(240) == 0, f"no teacher: {made.tail()}")
    return {
        **_images(size=16, train=64, batch=4),
        "model.pipeline": teacher / "pipeline",
        "model.network": teacher / "guided",
        "model.rank": 2,
        "callbacks.samples": "null",
        "callbacks.paired": "null",
    }


def _write_teacher(folder: Path) -> int:
    """Random networks of a few thousand weights, as the tests use them."""
    import torch

    from fewstep.backbones import save_guided_network
    from tests.tiny_diffusion import unet, write_pipeline

    guided = unet(time_cond_proj_dim=16)
    torch.nn.init.normal_(guided.time_embedding.cond_proj.weight, std=0.3)
    save_guided_network(folder / "guided", guided, (1, 2, 4, 6, 8))
    write_pipeline(folder / "pipeline", "sd")
    (folder / "done").touch()
    return 0
