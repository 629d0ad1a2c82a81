"""A key that stands in a group, or stood outside of it in an earlier version, leads to where it is now."""

from argparse import ArgumentError

import pytest
from lightning.pytorch import LightningDataModule, LightningModule

import datamodules  # noqa: F401
import lightning_modules  # noqa: F401
from commands.config_errors import explain
from commands.option_groups import arguments_of, check_groups, places_in_groups
from commands.train.parser import WholeNamesParser

IMAGES = "datamodules.ImageTextDataModule"
ADAMW = {name: f"optimizer.{name}" for name in ("lr", "betas", "weight_decay", "warmup_steps")}
DISTILLATION = ("boundaries", "start", "boundaries_in", "num_steps", "loss_weights", "huber_c", "reverse_from")
EARLIER = {  # arguments of earlier versions that stand in a group now
    IMAGES: {
        "train_split": "splits.train",
        "val_split": "splits.val",
        "test_split": "splits.test",
        **{name: f"splits.{name}" for name in ("val_path", "test_path", "num_train", "num_val", "num_test")},
        **{name: f"transform.{name}" for name in ("crop", "flip", "background", "max_pixels")},
        "prefetch": "loader.prefetch",
        "start_method": "loader.start_method",
        "worker_restarts": "loader.restarts",
    },
    "lightning_modules.ICDModule": {
        **ADAMW,
        "lr_schedule": "optimizer.schedule",
        **{name: f"distillation.{name}" for name in DISTILLATION},
        **{name: f"students.{name}" for name in ("rank", "alpha", "targets", "merged")},
        "loss_weights.full_cycle": "distillation.loss_weights.full_cycle",
    },
    "lightning_modules.AutoencoderModule": ADAMW,
    "lightning_modules.ContrastiveModule": ADAMW,
    "lightning_modules.DiffusionTeacherModule": ADAMW,
    "lightning_modules.GuidanceDistillationModule": ADAMW,
}
STAY = "path image_size batch_size eval_batch_size steps_per_epoch select captions images arrays metadata max_skipped"
STAY += " strict num_workers worker_timeout verify cache_dir seed sampling shuffle_window"


@pytest.mark.parametrize("class_path", EARLIER)
def test_arguments_of_earlier_versions_have_one_place(class_path):
    known = arguments_of(class_path)
    assert {name: places_in_groups(name, known) for name in EARLIER[class_path]} == {
        name: [place] for name, place in EARLIER[class_path].items()
    }
    assert set(EARLIER[class_path].values()) <= set(known)
    assert not set(EARLIER[class_path]) & set(known)


def test_what_scripts_call_by_name_is_in_no_group():
    known = arguments_of(IMAGES)
    assert set(STAY.split()) < set(known)
    assert known[:3] == ["path", "image_size", "batch_size"]
    assert len([name for name in known if "." not in name]) <= 22


def parser() -> WholeNamesParser:
    built = WholeNamesParser(exit_on_error=False)
    for key, base in (("model", LightningModule), ("data", LightningDataModule)):
        built.add_subclass_arguments(base, key, fail_untyped=False, required=False)
    return built


def said(argv=(), content=None) -> str:
    """What the user is told about a command line, or about a config c.yaml."""
    built, configs = parser(), {"c.yaml": content} if content else {}
    with pytest.raises(ArgumentError) as error:
        built.parse_object(content) if content else built.parse_args(list(argv))
    line = explain(str(error.value), built, configs, argv)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("class_path", "name", "place"), [(path, *pair) for path, pairs in EARLIER.items() for pair in pairs.items()]
)
def test_an_earlier_key_is_one_line_that_names_the_new_one(class_path, name, place):
    part = "data" if class_path == IMAGES else "model"
    line = f"unknown key '{part}.{name}'; write {part}.{place}"
    argv = [f"--{part}={class_path}", f"--{part}.{name}=3"]
    assert said(argv) == f"{line} (on the command line)"
    argv = [f"--{part}={class_path}", f"--{part}.init_args.{name}", "3"]
    assert said(argv) == f"{line} (on the command line)"
    if "." not in name:
        content = {part: {"class_path": class_path, "init_args": {name: 3}}}
        assert said(content=content) == f"{line} (in c.yaml)"


