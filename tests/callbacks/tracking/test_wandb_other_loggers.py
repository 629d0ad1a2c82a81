"""The same values under the same names go to another logger when a config asks for one (docs/wandb.md)."""

import csv
import re
from pathlib import Path

import yaml

PAGE = Path(__file__).parents[3] / "docs" / "wandb.md"


def documented(logger):
    """The config lines of docs/wandb.md for a logger, as a dict."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (found,) = [yaml.safe_load(block) for block in blocks if logger in block]
    return found["trainer"]


def table(path):
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {(key, row["step"]): value for row in rows for key, value in row.items() if key != "step" and value}


def test_the_csv_logger_of_the_page_gets_what_the_runs_own_file_gets(fit, config):
    quiet = ("--callbacks.throughput", "null", "--trainer.log_every_n_steps", "5")  # no two runs are as fast
    assert fit("--run_dir", "own", *quiet) == 0
    settings = yaml.safe_load(config.read_text())
    settings["trainer"] |= documented("CSVLogger")
    config.write_text(yaml.safe_dump(settings))
    assert fit("--run_dir", "other", "--wandb", "offline", *quiet) == 0
    (other,) = Path("runs/csv").rglob("metrics.csv")
    own = table(Path("own/logs/metrics.csv"))
    assert {key for key, _ in own} >= {"train/loss", "val/nll", "test/nll"}
    assert table(other) == own
    assert not Path("other/wandb").exists()


def test_the_tables_callbacks_are_those_of_the_page():
    from callbacks import SampleTableCallback, WandbArtifacts

    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL) if "sample_table:" in b]
    callbacks = yaml.safe_load(block)["callbacks"]
    classes = {"sample_table": SampleTableCallback, "wandb_artifacts": WandbArtifacts}
    for name, entry in callbacks.items():
        assert entry["class_path"] == f"callbacks.{classes[name].__name__}"
        classes[name](**entry["init_args"])
