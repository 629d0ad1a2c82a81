"""Invertible consistency distillation through train.py: a kill and a resume, two processes, and the paper's configs."""

import json
import random
import signal
from pathlib import Path

import pytest
import torch

import train
from commands.process import leave_process_group
from fewstep.backbones import save_guided_network
from fewstep.icd.pair import InvertibleConsistency
from tests.forks import Fork, finish, two_ranks
from tests.tiny_diffusion import SDXL_UNET, unet, write_pipeline
from tests.tiny_faults import dies_before

ROOT = Path(train.__file__).parent
DATA = ["--data.path", str(ROOT / "data" / "emoji64"), "--data.image_size", "16", "--data.num_workers", "0"]
DATA += ["--data.splits", "{num_train: 64, num_val: 4, num_test: 4}", "--data.eval_batch_size", "4"]
QUIET = ["--wandb", "disabled", "--callbacks.samples", "null", "--callbacks.paired", "null", "--num_threads", "1"]

UNCOUNTED = ["--callbacks.throughput", "null"]  # a profile of a step counts its operations, and costs what ten steps do


def teacher(folder, scales, **config):
    """Options that name a tiny random teacher in place of a config's."""
    guided = unet(time_cond_proj_dim=16, **config)
    torch.nn.init.normal_(guided.time_embedding.cond_proj.weight, std=0.3)
    save_guided_network(folder / "guided", guided, scales)
    pipeline = write_pipeline(folder / "pipeline", "sdxl" if config else "sd")
    return ["--model.pipeline", pipeline, "--model.network", str(folder / "guided"), "--model.students.rank", "2"]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    small = ["--data.batch_size", "4", "--data.steps_per_epoch", "3", "--trainer.log_every_n_steps", "1"]
    return [*teacher(tmp_path_factory.mktemp("teacher"), (1, 2, 4, 6, 8)), *DATA, *QUIET, *small]


def stored(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_sigkill_and_resume_continue_bit_for_bit(options, tmp_path):
    length = ["--trainer.max_steps", "9", "--test_after_fit", "false", *UNCOUNTED]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    fit = ["fit", "-c", str(ROOT / "configs" / "icd" / "emoji.yaml"), *options, *length]
    assert train.main([*fit, "--run_dir", str(whole)]) == 0
    death = ["--callbacks.death", json.dumps(dies_before(random.randrange(4, 9), tmp_path / "died"))]
    first = Fork("train", [*fit, "--run_dir", str(killed), *death], tmp_path / "output")
    assert first.wait() == -signal.SIGKILL, first.text()
    assert 0 < torch.load(killed / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] < 9
    assert train.main([*fit, "--run_dir", str(killed), "--resume", "auto"]) == 0
    for name, value in stored(whole).items():
        assert torch.equal(stored(killed)[name], value), name


@pytest.mark.slow
def test_two_processes_train_test_and_export(options, tmp_path, monkeypatch):
    """Both adapters in one backward pass: alternating them breaks DistributedDataParallel."""
    monkeypatch.chdir(ROOT)
    ddp = ["-c", "configs/trainer/ddp.yaml", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    fit = ["fit", "-c", "configs/icd/emoji.yaml", *options, *ddp, *UNCOUNTED, "--trainer.max_steps", "6"]
    output = finish(two_ranks("train", [*fit, "--run_dir", str(tmp_path / "run")], tmp_path))
    assert output.count("test/latent_mse") == 1
    assert all(value.isfinite().all() for value in stored(tmp_path / "run").values())
    assert any(value.any() for name, value in stored(tmp_path / "run").items() if "lora_B" in name)
    assert InvertibleConsistency.load(tmp_path / "run" / "export").guidance_scales == (1, 2, 4, 6, 8)


def test_a_step_for_each_term_needs_one_process(options, capsys):
    fit = ["fit", "-c", str(ROOT / "configs" / "icd" / "emoji.yaml"), *options, "--dry_run", "--trainer.devices", "2"]
    assert train.main([*fit, "--model.objective", "separate", "--trainer.gradient_clip_val", "null"]) == 2
    leave_process_group()  # the rehearsed one
    assert "objective='separate' works in one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "scales", "network"),
    [("sd15", (1, 8, 12, 16, 20), {}), ("sdxl", (1, 4, 6, 8, 10, 12, 14, 16, 18, 20), SDXL_UNET)],
)
def test_the_papers_configs_are_rehearsed_on_small_networks_of_the_same_kind(
    config, scales, network, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.accelerator", "cpu"]
    small = [*teacher(tmp_path, scales, **network), *DATA, *QUIET, *one, "--data.batch_size", "4"]
    arguments = ["fit", "-c", f"configs/icd/{config}.yaml", *small, "--model.dtype", "float32", "--dry_run"]
    assert train.main(arguments) == 0, capsys.readouterr().err


def test_the_student_of_the_papers_collaboration_is_rehearsed_on_a_small_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    one = ["--trainer.devices", "1", "--trainer.strategy", "auto", "--trainer.accelerator", "cpu"]
    small = ["--model.pipeline", write_pipeline(tmp_path / "pipeline", "sd"), "--model.students.rank", "2"]
    quiet = ["--wandb", "disabled", "--callbacks.samples", "null", "--num_threads", "1", "--data.batch_size", "4"]
    arguments = ["fit", "-c", "configs/collaboration/sd15.yaml", *small, *DATA, *quiet, *one]
    assert train.main([*arguments, "--model.dtype", "float32", "--dry_run"]) == 0, capsys.readouterr().err
