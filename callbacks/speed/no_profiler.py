"""A Trainer that measures nothing, at no cost."""

from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch.profilers import PassThroughProfiler

NOTHING = nullcontext()


class NoProfiler(PassThroughProfiler):
    """Stands where Lightning's stand-in makes a generator for each of the hundred hooks of a step: a tenth of a ms."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        return NOTHING
