"""Avatars drawn by rule (DiceBear): exact attributes, and pairs that differ in one named attribute and nothing else.

A sample is KEY.webp (before), KEY.edited.webp (after) and KEY.json (captions, instruction, attributes; see `record`).
Scenes show several persons beside each other. Synthetic: nobody is portrayed.
"""

import argparse
import json
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from datamodules.prepare import add_output_arguments
from datamodules.prepare.avatar_attributes import SPLITS, attributes_of, edits, split_of
from datamodules.prepare.avatar_captions import NUMBERS, PLACES, captions, instruction, scoring_caption
from datamodules.prepare.avatar_drawing import CORE, LEAST_CHANGE, Avatars, changed
from datamodules.prepare.avatar_styles import STYLES, VERSION
from datamodules.prepare.hashed_share import share
from datamodules.prepare.npm_packages import located
from datamodules.prepare.svg_drawing import require_resvg
from fewstep.picture_size import as_stored

README = """# {title}, {style}, {height} x {width} px

{num} pairs drawn by rule, no real person: KEY.webp, KEY.edited.webp (the same with one attribute of one person
changed, every other pixel equal) and KEY.json: caption, captions, scoring_captions, edited_caption, instruction,
attributes (what can be seen), hidden (what a hat covers), changed. Lossless WebP in WebDataset shards. A combination
of attributes occurs in one split only, of ten eight in train, one in val, one in test. Sources and licences: NOTICE.

Command: `{command}`
"""
NOTICE = """Drawings: {credit}; options drawn by this project.
Drawn with {package} and @dicebear/core {version} (code MIT, Copyright (c) Florian Koerner).
"""
MOST_PAIRS = 1_000_000  # as many as six digits of a key number
SIZE_STEP = 8  # pixels: what autoencoders and UNets divide pictures by
PERSON_TRIES = 1000  # until a person belongs to the split of its scene


def add_arguments(command: argparse.ArgumentParser) -> None:
    add_output_arguments(command)
    command.add_argument("--num", type=int, default=2000, help=f"pairs (default 2000, at most {MOST_PAIRS:,})")
    command.add_argument("--size", type=int, default=64, help="edge of an avatar in pixels (default 64)")
    command.add_argument("--persons", type=int, default=1, help="beside each other in a picture, 1 to 4 (default 1)")
    command.add_argument("--style", choices=tuple(STYLES), default="pixel-art")
    command.add_argument("--packages", metavar="FOLDER", help="npm packages, .tgz or unpacked; default: fetch with npm")


def run(options: argparse.Namespace) -> None:
    from datamodules.prepare.image_shard_writing import Samples, write_image_folder

    if not 10 <= options.num <= MOST_PAIRS or not 16 <= options.size <= 1024:
        expected = f"10 to {MOST_PAIRS:,} pairs of 16 to 1024 pixels"
        raise ValueError(f"--num {options.num} --size {options.size}: expected {expected}")
    if options.persons not in PLACES:
        raise ValueError(f"--persons {options.persons}: expected 1 to {max(PLACES)}")
    if options.size % SIZE_STEP:
        near = options.size // SIZE_STEP * SIZE_STEP
        told = f"give a multiple of {SIZE_STEP}, such as {near or SIZE_STEP}, which networks can halve"
        raise ValueError(f"--size {options.size}: {told}")
    scenes = dict(islice(scenes_of(options.style, str(options.seed), options.persons), options.num))
    require_every_split(options, scenes)
    style, height, width = STYLES[options.style], options.size, options.size * options.persons
    about = {
        "name": "avatars" if options.persons == 1 else "avatar_scenes",
        "license": style.license,
        "command": options.command_line,
        "image_size": as_stored((height, width)),
        "notes": {"style": options.style, "seed": options.seed, "persons": options.persons},
    }
    require_resvg()
    packages = located((CORE, style.package), options.packages)
    title = "Avatars" if options.persons == 1 else f"Scenes of {NUMBERS[options.persons]} avatars"
    about_it = {"title": title, "style": options.style, "height": height, "width": width, "num": options.num}
    with Avatars(options.style, options.packages) as drawn:

        def render(key: str) -> dict[str, bytes]:
            return pair(drawn, scenes[key], options.size)

        keys = {split: [key for key, scene in scenes.items() if scene.split == split] for split in SPLITS}
        samples = {split: Samples(keys[split], render) for split in SPLITS if keys[split]}
        texts = {
            "README.md": README.format(**about_it, command=options.command_line),
            "NOTICE": NOTICE.format(credit=style.credit, package=style.package.name, version=VERSION),
        }
        write_image_folder(options.out, samples, about, overwrite=options.overwrite, texts=texts, sources=packages)


def require_every_split(options: argparse.Namespace, scenes: dict[str, "Scene"]) -> None:
    """ValueError in one line where so few pairs leave a split empty; it says how many would not."""
    if lacking := sorted(set(SPLITS) - {scene.split for scene in scenes.values()}):
        missing, enough = set(SPLITS), 0
        for _, scene in scenes_of(options.style, str(options.seed), options.persons):
            missing, enough = missing - {scene.split}, enough + 1
            if not missing:
                break
        raise ValueError(f"--num {options.num} leaves no pair for {' and '.join(lacking)}; give {enough} or more")


