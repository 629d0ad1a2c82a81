"""Every method on networks and data so small that a step takes milliseconds: options of train.py."""

from functools import partial
from pathlib import Path

from benchmarks.reliability.processes import fork
from benchmarks.reliability.promises import require
from benchmarks.reliability.training import ROOT

STEPS, VALIDATE_EVERY, CHECKPOINT_EVERY = 30, 10, 7
PAUSE = 0.01  # seconds in each step of a run that waits for a fault
METHODS = ("ot", "contrastive", "icd")
CONFIGS = {  # name -> file under configs/; all that train
    "ot": "ot_conditional/swiss_roll",
    "paper": "ot_conditional/paper",
    "ot_energy": "ot_conditional/swiss_roll_energy",
    "weather": "ot_conditional/weather",
    "weather_energy": "ot_conditional/weather_energy",
    "table": "ot_conditional/table",
    "labels": "ot_conditional/fashion_mnist",
    "contrastive": "contrastive/emoji",
    "scorer": "contrastive/emoji_scorer",
    "contrastive_avatars": "contrastive/avatars",
    "scorer_avatars": "contrastive/avatars_scorer",
    "reader": "attribute_reader/avatars",
    "reader_held_out": "attribute_reader/avatars_held_out",
    "reader_gate": "attribute_reader/avatars_gate",
    "preference": "preference_reward/avatar_scenes",
    "autoencoder": "diffusion_teacher/autoencoder_emoji",
    "autoencoder_avatars": "diffusion_teacher/autoencoder_avatars",
    "teacher": "diffusion_teacher/emoji",
    "teacher_avatars": "diffusion_teacher/avatars",
    "teacher_scenes": "diffusion_teacher/avatar_scenes",
    "unconditional": "unconditional_diffusion/avatars",
    "guidance": "guidance_distillation/emoji",
    "guidance_avatars": "guidance_distillation/avatars",
    "icd": "icd/emoji",
    "icd_avatars": "icd/avatars",
    "icd_sd15": "icd/sd15",
    "icd_sdxl": "icd/sdxl",
    "student_avatars": "collaboration/avatars",
    "student_scenes": "collaboration/avatar_scenes",
    "student_sd15": "collaboration/sd15",
    "fast_edit": "fast_edit/avatars_glasses",
    "fast_edit_faces": "fast_edit/celeba_hq",
    "fast_edit_dogs": "fast_edit/afhq_dog",
    "fast_edit_churches": "fast_edit/lsun_church",
}
TABLES = ("ot", "paper", "ot_energy", "weather", "weather_energy", "table", "labels")
READS_IMAGES = tuple(
    name for name in CONFIGS if name not in TABLES
)  # with loader processes; tables in the process itself
STOPS_EARLY = ("ot_energy", "weather", "weather_energy", "table")  # made to stop at their second validation
SHORT = (  # a step of theirs takes longest
    *("scorer", "scorer_avatars", "reader", "reader_held_out", "reader_gate", "preference"),
    *("autoencoder", "autoencoder_avatars"),
    *("teacher", "teacher_avatars", "teacher_scenes", "unconditional", "guidance", "guidance_avatars"),
    *("icd_avatars", "icd_sd15", "icd_sdxl", "student_avatars", "student_scenes", "student_sd15", "fast_edit"),
    *("fast_edit_faces", "fast_edit_dogs", "fast_edit_churches"),
)
COSINE = (
    *("contrastive_avatars", "scorer_avatars", "autoencoder_avatars", "teacher_avatars", "teacher_scenes"),
    *("unconditional", "guidance_avatars", "icd", "icd_avatars", "student_avatars", "student_scenes"),
)
# Options without which the learning rate depends on `max_steps`; the others are still in their warm-up after STEPS.
CONSTANT = {
    **dict.fromkeys(("ot", "weather", "table", "labels"), "model.schedule"),
    **dict.fromkeys(COSINE, "model.optimizer.schedule"),
}


def last_step(method: str) -> int:
    """Optimizer steps after which the method's small run is over."""
    return 2 * VALIDATE_EVERY if method in STOPS_EARLY else full_length(method)


def full_length(method: str) -> int:
    """`max_steps` of the method's small run."""
    return VALIDATE_EVERY + 3 if method in SHORT else STEPS


