"""The kinds of errors of drafts on made-up readings, and the table on made-up repairs."""

import re

import pytest
import torch
from scipy.stats import norm

from benchmarks.collaboration.error_kinds import KINDS, RIGHT, SWAPPED, UNREADABLE, WRONG, drawn, kinds, kinds_of, table
from fewstep.collaboration.pipeline import Collaboration
from fewstep.files.prompt_files import Prompt
from tests.tiny_diffusion import CAPTIONS, write_pipeline

VALUES = {"shirt": ["red", "blue", "green"], "hat": ["none", "tall", "flat"]}


def reading(*persons, sure=0.99):
    """{attribute: log-probabilities [1, P, 3]} of what is read of each person, (shirt, hat)."""
    columns = {}
    for place, name in enumerate(VALUES):
        read = torch.tensor([VALUES[name].index(person[place]) for person in persons])
        columns[name] = torch.full((1, len(persons), 3), (1 - sure) / 2).scatter(2, read[None, :, None], sure).log()
    return columns


def asked(*persons):
    return {
        name: torch.tensor([[-1 if p[place] is None else VALUES[name].index(p[place]) for p in persons]])
        for place, name in enumerate(VALUES)
    }


@pytest.mark.parametrize(
    ("read", "wanted", "kind"),
    [
        ([("red", "none"), ("blue", "tall")], [("red", "none"), ("blue", "tall")], RIGHT),
        ([("red", "none"), ("blue", "flat")], [("red", "none"), ("blue", "tall")], WRONG),
        ([("blue", "tall"), ("red", "none")], [("red", "none"), ("blue", "tall")], SWAPPED),  # the persons
        ([("blue", "none"), ("red", "tall")], [("red", "none"), ("blue", "tall")], SWAPPED),  # their shirts alone
        ([("blue", "none"), ("red", "flat")], [("red", "none"), ("blue", "tall")], WRONG),  # and a hat that nobody has
        ([("blue", "none"), ("blue", "tall")], [("red", "none"), ("blue", "tall")], WRONG),  # one has the other's
        ([("green", "flat"), ("blue", "tall")], [(None, "flat"), ("blue", None)], RIGHT),
        (
            [("green", "flat"), ("red", "tall")],
            [("red", "flat"), (None, "tall")],
            WRONG,
        ),  # of the other nothing is asked
        ([("blue", "none")], [("red", "none")], WRONG),
        (
            [("red", "none"), ("blue", "none"), ("green", "none")],
            [("blue", "none"), ("green", "none"), ("red", "none")],
            SWAPPED,
        ),
    ],
)
def test_kinds_of_made_up_readings(read, wanted, kind):
    assert kinds(reading(*read), asked(*wanted)).tolist() == [kind]
    blurred = kinds(reading(*read, sure=0.6), asked(*wanted)).tolist()
    assert blurred == [RIGHT if kind == RIGHT else UNREADABLE]  # what is right was read


def test_doubt_about_what_is_right_is_no_error():
    """One person is read well and wrongly, the other badly and rightly."""
    sure, unsure = reading(("green", "none"), ("blue", "tall")), reading(("green", "none"), ("blue", "tall"), sure=0.5)
    mixed = {name: torch.stack([sure[name][:, 0], unsure[name][:, 1]], 1) for name in VALUES}
    wanted = asked(("red", "none"), ("blue", "tall"))
    assert kinds(mixed, wanted).tolist() == [WRONG]
    assert kinds(
        {name: v.flip(1) for name, v in mixed.items()}, {n: v.flip(1) for n, v in wanted.items()}
    ).tolist() == [WRONG]
    assert kinds(mixed, wanted, sure=0.995).tolist() == [UNREADABLE]


class Painted:
    """Reads the shirts of persons by their channels."""

    def __init__(self):
        self.values = {"shirt": VALUES["shirt"]}

    def __call__(self, images):
        return {"shirt": images.mean((2, 3)).mul(20).log_softmax(1)}


def picture(*persons):
    channels = [VALUES["shirt"].index(person) for person in persons]
    return torch.eye(3)[channels].mul(2).sub(1).T[:, None, :].repeat_interleave(4, 2).expand(3, 8, 4 * len(persons))


def test_persons_are_read_in_their_own_parts():
    images = torch.stack([picture("red", "blue"), picture("blue", "red"), picture("green", "red")])
    wanted = [[{"shirt": "red"}, {"shirt": "blue"}]] * 3
    assert kinds_of(Painted(), images, wanted, 0.9).tolist() == [RIGHT, SWAPPED, WRONG]


def wilson(count, num):
    """Wilson 1927, equation of the score interval."""
    z, p = norm.ppf(0.975), count / num
    middle, half = p + z * z / (2 * num), z * (p * (1 - p) / num + z * z / (4 * num * num)) ** 0.5
    return [100 * (middle + side * half) / (1 + z * z / num) for side in (-1, 1)]


def test_the_table_of_made_up_repairs():
    before = torch.tensor([RIGHT] * 10 + [WRONG] * 20 + [SWAPPED] * 10)
    refined = torch.tensor([RIGHT] * 9 + [WRONG] + [RIGHT] * 5 + [WRONG] * 15 + [SWAPPED] * 9 + [RIGHT])
    anew = torch.tensor([RIGHT] * 30 + [UNREADABLE] * 10)
    head, _, *lines = table(before, {"refine 0.5": refined, "regenerate": anew}).splitlines()
    assert head == "| draft | of 40 | refine 0.5 | regenerate |"
    counts = {"right": (10, 9, 10), "wrong attribute": (20, 5, 20), "swapped": (10, 1, 0)}
    for line, name in zip(lines, KINDS, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == name
        if name == "unreadable":
            assert cells[1].startswith("0.0% [")
            assert cells[2:] == ["none", "none"]
            continue
        num, *repaired = counts[name]
        for cell, count, of in zip(cells[1:], (num, *repaired), (40, num, num), strict=True):
            numbers = [float(number) for number in re.findall(r"[\d.]+", cell)]
            assert numbers == pytest.approx([100 * count / of, *wilson(count, of)], abs=0.06)


def test_drafts_and_repairs_are_those_of_a_cascade(tmp_path):
    """On a tiny pipeline: what is refined from little noise stays as it is more often than what is drawn anew."""
    pipeline = write_pipeline(tmp_path / "pipeline", "sd_v")
    pipe = Collaboration.from_pretrained(
        pipeline, pipeline, lambda images, _: images.new_zeros(len(images)), student_steps=1, teacher_steps=2
    )
    colours = ("red", "green", "blue")
    prompts = [Prompt(CAPTIONS[0], f"{n}", {"shirt": colours[n % 3]}) for n in range(9)]
    before, after = drawn(pipe, prompts, Painted(), [0.01, 0.9], sure=0.1)
    assert list(after) == ["refine 0.01", "refine 0.9", "regenerate"]
    told = [p.text for p in prompts], [f"0:{p.key}" for p in prompts]
    drafts = pipe.cascade.decoded_drafts(pipe.cascade.drafted(*told, [0] * 9), told[0])
    assert before.tolist() == kinds_of(Painted(), drafts, [p.attributes for p in prompts], 0.1).tolist()
    assert (after["refine 0.01"] == before).sum() >= 8
    with pytest.raises(ValueError, match="the schedule ends with less noise"):
        drawn(pipe, prompts, Painted(), [0.9999])
