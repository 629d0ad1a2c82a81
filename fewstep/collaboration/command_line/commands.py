"""What the commands of `python -m fewstep.collaboration` do: files in, files out, one line told."""

import argparse
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.collaboration.analysis.command import analysed, check_analysis
from fewstep.collaboration.calibration import Calibration
from fewstep.collaboration.cascade import BATCHES, Collaborated
from fewstep.collaboration.command_line.bench import benched, check_bench
from fewstep.collaboration.command_line.drawn_files import DrawnFiles, check_told
from fewstep.collaboration.command_line.given_files import edit_strength, given_files
from fewstep.collaboration.command_line.processes import Ranks, in_processes, ranks_of_torchrun, shown_progress
from fewstep.collaboration.oracles import reads_attributes
from fewstep.collaboration.pipeline import Collaboration
from fewstep.collaboration.policy import Policy
from fewstep.collaboration.rollback import Rollback
from fewstep.collaboration.sweep.command import check_sweep, swept
from fewstep.diffusion.prompt_encoder import token_ids
from fewstep.files.pictures import as_png, to_picture
from fewstep.files.prompt_files import Prompt, read_prompt_file
from fewstep.icd.commands import require_device
from fewstep.rewards.attributes import AttributeReward, labels_of, listed


def calibrate(options: argparse.Namespace) -> str:
    if options.out.exists() and (options.out.is_dir() or not options.overwrite):
        told = "is a folder" if options.out.is_dir() else "is there already"
        raise ValueError(
            f"--out {options.out} {told}; name another file{'' if options.out.is_dir() else ', or give --overwrite'}"
        )
    if files := [folder for folder in options.out.parents if folder.exists() and not folder.is_dir()]:
        raise ValueError(f"--out {options.out} lies in {files[0]}, which is a file; name another place")
    policy = chosen_policy(options)
    prompts = read_prompt_file(options.prompts)
    asked, given = asked_of(prompts, options.oracle), given_files(options, prompts)
    pipe = _pipeline(options, asked)
    check_all(pipe, prompts, asked)
    texts, shown = [prompt.text for prompt in prompts], given.opened(pipe.cascade.student.model.image_size)
    found = pipe.calibrated(texts, _seeds(prompts, options.seed), policy, asked, **shown)
    known = found.calibration
    assert known is not None
    known.save(options.out)
    told = f"{options.out}  {len(prompts)} prompts"
    if len(known.strategies) > 1:
        least = min(strategy.draft_passes for strategy in known.strategies)
        return f"{told}  {len(known.strategies)} strategies are worth it, from {least:.2f} passes on"
    strategy = known.strategies[0]
    low, middle, high = torch.quantile(strategy.scores, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    told += f"  scores {low:.3g} {middle:.3g} {high:.3g} (10, 50, 90 %)"
    most = strategy.draft_passes + strategy.repair_passes
    return f"{told}  drafts {strategy.draft_passes:.2f} passes, with every repair {most:.2f}"


def draw(options: argparse.Namespace) -> str:
    ranks = ranks_of_torchrun()
    if options.devices == 1:
        return draw_share(options, ranks)
    if ranks.world > 1:
        raise ValueError(f"--devices {options.devices} is for one machine without torchrun, which has {ranks.world}")
    return in_processes(draw_share, options)


def draw_share(options: argparse.Namespace, ranks: Ranks) -> str:
    """The pictures of one process; the first one begins the folder, and tells of all when all are done."""
    options.device = ranks.device(options.device)
    prompts = read_prompt_file(options.prompts)
    check_told(prompts)
    asked, given = asked_of(prompts, options.oracle), given_files(options, prompts)
    known = _calibration(options)
    known.policy(options.mean_passes, options.k)  # refused before anything is loaded
    pipe = _pipeline(options, asked, known)
    check_all(pipe, prompts, asked)
    policy, shown = pipe.chosen(options.mean_passes, options.k), given.opened(pipe.cascade.student.model.image_size)
    about = {**known.about, "policy": repr(policy), "seed": options.seed}
    files = DrawnFiles(options.out, about, options.overwrite, ranks.rank)
    hashes = given.hashes(len(prompts))
    files.check({p.key: (p.text, p.attributes, own) for p, own in zip(prompts, hashes, strict=True)})
    left = [place for place, prompt in enumerate(prompts) if prompt.key not in files.done]
    left = ranks.share(ranks.told("left", left))  # of the first process, which alone knows what is there
    parts = range(0, len(left), step := BATCHES * options.batch_size)
    for start in shown_progress(parts, f"draws {len(left)} of {len(prompts)} pictures", ranks):
        some = left[start : start + step]
        told = [prompts[place] for place in some]
        result = pipe(
            [prompt.text for prompt in told], _seeds(told, options.seed), policy=policy,
            asked=[asked[place] for place in some], **{name: pictures[some] for name, pictures in shown.items()},
        )  # fmt: skip
        rows = rows_of(told, result, policy, pipe.passes(result, policy))
        rows = [row | hashes[place] for row, place in zip(rows, some, strict=True)]
        files.add(rows, [as_png(to_picture(image)) for image in result.images.split(1)], repaired_drafts(rows, result))
    ranks.wait("drawn")
    if ranks.rank > 0:
        return ""
    files.gather([prompt.key for prompt in prompts])
    return summary(options.out, [files.done[prompt.key] for prompt in prompts], policy)


def analyse(options: argparse.Namespace) -> str:
    check_analysis(options)
    prompts, asked = _told(options)
    given = given_files(options, prompts)
    pipe = _pipeline(options, asked["oracle"])
    check_all(pipe, prompts, asked["oracle"])
    return analysed(options, pipe.cascade, prompts, _seeds(prompts, options.seed), asked, given)


def sweep(options: argparse.Namespace) -> str:
    check_sweep(options)
    prompts, asked = _told(options)
    given, known = given_files(options, prompts), _calibration(options)
    pipe = _pipeline(options, asked["oracle"], known)
    check_all(pipe, prompts, asked["oracle"])
    return swept(options, pipe.cascade, known, prompts, _seeds(prompts, options.seed), asked, given)


def bench(options: argparse.Namespace) -> str:
    prompts = read_prompt_file(options.prompts)
    asked, given = asked_of(prompts, options.oracle), given_files(options, prompts)
    known = _calibration(options)
    check_bench(known.policy(options.mean_passes, options.k), options.repeats)
    pipe = _pipeline(options, asked, known)
    check_all(pipe, prompts, asked)
    policy, texts = pipe.chosen(options.mean_passes, options.k), [prompt.text for prompt in prompts]
    shown = given.opened(pipe.cascade.student.model.image_size)
    return benched(pipe.cascade, policy, texts, _seeds(prompts, options.seed), asked, options.repeats, shown)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], str]] = {
    "calibrate": calibrate, "draw": draw, "sweep": sweep, "bench": bench, "analyse": analyse
}  # fmt: skip


