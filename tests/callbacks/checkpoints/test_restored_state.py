"""A checkpoint's plain values, changed at random: taken over without harm, or refused in one line."""

import copy
import math
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

import train
from callbacks import EMA, AtomicCheckpointIO, DataIdentity, LossSpikes, NumericGuard, StepSeed
from callbacks.checkpoints.newest_checkpoint import newest_checkpoint
from callbacks.checkpoints.reading import read_checkpoint, require_training_state
from callbacks.checkpoints.restored_paths import inside
from callbacks.checkpoints.restored_state import CALLBACKS, require_restorable
from commands.train.optimizer_options import OptimizerOptions
from commands.train.optimizer_state import add_missing_options, require_same_kinds, require_same_sizes
from commands.train.resume import compare
from commands.train.run_directory import RunDirectory
from datamodules.vector_batches import Table, TrainBatches
from tests.callbacks.tiny_run import TinyModule
from tests.conftest import TINY

PATHS = [
    "../victim",
    "{run}/checkpoints/../../victim",
    "{run}/checkpoints/../../victim/file.ckpt",
    "{run}/checkpoints/link/victim/file.ckpt",
    "{run}/checkpoints/link/victim",
    "{run}/checkpoints/..",
    "{run}/checkpoints",
    "{run}/checkpoints/",
    "{run}/config.yaml",
    "{run}/checkpoints2/x.ckpt",
    "/{victim}",
    "{victim}/file.ckpt",
    "file://{victim}/file.ckpt",
    "local://{run}/checkpoints/../../victim/file.ckpt",
    "s3://bucket/other.ckpt",
    "memory://{run}/checkpoints/x.ckpt",
    "{run}/checkpoints/x\0.ckpt",
    "~/x.ckpt",
]
VALUES = [None, True, -1, 0, 7, 2**80, -(10**5000), math.nan, -math.inf, 0.5, "text", "1", "", b"x", 1j, (), [], {}]
VALUES += [[[1]]]
VALUES += [{"a": 1}, {1: 2}, {"reset": 3}, torch.tensor(math.nan), torch.tensor(2.0), torch.zeros(3), torch.tensor(1j)]
VALUES += [torch.empty(0), torch.float32, {"total": {"total": {}}}, [None], ["[/x]"], {"\x1b[2J": "\n"}]


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> dict[str, Any]:
    """The last checkpoint of a run with early stopping."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/nll"}}
        Path("tiny.yaml").write_text(yaml.safe_dump({**TINY, "callbacks": {"stopping": stopping}}))
        arguments = ["--run_dir", "run", "--test_after_fit", "false"]
        assert train.main(["fit", "-c", "tiny.yaml", *arguments]) == 0
        return read_checkpoint("run/checkpoints/last.ckpt")


@pytest.fixture
def run(tmp_path, real) -> Path:
    """A run folder beside a victim, with a link that leads out of it."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file.ckpt").write_text("precious")
    (folder / "config.yaml").touch()
    (folder / "checkpoints" / "link").symlink_to(tmp_path)
    return folder


def tree(folder: Path) -> dict[str, int]:
    return {str(p): p.lstat().st_mtime_ns for p in folder.rglob("*") if "checkpoints" not in p.parts}


def paths_of(run: Path) -> list[str]:
    return [path.format(run=run, victim=run.parent / "victim") for path in PATHS]


