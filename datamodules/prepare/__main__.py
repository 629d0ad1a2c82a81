"""Command line of datamodules.prepare."""

import argparse
import os
import shlex
import sys
from importlib import import_module
from pathlib import Path

from datamodules.prepare.saying import say
from fewstep.files.local_paths import local_path
from fewstep.files.places import require_writable
from fewstep.installed_command import in_its_words
from fewstep.one_line import one_line

COMMANDS = {
    "swiss_roll": "Gaussian -> Swiss roll, pairs from entropic optimal transport plans",
    "weather": "weather at a New York airport -> weather there 12 hours later",
    "table": "your own pairs and unpaired rows, from .npy or .csv files",
    "emoji": "emoji in several styles and skin tones, with captions, from npm packages",
    "fashion_mnist": "Fashion-MNIST from its idx files: pictures with captions, or vectors with labels",
    "avatars": "rule-drawn avatars with exact attributes, and edit pairs with instructions",
    "examples": "a few edit pairs of a split as a folder of pictures, for the demo page to open with",
    "prompts": "the captions of a split as a list of prompts, with the attributes that they ask for",
    "folder": "your own pictures, with captions from .txt files or a table",
    "latents": "latents and prompt states beside captioned images, for latent diffusion",
    "vocabulary": "learn a small vocabulary of byte pairs from the captions of a shard folder",
    "index": "write the index of shards that were made elsewhere",
    "check": "verify a folder of shards: sizes, hashes, headers, every picture and caption, finite values",
}

PLACES = ("out", "folder", "data", "images", "captions", "pairs", "unpaired_x", "unpaired_y", "like", "csv", "idx")
PLACES += ("packages",)


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog=in_its_words("python -m datamodules.prepare"), description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)
    for name, purpose in COMMANDS.items():
        import_module(f"datamodules.prepare.{name}").add_arguments(
            commands.add_parser(name, help=purpose, description=purpose)
        )
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 2 after one line on stderr for a mistake, 1 where `check` finds a fault.

    130 after Ctrl-C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(arguments)
    if options.command != "check":
        options.command_line = " ".join(map(shell_word, ["python", "-m", "datamodules.prepare", *arguments]))
    try:
        for name in PLACES:
            setattr(options, name, on_disk(getattr(options, name, None)))
        check_written(options)
        return import_module(f"datamodules.prepare.{options.command}").run(options) or 0
    except (ValueError, OSError) as error:
        say(f"error: {one_line(error, 10**6)}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("stopped by SIGINT; what was there before is as it was", sys.stderr)
        return 130


def shell_word(word: str) -> str:
    r"""The word as a shell takes it, in text that every file can hold: bytes that are no UTF-8 become $'\xff'."""
    if (raw := os.fsencode(word)) == word.encode("utf-8", "replace"):
        return shlex.quote(word)
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in raw)
    return f"$'{''.join(plain)}'"


def check_written(options: argparse.Namespace) -> None:
    """ValueError, before hours of reading and drawing, for what cannot be written or would replace what is read."""
    if hasattr(options, "overwrite") and options.out:
        from datamodules.prepare.folder_replacing import refuse_to_lose

        refuse_to_read(options)
        refuse_to_lose(Path(options.out), options.overwrite)
        return
    for name in ("out", "sheet"):  # single files
        if given := getattr(options, name, None):
            if (file := Path(given)).is_dir():
                raise ValueError(f"--{name} {given} is a folder; name a file")
            require_writable(file.parent if file.is_file() else file, f"--{name}")


def refuse_to_read(options: argparse.Namespace) -> None:
    """ValueError if --out, which is replaced as a whole, is or holds something that is to be read."""
    out = Path(options.out).resolve()
    for name in PLACES[1:]:
        given = getattr(options, name)
        for place in given if isinstance(given, list) else [given]:
            if isinstance(place, str) and "://" not in place and Path(place).resolve().is_relative_to(out):
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} {place} lies in {options.out}, which --out replaces; name another folder")


def on_disk(value: object) -> object:
    """The paths of one argument as they lie on the disk; anything else as it is."""
    if isinstance(value, list):
        return [on_disk(one) for one in value]
    return local_path(value) if isinstance(value, str) else value


if __name__ == "__main__":
    sys.exit(main())
