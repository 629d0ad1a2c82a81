"""What the builders print: no name steers a terminal, and none ends a command."""

import io
import random
import shlex
import subprocess

import pytest

from datamodules.prepare.__main__ import shell_word
from datamodules.prepare.saying import say


@pytest.mark.parametrize("coding", ["utf-8", "ascii", "latin-1", "cp1252"])
def test_any_name_is_one_plain_line_for_any_stream(coding):
    rng = random.Random(0)
    for _ in range(300):
        codes = [rng.choice([rng.randrange(256), rng.randrange(0x3000), 0xDC80 + rng.randrange(128)]) for _ in range(9)]
        name = "".join(map(chr, codes))
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, coding, errors="strict", newline="\n")
        say(f"left out: {name}", stream)
        stream.flush()
        line = raw.getvalue().decode(coding)
        assert line.count("\n") == 1
        assert line.removesuffix("\n").isprintable()


def test_names_that_can_be_printed_are_printed_as_they_are(capsys):
    say("left out: \u00fc \u4e2d 'a b'")
    assert capsys.readouterr().out == "left out: \u00fc \u4e2d 'a b'\n"


def test_words_of_a_command_are_text_and_a_shell_gives_the_bytes_back():
    rng = random.Random(1)
    names = [bytes(rng.randrange(1, 256) for _ in range(rng.randint(1, 12))) for _ in range(60)]
    names += [b"caf\xe9", b"caf\xe9'9\\$x", "caf\u00e9 x".encode(), b"plain", b"\xff0"]
    words = [shell_word(name.decode("utf-8", "surrogateescape")) for name in names]
    assert all(word.encode() for word in words)
    assert shell_word("a b") == shlex.quote("a b")
    script = "\n".join(f"printf '%s\\0' {word}" for word in words)
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.split(b"\0")[:-1] == names
