"""A key that stands twice is refused with both its lines, at any depth; whatever else YAML can do to a reader, too."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml

import train
from commands import config_text
from commands.config_errors import read_configs
from commands.evaluate.metrics_by_name import read_options

CONFIGS = sorted(Path(train.__file__).parent.glob("configs/*/*.yaml"))
DOUBLING = [f"{name}: &{name} [{f'*{before}, ' * 9}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)]


def tree(draw: random.Random, depth: int = 0) -> dict:
    """Random nested mappings with lists of mappings in them, as configs have."""

    def value():
        kind = draw.randrange(6 if depth < 4 else 3)
        plain = [draw.randrange(100), draw.random(), draw.choice([None, True, "word", "a: b", "# no comment", "1e-3"])]
        if kind < 3:
            return plain[kind]
        return tree(draw, depth + 1) if kind < 5 else [tree(draw, depth + 1) for _ in range(draw.randrange(1, 3))]

    return {f"k{number}": value() for number in range(draw.randrange(1, 5))}


@pytest.mark.parametrize("seed", range(40))
def test_every_key_once_is_read_as_it_is_and_one_twice_is_named_with_its_lines(seed):
    draw = random.Random(seed)
    content = {"first": 0} | tree(draw)
    text = yaml.safe_dump(content, sort_keys=False) if seed % 2 else json.dumps(content, indent=1)
    assert config_text.read(text) == content
    lines = text.splitlines()
    key = re.compile(r'\s*"?(k\d|first)"?: [^\[{]*,?$')  # a plain value in a line of its own, in either language
    numbers = [n for n, line in enumerate(lines) if key.match(line)]
    number = draw.choice(numbers)
    repeated = lines[number] if lines[number].endswith(",") or seed % 2 else lines[number] + ","
    changed = [*lines[:number], repeated, *lines[number:]]
    name = key.match(lines[number])[1]
    with pytest.raises(ValueError, match=rf"{name}' stands twice, in lines {number + 1} and {number + 2};"):
        config_text.read("\n".join(changed))


@pytest.mark.parametrize(
    "text",
    [
        "a: {b: 1, b: 2}",
        "- {b: 1, 'b': 2}",
        "a: [[{x: {y: 1, y: 1}}]]",
        "trainer:\n  max_steps: 1\ntrainer.max_steps: 2",
        "a.b: 1\na: {b: 2}",
        "a.b: {c: 1}\na.b: {d: 1}",
        "<<: {a: 1}\n<<: {a: 2}",
        "? a\n: 1\na: 2",
        "{a, b, a}",
        "x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}",
    ],
)
def test_ways_to_write_a_key_twice(text):
    with pytest.raises(ValueError, match="stands twice, in lines"):
        config_text.read(text)


@pytest.mark.parametrize(
    "text",
    [
        "x: &x {a: 1}\ny: {<<: *x, a: 2}",
        "x: &x {a: 1}\ny: *x\nz: *x",
        "a: [{b: 1}, {b: 2}]",
        "a: {b: 1}\nc: {b: 1}",
        "a.b: {c: 1}\na: {d: 2}",
        "a.b: {c: 1}\na.e: {c: 1}",
    ],
)
def test_ways_to_write_a_key_once(text):
    assert config_text.read(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n".join(["a: &a [1]", *DOUBLING]), "unfold"),
        ("a: &a [*a]", "refers to itself"),
        ("a: 1\ntrainer: !!set {max_steps}", "line 2 has the tag !!set; write plain keys and values"),
        ("trainer: {x: !!binary aGVsbG8=}", "has the tag !!binary"),
        ("a: &a {b: {c: *a}}", "refers to itself"),
        ("a: " + "[" * 3_000, "deeply|YAML"),
        ("a: " + "{x: " * 3_000 + "1" + "}" * 3_000, "deeply"),
        ("a: !!python/object/apply:os.system [true]", "valid YAML"),
        ("a: !!python/name:os.system", "valid YAML"),
        ("a: !!bool maybe", "valid YAML"),
        ("a: !!timestamp never", "valid YAML"),
        ("a: 2021-02-30", "day"),
        ("a: !!int 0b", "int"),
    ],
)  # fmt: skip
def test_what_yaml_can_do_to_a_reader_is_one_line_with_the_file(tmp_path, text, says):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        read_configs([file])
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_the_shipped_configs_have_every_key_once(file):
    assert read_configs([file])[str(file)] == yaml.safe_load(file.read_text())


def test_a_config_within_a_config_and_a_value_on_the_command_line(fit, capsys):
    Path("model.yaml").write_text("class_path: tests.callbacks.tiny_run.TinyModule\ninit_args:\n  lr: 1\n  lr: 2\n")
    Path("outer.yaml").write_text("model: model.yaml\n")
    for arguments, says in (
        (["--model", "model.yaml"], "config model.yaml: the key 'init_args.lr' stands twice, in lines 3 and 4;"),
        (["-c", "outer.yaml"], "config model.yaml: the key 'init_args.lr' stands twice, in lines 3 and 4;"),
        (["--trainer", '{"max_steps": 1, "max_steps": 2}'], "the key 'max_steps' stands twice"),
    ):
        assert fit(*arguments) == 2
        assert says in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"--metrics\.kid\.options .*stands twice"):
        read_options(["--metrics.kid.options", "{a: 1, a: 2}"])
    with pytest.raises(ValueError, match=r"--metrics\.kid\.subset_size"):
        read_options(["--metrics.kid.subset_size", "{a"])
