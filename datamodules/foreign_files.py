"""What a file that should be a tar is instead, by its first bytes, and what to do about it."""

import os
import re

HEAD = 1024  # bytes to look at
PACKED = {  # first bytes: (what it is, command that unpacks it)
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"\x1f\x9d": ("compress", "uncompress"),
}
OTHERS = {
    b"PK\x03\x04": "a zip archive",
    b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"PAR1": "a parquet table",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89PNG\r\n\x1a\n": "a PNG picture",
    b"\x93NUMPY": "a .npy array",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\0\x05\x16\x07": "an AppleDouble file of macOS",
    b"%PDF-": "a PDF",
}
TEXTS = (  # pattern at the start of a text: what it is and what to do
    (r"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (r"[./]*\.?git/annex/objects/|/annex/objects/", "a git-annex pointer, not the file itself; run git annex get"),
    (
        r"\s*<(!doctype\s+html|html|head|body)\b",
        "an HTML page, not a tar; perhaps an error of the server: fetch it again",
    ),
    (r"\s*<(\?xml|Error\b)", "an XML text, not a tar; perhaps an error of the server: fetch it again"),
    (r"\s*[{\[]\s*[\"}\]{]", "a JSON text, not a tar; perhaps an error of the server: fetch it again"),
)
PLAIN = re.compile(rb"[\t\n\r -~\x80-\xff]+")


def what_else(head: bytes) -> str | None:
    """One line for a file with these first bytes, without its name; None if it may be a tar, whole or damaged."""
    if head[257:262] == b"ustar":
        return None
    for start, (kind, command) in PACKED.items():
        if head.startswith(start):
            return f"compressed with {kind}, not a plain tar; unpack it: {command} < FILE > SHARD.tar"
    for start, what in OTHERS.items():
        if head.startswith(start):
            return f"{what}, not a tar; pack samples with tar -cf SHARD.tar, or move it away"
    text = head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    known = next((what for pattern, what in TEXTS if re.match(pattern, text, re.IGNORECASE)), None)
    shown = " ".join(text.split())[:40]
    return known or (f"a text ({shown!r}), not a tar; copy it again" if shown and PLAIN.fullmatch(head) else None)


def what_lies_at(path: str) -> str | None:
    """`what_else` of a local file."""
    with open(path, "rb") as file:
        return what_else(file.read(HEAD))


def missing(path: str) -> str:
    """Why there is no file at this local path, with the remedy."""
    if os.path.isdir(path):
        return "a folder, not a tar; correct the path"
    if os.path.exists(path):
        return "a device or a pipe, not a tar; correct the path"
    if not os.path.islink(path):
        return "no such file; correct the path"
    target = os.readlink(path)
    remedy = "run git annex get" if "annex/objects" in target else "copy the file itself"
    return f"a link to {target!r}, which is not there; {remedy}"
