"""The end of the process group, before the interpreter's."""

import gc

from torch import distributed


def leave_process_group() -> None:
    """Take the default process group down, if there is one; for ranks that are done, all of them.

    Lightning does so for NCCL and leaves gloo's group to the end of the interpreter. A thread of gloo that still holds
    a tensor by then aborts the process, whose exit code becomes -6 after a whole run (seen once, with two hosts;
    https://github.com/pytorch/pytorch/issues/190489). Not after an error: other ranks may be in a collective.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()  # what wrapped the model holds the group too
        distributed.destroy_process_group()
