"""A page in the browser to generate, invert and edit pictures with exported students.

    python -m fewstep.demo RUN/export                       then open the address that it prints
    python -m fewstep.demo RUN/export --examples FOLDER     the same, with other pictures and captions to begin with
    python -m fewstep.demo --edit glasses.safetensors --edit old.safetensors    what `fewstep.fast_edit learn` wrote
    python -m fewstep.demo --collaboration RUN/export --oracle clip     the same for drafts and their repairs

It needs the extra `demo` (gradio), answers this machine only unless --host or --share says otherwise, and reports
nothing to anyone.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Event

from fewstep.installed_command import in_its_words
from fewstep.one_line import one_line
from fewstep.picture_size import size_argument
from fewstep.shell_command import QUIET

EXAMPLES = "what the page opens with: examples.json and its pictures; of assets/sd_avatars, assets/avatar_examples"
COLLABORATION = (
    *("oracle", "calibration", "prompts", "teacher", "student_steps", "student_scale"),
    *("teacher_steps", "teacher_scale", "solver"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Load the pair and serve the page until interrupted; returns the exit code."""
    options = parser().parse_args(argv)
    if find_spec("gradio") is None:
        print('error: the page needs gradio; pip install "fewstep[demo]"', file=sys.stderr)
        return 2
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}  # read at import
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import torch

    from fewstep.demo.collaboration_answers import CollaborationAnswers
    from fewstep.demo.examples import known_examples, read_examples
    from fewstep.demo.fast_edit_answers import FastEditAnswers
    from fewstep.demo.page import launch
    from fewstep.icd.pair import InvertibleConsistency

    try:
        if options.export is None and options.collaboration is None and not options.edit:
            raise ValueError(
                "give EXPORT or --edit FILE to edit pictures, --collaboration STUDENT to draw them, or several"
            )
        if options.export is None and not options.edit and options.examples is not None:
            raise ValueError("--examples are for editing; give EXPORT or --edit, too")
        folder = options.examples or (options.export and known_examples(options.pipeline, options.export))
        examples = read_examples(folder) if folder else []  # before a network is loaded
        dtype = getattr(torch, options.dtype)
        places = options.export, options.pipeline, options.network
        edits = FastEditAnswers.load(options.edit, options.base, options.device) if options.edit else None
        pair = together = None
        if options.collaboration is not None:
            settings = {name: getattr(options, name) for name in COLLABORATION}
            common = {"dtype": dtype, "device": options.device, "image_size": options.size}
            together = CollaborationAnswers.load(options.collaboration, **settings, **common)
        if options.export is not None:
            pair = InvertibleConsistency.load(*places, dtype, options.device, options.size)
        place = options.device, options.host, options.port, options.share
        page, address = launch(pair, *place, examples, together, edits)
    except (ValueError, OSError) as error:  # OSError: the port is taken
        if os.environ.get("FEWSTEP_TRACEBACK"):
            raise
        print(f"error: {one_line(error, 800)}", file=sys.stderr)
        return 2
    print(f"page  {address}  (Ctrl+C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        Event().wait()
    page.close()
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(in_its_words("python -m fewstep.demo"), description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("export", type=Path, nargs="?", metavar="EXPORT", help="what an ICD run exported: RUN/export")
    add("--examples", type=Path, metavar="FOLDER", help=EXAMPLES)
    add("--port", type=int, help="of the page; the first free one from 7860 on if not given")
    add("--host", default="127.0.0.1", help="address to answer; 0.0.0.0 for the whole network, default %(default)s")
    add("--share", action="store_true", help="a public address through gradio's servers for a week")
    add("--device", default="cpu", help="such as cpu, cuda or mps; default %(default)s")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network")
    add("--pipeline", help="folder or hub id of the teacher, if not where it was in training")
    add("--network", help="folder of the guidance-distilled network, likewise")
    add("--size", type=size_argument, help="of pictures, if not that of training: 512, or 512x768 for height x width")
    add = parser.add_argument_group("learnt edits", "a tab for them; files of one base").add_argument
    told = "of `fewstep.fast_edit learn`, such as avatar_glasses.safetensors; several times for several sliders"
    add("--edit", type=Path, action="append", default=[], metavar="FILE", help=told)
    add("--base", help="their base, if not where it was in training")
    add = parser.add_argument_group(
        "collaboration", "a tab for it; options as of `fewstep.collaboration draw`"
    ).add_argument
    add("--collaboration", metavar="STUDENT", help="export of a collaboration or ICD run, or a pipeline")
    add("--oracle", default="image_reward", help="image_reward, clip, attributes=FOLDER, ..; default %(default)s")
    add("--calibration", type=Path, default=Path("calibration.json"), metavar="FILE", help="default %(default)s")
    add("--prompts", type=Path, metavar="FILE", help="that the tab begins with; what is asked, for attributes=FOLDER")
    add("--teacher", help="pipeline, if not the one of the student's training")
    add("--student-steps", type=int, default=4, metavar="N", help="default %(default)s")
    add("--student-scale", type=float, metavar="W", help="guidance; the largest that the student knows if not given")
    add("--teacher-steps", type=int, default=10, metavar="N", help="default %(default)s")
    add("--teacher-scale", type=float, default=8.0, metavar="W", help="default %(default)s")
    add("--solver", default="dpm_solver", help="of the teacher; default %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
