"""An edit learnt from pictures, judged on others, and kept in a file."""

import argparse
from dataclasses import replace
from pathlib import Path

from fewstep.choices import require_range
from fewstep.fast_edit.command_line.auditing import auditor_of, check_reader, judged, reference_pictures, stacked
from fewstep.fast_edit.command_line.given_pictures import given_pictures
from fewstep.fast_edit.command_line.learning import planned, planned_loss, shown_clips
from fewstep.fast_edit.edit_base import load_base
from fewstep.fast_edit.edit_file import save_edit
from fewstep.fast_edit.learn import learn
from fewstep.shell_command import VerdictError


def learned(options: argparse.Namespace) -> str:
    """VerdictError for an edit that does not pass its audit and is not forced: only its sheet is kept."""
    plan = planned(options)
    check_reader(options)
    for name in ("num_pictures", "num_held_out"):
        require_range(f"--{name.replace('_', '-')}", getattr(options, name), 1)
    path = Path(f"{plan.name}.safetensors") if options.out is None else options.out
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"--out {path}: give the edit's file a name that ends in .safetensors")
    given = given_pictures(options.pictures, options.num_pictures + options.num_held_out)
    if len(given) <= options.num_held_out:
        told = f"{len(given)} pictures, of which {options.num_held_out} are held out for the audit"
        raise ValueError(f"{told}, leave none to learn from; give more, or a smaller --num-held-out")
    shown, held_out = given[: -options.num_held_out], given[-options.num_held_out :]
    references = reference_pictures(options)
    base = load_base(options.base).to(options.device)
    pictures = stacked(options, shown, base)
    base.check_pictures(pictures)
    clips, factor = shown_clips(options, plan, base)
    loss = planned_loss(options, plan, base, clips)
    about = replace(plan.about, enlarge=factor)
    auditor = auditor_of(options, about, base, clips[0], about.judge, references)
    tuned = plan.tuning.of(base, [plan.name], options.seed)
    learnt = learn(tuned, plan.name, loss, pictures, [each.key for each in shown], plan.learning, plan.loop)
    sheet = path.with_name(f"{path.stem}-audit.png")
    report, written = judged(options, auditor, tuned, plan.name, about.application, held_out, sheet)
    if not report.passed and not options.force:
        raise VerdictError(f"{report.verdict}  sheet {written}  nothing is saved; look at the sheet, --force saves it")
    about = replace(about, audit=report.to_dict(), forced=not report.passed)
    saved = save_edit(path, tuned, plan.name, about, options.half, options.overwrite)
    first, last = learnt.history[0], learnt.history[-1]
    told = f"{saved}  {saved.stat().st_size / 1e3:.0f} kB  {len(learnt.history)} updates in {last.seconds:.1f} s"
    return f"{told}, loss {first.loss:.2f} to {last.loss:.2f}  {report.verdict}  sheet {written}"