class Person(NamedTuple):
    name: str  # decides all that no attribute says
    attributes: dict[str, str]


class Edit(NamedTuple):
    person: int
    changed: str  # the attribute
    after: dict[str, str]  # all attributes of that person


class Scene(NamedTuple):
    """Persons from left to right on one background, and edits of one attribute of one of them, to be tried in turn."""

    split: str
    persons: list[Person]
    edits: list[Edit]


def scenes_of(style: str, seed: str, number: int):
    """(key, scene) without end, each scene with edits of its own split; of one person the person itself."""
    for at in count():
        key = f"{'avatar' if number == 1 else 'scene'}_{at:06d}"
        scene = scene_of(style, f"{seed} {key}", number)
        if scene.edits:
            yield key, scene


def scene_of(style: str, name: str, number: int) -> Scene:
    first = attributes_of(style, name)
    split = split_of(style, first)
    if number == 1:
        found = [Edit(0, *edit) for edit in edits(style, name, first)]
        return Scene(split, [Person(name, first)], found)
    background = {"background": first["background"]}
    persons = [Person(name, first)] + [another(style, f"{name} {p}", background, split) for p in range(1, number)]
    order = sorted(range(number), key=lambda p: share("avatar", name, "edited person", str(p)))
    found = [Edit(p, *edit) for p in order for edit in edits(style, *persons[p], kept=("background",))]
    return Scene(split, persons, found)


def another(style: str, name: str, background: dict[str, str], split: str) -> Person:
    """The first person of a series that belongs to the split with this background."""
    for attempt in range(PERSON_TRIES):
        attributes = attributes_of(style, f"{name} {attempt}") | background
        if split_of(style, attributes) == split:
            return Person(f"{name} {attempt}", attributes)
    raise ValueError(f"no person of {PERSON_TRIES} belongs to the split {split!r}; choose another --seed")


def pair(drawn: Avatars, scene: Scene, size: int) -> dict[str, bytes]:
    """The files of one sample; BadSample where no edit can be seen."""
    from PIL import Image

    from datamodules.bad_sample import BadSample
    from datamodules.prepare.webp_encoding import exact_webp

    before = [drawn.picture(*person, size) for person in scene.persons]
    for edit in scene.edits:
        target = drawn.picture(scene.persons[edit.person].name, edit.after, size)
        if changed(before[edit.person], target) >= LEAST_CHANGE:
            break
    else:
        raise BadSample("missing_image", "no edit of it can be seen")
    after = [target if place == edit.person else picture for place, picture in enumerate(before)]
    edited = [Person(p.name, edit.after) if place == edit.person else p for place, p in enumerate(scene.persons)]
    ends = [sorted_out(drawn, *end) for end in ((scene.persons, before), (edited, after))]
    described = json.dumps(record(drawn.style, scene, edit, *ends), separators=(",", ":")).encode()
    source, target = (exact_webp(Image.fromarray(np.concatenate(pictures, axis=1))) for pictures in (before, after))
    return {"webp": source, "edited.webp": target, "json": described}


def sorted_out(drawn: Avatars, persons: list[Person], pictures: list[np.ndarray]) -> tuple[list[dict], list[dict]]:
    """(what can be seen, what is covered) of every person."""
    seen, hidden = [], []
    for (name, attributes), picture in zip(persons, pictures, strict=True):
        covered = drawn.covered(name, attributes, picture)
        seen.append({name: value for name, value in attributes.items() if name not in covered})
        hidden.append({name: attributes[name] for name in covered})
    return seen, hidden


def record(style: str, scene: Scene, edit: Edit, before: tuple, after: tuple) -> dict[str, Any]:
    """The content of KEY.json. `attributes`, `hidden` and their edited_ namesakes: of one person {attribute: value}, of
    several a list of these from left to right. `named`: which of them each caption settles, in the same form.
    """
    (seen, hidden), (edited_seen, edited_hidden) = before, after
    said, (attribute, place) = captions(style, seen), (edit.changed, PLACES[len(seen)][edit.person])
    old, new = scene.persons[edit.person].attributes[attribute], edit.after[attribute]
    of_all = (lambda values: values[0]) if len(seen) == 1 else list
    return {
        "caption": said[0].text,
        "captions": [caption.text for caption in said],
        "named": [of_all(caption.named) for caption in said],
        "scoring_captions": [scoring_caption(seen)],
        "edited_caption": captions(style, edited_seen)[0].text,
        "edited_scoring_captions": [scoring_caption(edited_seen)],
        "instruction": instruction(attribute, old, new, place),
        "attributes": of_all(seen),
        "hidden": of_all(hidden),
        "edited_attributes": of_all(edited_seen),
        "edited_hidden": of_all(edited_hidden),
        "changed": attribute,
        **({} if len(seen) == 1 else {"changed_person": edit.person}),
    }
