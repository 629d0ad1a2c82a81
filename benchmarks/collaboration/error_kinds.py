"""Which errors of a draft the teacher repairs: from how far it is taken back, by the kind of error.

    python benchmarks/collaboration/error_kinds.py STUDENT --prompts new.jsonl --judge assets/avatar_judge \
        --rollbacks 0.3 0.5 0.7 0.9 [--student-steps 2 --teacher-steps 6 --teacher-scale 2]

Every draft is refined from every variance, and drawn anew from its own noise. The judge, a reader of attributes, says
of which kind a draft is:

    unreadable        an attribute is wrong, and the reader is unsure of it (below --sure): blurred, deformed
    swapped           every wrong attribute is only in the wrong place: the persons have one another's values
    wrong attribute   every other one that is not wholly right
    right             all that is asked

The table has for each kind the share of drafts that are wholly right after the repair, of right ones therefore the
share that the teacher leaves so, with intervals of 95 % over prompts (Wilson).
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.collaboration.analysis.wins import share_of
from fewstep.collaboration.command_line.commands import asked_of
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rehearsal import Judge, Rehearsal
from fewstep.collaboration.rollback import Rollback
from fewstep.files.prompt_files import Prompt, read_prompt_file
from fewstep.rewards.attribute_reader import AttributeReader, load_attribute_reader
from fewstep.rewards.attributes import labels_of, listed, tiles

KINDS = ("right", "wrong attribute", "swapped", "unreadable")  # by number
RIGHT, WRONG, SWAPPED, UNREADABLE = range(4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--prompts", required=True, help=".jsonl with attributes, such as those of a test split")
    parser.add_argument("--num", type=int, default=2000, help="prompts at most")
    parser.add_argument("--judge", default="assets/avatar_judge", help="folder of a reader with objective softmax")
    parser.add_argument("--sure", type=float, default=0.9, help="probability of a reading from which it is sure")
    parser.add_argument("--rollbacks", type=float, nargs="+", default=[0.3, 0.5, 0.7, 0.9], help="variances")
    parser.add_argument("--student-steps", type=int, default=2)
    parser.add_argument("--teacher-steps", type=int, default=6)
    parser.add_argument("--teacher-scale", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prompts = read_prompt_file(options.prompts)[: options.num]
    reader = load_attribute_reader(options.judge).to(options.device)
    pipe = Collaboration.from_pretrained(
        options.student,
        oracle=lambda images, _: images.new_zeros(len(images)),  # nothing is routed
        student_steps=options.student_steps,
        teacher_steps=options.teacher_steps,
        teacher_scale=options.teacher_scale,
        dtype=getattr(torch, options.dtype),
        device=options.device,
    )
    before, after = drawn(pipe, prompts, reader, options.rollbacks, options.seed, options.sure)
    print(table(before, after))


def drawn(
    pipe: Collaboration,
    prompts: Sequence[Prompt],
    reader: AttributeReader,
    rollbacks: Sequence[float],
    seed: int = 0,
    sure: float = 0.9,
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the kind [N] of every draft, {name of a repair: the kind [N] of what becomes of it})."""
    asked = asked_of(prompts, "attributes")
    texts, seeds = [prompt.text for prompt in prompts], [f"{seed}:{prompt.key}" for prompt in prompts]
    judge = Judge(lambda images, wanted: kinds_of(reader, images, wanted, sure).float(), asked)
    rehearsal = Rehearsal(pipe.cascade, texts, seeds, judges={"kind": judge})
    repairs = {f"refine {variance:g}": Policy(math.inf, "refine", Rollback(variance)) for variance in rollbacks}
    for policy in repairs.values():
        pipe.cascade.check_rollback(policy.rollback)
    repairs["regenerate"] = Policy(math.inf, "regenerate")
    before = rehearsal.play(Policy()).scores["kind"].long()
    return before, {name: rehearsal.play(policy).scores["kind"].long() for name, policy in repairs.items()}


def kinds_of(reader: Any, images: Tensor, wanted: Sequence[Any], sure: float) -> Tensor:
    """int64 [B] of images [B, 3, H, W] in [-1, 1]; wanted: see fewstep.rewards.attributes."""
    persons = listed(wanted)
    shape = len(persons), len(persons[0])
    labels = labels_of([person for several in persons for person in several], reader.values, images.device)
    with torch.no_grad():
        found = reader(tiles(images, shape[1]))
    return kinds(
        {name: v.unflatten(0, shape) for name, v in found.items()}, {n: v.view(shape) for n, v in labels.items()}, sure
    )


def kinds(log_probs: Mapping[str, Tensor], labels: Mapping[str, Tensor], sure: float = 0.9) -> Tensor:
    """int64 [B] of log-probabilities {attribute: [B, P, values]} of P persons for labels int64 [B, P], -1 not asked."""
    wrong, unsure, exchanged = [], [], []
    for name, label in labels.items():
        best = log_probs[name].max(2)
        read = torch.where(label >= 0, best.indices, -1)
        wrong.append(read != label)
        unsure.append(wrong[-1] & (best.values < math.log(sure)))
        exchanged.append((read.sort(1).values == label.sort(1).values).all(1))  # the same values, in another order
    any_wrong = torch.stack(wrong).any(2)  # [A, B]
    only_exchanged = (torch.stack(exchanged) | ~any_wrong).all(0)
    found = torch.where(only_exchanged, SWAPPED, WRONG)
    found = torch.where(torch.stack(unsure).any(2).any(0), UNREADABLE, found)
    return torch.where(any_wrong.any(0), found, RIGHT)


def table(before: Tensor, after: Mapping[str, Tensor]) -> str:
    """Of kinds [N] of drafts and of what each repair makes of them, in Markdown."""
    lines = [f"| draft | of {len(before)} | {' | '.join(after)} |", "|---|--:|" + "--:|" * len(after)]
    for number, name in enumerate(KINDS):
        these = before == number
        count = int(these.sum())
        cells = [_share(int((kinds[these] == RIGHT).sum()), count) for kinds in after.values()]
        lines.append(f"| {name} | {_share(count, len(before))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(count: int, num: int) -> str:
    if not num:
        return "none"
    found = share_of(count, num)
    return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"


if __name__ == "__main__":
    main()
