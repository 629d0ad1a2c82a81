"""The one reader of .npy: equal to what numpy.save was given, and every damage is one kind of error."""

import io
import logging
import struct

import numpy as np
import pytest

from datamodules import ImageTextDataModule
from datamodules.bad_sample import BadSample
from datamodules.image_options import LoaderOptions
from datamodules.npy_decoding import decode_npy, view_npy
from datamodules.tar_shard import parse_npy
from tests.datamodules.picture_shards import write_folder


def saved(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header))
    return b"\x93NUMPY" + version + length + header.encode("latin-1") + body


def header(descr: str = "'<f4'", shape: str = "(4, 2, 2)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


GOOD = saved(np.arange(16, dtype=np.float32).reshape(4, 2, 2))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f4", ">i2"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 2, 3), (0, 5), (1,) * 32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_it_reads_what_numpy_writes(dtype, shape, order):
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype, order=order)
    found = decode_npy(saved(values))
    assert found.dtype == values.dtype.newbyteorder("=")
    assert found.shape == shape
    assert np.array_equal(found, values)
    assert found.flags.writeable
    assert found.flags.c_contiguous


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",  # cnpy and others: no line feed
        "{'descr':'<f4','fortran_order':False,'shape':(2,)}  \n",
        "{'shape': (2L,), 'fortran_order': False, 'descr': '<f4'}\n",  # Python 2
        "{'descr': '=f4', 'fortran_order': True, 'shape': (2,), }\n",
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00"])
def test_it_reads_what_other_writers_write(text, version):
    assert decode_npy(npy(text, struct.pack("<ff", 1, 2), version)).tolist() == [1, 2]


def test_only_offsets_may_hold_byte_strings():
    content = saved(np.array([b"ab", b"c"]))
    assert view_npy(content, strings=True).tolist() == [b"ab", b"c"]
    with pytest.raises(BadSample, match="only real numbers"):
        view_npy(content)


DAMAGED = {
    "unclosed bracket": npy(header(shape="(4, 2, 2 "), bytes(64)),
    "negative": npy(header(shape="(-4, -4)"), bytes(64)),
    "empty and huge": npy(header(shape="(0, 9223372036854775808)")),
    "overflow": npy(header(shape="(4294967296, 4294967296)")),
    "overflow to what is there": npy(header(shape="(9223372036854775807, 2, 2)"), bytes(64)),
    "65 dimensions": npy(header(shape=f"({'1,' * 65})"), bytes(4)),
    "bool dimensions": npy(header(shape="(True, 16)"), bytes(64)),
    "a number of 5000 digits": npy(header(shape=f"({'9' * 5000},)"), bytes(64)),
    "missing comma": npy(header(shape="(4 4)"), bytes(64)),
    "list": npy(header(shape="[4, 4]"), bytes(64)),
    "float128": npy(header("'<f16'", "(4,)"), bytes(64)),
    "f3": npy(header("'<f3'", "(4,)"), bytes(12)),
    "complex": npy(header("'<c8'", "(8,)"), bytes(64)),
    "bool": npy(header("'|b1'", "(64,)"), bytes(64)),
    "text": npy(header("'<U4'", "(4,)"), bytes(64)),
    "structured": npy(header("[('a', '<f4')]", "(16,)"), bytes(64)),
    "objects": npy(header("'|O'", "(1,)"), b"cposix\nsystem\n"),
    "unary nest": npy("-" * 6000 + "1"),
    "nested": npy("(" * 3000 + ")" * 3000),
    "call": npy("__import__('os').system('true')"),
    "key twice": npy(header().replace("fortran_order': False", "shape': (1,)"), bytes(64)),
    "a fourth key": npy(header().replace("}", "'x': 1}"), bytes(64)),
    "NUL": npy(header().replace("4", "\0", 1), bytes(64)),
    "not ASCII": npy(header(shape="(４,)"[0] + "\xb2,)"), bytes(64)),
    "version 9": npy(header(), bytes(64), b"\x01\x00").replace(b"\x01\x00", b"\x09\x00", 1),
    "longer than it is": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + header().encode() + bytes(64),
    "magic alone": b"\x93NUMPY",
    "nothing": b"",
    "too short": GOOD[:-1],
    "too long": GOOD + b"\0",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_every_damage_is_one_kind(name):
    with pytest.raises(BadSample) as caught:
        decode_npy(DAMAGED[name])
    assert caught.value.kind == "bad_array"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match=r"^train\.tar: a\.x\.npy: "):
        parse_npy(np.frombuffer(DAMAGED[name], np.uint8), "train.tar: a.x.npy")


@pytest.mark.parametrize("seed", range(8))
def test_a_mutated_header_gives_an_array_of_the_bytes_that_are_there_or_a_bad_sample(seed):
    rng, seen = np.random.default_rng(seed), []
    letters = np.frombuffer(b"(){}[]',:0123456789-+*.TFLSfiuOlambda<>|= \n\0", np.uint8)
    for _ in range(300):
        data = bytearray(GOOD)
        for at in rng.integers(0, 80, rng.integers(1, 5)):
            data[at] = rng.choice(letters) if rng.random() < 0.7 else rng.integers(256)
        if rng.random() < 0.2:
            at = int(rng.integers(10, 70))
            data[at:at] = bytes(rng.choice(letters, 3))
        try:
            values = decode_npy(bytes(data))
        except BadSample as bad:
            seen.append(bad.kind)
        else:
            assert values.nbytes == len(GOOD) - 128
    assert set(seen) == {"bad_array"}
    assert len(seen) > 200


@pytest.mark.parametrize("workers", [0, 1])
def test_the_sample_is_named_counted_and_replaced(tmp_path, caplog, workers):
    kinds = [name for name in DAMAGED if name != "nothing"]
    bad = {number: {"latent_npy": GOOD} for number in range(100)}
    bad |= {3 * number: {"latent_npy": DAMAGED[name]} for number, name in enumerate(kinds)}
    write_folder(tmp_path, [100], bad=bad)
    options = {"arrays": ["latent"], "max_skipped": 1.0, "num_workers": workers}
    fork = LoaderOptions(start_method="fork")
    data = ImageTextDataModule(str(tmp_path), 8, 10, steps_per_epoch=10, loader=fork, **options)
    data.setup("fit")
    with caplog.at_level(logging.WARNING):
        keys = [key for batch in data.train_dataloader() for key in batch["key"]]
    damaged = {f"{3 * number:05d}" for number in range(len(kinds))}
    assert len(keys) == 100
    assert damaged.isdisjoint(keys)
    assert set(data.skipped.counts) == {"bad_array"}
    assert data.skipped.total >= len(kinds)
    assert "left out train-000000.tar:000" in caplog.text
