"""Artifacts of a run: manifest, config and checkpoints by reference, old versions deleted, failures survived."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
import yaml

from callbacks.checkpoints.data_manifest import data_manifests
from callbacks.tracking.wandb_artifacts import WandbArtifacts, delete_old_versions
from tests.callbacks.wandb_record import artifacts, config, parts_of, records

ROOT = Path(__file__).parents[3]
ARTIFACTS = ("--callbacks.wandb_artifacts.class_path", "callbacks.WandbArtifacts")
OFFLINE = ("--run_dir", "run", "--wandb", "offline", *ARTIFACTS, "--test_after_fit", "false")


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    wandb.teardown()


def logged(run_dir):
    """Artifacts of each part of a run, by (name's first word, aliases but `latest`, which wandb adds itself)."""
    found = [artifacts(records(file)) for file in parts_of(run_dir)]
    return [{(a.name.split("-")[0], *(set(a.aliases) - {"latest"})): a for a in part} for part in found]


def local_files(artifact):
    return {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}


def test_a_run_records_its_config_and_its_checkpoints_without_copies(fit_alone, load):
    done = fit_alone(*OFFLINE)
    assert (done.returncode, done.stderr) == (0, "")
    (part,) = logged("run")
    assert set(part) == {("config",), ("checkpoint", "best"), ("checkpoint", "last")}
    for alias in ("best", "last"):
        artifact = part["checkpoint", alias]
        (path,) = local_files(artifact).values()
        checkpoint = Path(f"run/checkpoints/{alias}.ckpt")
        assert path.samefile(checkpoint)
        metadata = json.loads(artifact.metadata)
        assert metadata["step"] == load(checkpoint)["global_step"]
        assert metadata["config_sha256"]
        assert ("val/nll" in metadata) == (alias == "best")
        assert artifact.type == "model"
    (path,) = local_files(part["config",]).values()
    assert yaml.safe_load(path.read_text()) == yaml.safe_load(Path("run/config.yaml").read_text())


def test_a_resumed_run_leaves_the_files_of_its_first_half_whole(fit):
    assert fit(*OFFLINE, "--trainer.max_steps", "10") == 0
    first = {a: local_files(logged("run")[0]["checkpoint", a])[f"{a}.ckpt"] for a in ("best", "last")}
    before = {alias: hashlib.sha256(path.read_bytes()).digest() for alias, path in first.items()}
    assert fit(*OFFLINE, "--resume", "auto") == 0
    assert {alias: hashlib.sha256(path.read_bytes()).digest() for alias, path in first.items()} == before
    second = logged("run")[1]
    (path,) = local_files(second["checkpoint", "last"]).values()
    assert not path.samefile(first["last"])
    assert second["checkpoint", "last"].name == logged("run")[0]["checkpoint", "last"].name


def test_secrets_stay_out_of_the_config_artifact_and_of_errors(fit, config, capsys):
    settings = yaml.safe_load(config.read_text())
    settings["data"]["init_args"] = {"path": "memory://me:word@host/data"}
    config.write_text(yaml.safe_dump(settings))
    assert fit(*OFFLINE, "--trainer.max_steps", "2") == 0
    (path,) = local_files(logged("run")[0]["config",]).values()
    assert yaml.safe_load(path.read_text())["data"]["init_args"]["path"] == "memory://***@host/data"
    out = capsys.readouterr().out
    assert "W&B: data manifest failed" in out
    assert "word" not in out


def test_a_failing_artifact_does_not_stop_the_run(fit, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wandb.Artifact, "add_file", fail)
    monkeypatch.setattr(wandb.Artifact, "new_file", fail)
    assert fit(*OFFLINE) == 0
    out = capsys.readouterr().out
    assert out.count("W&B: checkpoint failed") == 1
    assert out.count("W&B: config failed") == 1


@pytest.mark.parametrize("name", ["weather", "emoji64"])
def test_the_manifest_names_the_data_and_never_holds_them(name):
    (manifest,) = data_manifests({"path": str(ROOT / "data" / name), "seed": 0})
    raw = (ROOT / "data" / name / "index.json").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(raw).hexdigest()
    assert manifest["license"] == json.loads(raw)["license"]
    total = sum(f.stat().st_size for f in (ROOT / "data" / name).glob("*.tar"))
    assert sum(split["bytes"] for split in manifest["splits"].values()) == total
    assert len(json.dumps(manifest)) < 2000
    assert str(ROOT) not in json.dumps(manifest)  # the same data give the same version on every machine


def test_manifests_of_several_folders_and_of_none(tmp_path):
    weather, emoji = str(ROOT / "data/weather"), str(ROOT / "data/emoji64")
    assert [m["name"] for m in data_manifests({"path": [weather, str(tmp_path)], "splits": {"test_path": emoji}})] == [
        "weather",
        "emoji",
    ]
    assert data_manifests({"path": str(tmp_path / "a-{000..012}.tar"), "splits": {"val_path": None}}) == []
    (remote,) = data_manifests({"path": f"file://{weather}"})
    assert remote["sha256"] == data_manifests({"path": weather})[0]["sha256"]


class FakeRun:
    """A connected run: remembers what it was given; `wait` is what blocks in a real one."""

    offline, id, entity, project = False, "abc", "me", "fewstep"

    def __init__(self):
        self.calls, self.config = [], SimpleNamespace(update=lambda values, **_: self.calls.append(("config", values)))

    def use_artifact(self, artifact):
        self.calls.append(("use", artifact.name, artifact.type))

    def log_artifact(self, artifact, aliases=()):
        self.calls.append(("log", artifact.name, tuple(aliases), artifact.metadata))
        return SimpleNamespace(wait=lambda: self.calls.append(("wait",)))


def test_while_connected_data_are_an_input_and_uploaded_links_are_dropped(tmp_path, monkeypatch):
    checkpoint = tmp_path / "last-1-1.ckpt"
    torch.save({"state_dict": {}, "global_step": 7, "epoch": 1}, checkpoint)
    api = SimpleNamespace(artifacts=lambda kind, name: [])
    monkeypatch.setattr(wandb, "Api", lambda: api)
    run, callback = FakeRun(), WandbArtifacts()
    callback._log_data(run, SimpleNamespace(hparams={"path": str(ROOT / "data/weather")}))
    callback._log_one(run, "last", checkpoint, {"val/nll": 2.0})
    (manifest,) = data_manifests({"path": str(ROOT / "data/weather")})
    origin = {"weather": manifest["sha256"]}
    assert run.calls == [
        ("config", {"data_manifest": origin}),
        ("use", "data-weather", "dataset"),
        ("log", "checkpoint-abc", ("last",), {"step": 7, "epoch": 1, "val/nll": 2.0, "data": origin}),
        ("wait",),
    ]
    assert not checkpoint.exists()


def test_versions_that_are_neither_best_nor_last_are_deleted():
    deleted = []
    versions = [["best"], [], ["last", "latest"], ["v3-note"], ["latest"]]
    listed = [SimpleNamespace(aliases=a, delete=lambda i=i: deleted.append(i)) for i, a in enumerate(versions)]
    seen = []
    api = SimpleNamespace(artifacts=lambda kind, name: seen.append((kind, name)) or listed)
    assert delete_old_versions(api, "me/fewstep/checkpoint-abc") == 2
    assert deleted == [1, 3]
    assert seen == [("model", "me/fewstep/checkpoint-abc")]


def test_a_nonsensical_interval_is_refused():
    with pytest.raises(ValueError, match="every_n_validations=0"):
        WandbArtifacts(every_n_validations=0)


def test_the_data_of_a_run_are_in_its_config(fit, monkeypatch):
    class Tables:
        hparams = {"path": str(ROOT / "data/weather")}  # noqa: RUF012

    manifests = "callbacks.tracking.wandb_artifacts.data_manifests"
    monkeypatch.setattr(manifests, lambda hparams: data_manifests(Tables.hparams))
    assert fit(*OFFLINE, "--trainer.max_steps", "2") == 0
    found = records(parts_of("run")[0])
    digest = hashlib.sha256((ROOT / "data/weather/index.json").read_bytes()).hexdigest()
    assert config(found)["data_manifest"] == {"weather": digest}
    part = logged("run")[0]
    assert json.loads(part["checkpoint", "last"].metadata)["data"] == {"weather": digest}
    assert set(local_files(part["data",])) == {"manifest.json"}
