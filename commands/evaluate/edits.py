"""One command line of evaluate.py --edits: every editor at every setting on the same edits, measured alike."""

import functools
import importlib.metadata
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from commands.evaluate.edit_sets import kind_of, networks, read_edits, readable
from commands.evaluate.kept_images import KeptImage, keep_image, read_image
from commands.evaluate.measure import VERSIONS_OF, VERSIONS_OF_IMAGES
from commands.evaluate.partial import Partial, RunFiles
from commands.evaluate.pipeline import counted
from commands.packaged_places import located
from commands.process import quiet
from commands.report import edits as report
from commands.report.write import check_out
from fewstep.backbones import load_latent_diffusion
from fewstep.editors.edits import Editor, Edits
from fewstep.editors.named import OF_PAIRS, Wanted, make_editor, wanted
from fewstep.icd.pair import InvertibleConsistency
from fewstep.installed_command import in_its_words
from fewstep.metrics.edit_scores import EditScores, load_lpips
from fewstep.metrics.intervals import bootstrap_mean
from fewstep.metrics.structure import StructureDistance
from fewstep.one_line import one_line, printable
from fewstep.pixels import to_uint8
from fewstep.rewards.clip_scores import load_clip


class Job(NamedTuple):
    number: int  # among all runs
    word: str  # the editor as the command line has it
    w: float
    tau: float

    @property
    def label(self) -> str:
        return f"{self.word}, w {self.w:g}, tau {self.tau:g}"


def run(argv: Sequence[str], args: Any) -> int:
    """Measure, write, print; returns 0, or 2 after one line on stderr and with no report written.

    args: what edit_arguments made of argv.
    """
    quiet()
    try:
        evaluate(args, shlex.join([*in_its_words("python evaluate.py").split(), *argv]))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"error: {printable(one_line(in_its_words(str(error)), 800))}", file=sys.stderr)
        return 2
    return 0


def evaluate(args: Any, command: str) -> None:
    """Errors: one line."""
    place, device = located(args.edits), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names, jobs = list_jobs(args)
    check_out(args.out, [job.label for job in jobs], args.overwrite)
    kind = kind_of(place)
    scorer = networks(kind, args.clip, args.clip_pretrained, args.structure)
    editors = make_editors(names, args, device)
    for job in jobs:
        editors[job.word].check(job.w, job.tau)
    models = [editor.model for editor in editors.values()]
    sizes = {model.image_size for model in models}
    if len(sizes) > 1:
        raise ValueError(f"the editors draw pictures of sizes {sorted(sizes)}; compare those of one size")
    size, ours = sizes.pop(), args.clip is None
    edits, passed = readable(read_edits(place, kind, size, args.split, ours, args.num_samples), models)
    if passed:
        print(f"{passed} edits are left out: longer prompts than an editor reads", file=sys.stderr)
    partial = keep_partly(args, command, place, names, scorer)
    partial.check(args.overwrite)
    done = {job.number: partial.finished(job.number) for job in jobs}
    lacking = [job for job in jobs if done[job.number] is None]
    scores = (
        EditScores(load_lpips(args.lpips), StructureDistance(scorer[2]), load_clip(*scorer[:2])) if lacking else None
    )
    for word, editor in editors.items():
        mine = [job for job in lacking if job.word == word]
        draw(editor, edits, mine, args, partial, device)
        for job in mine:
            assert scores is not None
            found = measured(job, edits, scores.to(device), partial.of_run(job.number), args, device)
            partial.keep(job.number, found, None)
            done[job.number] = (found, None)
    runs = [each[0] for job in jobs if (each := done[job.number]) is not None]
    pictures = sheet_pictures(edits, jobs, partial, report.SHOWN)
    report.write(args.out, runs, [job.label for job in jobs], pictures, edits, command)
    partial.remove()
    report.print_table(runs, [job.label for job in jobs])
    print(f"report  {args.out / 'report.md'}")


def list_jobs(args: Any) -> tuple[dict[str, Wanted], list[Job]]:
    """The editors by their words, and all settings of each. Errors: one line."""
    for name in ("editors", "w", "tau"):
        given = getattr(args, name)
        if twice := [value for value in given if given.count(value) > 1]:
            raise ValueError(f"--{name} {twice[0]} is given twice; name each once")
    names = {word: wanted(word) for word in args.editors}
    settings = [(word, w, tau) for word in names for tau in args.tau for w in args.w]
    return names, [Job(number, *each) for number, each in enumerate(settings)]


def make_editors(names: dict[str, Wanted], args: Any, device: torch.device) -> dict[str, Editor]:
    """Each pipeline and each pair is loaded once."""
    dtype = getattr(torch, args.dtype)
    pipeline = functools.cache(lambda source: load_latent_diffusion(located(source), dtype=dtype).to(device))
    pair = functools.cache(lambda source: InvertibleConsistency.load(located(source), dtype=dtype, device=device))
    made = {}
    for word, (name, own) in names.items():
        if (source := own or args.pipeline) is None:
            raise ValueError(
                f"the editor {word} needs a pipeline of text to image: give --pipeline, or {name}=PIPELINE"
            )
        made[word] = make_editor(name, (pair if name in OF_PAIRS else pipeline)(source), args.steps)
    return made


