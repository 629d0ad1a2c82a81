"""The quick version of benchmarks/data/kill_and_resume.py: real processes, real kills."""

import random

import pytest

from benchmarks.data import kill_and_resume


@pytest.mark.slow
def test_killed_runs_see_every_sample_once_whatever_their_ranks_and_workers(tmp_path):
    report = kill_and_resume.trial(tmp_path, kills=2, rng=random.Random(5))
    assert report["steps"] >= 3 * kill_and_resume.ALIVE_STEPS
    assert (report["samples_lost"], report["samples_repeated"], report["batches_that_differ"]) == (0, 0, 0)
