"""Folders of PIE-Bench: masks against runs written out by hand, texts, sizes, and what is wrong in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.editors.edits import Edits, chosen, true_mask
from fewstep.editors.pie_bench import read_pie_bench, run_length_mask
from tests.tiny_pie_bench import write_pie_bench


def test_pictures_prompts_and_masks_are_those_of_the_file(tmp_path):
    edits = read_pie_bench(write_pie_bench(tmp_path), (16, 16))
    assert edits.key == [f"{number:012d}" for number in range(5)]
    assert (edits.source[0], edits.target[0]) == ("a red square", "a green square")
    assert edits.blend[0] == ("red", "green")
    assert edits.wording == edits.target
    pixels = np.asarray(Image.open(tmp_path / "annotation_images/1_change_object_80/000000000002.png"))
    assert torch.equal(edits.image[2], torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    floating = edits.to("cpu")
    torch.testing.assert_close(floating.image[2], torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 127.5 - 1)
    assert floating.mask.dtype == torch.float32
    expected = np.zeros((16, 16))
    expected[4, 3:9] = expected[5, 3:11] = 1  # the second run has 6 + 2
    expected[[0, -1]] = 1
    expected[:, [0, -1]] = 1
    assert torch.equal(edits.mask[2, 0], torch.from_numpy(expected).byte())


def test_another_size_takes_picture_and_mask_along(tmp_path):
    whole = read_pie_bench(write_pie_bench(tmp_path), (16, 16))
    edits = read_pie_bench(tmp_path, (32, 32))
    assert torch.equal(edits.mask, whole.mask.repeat_interleave(2, 2).repeat_interleave(2, 3))
    wide = read_pie_bench(tmp_path, (8, 16))
    assert torch.equal(wide.mask, whole.mask[:, :, 4:12])
    torch.testing.assert_close(wide.image, whole.image[:, :, 4:12])


def test_a_last_run_may_reach_beyond_the_end_and_no_other_may_begin_there():
    mask = run_length_mask([16 * 13 + 5, 1000], (16, 16))
    assert mask[0, 0, 13, 4] == 0
    assert mask[0, 0, 13:].sum() == 16 * 3 - 4  # from its sixth pixel on, and the border's one
    with pytest.raises(ValueError, match=r"begins a run at pixel 300, its picture has 16 x 16 = 256; .* other size"):
        run_length_mask([3, 2, 300, 5], (16, 16))
    for bad in ([1], "12", [1.5, 2], [-1, 2], None, [True, 2]):
        with pytest.raises(ValueError, match=r"mask must be \[start, length"):
            run_length_mask(bad, (16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_path": "nowhere.png"}, r"the picture \S+nowhere.png does not exist"),
        ({"image_path": "../../secret.png"}, "leads out of annotation_images"),
        ({"editing_prompt": None}, "needs the texts image_path, original_prompt, editing_prompt"),
        ({"mask": [5000, 3]}, "of a picture of other size"),
    ],
)
def test_a_bad_edit_is_one_line(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        read_pie_bench(write_pie_bench(tmp_path, n1=changes), (16, 16))
    assert "\n" not in str(error.value)


def test_a_bad_file_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read \S+mapping_file.json"):
        read_pie_bench(tmp_path, (16, 16))
    (tmp_path / "mapping_file.json").write_text("[]")
    with pytest.raises(ValueError, match="must be an object of edits by key, and not empty"):
        read_pie_bench(tmp_path, (16, 16))


def test_edits_hold_together():
    images = torch.zeros(2, 3, 8, 8)
    texts = {"source": ["a", "b"], "target": ["c", "d"], "wording": ["c", "d"], "blend": [None, None]}
    with pytest.raises(ValueError, match="each edit needs a picture and a mask of its size"):
        Edits(images, torch.zeros(2, 1, 8, 9), **texts, key=["x", "y"])
    with pytest.raises(ValueError, match="the key 'x' belongs to several edits"):
        Edits(images, torch.zeros(2, 1, 8, 8), **texts, key=["x", "x"])
    edits = Edits(images, torch.zeros(2, 1, 8, 8), **texts, key=["x", "y"], edited=images + 1)
    assert edits[[1]].target == ["d"]
    assert edits[[1]].edited.shape == (1, 3, 8, 8)
    with pytest.raises(ValueError, match="too few edits: 1 to measure"):
        chosen(edits, [0])


def test_a_true_edit_marks_what_it_changes():
    image = torch.zeros(1, 3, 4, 4)
    edited = image.clone()
    edited[0, 1, 2, 3] = 0.5
    edited[0, 2, 0, 0] = 1 / 255  # half a grey level
    assert true_mask(image, edited).nonzero().tolist() == [[0, 0, 2, 3]]
