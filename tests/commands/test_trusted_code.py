"""Whatever a config names, nothing outside the trusted packages is imported or called."""

import functools
import inspect
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.loggers import Logger
from torch import nn

import train
from callbacks.checkpoints import printed_commands
from commands import trusted_code
from commands.evaluate import build as evaluation
from commands.evaluate import metrics_by_name as evaluation_metrics

CONFIGS = sorted(Path(train.__file__).parent.glob("configs/*/*.yaml"))
PAYLOAD = """
import pathlib
import torch
pathlib.Path({canary!r}).touch()
class X(torch.nn.Module):
    pass
def load() -> torch.nn.Module:
    return X()
"""
# Roads to code that does not lie in the package that the path begins with, or that runs what it is given.
THROUGH = (
    "torch.os.system",
    "torch.sys.exit",
    "torch.hub.load",
    "torch.load",
    "torch.compile",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.ops.load_library",
    "torch.classes.load_library",
    "torch.utils.cpp_extension.load_inline",
    "torch.multiprocessing.Process",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
    "torchvision.models.get_model",
    "torchmetrics.multimodal.CLIPScore",
    "torchmetrics.functional.multimodal.clip_score",
    "lightning.pytorch.cli.os.system",
    "lightning.pytorch.cli.LightningArgumentParser.parse_args",
    "diffusers.utils.import_utils.importlib.import_module",
    "open_clip.create_model",
    "callbacks.care.stop_signals.os.system",
    "callbacks.care.stop_signals.sys.exit",
    "datamodules.import_module",
    "fewstep.icd.__main__.main.__globals__",
    "commands.train.command_line.CommandLine",  # parses, trusts and builds what its arguments say
    "commands.train.dead_ranks.RankWatch",
    "lightning.pytorch.loggers.WandbLogger",  # its settings choose where git runs
    "commands.evaluate.build.build",
    "datamodules.text_tables.read_csv",
)
OUTSIDE = ("os.system", "subprocess.Popen", "builtins.exec", "jsonargparse.ArgumentParser", "torchx.X", "fewstep_.X")


class Holder:
    """An argument of every kind that a class path may stand in."""

    def __init__(
        self,
        net: nn.Module | None = None,
        nets: list[nn.Module] | None = None,
        named: dict[str, nn.Module] | None = None,
        anything: Any = None,
        options: dict[str, Any] | None = None,
        untyped=None,
        function: Callable | None = None,
        factory: Callable[[], nn.Module] | None = None,
        kind: type[nn.Module] | None = None,
        text_or_logger: str | Logger | None = None,
    ) -> None:
        self.given = locals()


POSITIONS: dict[str, Callable[[str], Any]] = {
    "net": lambda path: {"class_path": path},
    "nets": lambda path: [{"class_path": "torch.nn.Identity"}, {"class_path": path}],
    "named": lambda path: {"a": {"class_path": path, "init_args": {}}},
    "anything": lambda path: {"class_path": path},
    "options": lambda path: {"deep": [{"class_path": path}], "class_path": path},
    "untyped": lambda path: {"class_path": "torch.nn.Sequential", "init_args": {"a": {"class_path": path}}},
    "function": lambda path: path,
    "factory": lambda path: {"class_path": path},
    "kind": lambda path: path,
    "text_or_logger": lambda path: {"class_path": path},
}


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch):
    """But the project and its libraries; afterwards the tests' own modules again."""
    monkeypatch.delenv(trusted_code.VARIABLE)
    trusted_code.take_trust([])
    yield
    monkeypatch.undo()
    trusted_code.take_trust([])


@pytest.fixture
def canary(tmp_path, monkeypatch) -> Path:
    """Is there once stranger.py or run/payload.py has been imported."""
    file = tmp_path / "canary"
    (tmp_path / "run").mkdir()
    for place in ("stranger.py", "run/payload.py"):
        (tmp_path / place).write_text(PAYLOAD.format(canary=str(file)))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    for name in ("stranger", "run", "run.payload"):
        sys.modules.pop(name, None)


@functools.cache
def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_class_arguments(Holder, "holder", fail_untyped=False)
    return made


def build(arguments: dict[str, Any]) -> Holder:
    """As the command line and an evaluation do it."""
    parsed = parser().parse_object({"holder": arguments})
    trusted_code.check(parsed)
    return parser().instantiate(parsed).holder


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("path", ["stranger.X", "stranger.load", "run.payload.X", "run.payload.load"])
def test_a_strangers_module_is_not_imported(canary, position, path):
    with pytest.raises(Exception, match=r"not allowed|no trusted package"):
        build({position: POSITIONS[position](path)})
    assert not canary.exists()
    with pytest.raises(ValueError, match=r"--trust (stranger|run\.payload)$"):
        trusted_code.resolve(path)
    assert not canary.exists()


