"""One hash for the same tensors and notes in whatever order they are written, another for any change of them."""

import json

import torch
from safetensors.torch import save_file

from fewstep.files.weights import safetensors_sha256

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3)}
NOTES = {f"note {number}": str(number) for number in range(8)}  # more orders than any luck


def digest(folder, tensors=TENSORS, notes=NOTES):
    save_file(tensors, folder / "x.safetensors", notes)
    return safetensors_sha256(folder / "x.safetensors")


def turned(file):
    """The same file with its header the other way round."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header = {"__metadata__": dict(reversed(header.pop("__metadata__").items())), **dict(reversed(header.items()))}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def test_the_order_of_the_header_is_not_hashed(tmp_path):
    found = digest(tmp_path)
    turned(tmp_path / "x.safetensors")
    assert safetensors_sha256(tmp_path / "x.safetensors") == found
    assert digest(tmp_path, dict(reversed(TENSORS.items())), dict(reversed(NOTES.items()))) == found


def test_everything_else_is(tmp_path):
    changed = [
        digest(tmp_path, TENSORS | {"b": torch.ones(3) + 1e-6}),
        digest(tmp_path, TENSORS | {"a": torch.arange(6.0).view(3, 2)}),
        digest(tmp_path, {"a": TENSORS["a"], "c": TENSORS["b"]}),
        digest(tmp_path, notes=NOTES | {"note 0": "1"}),
    ]
    assert len({digest(tmp_path), *changed}) == 5