def places(node: Any, at: tuple = ()) -> Iterator[tuple]:
    """Every container and every leaf, by the keys that lead to it."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, entry in entries:
        yield (*at, key)
        yield from places(entry, (*at, key))


def changed(real: dict[str, Any], rng: random.Random, values: list) -> dict[str, Any]:
    """A copy with one to three values replaced, removed, renamed or added."""
    result = copy.deepcopy(real)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        *parents, key = rng.choice(list(places(result)))
        node = result
        for parent in parents:
            node = node[parent]
        match rng.randrange(6):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[rng.choice(["reset", "step", "x", 3, "../x", "load_state_dict"])] = rng.choice(values)
            case 2 if isinstance(node, dict):
                node[rng.choice(values[-len(PATHS) :])] = node.pop(key)
            case _:
                node[key] = rng.choice(values)
    return result


class FakeTrainer(SimpleNamespace):
    """What ModelCheckpoint and RunDirectory ask of a trainer, with files instead of weights."""

    def __init__(self, saver: ModelCheckpoint) -> None:
        io = AtomicCheckpointIO()
        strategy = SimpleNamespace(
            remove_checkpoint=io.remove_checkpoint, reduce_boolean_decision=lambda decision, all=True: bool(decision)
        )
        super().__init__(checkpoint_callbacks=[saver], strategy=strategy, is_global_zero=True, loggers=[])
        self.ckpt_path = None
        self.state, self.fast_dev_run, self.current_epoch, self.global_step = SimpleNamespace(fn="fit"), False, 1, 99
        self.lightning_module = None
        self.callback_metrics = {"val/nll": torch.tensor(-1e9)}

    def save_checkpoint(self, path: str, weights_only: bool) -> None:
        Path(path).write_text("a checkpoint")


def restore_saver(run: Path, checkpoint: dict[str, Any], **options) -> ModelCheckpoint:
    """Restore as Lightning does, then keep two better checkpoints: what it would delete is deleted."""
    saver = ModelCheckpoint(run / "checkpoints", "{step}", monitor="val/nll", enable_version_counter=False, **options)
    trainer = FakeTrainer(saver)
    state = next((s for k, s in checkpoint["callbacks"].items() if str(k).startswith("ModelCheckpoint{")), None)
    checkpoint = {**checkpoint, "callbacks": {saver.state_key: state} if state else {}}
    RunDirectory(run, "", continues=True).on_load_checkpoint(trainer, None, checkpoint)
    if state:
        saver.load_state_dict(copy.deepcopy(checkpoint["callbacks"][saver.state_key]))
    for step in (99, 100):
        trainer.global_step = step
        trainer.callback_metrics["val/nll"] -= 1
        saver._save_topk_checkpoint(trainer, saver._monitor_candidates(trainer))
    return saver


def restore_others(checkpoint: dict[str, Any]) -> None:
    states = checkpoint.get("callbacks", {})
    callbacks = [EMA(), NumericGuard(), LossSpikes(), StepSeed(), OptimizerOptions(), EarlyStopping("val/nll")]
    for callback in callbacks:
        if state := states.get(callback.state_key):
            callback.load_state_dict(copy.deepcopy(state))
    if "callbacks" in checkpoint:
        trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
        DataIdentity().on_load_checkpoint(trainer, None, checkpoint)


def restore_optimizer(checkpoint: dict[str, Any]) -> None:
    module = TinyModule()
    optimizers, schedules = [module.configure_optimizers()], []
    states = checkpoint.get("optimizer_states", []), checkpoint.get("lr_schedulers", [])
    require_same_sizes(*states, optimizers, schedules)
    require_same_kinds(*states, optimizers, schedules)
    configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizers[0].param_groups]
    optimizers[0].load_state_dict(copy.deepcopy(states[0][0]))
    add_missing_options(optimizers[0].param_groups, configured)
    module.net(torch.ones(4, 2)).sum().backward()
    optimizers[0].step()


def restore_position(checkpoint: dict[str, Any]) -> None:
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    for state in loops.get("state_dict", {}).get("combined_loader", []):
        stream = TrainBatches([Table({"x": torch.arange(5)}, 2)], 3, seed=0)
        stream.load_state_dict(state)
        next(iter(stream))


@pytest.fixture(scope="module")
def fit_loop():
    return Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu").fit_loop


def refusal(run: Path, checkpoint: dict[str, Any], fit_loop: Any, top: int) -> str | None:
    """The line with which a checkpoint is refused, None if everything in it was taken over and used."""
    try:
        require_restorable(checkpoint)
        require_training_state(checkpoint)
        compare(checkpoint, {"class_path": "tests.callbacks.tiny_run.TinyModule", "init_args": {"lr": 1}}, None)
        restore_others(checkpoint)
        restore_optimizer(checkpoint)
        restore_position(checkpoint)
        fit_loop.load_state_dict(copy.deepcopy(checkpoint["loops"]["fit_loop"]))
        restore_saver(run, checkpoint, save_top_k=top)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seed", range(6))
def test_changed_checkpoints_are_taken_over_without_harm_or_refused_in_one_line(run, real, fit_loop, seed, capsys):
    rng, kept, values, lines = random.Random(seed), tree(run.parent), VALUES + paths_of(run), []
    assert refusal(run, copy.deepcopy(real), fit_loop, 1) is None
    for _ in range(40):
        lines.append(refusal(run, changed(real, rng, values), fit_loop, rng.choice([1, 2, -1])))
        assert tree(run.parent) == kept
        assert fit_loop.epoch_loop.global_step >= 0
    refused = [line for line in lines if line is not None]
    assert 0 < len(refused) < 40
    assert not [line for line in refused if "\n" in line or len(line) > 400]


@pytest.mark.parametrize("only", ["best_model_path", "kth_best_model_path", "last_model_path", "best_k_models", None])
def test_no_restored_path_leads_out_of_the_folder(run, real, fit_loop, capsys, only):
    kept = tree(run.parent)
    for path in paths_of(run):
        checkpoint = copy.deepcopy(real)
        state = next(s for k, s in checkpoint["callbacks"].items() if k.startswith("ModelCheckpoint{"))
        hostile = {"best_k_models": {path: torch.tensor(1e9)}, "kth_value": torch.tensor(1e9)}
        hostile |= dict.fromkeys(("best_model_path", "kth_best_model_path", "last_model_path"), path)
        state.update({only: hostile[only]} if only else hostile)
        assert (refusal(run, checkpoint, fit_loop, 1) is None) == ("\0" not in path)
        assert tree(run.parent) == kept
        if "\0" not in path:
            saver = restore_saver(run, checkpoint, save_top_k=1)
            assert inside(saver.best_model_path, saver.dirpath)
            assert Path(saver.best_model_path).is_file()


def test_without_the_check_the_victim_is_deleted(run, real):
    """The comparison above can fail."""
    path = f"{run}/checkpoints/../../victim"
    saver = ModelCheckpoint(run / "checkpoints", "{step}", monitor="val/nll", enable_version_counter=False)
    saver.best_k_models, saver.kth_best_model_path = {path: torch.tensor(1e9)}, path
    trainer = FakeTrainer(saver)
    trainer.strategy.remove_checkpoint = lambda victim: shutil.rmtree(victim)
    saver._save_topk_checkpoint(trainer, saver._monitor_candidates(trainer))
    assert not (run.parent / "victim").exists()


def test_a_moved_run_keeps_its_ranking(run, real):
    kept = next(s for k, s in real["callbacks"].items() if k.startswith("ModelCheckpoint{"))
    assert kept["best_k_models"]
    worse = copy.deepcopy(real)
    saver = ModelCheckpoint(run / "checkpoints", monitor="val/nll")
    worse["callbacks"] = {saver.state_key: kept}
    RunDirectory(run, "", continues=True).on_load_checkpoint(FakeTrainer(saver), None, worse)
    saver.load_state_dict(worse["callbacks"][saver.state_key])
    assert saver.best_k_models == {f"{run}/checkpoints/best.ckpt": kept["best_model_score"]}
    assert saver.kth_best_model_path == saver.best_model_path == f"{run}/checkpoints/best.ckpt"


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("s3://b/run/x.ckpt", "s3://b/run", True),
        ("s3://b/run/sub/x.ckpt", "s3://b/run/", True),
        ("s3://b/run2/x.ckpt", "s3://b/run", False),
        ("s3://b/run/../x.ckpt", "s3://b/run", False),
        ("s3://b/run/%2e%2e/x.ckpt", "s3://b/run", False),
        ("s3://b/run//x.ckpt", "s3://b/run", False),
        ("gs://b/run/x.ckpt", "s3://b/run", False),
        ("s3://b/run/x.ckpt::zip://y", "s3://b/run", False),
        ("file:///r/x.ckpt", "/r", True),
        ("/r/x.ckpt", "local:///r", True),
        ("/r/x.ckpt", "s3://b/r", False),
        ("/r/cafe\u0301/x.ckpt", "/r/caf\u00e9", True),
        ("x.ckpt", ".", True),
        ("", "/r", False),
    ],
)
def test_inside(path, folder, expected):
    assert inside(path, folder) is expected


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        ("loops", [], "loops is [], expected a mapping"),
        ("callbacks", ["EMA"], "callbacks is ['EMA'], expected a mapping"),
        ("global_step", "12", "global_step is '12', expected a whole number"),
        ("global_step", -1, "global_step is -1"),
        ("global_step", math.nan, "global_step is nan"),
        ("global_step", True, "global_step is True"),
        ("global_step", 2**63, "global_step is a number of 64 bits"),
        ("epoch", 1.5, "epoch is 1.5"),
        ("optimizer_states", {}, "optimizer_states is {}, expected a list"),
        ("lr_schedulers", [3], "lr_schedulers[0] is 3"),
        ("state_dict", {"w": 1.0}, "state_dict.w is 1.0, expected a tensor"),
        (
            "state_dict",
            {"w": torch.zeros(2, device="meta")},
            "state_dict.w is a tensor of shape (2,), expected a tensor",
        ),
        ("state_dict", {"w": torch.zeros(1).expand(10**6, 10**6)}, "that holds its values"),
        ("callbacks", {"EMA": {"num_updates": 1, "average": {"w": torch.zeros(2).to_sparse()}}}, "a sparse_coo tensor"),
        ("hyper_parameters", [], "hyper_parameters is []"),
        ("hyper_parameters", {"_class_path": 3}, "hyper_parameters._class_path is 3"),
        ("pytorch-lightning_version", "two\n", "pytorch-lightning_version is 'two\\n'"),
        ("MixedPrecision", {"scale": math.nan}, "MixedPrecision has no "),
    ],
)
def test_a_malformed_part_is_named_and_auto_takes_the_file_before(run, real, capsys, part, value, expected):
    AtomicCheckpointIO().save_checkpoint(real, run / "checkpoints" / "best.ckpt")
    bad = run / "checkpoints" / "last.ckpt"
    torch.save({**real, part: value, "saved_at": 2**62}, bad)
    with pytest.raises(ValueError, match="is malformed") as caught:
        read_checkpoint(bad, lazily=True)
    assert expected in str(caught.value)
    assert newest_checkpoint([run / "checkpoints"]).name == "best.ckpt"
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "last.ckpt is malformed" in err


def test_a_saver_without_a_folder_is_taken_over(run, real):
    checkpoint = copy.deepcopy(real)
    state = next(s for k, s in checkpoint["callbacks"].items() if k.startswith("ModelCheckpoint{"))
    del state["dirpath"]
    require_restorable(checkpoint)
    restore_saver(run, checkpoint)


def test_every_state_of_the_projects_callbacks_has_a_schema(real):
    kinds = {key.partition("{")[0] for key in real["callbacks"]}
    assert {"EMA", "NumericGuard", "ModelCheckpoint", "EarlyStopping", "OptimizerOptions"} <= kinds
    assert kinds <= CALLBACKS.keys()


def test_what_is_no_checkpoint_is_not_deleted(tmp_path, capsys):
    io = AtomicCheckpointIO()
    (tmp_path / "folder.ckpt" / "sub").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "file.ckpt").touch()
    (tmp_path / "link.ckpt").symlink_to(tmp_path / "folder.ckpt")
    (tmp_path / "split.ckpt").mkdir()
    (tmp_path / "split.ckpt" / ".metadata").touch()
    for name in ("folder.ckpt", "notes.txt", "absent.ckpt", "file.ckpt", "link.ckpt", "split.ckpt"):
        io.remove_checkpoint(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder.ckpt", "link.ckpt", "notes.txt"]
    assert capsys.readouterr().err.count("is no checkpoint and was not deleted") == 3
