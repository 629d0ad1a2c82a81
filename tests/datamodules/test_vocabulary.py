"""The command that learns a vocabulary from a shard folder."""

import io
import json
import tarfile

import open_clip
import pytest

from datamodules.prepare.__main__ import main
from datamodules.prepare.vocabulary import read_captions


@pytest.fixture
def folder(tmp_path):
    """Three samples with json, one with .txt, one without captions, over two shards."""
    samples = [
        {"a.json": {"captions": ["red apple", "red apple pie"], "more": ["crimson fruit"]}},
        {"b.json": {"captions": ["red pear"], "more": ["crimson pear", "crimson pear"]}},
        {"c.json": {"more": []}},
        {"d.txt": "a red plum", "d.json": {"more": ["crimson plum"]}},
    ]
    for shard in range(2):
        with tarfile.open(tmp_path / f"train-{shard:06d}.tar", "w") as tar:
            for sample in samples[2 * shard : 2 * shard + 2]:
                for name, content in sample.items():
                    data = (content if isinstance(content, str) else json.dumps(content)).encode()
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return tmp_path


def test_reads_every_caption_once_and_skips_samples_without(folder):
    assert list(read_captions(str(folder), "train", ["captions"])) == [
        "red apple",
        "red apple pie",
        "red pear",
        "a red plum",
    ]
    both = list(read_captions(str(folder), "train", ["captions", "more"]))
    assert both.count("crimson pear") == 2
    assert len(both) == 8


def test_writes_a_vocabulary_in_which_frequent_words_are_one_token(folder, capsys):
    out = folder / "words" / "bpe.txt.gz"
    assert (
        main(["vocabulary", "--data", str(folder), "--fields", "captions", "more", "--size", "600", "--out", str(out)])
        == 0
    )
    assert "from 8 captions" in capsys.readouterr().out
    tokenizer = open_clip.SimpleTokenizer(bpe_path=str(out))
    assert [len(tokenizer.encode(word)) for word in ("red", "crimson", "zyx")] == [1, 1, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--fields", "colours"], "no list of texts 'colours'"),
        (["--size", "500"], "more than 514"),
        (["--out", "bpe.json"], "ends in .txt.gz"),
        (["--split", "dev"], "dev"),
    ],
)
def test_mistakes_are_one_line(folder, change, message, capsys):
    options = {"--data": str(folder), "--out": str(folder / "bpe.txt.gz")} | {change[0]: change[1]}
    assert main(["vocabulary", *(word for pair in options.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "bpe.txt.gz").exists()
