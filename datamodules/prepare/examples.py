"""Pictures with the caption they have and the one they could have, for `python -m fewstep.demo --examples FOLDER`.

KEY.webp and examples.json: a list of {"image": "KEY.webp", "source": "its caption", "target": "the edited one"}. Every
kind of change comes once before any comes twice, the frequent ones first.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.prepare.saying import say
from fewstep.picture_size import Size, height_and_width, size_argument

README = """# {name}

{count} pictures of {height} x {width} px of the {split} split of {data}, each with its caption and that of an edit:
the demo page opens with them.

* What is changed: {kinds}.
* Lossless WebP; `examples.json` is the list of `image`, `source` and `target`.

```bash
python -m fewstep.demo RUN/export --examples {out}
```

Written by

```bash
{command}
```

Sources and licences: those of {data}.
"""


class Edit(NamedTuple):
    """A picture uint8 [3, H, W] and its two captions; `changed`: which attribute."""

    key: str
    image: object
    source: str
    target: str
    changed: str


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", required=True, metavar="DIR", help="shard folder of edit pairs, such as avatars'")
    command.add_argument("--split", default="test", help="split that they are taken from (default test)")
    command.add_argument("--num", type=int, default=8, help="how many (default 8)")
    command.add_argument("--size", type=size_argument, default=64, help="of the pictures in pixels (default 64)")
    command.add_argument("--out", required=True, metavar="DIR", help="folder to write; must be empty or absent")
    command.set_defaults(overwrite=None)  # nothing that is there is ever replaced


def run(options: argparse.Namespace) -> None:
    chosen = choose(list(edits(options.data, options.split, options.size)), options.num)
    out = Path(options.out)
    height, width = height_and_width(options.size)
    kinds = ", ".join(sorted({str(edit.changed).replace("_", " ") for edit in chosen}))
    about = {"count": len(chosen), "height": height, "width": width, "kinds": kinds, "command": options.command_line}
    about |= {name: getattr(options, name) for name in ("data", "split", "out")}
    write(chosen, out, README.format(name=out.name, **about))
    say(f"{out}: {len(chosen)} examples of {kinds}")


def edits(data: str, split: str, size: Size) -> Iterator[Edit]:
    """Every edit of the split that can be seen, in the order of the shards."""
    from datamodules.image_options import Splits
    from datamodules.image_text import ImageTextDataModule

    fields = {"images": ["edited"], "metadata": ["edited_caption", "changed"]}
    module = ImageTextDataModule(data, size, splits=Splits(test=split), num_workers=0, **fields)
    module.prepare_data()
    module.setup("test")
    for batch in module.test_dataloader():
        columns = (batch[name] for name in ("key", "image", "caption", "edited_caption", "changed"))
        for row, edit in enumerate(map(Edit, *columns)):
            if batch["weight"][row] and not batch["image"][row].equal(batch["edited"][row]):
                yield edit


def choose(found: Sequence[Edit], num: int) -> list[Edit]:
    """The first of each kind of change, then the second of each, and so on; frequent kinds first."""
    kinds: dict[str, list[Edit]] = defaultdict(list)
    for edit in found:
        kinds[str(edit.changed)].append(edit)
    if not len(kinds) <= num <= len(found):
        raise ValueError(f"--num {num}: there are {len(found)} edits of {len(kinds)} kinds; choose between these")
    order = sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))
    ranked = [(round, place, edit) for place, kind in enumerate(order) for round, edit in enumerate(kinds[kind])]
    return [edit for _, _, edit in sorted(ranked, key=lambda entry: entry[:2])[:num]]


def write(chosen: Sequence[Edit], out: Path, readme: str) -> None:
    """The whole folder or nothing of it."""
    import json
    from tempfile import TemporaryDirectory

    from PIL import Image

    from datamodules.prepare.folder_replacing import replace_folder
    from datamodules.prepare.webp_encoding import exact_webp
    from fewstep.files.names import distinct, safe_name

    names = [f"{name}.webp" for name in distinct(safe_name(edit.key) for edit in chosen)]
    entries = [{"image": n, "source": e.source, "target": e.target} for n, e in zip(names, chosen, strict=True)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as beside:
        staging = Path(beside, out.name)
        staging.mkdir()
        for name, edit in zip(names, chosen, strict=True):
            (staging / name).write_bytes(exact_webp(Image.fromarray(edit.image.permute(1, 2, 0).numpy())))
        (staging / "examples.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        (staging / "README.md").write_text(readme)
        replace_folder(staging, out, None)
