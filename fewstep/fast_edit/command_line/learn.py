"""An edit learnt from pictures, judged on others, and kept in a file."""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from fewstep.choices import require_range
from fewstep.fast_edit.command_line.auditing import (
    check_number,
    judge_edit,
    make_auditor,
    read_pictures,
    reference_pictures,
)
from fewstep.fast_edit.command_line.given_pictures import GivenPicture, selected_pictures
from fewstep.fast_edit.command_line.learning import Plan, load_clips, make_loss, plan_edit
from fewstep.fast_edit.command_line.readers import check_apart, check_reader, load_gate, load_judge
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import save_edit
from fewstep.fast_edit.learn import Probing, learn
from fewstep.fast_edit.tuned import Tuned
from fewstep.files.places import require_writable
from fewstep.shell_command import VerdictError

NUM_LOOKED_AT = 16  # by the gate: neither learnt from nor judged


def learn_to_file(options: argparse.Namespace) -> str:
    """VerdictError for an edit that does not pass its audit and is not forced: it is kept as EDIT.failed."""
    plan = plan_edit(options)
    path = _checked(options, plan)
    shown, looked_at, held_out, passed_over = _pictures(options)
    references = reference_pictures(options)
    base = load_base(options.base).to(options.device)
    pictures = read_pictures(options, shown, base)
    base.check_pictures(pictures)
    clips, factor = load_clips(options, plan, base)
    loss = make_loss(options, plan, base, clips)
    about = replace(plan.about, enlarge=factor)
    judge, probing = load_judge(options, plan.asked, factor, base), None
    if options.gate is not None:
        gate = load_gate(options.gate, plan.asked, factor, base, options.device)
        check_apart(gate, judge)
        probing = Probing(gate, read_pictures(options, looked_at, base), about.application)
    auditor = make_auditor(options, about, base, clips[0], judge, references)
    tuned = plan.tuning.of(base, [plan.name], options.seed)
    learnt = learn(tuned, plan.name, loss, pictures, [each.key for each in shown], plan.learning, plan.loop, probing)
    if options.half:
        _round(tuned, plan.name)
    sheet = path.with_name(f"{path.stem}-audit.png")
    report, written = judge_edit(options, auditor, tuned, plan.name, about.application, held_out, sheet)
    about = replace(about, audit=report.to_dict(), forced=options.force and not report.passed)
    fails = not (report.passed or options.force)
    path = path.with_name(f"{path.stem}.failed.safetensors") if fails else path
    saved = save_edit(path, tuned, plan.name, about, options.half, options.overwrite)
    if fails:
        told = f"kept aside as {saved}, which says so; look at the sheet, --force saves it under its name"
        raise VerdictError(f"{report.verdict}  sheet {written}  {told}")
    first, last = learnt.history[0], learnt.history[-1]
    told = f"{saved}  {saved.stat().st_size / 1e3:.0f} kB  learnt from {len(shown)} pictures"
    told += f" ({passed_over} others passed over)" if options.lacking else ""
    told += f", {len(learnt.history)} updates in {last.seconds:.1f} s, loss {first.loss:.2f} to {last.loss:.2f}"
    if probing is not None:
        best = learnt.history[learnt.best - 1]
        told += f", kept after {learnt.best}, where the gate finds it in {best.share:.2f}"
    return f"{told}  {'' if report.passed else 'forced, '}{report.verdict}  sheet {written}"


def _checked(options: argparse.Namespace, plan: Plan) -> Path:
    """Where the edit goes; ValueError in one line for whatever can be told before anything is read."""
    check_reader(options, plan.asked)
    if options.enough is not None and options.gate is None:
        raise ValueError("--enough needs --gate FOLDER, which tells when it is enough")
    for name in ("num_pictures", "num_held_out"):
        require_range(f"--{name.replace('_', '-')}", getattr(options, name), 1)
    check_number(options.num_held_out, options.force)
    path = Path(f"{plan.name}.safetensors") if options.out is None else options.out
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"--out {path}: give the edit's file a name that ends in .safetensors")
    require_writable(path.parent)
    return path


def _pictures(
    options: argparse.Namespace,
) -> tuple[list[GivenPicture], list[GivenPicture], list[GivenPicture], int]:
    """(to learn from, for the gate, for the audit, passed over); the audit's are the last ones."""
    num_looked_at = 0 if options.gate is None else NUM_LOOKED_AT
    aside = num_looked_at + options.num_held_out
    given, passed_over = selected_pictures(options.pictures, options.num_pictures + aside, dict(options.lacking))
    if len(given) <= aside:
        told = f"{len(given)} pictures, of which {options.num_held_out} are held out for the audit"
        told += f" and {num_looked_at} for the gate" if num_looked_at else ""
        raise ValueError(f"{told}, leave none to learn from; give more, or a smaller --num-held-out")
    last = len(given) - options.num_held_out
    return given[: len(given) - aside], given[len(given) - aside : last], given[last:], passed_over


@torch.no_grad()
def _round(tuned: Tuned, name: str) -> None:
    """As float16 keeps it, so that what is judged is what is saved."""
    tuned.load_state(name, {key: weight.half().to(weight) for key, weight in tuned.state(name).items()})
