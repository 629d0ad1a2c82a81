"""Who shall be repaired: the oracle's threshold, a fitted router of the gain, a router of the prompt alone, chance.

    python benchmarks/collaboration/routers.py STUDENT --known known.jsonl --new new.jsonl --share 0.3 \
        --judge all_right=assets/avatar_judge [options of `sweep`]

Routers are fitted on the first half of the known prompts with the judge's gains, and all thresholds are set on the
second half for the same share of repairs. The table tells the share that was repaired of the new prompts, the judge's
mean, and its gain over the same number of repairs by lot, with intervals of 95 % over prompts. The oracle's threshold
needs no judge; perfect routing knows the judge's scores of both pictures.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.collaboration.calibration import identity
from fewstep.collaboration.command_line.commands import asked_of
from fewstep.collaboration.command_line.judges import load_judges
from fewstep.collaboration.learned_routing import GainRouter, pooled_prompts
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Judge, Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.routing import budget_threshold
from fewstep.files.prompt_files import Prompt, read_prompt_file
from fewstep.metrics.intervals import bootstrap_mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--known", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--num", type=int, default=1000, help="of either, at most")
    parser.add_argument("--share", type=float, default=0.3, help="of drafts that are repaired")
    parser.add_argument("--oracle", default="attributes=assets/avatar_gate")
    parser.add_argument("--judge", default="all_right=assets/avatar_judge")
    parser.add_argument("--student-steps", type=int, default=2)
    parser.add_argument("--teacher-steps", type=int, default=6)
    parser.add_argument("--teacher-scale", type=float, default=2.0)
    parser.add_argument("--repair", choices=("refine", "regenerate"), default="regenerate")
    parser.add_argument("--rollback", type=float, default=0.7, help="variance, to refine")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known, new = (read_prompt_file(file)[: options.num] for file in (options.known, options.new))
    pipe = Collaboration.from_pretrained(
        options.student,
        oracle=options.oracle,
        student_steps=options.student_steps,
        teacher_steps=options.teacher_steps,
        teacher_scale=options.teacher_scale,
        dtype=getattr(torch, options.dtype),
        asked=asked_of(known, options.oracle)[0],
    )
    (columns, draft, made), (new_columns, new_draft, new_made) = (drawn(pipe, some, options) for some in (known, new))
    half, about = len(known) // 2, identity(pipe.cascade)
    first, second = (
        {name: values[part] for name, values in columns.items()} for part in (slice(half), slice(half, None))
    )
    print(f"judged: drafts {new_draft.mean():.4f}, all repaired {new_made.mean():.4f}\n")
    print("| router | explained | repaired | judge | gain over chance |")
    print("|---|--:|--:|--:|--:|")
    report(
        "oracle's threshold", "", second["score"][:, 0], new_columns["score"][:, 0], new_draft, new_made, options.share
    )
    for title, names in (
        ("gain, after the draft", ("score", "second score", "apart", "length")),
        ("gain, from the prompt alone", ("prompt", "length")),
    ):
        parts = [{name: table[name] for name in names} for table in (first, second, new_columns)]
        router = GainRouter.fit(parts[0], (made - draft)[:half], about)
        scores = [router.score(part) for part in parts[1:]]
        report(title, f"{router.explained:.3f}", *scores, new_draft, new_made, options.share)
    report("perfect", "", (draft - made)[half:], new_draft - new_made, new_draft, new_made, options.share)


def drawn(
    pipe: Collaboration, prompts: Sequence[Prompt], options: argparse.Namespace
) -> tuple[Mapping[str, Tensor], Tensor, Tensor]:
    """(what routers may see, the judge's score [N] of drafts, and of what the teacher makes of them)."""
    asked = {name: asked_of(prompts, name) for name in (options.oracle, options.judge)}
    judge = Judge(load_judges([options.judge], asked, "cpu")[options.judge], asked[options.judge])
    texts, seeds = [prompt.text for prompt in prompts], [f"0:{prompt.key}" for prompt in prompts]
    rehearsal = Rehearsal(pipe.cascade, texts, seeds, asked[options.oracle], {"judge": judge})
    alone = rehearsal.play(Policy())
    both = rehearsal.play(Policy(repair="keep", drafts=2, good_enough=torch.inf))
    made = rehearsal.play(Policy(torch.inf, options.repair, Rollback(options.rollback)))
    model = pipe.cascade.student.model
    told = [pooled_prompts(model.prompts(texts[start : start + 64])) for start in range(0, len(texts), 64)]
    one, other = (rehearsal.latents(number, range(len(texts))) for number in (0, 1))
    apart = (one - other).flatten(1).square().mean(1).sqrt()
    columns: dict[str, Any] = {
        "score": alone.draft_scores[:, None],
        "second score": both.draft_scores[:, None],
        "apart": apart[:, None],
        "length": torch.tensor([[float(len(text.split()))] for text in texts]),
        "prompt": torch.cat(told),
    }
    return columns, alone.scores["judge"], made.scores["judge"]


def report(title: str, explained: str, known: Tensor, new: Tensor, draft: Tensor, made: Tensor, share: float) -> None:
    """One row; known, new: scores, of which low ones are repaired."""
    repaired = new < budget_threshold(known, share)
    result = torch.where(repaired, made, draft)
    part = repaired.double().mean()
    gain = result - (1 - part) * draft - part * made
    (low, high), (least, most) = bootstrap_mean(result), bootstrap_mean(gain)
    judged = f"{result.mean():.4f} [{low:.4f}, {high:.4f}]"
    print(f"| {title} | {explained} | {part:.3f} | {judged} | {gain.mean():+.4f} [{least:+.4f}, {most:+.4f}] |")


if __name__ == "__main__":
    main()