def test_the_canary_is_alive(canary):
    trusted_code.take_trust(["fit", "--trust", "stranger"])
    assert type(build({"net": {"class_path": "stranger.X"}}).given["net"]).__module__ == "stranger"
    assert canary.exists()


@pytest.mark.parametrize("path", [*THROUGH, *OUTSIDE])
def test_what_lies_behind_an_allowed_package_is_refused(path):
    with pytest.raises((ValueError, AttributeError, ImportError)):
        trusted_code.resolve(path)
    for position, value in POSITIONS.items():
        with pytest.raises(Exception):  # noqa: B017, PT011  the parser's, or that of check
            build({position: value(path)})


def test_what_resolves_is_a_class_of_a_trusted_package_or_a_function_of_ours():
    """Over members of the modules that happen to be imported, those that they have from elsewhere included."""
    draw, roots = random.Random(7), {*trusted_code.OWN, "torch", "torchvision", "torchmetrics", "lightning"}
    modules = [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] in roots and m is not None]
    resolved = refused = 0
    for _ in range(4000):
        module = draw.choice(modules)
        name = draw.choice(sorted(vars(module)) or ["none"])
        try:
            found = trusted_code.resolve(f"{module.__name__}.{name}")
        except (ValueError, AttributeError, ImportError):
            refused += 1
            continue
        resolved += 1
        assert found.__module__.split(".")[0] in roots
        assert inspect.isclass(found) or found.__module__.split(".")[0] in trusted_code.OWN
    assert min(resolved, refused) > 50  # of those modules that this process has


def test_for_an_argument_of_any_type_only_parts_of_a_run_are_built():
    spec = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}
    holder = build({"anything": spec, "untyped": [spec], "net": spec})
    assert isinstance(holder.given["anything"], nn.Linear)
    assert isinstance(holder.given["untyped"][0], nn.Linear)
    assert isinstance(holder.given["net"], nn.Linear)
    for path in (
        "torch.Generator",
        "torch.utils.data.DataLoader",
        "lightning.pytorch.Trainer",
        "fewstep.files.names.write_new",
    ):
        for position in ("anything", "untyped"):
            with pytest.raises(Exception, match=r"is not a network|Invalid subclass spec"):
                build({position: {"class_path": path}})
        with pytest.raises(ValueError, match="is not a network"):
            trusted_code.resolve(path)


class Activated(nn.Module):
    def __init__(self, activation: Callable = torch.nn.functional.gelu) -> None:
        super().__init__()
        self.activation = activation


def test_defaults_of_a_class_may_be_functions_that_a_config_could_not_name():
    trusted_code.take_trust(["--trust", __name__.partition(".")[0]])
    spec = {"class_path": f"{__name__}.Activated"}
    assert build({"net": spec}).given["net"].activation is torch.nn.functional.gelu
    with pytest.raises(ValueError, match="is not a network"):
        build({"net": spec | {"init_args": {"activation": "torch.nn.functional.relu"}}})


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_shipped_configs_name_nothing_else(file):
    def paths(value):
        if isinstance(value, dict):
            own = [value["class_path"]] if "class_path" in value else []
            return own + [path for entry in value.values() for path in paths(entry)]
        return [path for entry in value for path in paths(entry)] if isinstance(value, list) else []

    for path in paths(yaml.safe_load(file.read_text())):
        assert trusted_code.is_trusted(path if "." in path else f"callbacks.{path}")
        if not path.startswith("ray."):
            assert callable(trusted_code.resolve(path))


def test_trust_is_given_by_flags_and_a_variable_and_ends_with_the_command(monkeypatch):
    rest = trusted_code.take_trust(["--trust", "one.two", "fit", "--trust=three", "-c", "x.yaml"])
    assert rest == ["fit", "-c", "x.yaml"]
    assert printed_commands.also == ["--trust", "one.two", "--trust", "three"]
    given = ("one.two.X", "three.a.b.X", "one.X", "one.twofold.X", "threefold.X", "four.X")
    assert [trusted_code.is_trusted(path) for path in given] == [True, True, False, False, False, False]
    monkeypatch.setenv(trusted_code.VARIABLE, "four, five.six")
    trusted_code.take_trust(["fit"])
    assert [trusted_code.is_trusted(path) for path in given] == [False, False, False, False, False, True]
    assert printed_commands.also == []


def test_a_package_that_is_no_longer_trusted_is_refused_by_the_parser_too(canary):
    trusted_code.take_trust(["--trust", "stranger"])
    trusted_code.take_trust([])
    with pytest.raises(Exception, match="not allowed"):
        build({"net": {"class_path": "stranger.X"}})
    assert not canary.exists()


