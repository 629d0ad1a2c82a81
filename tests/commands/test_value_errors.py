"""What a class says of a value names the key that can be pasted, and no other key."""

import math

import pytest
import yaml
from jsonargparse import Namespace

import train
from commands.value_errors import in_keys, refuse_nan, values_named

IMAGES = "datamodules.ImageTextDataModule"
MODELS = {
    "data": {"class_path": "tests.callbacks.tiny_run.TinyModule"},
    "model": {"class_path": "lightning_modules.ICDModule", "init_args": {"pipeline": "x"}},
}


def settings() -> Namespace:
    groups = {"optimizer": Namespace(lr=-1.0, betas=[0.9, 2.0], schedule="cosin"), "seed": 3, "lr": 0.5}
    inner = Namespace(class_path="tests.Net", init_args=Namespace(width=0))
    model = Namespace(class_path="tests.Model", init_args=Namespace(**groups, net=inner))
    data = Namespace(class_path="tests.Data", init_args=Namespace(splits=Namespace(num_val=0), batch_size=12, seed=3))
    return Namespace(model=model, data=data, trainer=Namespace(max_steps=3))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("splits.num_val=0: must be at least 1", "data.splits.num_val=0: must be at least 1"),
        ("num_val=0: must be at least 1", "data.splits.num_val=0: must be at least 1"),
        ("lr=-1.0: must be positive", "model.optimizer.lr=-1.0: must be positive"),
        ("lr=0.5: must be less", "model.lr=0.5: must be less"),
        ("betas=(0.9, 2.0): must be below 1", "model.optimizer.betas=(0.9, 2.0): must be below 1"),
        ("schedule='cosin': choose", "model.optimizer.schedule='cosin': choose"),
        ("width=0: must be at least 1", "model.net.width=0: must be at least 1"),
        ("batch_size=12 does not fit", "data.batch_size=12 does not fit"),
        # another value, two keys of that value, a longer name, whole already, and no value at all
        ("batch_size=1: must be more", "batch_size=1: must be more"),
        ("seed=3: choose another", "seed=3: choose another"),
        ("val=0: must be at least 1", "val=0: must be at least 1"),
        ("trainer.max_steps=3: more", "trainer.max_steps=3: more"),
        ("the shard is truncated", "the shard is truncated"),
    ],
)
def test_a_value_is_named_by_its_key(message, expected):
    assert in_keys(message, settings()) == expected


def test_a_null_below_a_class_is_no_text(tmp_path, monkeypatch, capsys):
    """jsonargparse hands it on as the text None: a number would be refused, a text taken."""
    monkeypatch.chdir(tmp_path)
    data = {"class_path": IMAGES, "init_args": {"path": "x", "splits": {"num_val": 3}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": MODELS["data"], "data": data}))
    flags = ["--data.splits.num_val", "null", "--data.splits.val_path=null", "--print_config"]
    with pytest.raises(SystemExit):
        train.main(["fit", "-c", "c.yaml", *flags])
    splits = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["splits"]
    assert (splits["num_val"], splits["val_path"]) == (None, None)


def test_what_is_no_number_is_named_by_its_key():
    given = settings()
    refuse_nan(given)
    given.data.init_args.timeout = math.inf  # which is for ever
    refuse_nan(given)
    given.model.init_args.optimizer.betas = [0.9, math.nan]
    with pytest.raises(ValueError, match=r"^model\.optimizer\.betas=\[0\.9, nan\]: is not a number; give one"):
        refuse_nan(given)


def test_errors_of_another_kind_stay_as_they_are():
    class OwnError(ValueError):
        pass

    marked = ValueError("lr=-1.0: must be positive")
    marked.line = "more than that"
    for error in (OwnError("lr=-1.0: must be positive"), OSError("lr=-1.0"), marked, ValueError("lr: no")):
        with pytest.raises(type(error)) as raised, values_named(settings()):
            raise error
        assert raised.value is error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data.splits.num_val", "0"], "data.splits.num_val=0: must be at least 1"),
        (["--data.transform.crop", "left"], "data.transform.crop='left': choose one of"),
        (["--data.batch_size", "0"], "data.batch_size=0: must be at least 1"),
        (["--model.optimizer.lr", "-1"], "model.optimizer.lr=-1.0: must be positive and finite"),
        (["--model.optimizer.schedule", "line"], "model.optimizer.schedule='line': choose one of constant, cosine"),
        (["--data.worker_timeout", ".nan"], "data.worker_timeout=nan: is not a number; give one"),
        (["--model.optimizer.lr", ".nan"], "model.optimizer.lr=nan: is not a number; give one"),
        (["--model.optimizer.lr", ""], "model.optimizer.lr: expected float, got '' (on the command line)"),
        (["--model.students.rank", "0"], "model.students.rank=0: must be at least 1"),
        (["--model.distillation.num_steps", "0"], "model.distillation.num_steps=0: must be at least 1"),
        (
            ["--model.distillation.boundaries", "[0, 0.5]"],
            "model.distillation.boundaries=[0.0, 0.5]: must begin with 0",
        ),
        (["--model.distillation.boundaries", "null"], "model.distillation.boundaries: expected list, got 'None'"),
        (
            ["--model.distillation.loss_weights.full_cycle", "-1"],
            "model.distillation.loss_weights.full_cycle=-1.0: must",
        ),
        (["--data.splits", "null", "--print_config"], "data.splits cannot be null; it is a group of settings"),
        (["--model.optimizer", "null", "--print_config=skip_default"], "model.optimizer cannot be null; it is a group"),
    ],
)
def test_train_names_a_value_as_its_flag_is_called(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(tmp_path)
    part = arguments[0][2:].partition(".")[0]
    content = {"model": MODELS[part], "data": {"class_path": IMAGES, "init_args": {"path": "x"}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    assert train.main(["fit", "-c", "c.yaml", *arguments]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {expected}")
    assert (err.count("\n"), out) == (1, "")
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]
