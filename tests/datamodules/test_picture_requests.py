import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.picture_requests import PictureRequests
from datamodules.request_files import read_prompts, read_requests

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(name, size=(40, 20), colour=RED, mode="RGB", **options):
    Image.new(mode, size, colour).save(name, **options)
    return name


def batches(image_size=8, **options):
    data = PictureRequests(image_size=image_size, **options)
    return [data.on_after_batch_transfer(batch, 0) for batch in data.predict_dataloader()]


def edit(**options):
    (batch,) = batches(**{"image": picture("cat.png"), "source": "a cat", "target": "a dog"} | options)
    return batch


def test_one_edit(folder):
    batch = edit()
    assert batch["image"].shape == (1, 3, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["image"][0].amax((1, 2)).tolist() == [1, -1, -1]
    assert (batch["caption"], batch["target"], batch["key"]) == (["a cat"], ["a dog"], ["cat"])
    assert batch["weight"].tolist() == [1]
    assert "mask" not in batch


def test_without_a_target_it_is_reconstructed(folder):
    assert "target" not in edit(target=None)


def test_collated_as_bytes(folder):
    (batch,) = PictureRequests(image=picture("a.png"), source="a", image_size=8).predict_dataloader()
    assert batch["image"].dtype == torch.uint8


def halves(name, **options):
    """Left half red, right half blue, 40 x 20."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    image.save(name, **options)
    return name


def test_center_keeps_the_middle_and_none_all_of_it(folder):
    cut = edit(image=halves("half.png"))["image"][0]
    assert cut[:, 4, 1].tolist() == [1, -1, -1]
    assert cut[:, 4, 6].tolist() == [-1, -1, 1]
    padded = edit(image="half.png", crop="none", background="00ff00")["image"][0]
    assert padded[:, 0, 4].tolist() == [-1, 1, -1]
    assert padded[:, 4, 0].tolist() == [1, -1, -1]


def test_a_request_is_cut_or_padded_to_the_models_shape(folder):
    """40 x 20 with a red and a blue half, for a model of 8 x 4 (height x width) and one of its own shape."""
    mask = Image.new("L", (40, 20))
    mask.paste(255, (20, 0, 40, 20))
    mask.save("mask.png")
    given = {"image": halves("half.png"), "mask": "mask.png"}
    for size, edge in (([8, 4], 2), ([6, 12], 6)):  # of the first model only the middle 10 columns of 40 are seen
        batch = edit(image_size=size, **given)
        assert batch["image"].shape == (1, 3, *size)
        expected = torch.cat([torch.zeros(edge), torch.ones(size[1] - edge)]).expand(size[0], -1)
        assert torch.equal(batch["mask"][0, 0].round(), expected)
        assert torch.equal(batch["image"][0, 2].sign(), 2 * expected - 1)
    padded = edit(image_size=[8, 4], crop="none", background="00ff00", **given)
    assert padded["image"][0, :, [0, 2, 5, 7], 1].T.tolist() == [[-1, 1, -1]] * 4
    assert padded["mask"][0, 0, :, 3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match=r"image_size=\[8\]: give one whole number"):
        edit(image_size=[8], **given)


def test_transparent_and_rotated_pictures(folder):
    clear = picture("clear.png", mode="RGBA", colour=(9, 9, 9, 0))
    assert edit(image=clear, background="0000ff")["image"][0, :, 4, 4].tolist() == [-1, -1, 1]
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right: what was left is on top
    rotated = edit(image=halves("turned.jpg", exif=exif, quality=100))["image"][0]
    assert rotated[0, 0, 4] > 0.9
    assert rotated[2, 7, 4] > 0.9


@pytest.mark.parametrize(("crop", "border"), [("center", None), ("none", 0)])
def test_a_mask_goes_with_its_image(folder, crop, border):
    mask = Image.new("L", (40, 20), 0)
    mask.paste(255, (20, 0, 40, 20))
    mask.save("mask.png")
    batch = edit(mask="mask.png", crop=crop)
    assert batch["mask"].shape == (1, 1, 8, 8)
    assert batch["mask"][0, 0, 4, [0, 1, 6, 7]].tolist() == [0, 0, 1, 1]
    assert border is None or batch["mask"][0, 0, 0].max() == border


def test_many_edits_in_batches(folder):
    Path("sub").mkdir()
    names = [picture(f"sub/{i}.png", colour=(i * 50, 0, 0)) for i in range(5)]
    rows = [{"image": Path(n).name, "source": f"s{i}", "target": f"t{i}"} for i, n in enumerate(names)]
    rows[3]["mask"] = Path(picture("sub/m.png", colour=0, mode="L")).name
    Path("sub/edits.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    found = batches(requests="sub/edits.jsonl", batch_size=2)
    assert [len(batch["key"]) for batch in found] == [2, 2, 1]
    assert [t for batch in found for t in batch["target"]] == [f"t{i}" for i in range(5)]
    masks = [mask.mean().item() for batch in found for mask in batch["mask"]]
    assert masks == [1, 1, 1, 0, 1]  # where none is given, all may change
    reds = torch.cat([batch["image"] for batch in found])[:, 0, 0, 0]
    assert ((reds + 1) * 127.5).round().tolist() == [0, 50, 100, 150, 200]


def test_csv_says_the_same_as_jsonl(folder):
    picture("a.png")
    Path("r.csv").write_text('\ufeffimage,source,target,mask\na.png,"red, and big",blue,\n,,,\na.png,red,green,a.png\n')
    rows = [{"image": "a.png", "source": "red, and big", "target": "blue"}]
    rows += [{"image": "a.png", "source": "red", "target": "green", "mask": "a.png"}]
    Path("r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_requests("r.csv") == read_requests("r.jsonl")


def test_prompts_have_numbered_keys(folder):
    Path("p.txt").write_text("a red heart\n\n  ../../etc/passwd  \n" + "\n".join(["same"] * 9))
    (batch,) = batches(prompts="p.txt")
    assert batch["caption"][:2] == ["a red heart", "../../etc/passwd"]
    assert batch["key"][:3] == ["01-a-red-heart", "03-..-..-etc-passwd", "04-same"]
    assert len(set(batch["key"])) == 11
    assert "image" not in batch


def test_keys_are_distinct_and_safe_as_file_names(folder):
    picture("Cat.png"), picture("cat.png")
    keys = ["", "", "x/../y", "X-..-Y", "con", "..", "ünï code"]
    rows = [{"image": i, "source": "s"} | ({"key": k} if k else {}) for i, k in zip(["Cat.png", "cat.png"] * 4, keys)]  # noqa: B905
    Path("r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = [request.key for request in read_requests("r.jsonl")]
    assert found == ["Cat", "cat-2", "x-..-y", "X-..-Y-2", "con-", "picture", "uni-code"]


def test_processes_share_the_requests_and_get_equal_numbers(folder):
    Path("p.txt").write_text("\n".join(f"prompt {i}" for i in range(5)))
    data = PictureRequests(prompts="p.txt", batch_size=2)

    class Trainer:
        world_size = 2

    kept = []
    for rank in range(2):
        data.trainer = Trainer()
        data.trainer.global_rank = rank
        found = list(data.predict_dataloader())
        assert [len(batch["key"]) for batch in found] == [2, 1]
        kept += [c for batch in found for c, w in zip(batch["caption"], batch["weight"], strict=True) if w]
    assert sorted(kept) == [f"prompt {i}" for i in range(5)]


def lines(*rows):
    Path("r.jsonl").write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return {"requests": "r.jsonl"}


GOOD = {"image": "cat.png", "source": "a cat", "target": "a dog"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "give one of: image with source and target, folder, requests (.jsonl, .csv), or prompts (.txt); given are "
            "none",
        ),
        ({**GOOD, "folder": "."}, "given are image, source, target, folder"),
        ({"folder": "nowhere"}, "folder=nowhere: holds no picture; give a folder of jpg"),
        ({**GOOD, "prompts": "p.txt"}, "given are image, source, target, prompts"),
        ({"image": "no.png", "source": "a cat"}, "the request: image no.png does not exist"),
        ({**GOOD, "source": "  "}, "the request: source is empty; write what it should be"),
        ({"image": "cat.png", "target": "a dog"}, "source is missing; give what the picture shows, in words"),
        ({"source": "a cat", "target": "a dog"}, "image is missing; give the picture to edit"),
        ({**GOOD, "mask": "no.png"}, "mask no.png does not exist"),
        ({**GOOD, "crop": "random"}, "crop='random': an edit needs the same part"),
        ({**GOOD, "crop": "left"}, "crop='left': use one of"),
        ({**GOOD, "batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"requests": "no.csv"}, "no.csv does not exist"),
        ({"requests": "."}, "requests=.: give a .jsonl or .csv file"),
        ({"prompts": "."}, ". is a folder; give a file"),
        ({"prompts": "empty.txt"}, "empty.txt holds nothing"),
        ({"prompts": "cat.png"}, "cat.png is not UTF-8 text"),
        (lambda: lines(GOOD, "{"), "r.jsonl: line 2 is not JSON"),
        (lambda: lines(GOOD, "", "[1]"), "r.jsonl: line 3 holds a list; write an object"),
        (lambda: lines({**GOOD, "tagret": "x"}), "r.jsonl: line 1: unknown field 'tagret'; nearest field: 'target'"),
        (lambda: lines({**GOOD, "source": 3}), "line 1: source is 3; write text, in quotes"),
        (lambda: lines(GOOD, {"image": "cat.png", "source": "a"}), "some requests have a target and some have none"),
    ],
)
def test_a_mistake_is_one_line_before_any_picture_is_made(folder, options, message):
    picture("cat.png")
    Path("p.txt").write_text("a prompt")
    Path("empty.txt").write_text("\n \n")
    with pytest.raises(ValueError) as error:  # noqa: PT011  the messages hold signs of regular expressions
        PictureRequests(**(options() if callable(options) else options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_of_pictures_needs_no_words(folder):
    Path("in").mkdir()
    for name in ("in/b.png", "in/a.webp", "in/.hidden.png", "in/b.JPG"):
        picture(name, format="PNG")
    Path("in/notes.txt").write_text("no picture")
    (batch,) = batches(folder="in")
    assert batch["key"] == ["a", "b", "b-2"]
    assert batch["caption"] == [""] * 3
    assert batch["image"].shape == (3, 3, 8, 8)
    assert "target" not in batch


def test_damaged_pictures_and_masks_of_another_size(folder):
    Path("broken.png").write_bytes(Path(picture("good.png")).read_bytes()[:40])
    with pytest.raises(ValueError, match=r"cannot read the picture broken\.png: "):
        edit(image="broken.png")
    with pytest.raises(ValueError, match="too_large: 40 x 20 pixels, the limit is 100"):
        edit(max_pixels=100)
    with pytest.raises(ValueError, match=r"the mask m\.png has 20 x 20 pixels, its image 40 x 20; draw the mask"):
        edit(mask=picture("m.png", size=(20, 20), colour=0, mode="L"))


def test_prompts_are_read_as_utf8(folder):
    Path("p.txt").write_bytes("\ufeffein Fuchs für mich\r\n日本".encode())
    assert [request.source for request in read_prompts("p.txt")] == ["ein Fuchs für mich", "日本"]
    assert [request.key for request in read_prompts("p.txt")] == ["1-ein-Fuchs-fur-mich", "2"]


def test_16_bit_grey_is_read(folder):
    Image.fromarray(np.full((9, 9), 65535, dtype=np.uint16)).save("deep.png")
    assert edit(image="deep.png")["image"].min() == 1