@pytest.mark.parametrize("name", ["", "a b", "./own.py", "own/", "a..b", "*", "-c"])
def test_what_is_no_package_is_refused(name):
    with pytest.raises(ValueError, match="name of a package"):
        trusted_code.take_trust(["--trust", name])
    trusted_code.take_trust([])


@pytest.mark.parametrize(
    ("arguments", "content"),
    [
        (["--model", "stranger.X"], {}),
        (["--callbacks.mine", "stranger.X"], {}),
        ([], {"data": {"class_path": "run.payload.X"}}),
        ([], {"trainer": {"plugins": [{"class_path": "run.payload.X"}]}}),
        ([], {"trainer": {"logger": {"class_path": "stranger.X"}}}),
    ],
)
def test_the_command_line_says_which_flag_would_allow_it(config, capsys, canary, arguments, content):
    Path("c.yaml").write_text(yaml.safe_dump(content) if content else "{}")
    assert train.main(["fit", "--trust", "tests", "-c", str(config), "-c", "c.yaml", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "add --trust stranger" in err or "add --trust run.payload" in err
    assert ("(in c.yaml)" in err) == bool(content)
    assert not canary.exists()


def test_a_config_cannot_run_a_command_that_trusts_more(config, capsys, canary):
    argv = ["fit", "--trust", "stranger", "--model", "stranger.X"]
    inner = {
        "class_path": "commands.train.command_line.CommandLine",
        "init_args": {"argv": argv, "default_config": "x"},
    }
    outer = {"class_path": "commands.evaluate.pipeline.PipelineModule", "init_args": {"pipeline": inner}}
    kid = {"class_path": "callbacks.KIDCallback", "init_args": {"network": inner}}
    swiss_roll = Path(train.__file__).parent / "configs" / "ot_conditional" / "swiss_roll.yaml"
    for content in ({"model": outer}, {"callbacks": {"kid": kid}}):
        Path("c.yaml").write_text(yaml.safe_dump(content))
        assert train.main(["fit", "-c", str(swiss_roll), "-c", "c.yaml"]) == 2
        assert "is no part of a model; no config may name it (in c.yaml)" in capsys.readouterr().err
    assert not canary.exists()


def test_a_config_cannot_trust_itself(config, capsys, canary):
    Path("c.yaml").write_text(yaml.safe_dump({"trust": ["stranger"], "model": {"class_path": "stranger.X"}}))
    assert train.main(["fit", "-c", "c.yaml"]) == 2
    assert "error: " in capsys.readouterr().err
    assert not canary.exists()


@pytest.mark.parametrize("part", ["model", "data", "callback"])
def test_an_evaluation_imports_nothing_of_a_run(tmp_path, canary, part):
    content = {
        "model": {"class_path": "lightning_modules.OTConditionalModule"},
        "data": {"class_path": "datamodules.PairedVectorsDataModule", "init_args": {"path": "nowhere"}},
        "callbacks": {"mine": {"class_path": "run.payload.X"}},
    }
    if part == "callback":
        with pytest.raises(ValueError, match=r"--trust run\.payload"):
            evaluation_metrics.of_config(content, LightningDataModule(), "config.yaml")
    else:
        content[part]["class_path"] = "run.payload.X"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
        torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match=r"--trust run\.payload"):
            evaluation.build(tmp_path / "last.ckpt", tmp_path / "config.yaml", None, evaluation.Options())
    assert not canary.exists()


def test_a_callback_that_is_not_there_is_said_to_measure_nothing(capsys):
    content = {"callbacks": {"mine": {"class_path": "callbacks.Nope"}, "ema": {"class_path": "callbacks.EMA"}}}
    assert evaluation_metrics.of_config(content, LightningDataModule(), "config.yaml") == []
    assert capsys.readouterr().err == "callbacks.mine: callbacks.Nope is not here, what it measures is left out\n"


def test_an_option_of_a_metric_obeys_too(canary):
    with pytest.raises(ValueError, match="--trust stranger"):
        evaluation_metrics.by_name(["fid"], {"fid": {"network": {"class_path": "stranger.X"}}})
    assert not canary.exists()


def test_the_kinds_that_a_run_is_made_of_are_still_checked():
    """A trusted class in the wrong place is refused by its kind, not called."""
    made = ArgumentParser(exit_on_error=False)
    for kind in (Callback, LightningModule):
        made.add_subclass_arguments(kind, kind.__name__, fail_untyped=False)
        with pytest.raises(Exception, match="does not correspond to a subclass"):
            made.parse_object({kind.__name__: {"class_path": "torch.nn.Identity"}})
