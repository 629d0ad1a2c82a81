"""The rivals whose base knows captions: FlowEdit against its closed form, iCD against its pair, and their passes."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks.fast_edit import bench
from benchmarks.fast_edit.flow_edit import FlowEdit
from benchmarks.fast_edit.icd_rival import ICD
from fewstep.backbones import load_latent_diffusion
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import RectifiedFlow, per_sample
from fewstep.diffusion.solvers import even_times
from fewstep.editors.flow_edit import flow_edit, line_time
from fewstep.icd.editing import Editing
from fewstep.icd.pair import InvertibleConsistency
from fewstep.rng import PerSampleRng
from tests.tiny_diffusion import write_pipeline
from tests.tiny_edit_base import SCHEDULE, Calls, base, pictures
from tests.tiny_export import SCALES, write_export

BEFORE, AFTER = ["a red square", "a green square"], ["a blue square", "a white square"]
ASKED = SimpleNamespace(captions=AFTER, captions_before=BEFORE)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), SCHEDULE], ids=["flow", "diffusion"])
def test_between_gaussians_flow_edit_has_a_closed_form(schedule):
    """Data N(m, s^2) of either text: the difference D of edit and source has dD/dt = a (D - (1 - t) M) - M with
    a = q' / 2q, q = (1 - t)^2 s^2 + t^2 and M that of the means, whatever the noise; so
    D(0) = M (1 - (1 - t0) s / sqrt(q(t0)))."""
    parametrization, spread, means = Parametrization(schedule, "eps"), 0.6, (0.3, -0.9)

    def velocity(source, edited, t):
        alpha, sigma = (per_sample(level, source) for level in schedule(t))
        t = sigma / (alpha + sigma)
        q = (1 - t) ** 2 * spread**2 + t**2
        slope = (t - (1 - t) * spread**2) / q
        states = [x / (alpha + sigma) for x in (source, edited)]
        return tuple(slope * (x - (1 - t) * mean) - mean for x, mean in zip(states, means, strict=True))

    data = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    draw = lambda: torch.randn(data.shape, dtype=torch.float64, generator=generator)  # noqa: E731
    found = flow_edit(velocity, parametrization, data, even_times(2000, 0.6, 0.0), draw)
    t0 = line_time(parametrization, torch.tensor(0.6, dtype=torch.float64)).item()
    change = 1 - (1 - t0) * spread / ((1 - t0) ** 2 * spread**2 + t0**2) ** 0.5
    torch.testing.assert_close(found, data + (means[1] - means[0]) * change, rtol=0, atol=5e-3)


def shown(model):
    side = model.image_size[0] // 2
    return pictures(2, side, side)


def test_flow_edit_is_told_both_captions_and_counts_all_answers(tmp_path):
    model = load_latent_diffusion(write_pipeline(tmp_path / "pipeline", "sd"))
    data, how = shown(model), FlowEdit(model, num_steps=3)
    edit = how(base(), data, ASKED, 0)
    calls = Calls(model.network)
    edited = edit.apply(data)
    assert sum(calls.rows) == edit.passes * 2 == 12 * 2
    assert edited.shape == data.shape
    assert torch.equal(edit.apply(data, 0.0), data)
    same = SimpleNamespace(captions=BEFORE, captions_before=BEFORE)
    kept = replace(how, target_scale=how.source_scale)(base(), data, same, 0).apply(data)
    large = data.repeat_interleave(2, 2).repeat_interleave(2, 3)
    through = torch.nn.functional.avg_pool2d(model.latents.decode(model.latents.encode(large)), 2).clamp(-1, 1)
    torch.testing.assert_close(kept, through, rtol=0, atol=1e-4)
    assert (edited - kept).abs().max() > 1e-3
    alone = edit.apply(data[:1])  # the noise is the row's
    torch.testing.assert_close(alone, edited[:1], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="2 captions of 3 sources"):
        edit.apply(pictures(3, *data.shape[2:]))


def test_icd_edits_as_its_pair_at_the_scale_next_to_the_strength(tmp_path):
    pair = InvertibleConsistency.load(write_export(tmp_path))
    data = shown(pair.model)
    edit = ICD(pair)(base(), data, ASKED, 3)
    calls = Calls(pair.model.network)
    large = data.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for strength, scale in ((1.0, 12.0), (0.3, 4.0), (0.05, 1.0), (2.0, 12.0)):
        calls.rows.clear()
        found = edit.apply(data, strength)
        assert sum(calls.rows) == edit.passes * 2 == 8 * 2
        own = pair.edit(large, BEFORE, AFTER, PerSampleRng(3, [0, 1]), Editing(guidance_scale=scale))
        torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(own, 2).clamp(-1, 1))
    assert max(SCALES) == 12
    assert torch.equal(edit.apply(data, 0.0), data)
    replayed = ICD(pair, Editing(guidance_scale=4.0, replay=True))(base(), data, ASKED, 3)
    calls.rows.clear()
    replayed.apply(data)
    assert sum(calls.rows) == replayed.passes * 2


@pytest.mark.parametrize(("name", "option"), [("SDEdit", "--text-base"), ("FlowEdit", "--text-base"), ("iCD", "--icd")])
def test_a_base_that_is_lacking_is_told(name, option, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "load_base", lambda source: base())
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)
    with pytest.raises(SystemExit, match=f"{name} needs a base that knows captions: give {option}"):
        bench.main(["--only", name, "--out", str(tmp_path / "rows.jsonl")])
