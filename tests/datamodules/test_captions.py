"""Captions from .txt and .json, as img2dataset and this project write them; whatever is wrong with them has a name."""

import json

import pytest

from datamodules.bad_sample import BadSample
from datamodules.captions import MAX_BYTES, captions_of

# What img2dataset 1.45 writes beside a picture.
IMG2DATASET = {
    "caption": "a cat",
    "url": "https://example.org/1.jpg",
    "key": "000000001",
    "status": "success",
    "error_message": None,
    "width": 256,
    "height": 256,
    "original_width": 640,
    "exif": '{"Image Orientation": "Horizontal (normal)"}',
    "sha256": "0" * 64,
}


def js(**values) -> bytes:
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    ("text", "metadata", "captions"),
    [
        (b"a cat", None, ["a cat"]),
        (b"  a cat \r\n", None, ["a cat"]),
        ("\ufeffa caf\u00e9 \U0001f408".encode(), None, ["a caf\u00e9 \U0001f408"]),
        (b"two\nlines", None, ["two\nlines"]),
        (b"from txt", js(caption="from json"), ["from txt"]),
        (b"from txt", js(captions=["one", " two "], caption="from json"), ["one", "two"]),
        (b"from txt", js(captions=[]), ["from txt"]),
        (b"from txt", js(captions=None, caption=None), ["from txt"]),
        (None, js(captions=["", "one", "\t"]), ["one"]),
        (None, js(caption="from json"), ["from json"]),
        (b" ", js(caption="from json"), ["from json"]),
        (b"from txt", js(captions=[" "]), ["from txt"]),
        (b"from txt", b'{"caption": NaN}', ["from txt"]),
        (None, b'\xef\xbb\xbf{"caption": "\\ud83d\\udc08"}', ["\U0001f408"]),
    ],
)
def test_the_first_source_with_anything_in_it(text, metadata, captions):
    assert captions_of(text, metadata)[0] == captions


def test_unnormalised_text_stays_as_it_is():
    decomposed = "cafe\u0301"
    assert captions_of(decomposed.encode(), None)[0] == [decomposed]


def test_img2dataset():
    assert captions_of(b"a cat", js(**IMG2DATASET)) == (["a cat"], IMG2DATASET)
    without = IMG2DATASET | {"caption": None}  # then img2dataset writes an empty .txt, or none
    for text, kind in ((b"", "empty_caption"), (None, "missing_caption")):
        with pytest.raises(BadSample, match=kind):
            captions_of(text, js(**without))


def test_metadata_is_what_the_json_holds():
    assert captions_of(b"x", js(a=[1, {"b": None}]))[1] == {"a": [1, {"b": None}]}
    assert captions_of(b"x", None)[1] == {}


@pytest.mark.parametrize(
    ("text", "metadata", "kind"),
    [
        (None, None, "missing_caption"),
        (None, b"{}", "missing_caption"),
        (None, js(captions=[]), "missing_caption"),
        (b"", None, "empty_caption"),
        (b" \n\t", None, "empty_caption"),
        (None, js(caption=" "), "empty_caption"),
        (None, js(captions=["", " "]), "empty_caption"),
        (b"caf\xe9", None, "not_utf8"),
        ("utf-16".encode("utf-16"), None, "not_utf8"),
        (b"x", '{"a": "é"}'.encode("latin-1"), "not_utf8"),
        (b"x", json.dumps({"caption": "utf-16"}).encode("utf-16"), "not_utf8"),
        (None, b'{"caption": "\\ud800"}', "bad_json"),
        (None, b'{"captions": ["\\ud83d", "\\udc08"]}', "bad_json"),
        (b"x", b"", "empty_file"),
        (b"x", b"[1]", "bad_json"),
        (b"x", b'"x"', "bad_json"),
        (b"x", b"null", "bad_json"),
        (b"x", b'{"caption": "a"', "bad_json"),
        (b"x", b'{"caption": "a"} {}', "bad_json"),
        (b"x", b"{'caption': 'a'}", "bad_json"),
        (b"x", b"\0\0\0", "bad_json"),
        (b"x", js(captions="one"), "bad_json"),
        (b"x", js(captions=["one", 2]), "bad_json"),
        (b"x", js(captions={"one": 1}), "bad_json"),
        (b"x", js(caption=3), "bad_json"),
        (b"x", js(caption=["a"]), "bad_json"),
        (b"x", b'{"a": ' + b"9" * 5000 + b"}", "bad_json"),
        (b"x", b"[" * 100_000, "bad_json"),
        (b"x", b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "bad_json"),
        (b"x" * (MAX_BYTES + 1), None, "too_large"),
        (b"x", js(a="x" * MAX_BYTES), "too_large"),
    ],
)
def test_every_fault_has_a_name(text, metadata, kind):
    with pytest.raises(BadSample) as caught:
        captions_of(text, metadata)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_the_limit_is_exact():
    assert len(captions_of(b"x" * MAX_BYTES, None)[0][0]) == MAX_BYTES