def keep_partly(
    args: Any, command: str, place: str, names: dict[str, Wanted], scorer: tuple[str, str | None, str]
) -> Partial:
    """Every file that the edited pictures depend on is one of the plan."""
    sources = dict.fromkeys(located(str(each.source or args.pipeline)) for each in names.values())
    settings = {name: getattr(args, name) for name in ("editors", "w", "tau", "steps", "split", "seed", "dtype")}
    settings |= {"edits": place, "pipeline": args.pipeline, "num_samples": args.num_samples}
    files = [Path(each) for each in (place, *sources) if Path(each).exists()]
    weights = [str(each).removeprefix("local-dir:") for each in scorer]
    return Partial(args.out, command, settings, files, [weights, args.lpips, args.bootstrap])


def draw(editor: Editor, edits: Edits, jobs: Sequence[Job], args: Any, partial: Partial, device: torch.device) -> None:
    """Every picture that is lacking, each kept as it comes; what settings share is done once for a batch."""
    for start in range(0, len(edits), args.batch_size):
        rows = range(start, min(start + args.batch_size, len(edits)))
        open_jobs = {job: lack for job in jobs if (lack := [r for r in rows if not _kept(partial, job, edits.key[r])])}
        if not open_jobs:
            continue
        wanted_rows = sorted({row for lack in open_jobs.values() for row in lack})
        batch = edits[wanted_rows].to(device)
        with counted(editor.model.network) as passes:
            edited, spent = _timed(functools.partial(editor, batch, args.seed), device)
            before = passes[0]
            for job in open_jobs:
                pictures, seconds = _timed(functools.partial(edited, job.w, job.tau), device)
                nfe, cost = passes[0] / len(batch), (spent + seconds) / len(batch)
                passes[0] = before
                for key, pixels in zip(batch.key, to_uint8(pictures).cpu().numpy(), strict=True):
                    keep_image(partial.of_run(job.number), key, KeptImage(pixels, nfe, cost))


def _kept(partial: Partial, job: Job, key: str) -> bool:
    return read_image(partial.of_run(job.number), key) is not None


def _timed(make: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    start = time.perf_counter()
    found = make()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - start


def _pictures(kept: RunFiles, keys: Sequence[str]) -> list[KeptImage]:
    found = [read_image(kept, key) for key in keys]
    if None in found:
        raise ValueError(f"the edited picture of {keys[found.index(None)]!r} has gone; repeat the command")
    return [each for each in found if each is not None]


def measured(
    job: Job, edits: Edits, scores: EditScores, kept: RunFiles, args: Any, device: torch.device
) -> dict[str, Any]:
    """A run as commands.report has it, of the pictures that are kept."""
    start, parts = time.perf_counter(), []
    images = _pictures(kept, edits.key)
    for first in range(0, len(edits), args.batch_size):
        rows = range(first, min(first + args.batch_size, len(edits)))
        some = edits[rows].to(device)
        shown = torch.stack([torch.from_numpy(images[row].pixels) for row in rows]).to(device).float() / 127.5 - 1
        parts.append(scores(shown, some.image, some.mask, some.wording, some.edited))
    columns = {f"test/{name}": torch.cat([part[name] for part in parts]) for name in parts[0]}
    known = {name: column[~column.isnan()] for name, column in columns.items()}
    known = {name: column for name, column in known.items() if len(column) > 1}
    seconds = sum(each.seconds for each in images)
    return {
        "checkpoint": job.label,
        "config": "",
        "data": {"path": args.edits, "split": args.split, "num": len(edits)},
        "metrics": {name: float(column.mean()) for name, column in known.items()},
        "intervals": {
            name: list(bootstrap_mean(column, args.bootstrap, seed=args.seed)) for name, column in known.items()
        },
        "protocol": {f"test/{name}": told | {"pictures": len(edits)} for name, told in scores.protocol.items()},
        "sampling": {
            "samples": len(edits),
            "nfe": sum(each.nfe for each in images) / len(images),
            "seconds_per_sample": float(f"{seconds / len(images):.4g}"),
        },
        "seed": args.seed,
        "settings": {"editor": job.word, "w": f"{job.w:g}", "tau": f"{job.tau:g}", "steps": str(args.steps)},
        "seconds": round(time.perf_counter() - start + seconds, 2),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "versions": _versions(),
        "rows": {name: column.tolist() for name, column in known.items()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in (*VERSIONS_OF, *VERSIONS_OF_IMAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def sheet_pictures(edits: Edits, jobs: Sequence[Job], partial: Partial, num: int) -> dict[str, Tensor]:
    """uint8 [n, 3, H, W] of the first edits by name: the pictures, what each run made of them, the true edits."""
    shown = edits[range(min(num, len(edits)))].to("cpu")
    found = {"picture": to_uint8(shown.image)}
    for job in jobs:
        kept = [read_image(partial.of_run(job.number), key) for key in shown.key]
        if None not in kept:  # a damaged file costs the page a row, no number
            found[job.label] = torch.stack([torch.from_numpy(each.pixels) for each in kept if each is not None])
    return found if shown.edited is None else found | {"true edit": to_uint8(shown.edited)}