def options(
    method: str, folder: Path, steps: int | None = None, hold: int | None = None, workers: int = 0, **changes: object
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
        "trainer.max_steps": steps or full_length(method),
        "trainer.log_every_n_steps": 1,
        "data.steps_per_epoch": VALIDATE_EVERY,
        "callbacks.last_checkpoint.every_n_steps": CHECKPOINT_EVERY,
        "callbacks.key_log": "benchmarks.reliability.key_log.KeyLog",
        "callbacks.key_log.path": folder / "keys",
    }
    if hold is not None:
        values |= {"callbacks.key_log.hold": hold, "callbacks.key_log.pause": PAUSE}
    values |= SMALL[method](folder.parent)
    if method in READS_IMAGES:
        values["data.num_workers"] = workers
    values |= {name.replace("__", "."): value for name, value in changes.items()}
    return [
        "-c",
        str(ROOT / "configs" / f"{CONFIGS[method]}.yaml"),
        *(f"--{name}={value}" for name, value in values.items()),
    ]


def _transport(shared: Path) -> dict[str, object]:
    return _table(shared) | {
        "model.model.num_potential": 8,
        "model.model.num_cost": 4,
        "model.model.objective": "inverse_ot",
    }


def _table(shared: Path) -> dict[str, object]:
    return {"data.batch_size": 16, "callbacks.metrics": "null", "callbacks.picture": "null"}


def _stops_early(shared: Path) -> dict[str, object]:
    """Nothing improves by 1,000 after the first validation."""
    stopper = "callbacks.early_stopping.init_args"
    return _table(shared) | {f"{stopper}.patience": 1, f"{stopper}.min_delta": 1000.0}


def _labels(shared: Path) -> dict[str, object]:
    """On 64 rows of 4 numbers, whose classes are the signs of the first."""
    folder = shared / "labels"
    if not folder.exists():
        import numpy as np

        from datamodules.prepare.shard_writing import Description, write_folder

        x = np.random.default_rng(0).normal(size=(64, 4))
        sides = {"x": x, "y": x[:, :1] > 0}
        splits = {"train_paired": sides, "val": sides, "train_x": {"x": x}, "train_y": {"y": sides["y"]}}
        write_folder(str(folder), splits, Description("labels", "CC0-1.0", "benchmarks/reliability/methods.py"))
    rows = {"data.path": folder, "data.num_pairs": 48, "data.num_unpaired_x": "null", "data.batch_size": 16}
    return rows | {"model.model.x_dim": 4, "model.model.num_classes": 2}