def chosen_policy(options: argparse.Namespace) -> Policy | None:
    """Without a threshold; None for `--repair auto`."""
    if options.repair == "auto":
        told = (options.rollback_variance, options.rollback_time, options.good_enough)
        if any(value is not None for value in told) or options.drafts > 1 or options.keep_best:
            raise ValueError("--repair auto chooses rollback, drafts and what is kept itself; give none of these")
        return None
    rollback = Rollback(0.5 if options.rollback_variance is None else options.rollback_variance)
    if options.rollback_time is not None:
        rollback = Rollback(options.rollback_time, "time")
    if (options.drafts > 1) != (options.good_enough is not None):
        raise ValueError("--drafts above 1 and --good-enough belong together: more are drawn until one is good enough")
    return Policy(-math.inf, options.repair, rollback, options.drafts, options.keep_best, options.good_enough)


def asked_of(prompts: Sequence[Prompt], oracle: str) -> list[Any]:
    """What the oracle is told of each: its attributes, or the prompt itself. ValueError in one line."""
    if not reads_attributes(oracle):
        return [prompt.text for prompt in prompts]
    if lacking := [prompt.key for prompt in prompts if not prompt.attributes]:
        raise ValueError(f"prompt {lacking[0]} has no attributes, which --oracle {oracle} reads; write a .jsonl file")
    return [prompt.attributes for prompt in prompts]


