"""Which text belongs to which picture: suffixes in any case, either normal form, and never a guess."""

import random
import unicodedata

import pytest

from datamodules.prepare.sidecars import composed, stem, texts_of

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("suffix", [".txt", ".TXT", ".Txt", ".tXt"])
def test_a_suffix_may_be_written_in_any_case(suffix):
    assert texts_of(["a/cat.png"], [f"a/cat{suffix}", "cat.txt"]) == {"a/cat.png": f"a/cat{suffix}"}


@pytest.mark.parametrize(
    ("pictures", "texts", "found"),
    [
        (["a.png", "a.jpg"], ["a.txt"], {"a.png": "a.txt", "a.jpg": "a.txt"}),
        (["a.png"], ["a.TXT", "a.txt", "a.Txt"], {"a.png": "a.txt"}),
        (["a.b.png", "a.png"], ["a.b.txt"], {"a.b.png": "a.b.txt"}),
        (["A.png"], ["a.txt"], {}),
        ([f"{NFC}.png"], [f"{NFD}.txt"], {f"{NFC}.png": f"{NFD}.txt"}),
        ([f"{NFC}.png", f"{NFC}.gif"], [f"{NFD}.TXT"], dict.fromkeys([f"{NFC}.png", f"{NFC}.gif"], f"{NFD}.TXT")),
        ([f"{NFC}.png", f"{NFD}.png"], [f"{NFD}.txt"], {f"{NFD}.png": f"{NFD}.txt"}),
        ([f"{NFC}.png"], [f"{NFD}.txt", f"{NFC}.txt"], {f"{NFC}.png": f"{NFC}.txt"}),
        ([f"{NFC}/a.png"], [f"{NFD}/a.txt"], {f"{NFC}/a.png": f"{NFD}/a.txt"}),
        ([], ["a.txt"], {}),
        (["a.png"], [], {}),
    ],
)
def test_pairs(pictures, texts, found):
    assert texts_of(pictures, texts) == found


@pytest.mark.parametrize("seed", range(20))
def test_a_text_has_the_name_of_its_picture_and_no_exact_one_is_passed_over(seed):
    rng = random.Random(seed)
    names = ["caf\u00e9", "\u00fc/x", "x", "\u1e69", "\u00fc/\u00e9"]
    names = [unicodedata.normalize(rng.choice(["NFC", "NFD"]), name) for name in names * 2]
    pictures = sorted({f"{name}.{rng.choice(['png', 'jpg'])}" for name in names if rng.random() < 0.7})
    texts = sorted({f"{name}.{rng.choice(['txt', 'TXT'])}" for name in names if rng.random() < 0.7})
    found = texts_of(pictures, texts)
    assert set(found) <= set(pictures)
    for picture, text in found.items():
        assert text in texts
        assert composed(stem(picture)) == composed(stem(text))
    for picture in pictures:
        if same := [text for text in texts if stem(text) == stem(picture)]:
            assert found[picture] in same
    for text in set(found.values()):  # never one text for two names
        assert len({stem(picture) for picture, own in found.items() if own == text}) == 1
