"""A page in the browser to generate, invert and edit pictures with an exported pair of students.

    python -m fewstep.demo RUN/export                       then open the address that it prints
    python -m fewstep.demo RUN/export --examples FOLDER     the same, with pictures and captions to begin with

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

from fewstep.one_line import one_line
from fewstep.picture_size import size_argument
from fewstep.shell_command import QUIET


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

    from fewstep.demo.examples import read_examples
    from fewstep.demo.page import launch
    from fewstep.icd.pair import InvertibleConsistency

    try:
        examples = [] if options.examples is None else read_examples(options.examples)  # before a network is loaded
        dtype = getattr(torch, options.dtype)
        places = options.export, options.pipeline, options.network
        pair = InvertibleConsistency.load(*places, dtype, options.device, options.size)
        page, address = launch(pair, options.device, options.host, options.port, options.share, examples)
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
    parser = argparse.ArgumentParser("python -m fewstep.demo", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("export", type=Path, metavar="EXPORT", help="what an ICD run exported: RUN/export")
    add("--examples", type=Path, metavar="FOLDER", help="what the page opens with: examples.json and its pictures")
    add("--port", type=int, help="of the page; the first free one from 7860 on if not given")
    add("--host", default="127.0.0.1", help="address to answer; 0.0.0.0 for the whole network, default %(default)s")
    add("--share", action="store_true", help="a public address through gradio's servers for a week")
    add("--device", default="cpu", help="such as cpu, cuda or mps; default %(default)s")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the network")
    add("--pipeline", help="folder or hub id of the teacher, if not where it was in training")
    add("--network", help="folder of the guidance-distilled network, likewise")
    add("--size", type=size_argument, help="of pictures, if not that of training: 512, or 512x768 for height x width")
    return parser


if __name__ == "__main__":
    sys.exit(main())