def _images(size: int, train: int, batch: int) -> dict[str, object]:
    return {
        "data.path": ROOT / "data" / "emoji64",
        "data.image_size": size,
        "data.splits.num_train": train,
        "data.splits.num_val": 8,
        "data.splits.num_test": 4,
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


def _scorer(shared: Path) -> dict[str, object]:
    changed = {
        "model.model.vision_cfg": "{image_size: 32, timm_model_name: convnext_atto}",
        "model.model.embed_dim": 8,
        "model.model.text_cfg": "{context_length: 16, width: 8, heads: 2, layers: 1}",
    }
    return {**_images(size=32, train=VALIDATE_EVERY * 3 * 4, batch=4), **changed}


ON_ONE = {  # processor, in float32
    "trainer.devices": 1,
    "trainer.strategy": "auto",
    "trainer.precision": "32-true",
    "model.dtype": "float32",
}
AVATARS = {"data.path": ROOT / "data" / "avatars64"}
UNREAD = {"callbacks.attributes": "null"}


def _scorer_avatars(shared: Path) -> dict[str, object]:
    vision = {"model.model.vision_cfg": "{image_size: 32, layers: [1, 1, 1, 1], width: 8}"}
    return {**_scorer(shared), **AVATARS, **vision}


def _reader(shared: Path) -> dict[str, object]:
    return {**_images(size=32, train=64, batch=4), **AVATARS, "model.model.image_size": 32}


def _reader_gate(shared: Path) -> dict[str, object]:
    trunk = "{img_size: 32, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2, class_token: false}"
    return {**_reader(shared), "model.model.trunk_options": trunk}


def _preference(shared: Path) -> dict[str, object]:
    return {
        **_images(size=32, train=64, batch=4),
        "data.path": ROOT / "data" / "avatar_scenes64",
        "data.image_size": "[32, 64]",
        "model.model.image_size": "[32, 64]",
        "model.model.trunk_options": "{depths: [1, 1, 1, 1], dims: [8, 8, 8, 8]}",
        "model.model.width": 8,
        "model.model.heads": 2,
        "model.model.cross_layers": 1,
    }


def _autoencoder(shared: Path) -> dict[str, object]:
    network = "model.model.init_args.config"
    return {
        **_images(size=16, train=64, batch=4),
        "callbacks.samples": "null",
        network: "{sample_size: 16, latent_channels: 4, block_out_channels: [8, 16], norm_num_groups: 4,"
        " down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D],"
        " up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D]}",
    }


def _teacher(shared: Path) -> dict[str, object]:
    parts = _parts(shared) / "pipeline"
    return {
        **_images(size=16, train=64, batch=4),
        "callbacks.samples": "null",
        "model.sampling_steps": 2,
        "model.autoencoder": parts / "vae",
        "model.text_encoder": parts,
        "model.unet.init_args.config": "{sample_size: 8, block_out_channels: [8, 16], layers_per_block: 1,"
        " norm_num_groups: 4, attention_head_dim: 4, cross_attention_dim: 16,"
        " down_block_types: [CrossAttnDownBlock2D, DownBlock2D],"
        " up_block_types: [UpBlock2D, CrossAttnUpBlock2D]}",
    }


def _teacher_scenes(shared: Path) -> dict[str, object]:
    """It goes on from the weights of a pipeline."""
    options = _teacher(shared) | AVATARS | UNREAD
    del options["model.unet.init_args.config"]
    unet = "model.unet.init_args"
    return options | {f"{unet}.source": _parts(shared) / "pipeline", f"{unet}.sample_size": 8}


def _unconditional(shared: Path) -> dict[str, object]:
    return {
        **_images(size=16, train=64, batch=4),
        **AVATARS,
        "callbacks.samples": "null",
        "callbacks.readable": "null",
        "model.sampling_steps": 2,
        "model.unet.init_args.config": "{sample_size: 16, block_out_channels: [8, 16], layers_per_block: 1,"
        " norm_num_groups: 4, attention_head_dim: 4, down_block_types: [DownBlock2D, AttnDownBlock2D],"
        " up_block_types: [AttnUpBlock2D, UpBlock2D]}",
    }


def _guidance(shared: Path) -> dict[str, object]:
    return {**_images(size=16, train=64, batch=4), "model.pipeline": _parts(shared) / "pipeline"}


def _icd(shared: Path, kind: str = "sd") -> dict[str, object]:
    teacher = _parts(shared, kind)
    return {
        **_images(size=16, train=64, batch=4),
        "model.pipeline": teacher / "pipeline",
        "model.network": teacher / "guided",
        "model.students.rank": 2,
        "callbacks.samples": "null",
        "callbacks.paired": "null",
    }


def _student(shared: Path) -> dict[str, object]:
    """Two rows of the teacher for each of the batch, and the moving average of its student."""
    small = {"model.pipeline": _parts(shared) / "pipeline", "model.students.rank": 2, "callbacks.samples": "null"}
    return {**_images(size=16, train=64, batch=4), **small}


def _fast_edit(shared: Path) -> dict[str, object]:
    """An adapter of a random network of pixels, by a random CLIP."""
    folder = shared / "edit"
    if not (folder / "done").exists():
        made = fork(lambda: write_edit_parts(folder), shared / "edit.output")
        require(made.wait(240) == 0, f"no base: {made.tail()}")
    unwanted = dict.fromkeys(("samples", "paired", "attributes"), "null")
    return {
        **_images(size=16, train=64, batch=4),
        **AVATARS,
        **{f"callbacks.{name}": value for name, value in unwanted.items()},
        "model.base": folder / "base",
        "model.clips": f"[{folder / 'clip'}]",
        "model.enlarge": 1,
        "model.tuning.rank": 2,
    }


def _published_edit(shared: Path) -> dict[str, object]:
    """A whole network, by the sentences that fit the random CLIP."""
    lacking = ("callbacks.paired", "callbacks.attributes", "model.enlarge", "model.tuning.rank")
    options = {name: value for name, value in _fast_edit(shared).items() if name not in lacking}
    return options | {"model.templates": "plain"}


def _paper_icd(shared: Path, kind: str) -> dict[str, object]:
    """With gradients of two batches in a step instead of four."""
    return _icd(shared, kind) | ON_ONE | {"trainer.accumulate_grad_batches": 2}


SMALL = {
    "ot": _transport,
    "paper": _table,
    "ot_energy": _stops_early,
    "weather": _stops_early,
    "weather_energy": _stops_early,
    "table": lambda shared: (
        _stops_early(shared) | {"data.num_pairs": 128, "data.unpaired_batch_size": "null", "callbacks.export": "null"}
    ),
    "labels": _labels,
    "contrastive": _contrastive,
    "scorer": _scorer,
    "contrastive_avatars": lambda shared: _contrastive(shared) | AVATARS,
    "scorer_avatars": _scorer_avatars,
    "reader": _reader,
    "reader_held_out": _reader,
    "reader_gate": _reader_gate,
    "preference": _preference,
    "autoencoder": _autoencoder,
    "autoencoder_avatars": lambda shared: _autoencoder(shared) | AVATARS,
    "teacher": _teacher,
    "teacher_avatars": lambda shared: _teacher(shared) | AVATARS | UNREAD,
    "teacher_scenes": _teacher_scenes,
    "unconditional": _unconditional,
    "guidance": _guidance,
    "guidance_avatars": lambda shared: _guidance(shared) | AVATARS,
    "icd": _icd,
    "icd_avatars": lambda shared: _icd(shared) | AVATARS,
    "icd_sd15": partial(_paper_icd, kind="sd15"),
    "icd_sdxl": partial(_paper_icd, kind="sdxl"),
    "student_avatars": lambda shared: _student(shared) | AVATARS | UNREAD,
    "student_scenes": lambda shared: _student(shared) | AVATARS | UNREAD,
    "student_sd15": lambda shared: _student(shared) | ON_ONE,
    "fast_edit": _fast_edit,
    **dict.fromkeys(("fast_edit_faces", "fast_edit_dogs", "fast_edit_churches"), _published_edit),
}
SCALES = {"sd": (1, 2, 4, 6, 8), "sd15": (1, 8, 12, 16, 20), "sdxl": (1, 4, 6, 8, 10, 12, 14, 16, 18, 20)}


def _parts(shared: Path, kind: str = "sd") -> Path:
    """A folder with the random networks of a Stable Diffusion, made once."""
    folder = shared / f"teacher_{kind}"
    if not (folder / "done").exists():
        made = fork(lambda: _write_teacher(folder, kind), shared / f"teacher_{kind}.output")
        require(made.wait(240) == 0, f"no teacher: {made.tail()}")
    return folder


def _write_teacher(folder: Path, kind: str) -> int:
    """Random networks of a few thousand weights, as the tests use them."""
    import torch

    from fewstep.backbones import save_guided_network
    from tests.tiny_diffusion import SDXL_UNET, unet, write_pipeline

    guided = unet(time_cond_proj_dim=16, **(SDXL_UNET if kind == "sdxl" else {}))
    torch.nn.init.normal_(guided.time_embedding.cond_proj.weight, std=0.3)
    save_guided_network(folder / "guided", guided, SCALES[kind])
    write_pipeline(folder / "pipeline", "sdxl" if kind == "sdxl" else "sd")
    (folder / "done").touch()
    return 0


def write_edit_parts(folder: Path) -> int:
    """FOLDER/base and FOLDER/clip, random; returns 0, as the exit code of a fork."""
    import torch

    from fewstep.backbones import diffusers_network
    from fewstep.backbones.pipelines import save_ddpm
    from fewstep.contrastive.network import CLIPNetwork

    config = {"sample_size": 16, "block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    save_ddpm(folder / "base", diffusers_network("UNet2DModel", config | blocks | {"attention_head_dim": 4}))
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    clip = CLIPNetwork(8, vision, {"context_length": 16, "width": 16, "heads": 2, "layers": 1})
    clip.export(str(folder / "clip"), torch.float32)
    (folder / "done").touch()
    return 0
