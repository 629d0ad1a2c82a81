"""The command that lists the captions of a split as prompts."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from datamodules.prepare.__main__ import main
from fewstep.files.prompt_files import read_prompt_file
from tests.datamodules.picture_shards import write_folder

AVATARS = str(Path(__file__).parents[2] / "data" / "avatars64")


def test_prompts_come_with_what_they_ask_for(tmp_path, capsys):
    out = tmp_path / "known.jsonl"
    argv = [
        "prompts",
        "--data",
        AVATARS,
        "--split",
        "val",
        "--num",
        "5",
        "--attributes",
        "attributes",
        "--out",
        str(out),
    ]
    assert main(argv) == 0
    assert f"{out}: 5 prompts of {AVATARS}, val" in capsys.readouterr().out
    found = read_prompt_file(out)
    assert len({prompt.key for prompt in found}) == 5
    for prompt in found:
        assert prompt.text.startswith("a pixel art avatar with")
        assert prompt.attributes["skin"] in prompt.text
    assert main(argv) == 0  # nothing is replaced
    assert read_prompt_file(tmp_path / "known-2.jsonl") == found


def test_all_of_a_split_and_no_attributes(tmp_path):
    write_folder(tmp_path / "data", [7], "val")
    out = tmp_path / "prompts.jsonl"
    assert main(["prompts", "--data", str(tmp_path / "data"), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows == [{"prompt": f"picture {n}", "key": f"{n:05d}"} for n in range(7)]


def stored(folder, key):
    """The picture of a sample, as its shard holds it."""
    for file in Path(folder).glob("val*.tar"):
        with tarfile.open(file) as shard:
            for name in shard.getnames():
                if name.split(".")[0] == key and name.count(".") == 1 and name.split(".")[1] in ("png", "webp"):
                    return io.BytesIO(shard.extractfile(name).read())
    raise AssertionError(f"no picture of {key}")


def test_edits_come_with_the_picture_and_what_it_shall_become(tmp_path, capsys):
    scenes, out = str(Path(AVATARS).with_name("avatar_scenes64")), tmp_path / "edits.jsonl"
    argv = [
        "prompts",
        "--data",
        scenes,
        "--num",
        "3",
        "--caption",
        "edited_caption",
        "--attributes",
        "edited_attributes",
    ]
    argv += ["--images", "64x128", "--out", str(out)]
    assert main(argv) == 0
    plain = [
        "prompts",
        "--data",
        scenes,
        "--num",
        "3",
        "--attributes",
        "attributes",
        "--out",
        str(tmp_path / "p.jsonl"),
    ]
    assert main(plain) == 0
    before = read_prompt_file(tmp_path / "p.jsonl")
    for edit, prompt in zip(read_prompt_file(out), before, strict=True):
        assert (edit.key, edit.text != prompt.text) == (prompt.key, True)
        changed = [old.items() ^ new.items() for old, new in zip(prompt.attributes, edit.attributes, strict=True)]
        assert 0 < sum(map(len, changed)) <= 4
        assert edit.image == f"edits/{edit.key}.png"
        with Image.open(tmp_path / edit.image) as picture, Image.open(stored(scenes, edit.key)) as drawing:
            assert picture.size == (128, 64)
            assert picture.convert("RGB").tobytes() == drawing.convert("RGB").tobytes()
    assert main(argv) == 2  # nothing is replaced
    assert "exists, and pictures go beside edits.jsonl" in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, capsys):
    write_folder(tmp_path / "data", [3], "val")
    for more, told in (
        (["--attributes", "colour"], "sample 00000 has no colour in its metadata"),
        (["--split", "nights"], "nights"),
        (["--num", "0"], "--num 0: take at least one"),
    ):
        assert main(["prompts", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "p.jsonl"), *more]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not (tmp_path / "p.jsonl").exists()
