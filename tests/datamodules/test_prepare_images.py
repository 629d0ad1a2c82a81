"""The picture sets that ship with the project: what they promise, checked on the files themselves."""

import hashlib
import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.image_decoding import decode_image
from datamodules.prepare.emoji_table import base_concept

DATA = Path(__file__).parents[2] / "data"


def read_folder(folder):
    """{split: {key: {suffix: bytes}}} with the standard library's reader."""
    found = defaultdict(lambda: defaultdict(dict))
    for path in sorted(Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found[path.name.rsplit("-", 1)[0]][key][suffix] = tar.extractfile(member).read()
    return found


@pytest.fixture(scope="module")
def shipped_emoji():
    return read_folder(DATA / "emoji64")


@pytest.mark.parametrize(("name", "limit"), [("emoji64", 12e6), ("avatars64", 7e6), ("avatar_scenes64", 3e6)])
def test_the_shipped_sets_are_small_and_credited(name, limit):
    files = list((DATA / name).iterdir())
    assert sum(file.stat().st_size for file in files) <= limit
    assert {"NOTICE", "README.md", "index.json"} <= {file.name for file in files}
    index = json.loads((DATA / name / "index.json").read_text())
    for split in index["splits"].values():
        for shard in split["shards"]:
            assert hashlib.sha256((DATA / name / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


def test_every_shipped_emoji_decodes(shipped_emoji):
    assert {split: len(samples) > 300 for split, samples in shipped_emoji.items()} == dict.fromkeys(shipped_emoji, True)
    assert set(shipped_emoji) == {"train", "val", "test"}
    for samples in shipped_emoji.values():
        for files in samples.values():
            assert set(files) == {"webp", "json"}
            assert decode_image(files["webp"]).shape == (3, 64, 64)
            assert len(files["json"]) <= 1024


def test_no_shipped_concept_lies_in_two_splits(shipped_emoji):
    modifiers = re.compile(r"-?\b(1F3F[B-F]|200D|2640|2642|FE0F)\b")
    where = defaultdict(set)
    for split, samples in shipped_emoji.items():
        styles = defaultdict(set)
        for key in samples:
            concept, style = key.split("_")
            where[modifiers.sub("", concept)].add(split)
            styles[concept].add(style)
        assert all(found == {"noto", "twemoji", "fluent"} for found in styles.values())
    assert len(where) > 1200
    assert {len(splits) for splits in where.values()} == {1}
    shares = np.array([sum(split in splits for splits in where.values()) for split in ("train", "val", "test")]) / len(
        where
    )
    np.testing.assert_allclose(shares, [0.80, 0.08, 0.12], atol=0.03)


def test_shipped_captions_of_the_two_sets_never_meet(shipped_emoji):
    ours, theirs = set(), set()
    for samples in shipped_emoji.values():
        for files in samples.values():
            about = json.loads(files["json"])
            assert len(about["captions"]) >= 5
            assert len(about["scoring_captions"]) >= 3
            ours |= set(about["captions"])
            theirs |= set(about["scoring_captions"])
    assert not ours & theirs


def test_what_editing_holds_out_has_a_source_to_edit(shipped_emoji):
    about = {key: json.loads(files["json"]) for key, files in shipped_emoji["train"].items()}
    sources = defaultdict(set)
    for one in about.values():
        if one["edit_split"] == "train":
            sources[base_concept(one["concept"])].add((one["style"], one["skin_tone"]))
    held_out = [one for one in about.values() if one["edit_split"] != "train"]
    counts = defaultdict(int)
    for one in held_out:
        counts[one["edit_split"], one["held_out"]] += 1
        cells = sources[base_concept(one["concept"])]
        assert cells, one["concept"]
        if one["held_out"] == "style":
            assert one["style"] not in {style for style, _ in cells}
        else:
            assert one["skin_tone"] not in {tone for _, tone in cells}
    assert set(counts) == {(split, axis) for split in ("val", "test") for axis in ("style", "skin_tone")}
    for split in ("val", "test"):
        kept = [json.loads(files["json"]) for files in shipped_emoji[split].values()]
        assert {(one["edit_split"], one["held_out"]) for one in kept} == {(split, "concept")}


@pytest.mark.parametrize(("name", "persons"), [("avatars64", 1), ("avatar_scenes64", 2)])
def test_shipped_avatars_are_exact_pairs(name, persons):
    folder, pictures = read_folder(DATA / name), {}
    assert set(folder) == {"train", "val", "test"}
    for split, samples in folder.items():
        for files in samples.values():
            about = json.loads(files["json"])
            source, target = (decode_image(files[name]) for name in ("webp", "edited.webp"))
            assert source.shape == target.shape == (3, 64, 64 * persons)
            blocks = source[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2)
            assert torch.equal(source, blocks)  # drawn pixels of 4 x 4
            differs = [tile.any(0).float().mean() for tile in (source != target).chunk(persons, 2)]
            where = about.get("changed_person", 0)
            assert 0.005 <= differs.pop(where) < 1
            assert not any(differs)
            before, after = (listed(about[key]) for key in ("attributes", "edited_attributes"))
            hidden, hidden_after = (listed(about[key]) for key in ("hidden", "edited_hidden"))
            one, other = before[where] | hidden[where], after[where] | hidden_after[where]
            assert [name for name in one if one[name] != other[name]] == [about["changed"]]
            assert before[:where] + before[where + 1 :] == after[:where] + after[where + 1 :]
            assert all(seen["hat"] != "none" or not below for seen, below in zip(before, hidden, strict=True))
            if after[where][about["changed"]] != "none":
                assert after[where][about["changed"]] in about["instruction"]
            assert about["caption"] == about["captions"][0] != about["edited_caption"]
            for text in (about["caption"], about["edited_caption"]):
                assert pictures.setdefault(text, split) == split  # no complete caption in two splits


def listed(values):
    return values if isinstance(values, list) else [values]
