"""JSON of strangers: what Python's own reader agrees on is read alike, and all else is one ValueError in one line."""

import json

import numpy as np
import pytest

from fewstep.files.plain_json import MOST_NESTED, parse_json, read_json

ODD = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "deep and open": "[" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "deep enough to parse": "[" * 500 + "]" * 500,
    "one level too deep": "[" * (MOST_NESTED + 1) + "]" * (MOST_NESTED + 1),
    "deep at the end": json.dumps([1, [2], {"a": []}])[:-1] + ", " + "[" * 80 + "]" * 80 + "]",
    "infinity": '{"bytes": 1e400}',
    "minus infinity": "[-1e999]",
    "NaN": '{"x": NaN}',
    "Infinity": "[-Infinity]",
    "5000 digits": "1" + "0" * 5000,
    "400 digits": "1" + "0" * 400,
    "key twice": '{"a": 1, "b": {"c": 1, "c": 2}}',
    "nothing": "",
    "two values": "{} {}",
    "cut": '{"a": [1, 2',
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-16"])
def test_what_is_odd_is_one_line(name, encoding):
    content = ODD[name].encode(encoding) if encoding else ODD[name]
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_json(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_list_may_be_as_deep_as_the_limit_says_and_as_long_as_it_likes():
    deepest = "[" * MOST_NESTED + "]" * MOST_NESTED
    assert parse_json(deepest) == json.loads(deepest)
    long = json.dumps([[[n], {"n": n}] for n in range(1000)])
    assert parse_json(long) == json.loads(long)


def test_sloppy_writers_are_read_too():
    assert parse_json('{"a": NaN, "b": -Infinity, "c": 1, "c": 2}', sloppy=True) == {"a": None, "b": None, "c": 2}
    for name in ("deep", "deep enough to parse", "infinity", "400 digits", "cut"):
        with pytest.raises(ValueError, match=r"\w"):
            parse_json(ODD[name], sloppy=True)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_text_is_read_as_python_reads_it_or_refused(seed):
    rng = np.random.default_rng(seed)
    text = json.dumps({"schema": 1, "splits": {"train": {"shards": [{"bytes": 10, "x": [1.5e3, None, True, "é"]}]}}})
    letters = list('{}[]",:0123456789eE+-.tfnIN \\u')
    lines = []
    for _ in range(300):
        mutated = list(text)
        for at in rng.integers(0, len(text), rng.integers(1, 4)):
            mutated[at] = str(rng.choice(letters))
        content = "".join(mutated)
        try:
            value = parse_json(content)
        except ValueError as error:
            lines.append(str(error))
        else:
            assert value == json.loads(content)
    assert len(lines) > 100
    assert not any("\n" in line for line in lines)


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("fewstep.files.plain_json.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="longer than 1000 bytes"):
        read_json("/dev/zero")
    (tmp_path / "a.json").write_text("[1]" + " " * 997)
    assert read_json(tmp_path / "a.json") == [1]