def check_all(pipe: Collaboration, prompts: Sequence[Prompt], asked: Sequence[Any]) -> None:
    """ValueError in one line for a prompt that is too long, or attributes that nobody can read."""
    for model in (pipe.cascade.student.model, pipe.cascade.teacher.model):
        token_ids(model.prompts.tokenizer, [prompt.text for prompt in prompts], model.prompts.length, truncate=False)
    if isinstance(pipe.cascade.oracle, AttributeReward):
        labels_of([person for several in listed(asked) for person in several], pipe.cascade.oracle.reader.values)


def rows_of(prompts: Sequence[Prompt], result: Collaborated, policy: Policy, passes: Tensor) -> list[dict[str, Any]]:
    """What is told of every picture. score: null where the oracle has not looked at it."""
    columns = zip(
        prompts, result.routes(policy.repair), result.drafts.tolist(), result.draft_scores.tolist(),
        result.scores.tolist(), passes.tolist(), result.seconds.tolist(), strict=True,
    )  # fmt: skip
    return [
        {
            "key": prompt.key,
            "prompt": prompt.text,
            "attributes": prompt.attributes,
            "route": route,
            "drafts": drafts,
            "draft_score": round(draft_score, 6),
            "score": None if math.isnan(score) else round(score, 6),
            "passes": round(cost, 4),
            "seconds": round(seconds, 4),
        }
        for prompt, route, drafts, draft_score, score, cost, seconds in columns
    ]


def repaired_drafts(rows: Sequence[Mapping[str, Any]], result: Collaborated) -> dict[str, bytes]:
    """{key: PNG} of the drafts that the teacher was asked to repair: by them an oracle's AUC can be told later."""
    drafts = zip(rows, result.draft_images.split(1), result.repaired.tolist(), strict=True)
    return {row["key"]: as_png(to_picture(draft)) for row, draft, repaired in drafts if repaired}


def summary(out: Path, rows: Sequence[Mapping[str, Any]], policy: Policy) -> str:
    passes = torch.tensor([row["passes"] for row in rows], dtype=torch.float64)
    share = sum(row["route"] != "keep" for row in rows) / len(rows)
    ends = torch.tensor([0.5, 0.95], dtype=torch.float64)
    middle, high = torch.quantile(passes, ends, interpolation="higher").tolist()
    told = "all of them drafts" if policy.repair == "keep" else f"{share:.0%} of them {policy.repair}d"
    told = f"{out}  {len(rows)} pictures, {told}{', the better picture kept' if policy.keep_best else ''}"
    return f"{told}  passes {passes.mean():.2f} on average, half within {middle:.2f}, 95 % within {high:.2f}"


def _pipeline(
    options: argparse.Namespace,
    asked: Sequence[Any],
    calibration: Calibration | None = None,
) -> Collaboration:
    require_device(options.device)
    pipe = Collaboration.from_pretrained(
        options.student,
        options.teacher,
        options.oracle,
        calibration,
        student_network=options.student_network,
        student_steps=options.student_steps,
        student_scale=options.student_scale,
        teacher_steps=options.teacher_steps,
        teacher_scale=options.teacher_scale,
        solver=options.solver,
        batch_size=options.batch_size,
        asked=asked[0],
        dtype=getattr(torch, options.dtype),
        device=options.device,
        image_size=options.size,
        edit=edit_strength(options),
        control=options.control,
    )
    gc.enable()  # what follows takes long
    return pipe


def _calibration(options: argparse.Namespace) -> Calibration:
    if not options.calibration.is_file():
        raise ValueError(f"--calibration {options.calibration} is not there; make it with `calibrate`")
    return Calibration.load(options.calibration)


def _told(options: argparse.Namespace) -> tuple[list[Prompt], dict[str, list[Any]]]:
    """The prompts, and what the oracle (under "oracle") and every judge is told of each."""
    prompts = read_prompt_file(options.prompts)
    told = {"oracle": options.oracle, **{name: name for name in options.judge}}
    return prompts, {name: asked_of(prompts, oracle) for name, oracle in told.items()}


def _seeds(prompts: Sequence[Prompt], seed: int) -> list[str]:
    return [f"{seed}:{prompt.key}" for prompt in prompts]