def test_all_earlier_keys_of_a_config_are_named_at_once():
    old = {"path": "x", "val_split": "dev", "flip": True, "seed": 1, "prefetch": 3, "splits": {"num_val": 2}}
    assert said(content={"data": {"class_path": IMAGES, "init_args": old}}) == (
        "unknown key 'data.val_split'; write data.splits.val, likewise data.transform.flip for flip, "
        "data.loader.prefetch for prefetch (in c.yaml)"
    )


ICD = "lightning_modules.ICDModule"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (
            ["data.splits.num_vall=5"],
            "unknown key 'data.splits.num_vall'; nearest valid key: 'data.splits.num_val' (on the command line)",
        ),
        (["data.init_args.splits.num_vall=5"], "nearest valid key: 'data.splits.num_val' (on the command line)"),
        (["data.loader.restart=5"], "nearest valid key: 'data.loader.restarts' (on the command line)"),
        (["model.optimizer.lrr=5"], "nearest valid key: 'model.optimizer.lr' (on the command line)"),
        (["model.editing.guidance=5"], "nearest valid key: 'model.editing.guidance_scale' (on the command"),
        (["data.splits=5"], "data.splits cannot be '5'; it is a group of settings, such as data.splits.train (on the"),
        (["model.students=lora"], "model.students cannot be 'lora'; it is a group of settings, such as model.stu"),
        (["data.splits.num_val=many"], "data.splits.num_val: expected int"),
        (["data.transform.flip=5"], "data.transform.flip: expected bool"),
        (["data.rest=5"], "unknown key 'data.rest'"),
    ],
)  # fmt: skip
def test_a_slip_inside_a_group_is_told_with_its_neighbour(argv, expected):
    assert expected in said([f"--model={ICD}", f"--data={IMAGES}", *(f"--{word}" for word in argv)])


@pytest.mark.parametrize(
    ("part", "arguments", "expected"),
    [
        ("data", {"splits": {"num_vall": 5}}, "nearest valid key: 'data.init_args.splits.num_val' (in c.yaml)"),
        (
            "data",
            {"splits": "all"},
            "data.splits cannot be 'all'; it is a group of settings, such as data.splits",
        ),
        ("model", {"students": "lora"}, "such as model.students.kind (in c.yaml)"),
        ("model", {"editing": {"guidance": 5}}, "nearest valid key: 'model.init_args.editing.guidance_scale' (in c"),
        (
            "model",
            {"distillation": {"loss_weights": {"full_cycles": 1}}},
            "nearest valid key: 'model.init_args.distillation.loss_weights.full_cycle' (in c.yaml)",
        ),
    ],
)
def test_a_slip_inside_a_group_of_a_config(part, arguments, expected):
    required = {"data": {"path": "x"}, "model": {"pipeline": "x"}}[part]
    content = {part: {"class_path": {"data": IMAGES, "model": ICD}[part], "init_args": required | arguments}}
    assert expected in said(content=content)


@pytest.mark.parametrize(
    ("class_path", "group", "first"),
    [
        (IMAGES, "splits", "train"),
        (IMAGES, "transform", "crop"),
        (IMAGES, "loader", "prefetch"),
        (ICD, "optimizer", "lr"),
        (ICD, "students", "kind"),
    ],
)
@pytest.mark.parametrize(("value", "shown"), [(None, "null"), (5, "5"), (0.5, "0.5"), (True, "True"), ([], r"\[\]")])
def test_one_value_for_a_group_is_refused_by_name(class_path, group, first, value, shown):
    part, required = ("data", "path") if class_path == IMAGES else ("model", "pipeline")
    content = {part: {"class_path": class_path, "init_args": {required: "x", group: value}}}
    key = rf"{part}\.{group}"
    with pytest.raises(
        ValueError, match=rf"{key} cannot be {shown}; it is a group of settings, such as {key}\.{first}"
    ):
        check_groups(parser().parse_object(content))


def test_null_may_stand_for_what_is_no_group_or_may_be_left_out():
    content = {"class_path": ICD, "init_args": {"pipeline": "x", "editing": None, "students": {"targets": None}}}
    check_groups(parser().parse_object({"model": content}))
    check_groups({"model": None})


def test_parts_that_the_parser_dumps_by_themselves_may_call_anything_a_model():
    check_groups({"model": "ViT-L-14"})
    check_groups({"model": {"class_path": "fewstep.backbones.diffusers_network", "init_args": {"name": "UNet2DModel"}}})
