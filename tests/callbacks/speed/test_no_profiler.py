"""NoProfiler: the hooks of a step pass through one object; a real profiler takes its place when asked for."""

import pytest
from lightning.pytorch.profilers import PassThroughProfiler, SimpleProfiler

from callbacks import NoProfiler
from commands.train.command_line import CommandLine


def test_nothing_is_made_for_a_hook():
    """Why not Lightning's: it makes two objects for every hook."""
    theirs, ours = PassThroughProfiler(), NoProfiler()
    assert theirs.profile("a") is not theirs.profile("b")
    assert ours.profile("a") is ours.profile("b")
    with ours.profile("a"), ours.profile("b"):
        assert ours.summary() == ""


def test_an_error_passes_through():
    with pytest.raises(KeyError), NoProfiler().profile("a"):
        raise KeyError


@pytest.mark.parametrize(("asked", "kind"), [([], NoProfiler), (["--trainer.profiler", "simple"], SimpleProfiler)])
def test_it_is_the_default_and_gives_way(fit, monkeypatch, asked, kind):
    seen = []
    monkeypatch.setattr(CommandLine, "run", lambda self: seen.append(type(self.trainer.profiler)))
    assert fit("--run_dir", "run", *asked) in (0, None)
    assert seen == [kind]
