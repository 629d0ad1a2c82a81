"""evaluate.py from the outside: real module, real shards, a real checkpoint, all in one process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

ROOT = Path(__file__).parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def evaluate():
    sys.path.insert(0, str(ROOT))
    import evaluate

    return evaluate.main


def write_shards(folder):
    """y = ±x plus noise: two modes at every x."""
    from datamodules.prepare.shard_writing import Description, write_folder

    rng = np.random.default_rng(0)

    def pairs(*size):
        x = rng.standard_normal((*size, 2)).astype(np.float32)
        x = np.repeat(x[:, :1], size[1], axis=1) if len(size) == 2 else x
        sign = rng.choice([-1.0, 1.0], (*size, 1))
        return {"x": x, "y": (sign * x + 0.1 * rng.standard_normal((*size, 2))).astype(np.float32)}

    splits = {"train_paired": pairs(64), "val": pairs(16), "test": pairs(48), "probe": pairs(6, 16)}
    splits |= {"train_x": {"x": pairs(64)["x"]}, "train_y": {"y": pairs(64)["y"]}}
    write_folder(str(folder), splits, Description("modes", "none", "none"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run directory as training leaves it: config.yaml and a checkpoint whose average differs from its weights."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.cli import LightningCLI

    from callbacks import EMA

    folder = tmp_path_factory.mktemp("runs") / "modes" / "first"
    write_shards(folder.parent.parent / "shards")
    network = {"class_path": "fewstep.transport.light_transport.LightTransport"}
    network["init_args"] = {"x_dim": 2, "y_dim": 2, "num_potential": 4, "num_cost": 2}
    data = {"path": str(folder.parent.parent / "shards"), "num_pairs": 32, "batch_size": 16, "steps_per_epoch": 4}
    config = {
        "model": {
            "class_path": "lightning_modules.OTConditionalModule",
            "init_args": {"model": network, "cost_lr": 0.05, "potential_lr": 0.05},
        },
        "data": {"class_path": "datamodules.PairedVectorsDataModule", "init_args": data},
    }
    import datamodules  # noqa: F401
    import lightning_modules  # noqa: F401

    cli = LightningCLI(
        LightningModule, LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, run=False,
        auto_configure_optimizers=False, save_config_callback=None, seed_everything_default=0, args=config,
        trainer_class=Trainer,
        trainer_defaults={
            "max_steps": 8, "accelerator": "cpu", "devices": 1, "logger": False, "callbacks": [EMA()],
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
            "num_sanity_val_steps": 0, "default_root_dir": str(folder),
        },
    )  # fmt: skip
    cli.trainer.fit(cli.model, cli.datamodule)
    (folder / "checkpoints").mkdir(parents=True)
    cli.trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def measured(out):
    return json.loads((out / "metrics.json").read_text())["runs"]


def test_a_run_directory_becomes_a_report(evaluate, run_dir, tmp_path, capsys):
    out = tmp_path / "report"
    assert evaluate([str(run_dir), "--out", str(out), "--bootstrap", "50"]) == 0
    names = {"metrics.json", "rows.json", "report.html", "report.md", "samples-first_best.png"}
    assert {p.name for p in out.iterdir()} == names
    (run,) = measured(out)
    assert run["checkpoint"] == str(run_dir / "checkpoints" / "best.ckpt")
    assert run["config"] == str(run_dir / "config.yaml")
    assert run["data"]["class_path"] == "datamodules.PairedVectorsDataModule"
    for name in ("test/nll", "test/conditional_w2", "test/conditional_energy", "test/marginal_sw2", "test/mmd"):
        low, high = run["intervals"][name]
        assert low <= run["metrics"][name] <= high
    printed = capsys.readouterr().out
    assert "test/conditional_w2" in printed
    assert str(out / "report.html") in printed


def test_nll_is_that_of_the_averaged_weights_on_the_test_rows(evaluate, run_dir, tmp_path):
    """Computed here by hand: restored weights, rows read with plain numpy."""
    from datamodules import PairedVectorsDataModule
    from fewstep.transport.light_transport import LightTransport

    evaluate([str(run_dir), "--out", str(tmp_path / "a"), "--bootstrap", "50"])
    stored = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    average = stored["callbacks"]["EMA"]["average"]
    init = yaml.safe_load((run_dir / "config.yaml").read_text())
    model = LightTransport(**init["model"]["init_args"]["model"]["init_args"])
    rows = PairedVectorsDataModule(**init["data"]["init_args"]).test_columns[0]

    def nll(weights):
        model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
        with torch.no_grad():
            return -model.log_density(rows["y"], rows["x"]).mean().item()

    value = measured(tmp_path / "a")[0]["metrics"]["test/nll"]
    assert value == pytest.approx(nll(stored["state_dict"] | average), rel=1e-5)
    assert abs(nll(stored["state_dict"]) - value) > 1e-4  # the raw weights would have shown


def test_the_numbers_are_those_of_a_plain_test_with_the_vector_metrics(evaluate, run_dir, tmp_path):
    from lightning.pytorch import Trainer

    import datamodules
    import lightning_modules
    from callbacks import EMA, TransportMetrics
    from fewstep.transport.light_transport import LightTransport

    init = yaml.safe_load((run_dir / "config.yaml").read_text())
    arguments = init["model"]["init_args"]
    network = LightTransport(**arguments["model"]["init_args"])
    model = lightning_modules.OTConditionalModule(**arguments | {"model": network})
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[EMA(), TransportMetrics()],
    )  # fmt: skip
    data = datamodules.PairedVectorsDataModule(**init["data"]["init_args"])
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    trainer.test(model, data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    plain = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("test/")}
    assert evaluate([str(run_dir), "--out", str(tmp_path / "out"), "--bootstrap", "50"]) == 0
    assert measured(tmp_path / "out")[0]["metrics"] == plain


def test_the_same_command_gives_the_same_numbers(evaluate, run_dir, tmp_path):
    arguments = [str(run_dir), "--bootstrap", "50", "--out"]
    assert evaluate([*arguments, str(tmp_path / "a")]) == evaluate([*arguments, str(tmp_path / "b")]) == 0
    first, second = measured(tmp_path / "a")[0], measured(tmp_path / "b")[0]
    assert first["metrics"] == second["metrics"]
    assert first["intervals"] == second["intervals"]
    assert (tmp_path / "a" / "samples-first_best.png").read_bytes() == (
        tmp_path / "b" / "samples-first_best.png"
    ).read_bytes()


def test_several_checkpoints_side_by_side_with_a_named_config(evaluate, run_dir, tmp_path):
    raw = tmp_path / "raw.ckpt"  # the same training without its average, away from its config
    stored = torch.load(run_dir / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save(stored | {"callbacks": {}}, raw)
    files = [str(run_dir), str(raw), "--config", str(run_dir / "config.yaml")]
    assert evaluate([*files, "--out", str(tmp_path / "out"), "--bootstrap", "50"]) == 0
    both = measured(tmp_path / "out")
    assert [run["checkpoint"] for run in both] == [str(run_dir / "checkpoints" / "best.ckpt"), str(raw)]
    assert both[0]["metrics"]["test/nll"] != both[1]["metrics"]["test/nll"]


def test_a_report_about_another_checkpoint_is_not_replaced(evaluate, run_dir, tmp_path, capsys):
    (tmp_path / "metrics.json").write_text('{"schema": 1, "runs": [{"checkpoint": "other.ckpt"}]}')
    assert evaluate([str(run_dir), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds a report about other.ckpt; choose another folder or add --overwrite\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]
    assert evaluate([str(run_dir), "--out", str(tmp_path), "--overwrite", "--bootstrap", "50"]) == 0
    assert measured(tmp_path)[0]["checkpoint"] == str(run_dir / "checkpoints" / "best.ckpt")


def other_class(run):
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    stored["hyper_parameters"]["_class_path"] = "lightning_modules.SomethingElse"
    torch.save(stored, run / "checkpoints" / "best.ckpt")


def whole_numbers(run):
    stored = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    stored["state_dict"] = {key: weight.to(torch.int8) for key, weight in stored["state_dict"].items()}
    torch.save(stored, run / "checkpoints" / "best.ckpt")


def other_width(run):
    edit(run, lambda c: c["model"]["init_args"]["model"]["init_args"].update(num_potential=5))


def edit(run, change):
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def truncate(run):
    content = (run / "checkpoints" / "best.ckpt").read_bytes()
    (run / "checkpoints" / "best.ckpt").write_bytes(content[: len(content) // 2])


def code(run):
    """A pickle that would leave a file behind if it were run."""
    import pickle

    class Canary:
        def __reduce__(self):
            return Path.touch, (run.parent / "canary",)

    torch.save({"state_dict": {}, "x": Canary()}, run / "checkpoints" / "best.ckpt", pickle_module=pickle)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "checkpoints" / "best.ckpt").unlink(), "does not exist; give a .ckpt file"),
        (lambda run: (run / "config.yaml").unlink(), "does not exist; name the run's config with --config"),
        (lambda run: (run / "config.yaml").write_text("model: ["), "is not valid YAML"),
        (lambda run: edit(run, lambda c: c.pop("data")), "has no data.class_path"),
        (lambda run: edit(run, lambda c: c.update(num_threads="two")), "config.yaml: num_threads='two': give a whole"),
        (lambda run: edit(run, lambda c: c.update(num_threads=True)), "config.yaml: num_threads=True: give a whole"),
        (lambda run: edit(run, lambda c: c["model"]["init_args"].update(lrr=1)), "unknown key 'model.init_args.lrr'"),
        (lambda run: edit(run, lambda c: c["data"]["init_args"].update(path="nowhere")), "nowhere"),
        (truncate, "cannot be read (truncated or not a checkpoint)"),
        (code, "cannot be read (truncated or not a checkpoint)"),
        (other_class, "holds a SomethingElse"),
        (other_width, "does not fit the model of"),
        (whole_numbers, "is of torch.int8, the model's of torch.float32"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(evaluate, run_dir, tmp_path, capsys, damage, message):
    import shutil

    run = tmp_path / "run"
    shutil.copytree(run_dir, run)
    damage(run)
    capsys.readouterr()
    assert evaluate([str(run), "--out", str(tmp_path / "deep" / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--num-samples", "9"],
            "--num-samples is nothing that datamodules.PairedVectorsDataModule takes; leave it out",
        ),
        (["--devices", "99999"], "--devices 99999: this machine has"),
        (["--data", "nowhere"], "nowhere"),
        (["--metrics", "fid"], "--metrics fid measures pictures, and PairedVectorsDataModule reads vectors; without"),
        (["--metrics", "transport", "hpsv2"], "--metrics hpsv2 measures pictures"),
        (["--config", "~/nowhere.yaml"], str(Path.home() / "nowhere.yaml")),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(evaluate, run_dir, tmp_path, capsys, arguments, message):
    assert evaluate([str(run_dir), *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--seed", "-1", "'-1' is not a whole number from 0 to 4294967295"),
        ("--seed", "4294967296", "is not a whole number from 0"),
        ("--data", "", "an empty text names no file or folder"),
        ("--out", "file://elsewhere/out", "names the host 'elsewhere'"),
        ("--devices", "0", "is not a whole number of at least 1"),
        ("--devices", "²", "is not a whole number of at least 1"),
        ("--batch-size", "9" * 25, "99999 is more than 999,999,999"),
        ("--bootstrap", "39", "39 resamples make no 95 % interval; give 40 or more"),
        ("--guidance-scale", "nan", "'nan' is not a number of at least 0; 1 is unguided"),
        ("--guidance-scale", "-2", "'-2' is not a number of at least 0"),
    ],
)
def test_a_value_that_no_option_has_is_one_line(evaluate, run_dir, tmp_path, capsys, option, value, fault):
    with pytest.raises(SystemExit) as ended:
        evaluate([str(run_dir), "--out", str(tmp_path / "out"), f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: " in (last := capsys.readouterr().err.splitlines()[-1])
    assert fault in last


def test_addresses_of_files_are_read(evaluate, run_dir, tmp_path):
    assert evaluate([run_dir.as_uri(), "--out", (tmp_path / "a b").as_uri(), "--bootstrap", "40"]) == 0
    assert (tmp_path / "a b" / "report.html").is_file()


def test_help_needs_no_torch():
    script = "import sys, evaluate\ntry: evaluate.main(['--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'torch', 'lightning', 'numpy'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--bootstrap" in done.stdout


@pytest.mark.parametrize("way", ["--data", "--config"])
@pytest.mark.parametrize("change", ["nothing", "index", "a shard"])
def test_a_broken_evaluation_goes_on_with_the_same_data_only(
    evaluate, run_dir, tmp_path, monkeypatch, capsys, way, change
):
    shutil.copytree(run_dir.parent.parent / "shards", tmp_path / "shards")
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["data"]["init_args"]["path"] = str(tmp_path / "shards")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    value = {"--data": tmp_path / "shards", "--config": tmp_path / "config.yaml"}[way]
    command = [str(run_dir), str(run_dir), "--out", str(tmp_path / "out"), way, str(value)]
    measured = []

    def measure(run, *_):
        measured.append(run)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return {"checkpoint": str(run.checkpoint)}, None

    monkeypatch.setattr("commands.evaluate.run.measure", measure)
    assert evaluate(command) == 130
    shard = next((tmp_path / "shards").glob("test-*.tar"))
    if change == "index":
        index = json.loads((tmp_path / "shards" / "index.json").read_text())
        index["splits"]["test"]["shards"][0]["sha256"] = "0" * 64
        (tmp_path / "shards" / "index.json").write_text(json.dumps(index))
    elif change == "a shard":
        os.utime(shard, ns=(1, 1))
    measured.clear()
    monkeypatch.setattr("commands.report.write.write", lambda *_: None)
    monkeypatch.setattr("commands.evaluate.run.print_table", lambda *_: None)
    assert evaluate(command) == (0 if change == "nothing" else 2)
    assert len(measured) == (1 if change == "nothing" else 0)  # the second of two runs
    error = capsys.readouterr().err
    assert ("files that have changed since" in error) == (change != "nothing")


def test_an_address_is_no_place_for_a_report(evaluate, run_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert evaluate([str(run_dir), "--out", "s3://bucket/x"]) == 2
    assert "s3://bucket/x is an address" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
