"""What the tab of the collaboration answers: of every prompt the draft, its score, the route and the result."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fewstep.collaboration.cascade import Collaborated
from fewstep.collaboration.command_line.commands import asked_of, check_all
from fewstep.collaboration.pipeline import Collaboration
from fewstep.demo.fields import given_number, given_seed
from fewstep.files.names import distinct
from fewstep.files.pictures import to_picture
from fewstep.files.prompt_files import Prompt, read_prompt_file
from fewstep.one_line import one_line

MOST = 16  # prompts at once: the page shows two pictures of each
Shown = list[tuple[Image.Image, str]]  # draft and result of a prompt, and of the next one, each with what is told of it


@dataclass(frozen=True)
class CollaborationAnswers:
    """A collaboration with a calibration. attributes: of known prompts, for an oracle, named so, that reads them."""

    pipe: Collaboration
    oracle: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(
        cls, student: str, oracle: str, calibration: Path, prompts: Path | None = None, **settings: Any
    ) -> "CollaborationAnswers":
        """prompts: file of those that the page begins with. settings: of Collaboration.from_pretrained.

        ValueError in one line.
        """
        known = [] if prompts is None else read_prompt_file(prompts)
        asked = asked_of(known, oracle)[0] if known else ""
        pipe = Collaboration.from_pretrained(student, oracle=oracle, calibration=calibration, asked=asked, **settings)
        return cls(pipe, oracle, {prompt.text: prompt.attributes for prompt in known})

    @property
    def mean_passes(self) -> float:
        """To begin with: about what half of the repairs take."""
        costs = self.pipe.costs
        return round(costs.judged_draft + 0.5 * (costs.repair + costs.look), 1)

    def draw(self, text: str, mean_passes: float | None, seed: float | None) -> tuple[Shown, str, bool]:
        """text: a prompt to a line. (pictures, what they took or what is wrong, whether something is wrong)."""
        began = time.perf_counter()
        try:
            number, prompts = given_seed(seed), self._prompts(text)
            asked = asked_of(prompts, self.oracle)
            check_all(self.pipe, prompts, asked)
            policy = self.pipe.chosen(given_number(mean_passes, "Passes per picture"))
            seeds = [f"{number}:{prompt.key}" for prompt in prompts]
            result = self.pipe([prompt.text for prompt in prompts], seeds, policy=policy, asked=asked)
        except ValueError as error:
            return [], f"Error: {one_line(error, 800)}", True
        passes = self.pipe.passes(result, policy)
        told = f"{int(result.repaired.sum())} of {len(prompts)} repaired · {passes.mean():.2f} passes on average"
        told += f", {self.pipe.costs.repair:g} for the teacher alone · {time.perf_counter() - began:.2f} s"
        return side_by_side(result, result.routes(policy.repair), passes.tolist()), told, False

    def _prompts(self, text: str) -> list[Prompt]:
        lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
        if not 1 <= len(lines) <= MOST:
            raise ValueError(f"{len(lines)} prompts: write 1 to {MOST}, each on a line of its own")
        return [Prompt(line, key, self.attributes.get(line)) for line, key in zip(lines, distinct(lines), strict=True)]


def side_by_side(result: Collaborated, routes: Sequence[str], passes: Sequence[float]) -> Shown:
    """Draft and result of every prompt, in turn, by its number: the prompt itself would cover the picture."""
    shown: Shown = []
    for place, (route, cost) in enumerate(zip(routes, passes, strict=True)):
        score, final = result.draft_scores[place], result.scores[place]
        drafts = f" (best of {int(result.drafts[place])})" if result.drafts[place] > 1 else ""
        draft = f"{place + 1} · draft{drafts}, score {score:.3g}"
        told = f"{route} · {cost:.2f} passes" + ("" if torch.isnan(final) else f", score {final:.3g}")
        pictures = result.draft_images[place : place + 1], result.images[place : place + 1]
        shown += [(to_picture(picture), label) for picture, label in zip(pictures, (draft, told), strict=True)]
    return shown
