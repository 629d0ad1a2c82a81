"""Reads what W&B recorded offline: LevelDB's log format (7-byte headers in 32 KiB blocks) around protobuf records."""

import json
import time
from pathlib import Path

import wandb
from wandb.proto import wandb_internal_pb2

from tests.patience import PATIENCE

BLOCK, HEADER = 32768, 7


def records(file):
    """The records of one .wandb file, in order."""
    data, position, found, parts = Path(file).read_bytes(), HEADER, [], b""
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + HEADER : position + HEADER + size]
        position += HEADER + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def parts_of(run_dir):
    """The .wandb files of a run directory in the order of their start, each complete: its run has ended."""
    wandb.teardown()

    def read():
        folders = sorted(Path(run_dir).glob("wandb/offline-run-*"))
        files = [file for folder in folders for file in folder.glob("run-*.wandb")]
        return files, len(files) == len(folders) and all(_has_ended(records(file)) for file in files)

    return _patiently(read)


def history_of(file, rows):
    """The logged rows of a file as dicts, once there are so many of them."""
    wandb.teardown()

    def read():
        found = history(records(file))
        return found, len(found) >= rows

    return _patiently(read)


def _patiently(read):
    """What read() returns with True; the writer is a process of its own and may live a little longer than the run."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found, whole = read()
        if whole:
            return found
        assert time.monotonic() < deadline, f"not whole after {PATIENCE} s: {found}"
        time.sleep(0.1)


def _has_ended(found):
    return bool(found) and found[-1].WhichOneof("record_type") == "exit"


def history(found):
    """Every logged row as a dict."""
    rows = [record.history.item for record in found if record.WhichOneof("record_type") == "history"]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def summaries(found):
    """Metric name -> the set of summary aggregates that were asked for."""
    metrics = [record.metric for record in found if record.WhichOneof("record_type") == "metric"]
    kinds = ("min", "max", "last", "mean")
    return {m.name or m.glob_name: {kind for kind in kinds if getattr(m.summary, kind)} for m in metrics}


def artifacts(found):
    """(name, type, aliases, metadata, paths of the entries, use_after_commit) of every logged artifact."""
    return [a for record in found for a in _artifacts_of(record)]


def _artifacts_of(record):
    if record.WhichOneof("record_type") == "artifact":
        yield record.artifact
    elif record.request.WhichOneof("request_type") == "log_artifact":
        yield record.request.log_artifact.artifact


def config(found):
    """Top-level config keys -> values, as recorded at the start and updated later."""
    values = {}
    for record in found:
        for update in (*record.run.config.update, *record.config.update):
            values[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
    return values
