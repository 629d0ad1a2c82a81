"""Two ranks give what one gives: DDP and fully sharded; two nodes of torchrun, one rank killed, give the same bits."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import train
from callbacks.care.fully_sharded import refuse_shared_weights
from commands.train.dead_ranks import refuse_addresses_of_the_dead
from tests.conftest import TINY
from tests.patience import PATIENCE

ROOT = Path(train.__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SHORT = ["--test_after_fit", "false", "--callbacks.ema", "null", "--num_threads", "1"]
STILL = ["--model.noise", "0"]  # noise differs between ranks, as it should
CLIPPED = ["--trainer.gradient_clip_val", "0.1", "--trainer.accumulate_grad_batches", "2"]
FUSED = ["--model", "tests.tiny_faults.FusedModule", "--trainer.precision", "bf16-mixed"]
SHARDED = ["-c", str(ROOT / "configs" / "trainer" / "fsdp.yaml")]
DDP = ["-c", str(ROOT / "configs" / "trainer" / "ddp.yaml")]
PAIR = ["--trainer.max_steps", "20", "--callbacks.last_checkpoint.every_n_steps", "5"]
CASES = {
    "ddp_clipped": [*DDP, *STILL, *CLIPPED],
    "ddp_fused": [*DDP, *STILL, *FUSED],
    "sharded_clipped": [*SHARDED, *STILL, *CLIPPED],
    "sharded_fused": [*SHARDED, *STILL, *FUSED],
    "pair": [*DDP, *PAIR],
}


def arguments(name, *options, devices="2"):
    alone = ["--trainer.accelerator", "cpu", "--trainer.devices", devices, "--run_dir", name]
    return ["fit", "-c", "tiny.yaml", *options, *SHORT, *alone]


def stored(folder):
    return torch.load(Path(folder, "checkpoints", "last.ckpt"), weights_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every case trained by two ranks; the working directory of this module's tests."""
    place = tmp_path_factory.mktemp("scale_out")
    (place / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    (place / "cases.json").write_text(json.dumps([arguments(name, *options) for name, options in CASES.items()]))
    with contextlib.chdir(place):
        matrix = [str(ROOT / "tests" / "scale_out_matrix.py"), "cases.json"]
        command = [*TORCHRUN, "--standalone", "--nproc-per-node", "2", *matrix]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr[-3000:]
        yield place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("ddp_clipped", CLIPPED, 1e-5),
        ("sharded_clipped", CLIPPED, 1e-5),
        ("ddp_fused", FUSED, 2e-2),
        ("sharded_fused", FUSED, 2e-2),
    ],
)
def test_two_ranks_train_what_one_trains(folder, name, options, tolerance):
    """Clipping and accumulation in float32; a fused optimizer under bfloat16, where sums are rounded differently."""
    assert train.main(arguments(f"{name}_alone", *STILL, *options, devices="1")) == 0
    alone, two = stored(f"{name}_alone"), stored(name)
    assert two["global_step"] == alone["global_step"] == 20
    assert two["state_dict"].keys() == alone["state_dict"].keys()
    for key, value in alone["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_one_process_continues_a_sharded_run(folder):
    """The checkpoint is one ordinary file, Adam's moments included."""
    one = ["--trainer.strategy", "auto", "--trainer.devices", "1", "--trainer.max_steps", "30"]
    assert train.main(["fit", "--run_dir", "sharded_clipped", "--resume", "auto", *one]) == 0
    whole = arguments("whole", *STILL, *CLIPPED, "--trainer.max_steps", "30", devices="1")
    assert train.main(whole) == 0
    for key, value in stored("whole")["state_dict"].items():
        torch.testing.assert_close(stored("sharded_clipped")["state_dict"][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_nodes_survive_a_kill_and_give_the_bits_of_one_node(folder):
    """Both agents of torchrun restart their ranks, which agree on the run directory and resume from its checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = [*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "2", "--local-addr", "127.0.0.1"]
    agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two-nodes"]
    multi = ["-c", str(ROOT / "configs" / "trainer" / "multi_node.yaml"), "--trainer.accelerator", "cpu"]
    death = {"class_path": "tests.tiny_faults.DiesOnce", "init_args": {"rank": 1, "step": 12, "marker": "died"}}
    run = [str(ROOT / "train.py"), "fit", "-c", "tiny.yaml", *multi, "--trainer.devices", "1", *PAIR, *SHORT]
    run += ["--callbacks.death", json.dumps(death), "--resume", "auto"]
    output = [open(f"node{node}", "w") for node in range(2)]  # noqa: SIM115
    # torchrun's ranks would find the addresses of those before the restart in the store that it keeps.
    fresh = {**ENVIRONMENT, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    nodes = [subprocess.Popen([*agent, *run], env=fresh, stdout=file, stderr=file) for file in output]
    try:
        codes = [node.wait(timeout=PATIENCE) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()  # an agent that is killed leaves its ranks, which are sessions of their own
        for node, file in zip(nodes, output, strict=True):
            node.wait(timeout=PATIENCE)
            file.close()
    said = "".join(Path(f"node{node}").read_text() for node in range(2))
    assert codes == [0, 0], said[-3000:]
    assert Path("died").read_text() == "2 ranks"
    assert "resume  runs/tiny/two-nodes/checkpoints/last.ckpt" in said
    together, apart = stored("pair"), stored("runs/tiny/two-nodes")
    assert apart["global_step"] == 20
    for key, value in together["state_dict"].items():
        assert torch.equal(apart["state_dict"][key], value), key


@pytest.mark.parametrize("changed", ["GROUP_WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_USE_AGENT_STORE"])
def test_restarts_that_would_wait_for_the_dead_are_refused(changed):
    """Two agents that share their store with the ranks were seen to wait in every restart."""
    shared = {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    with pytest.raises(ValueError, match="set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        refuse_addresses_of_the_dead(shared)
    harmless = {"GROUP_WORLD_SIZE": "1", "TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_USE_AGENT_STORE": "False"}
    refuse_addresses_of_the_dead({**shared, changed: harmless[changed]})


def test_weights_of_a_network_outside_the_module_are_refused():
    outside = nn.Linear(2, 2)
    module = nn.Module()
    module.register_parameter("weight", outside.weight)
    with pytest.raises(ValueError, match=r"not its submodule \(Linear\)"):
        refuse_shared_weights(module)
    module.network = outside
    refuse_shared_weights(module)
