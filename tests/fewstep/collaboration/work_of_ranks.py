"""What processes do in test_shared_draw.py; a module of its own, because each of them imports it and nothing else."""

import os
import signal


def fail(options, ranks):
    """The last one as it is asked; the others wait for it for ever."""
    if ranks.rank + 1 < ranks.world:
        ranks.store.wait(["never"])
    if options.what == "mistake":
        raise ValueError("the prompt is wrong")
    os.kill(os.getpid(), signal.SIGKILL)
