"""The harness of iCD's claims: what it measures against other libraries and by hand."""

import pytest
import torch

from benchmarks.icd import bench, judge, table
from benchmarks.icd.chains import Chains
from benchmarks.icd.evaluation_set import Pictures, some_of, style_pairs
from benchmarks.icd.predicates import CLAIMS, Found, LackingError
from benchmarks.icd.results import Results, read_rows
from fewstep.diffusion.guidance import DynamicGuidance
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.schedules import RectifiedFlow
from fewstep.diffusion.solvers import ddim, even_times

STYLES = ("noto", "twemoji", "fluent")


def test_psnr_and_ssim_are_those_of_torchmetrics():
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    rng = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 24, 24, generator=rng) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=rng)).clamp(-1, 1)
    decibels = [peak_signal_noise_ratio(x, y, data_range=2.0) for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(judge.psnr(a, b), torch.stack(decibels))
    _, everywhere = structural_similarity_index_measure(a, b, data_range=2.0, reduction="none", return_full_image=True)
    inside = everywhere[..., 5:-5, 5:-5].mean((1, 2, 3))  # theirs reflects the picture at its borders
    torch.testing.assert_close(judge.ssim(a, b), inside)
    assert judge.psnr(a, a).tolist() == pytest.approx([66.02] * 3, abs=0.01)


def test_the_long_grid_is_the_one_of_the_paper():
    assert bench.fine_times(0.02) == pytest.approx([step / 50 for step in range(1, 51)])
    assert bench.fine_times(0.0) == pytest.approx([step / 50 for step in range(51)])


class Counted:
    """A velocity that guidance scales, and how many rows were asked."""

    rows = 0

    def __call__(self, x, t, guidance_scale, condition):
        self.rows += len(x)
        return (x * t[:, None] + condition["shift"]) * guidance_scale[:, None]


def test_chains_share_what_is_unguided_and_change_nothing():
    network, flow = Counted(), Parametrization(RectifiedFlow(), "velocity")
    chains, times = Chains(network, flow, batch=2), even_times(10)[::-1]
    rng = torch.Generator().manual_seed(0)
    code, shift = torch.randn(5, 3, generator=rng), {"shift": torch.randn(5, 3, generator=rng)}
    for below, steps in ((1.0, 10), (0.7, 10), (0.3, 7), (0.0, 3), (0.3, 0)):
        guidance, network.rows = DynamicGuidance(2.0, below), 0
        state, seconds = chains.decode(code, times, shift, guidance, key="code")
        assert network.rows == 5 * steps  # those after the guidance starts, and those no chain has been to
        torch.testing.assert_close(state, ddim(Counted(), flow, code, times, shift, guidance))
        assert seconds > 0
    up = times[::-1]
    first = chains.encode(code, code, up, shift)
    network.rows = 0
    fewer = {"shift": shift["shift"][:2]}
    assert torch.equal(chains.encode(code[:2], code[:2], up, fewer)[0], first[0][:2])
    assert network.rows == 0
    torch.testing.assert_close(first[0], ddim(Counted(), flow, code, up, shift))


def drawings(num_concepts):
    keys = [(f"c{number}", style) for number in range(num_concepts) for style in STYLES]
    names = [f"{concept}_{style}" for concept, style in keys]
    concepts, styles = ([key[part] for key in keys] for part in (0, 1))
    return Pictures(torch.zeros(len(keys), 3, 2, 2), names, names, names, concepts, styles)


def test_pairs_are_one_concept_in_two_styles_and_every_way_comes_as_often():
    sources, targets = style_pairs(drawings(12), 12)
    assert sources.concept == targets.concept
    assert len(set(sources.concept)) == 12
    ways = list(zip(sources.style, targets.style, strict=True))
    assert sorted(ways) == sorted([(a, b) for a in STYLES for b in STYLES if a != b] * 2)
    with pytest.raises(ValueError, match="from 2 to 12"):
        style_pairs(drawings(12), 13)
    assert len(set(some_of(drawings(4), 5).key)) == 5


def rows_of(psnr, mse):
    """One row for each (config, method, guidance) with that PSNR, or latent MSE, for 20 pictures."""
    about = {"part": "inversion", "export": None, "start": 0.02, "split": "test", "num": 20, "seed": 0}
    rows = [about | {"part": "codes", "config": "teacher", "method": "x", "guidance": "encode w=1, decode w=8"}]
    for (config, method, guidance), decibels in psnr.items():
        spread = torch.linspace(-1, 1, 20, dtype=torch.float64)
        values = {"psnr": (decibels + spread).tolist()}
        values["latent_mse"] = (mse.get((config, method, guidance), 1.0) * (1 + spread / 2)).tolist()
        scalars = {name: sum(column) / 20 for name, column in values.items()}
        scalars |= {"nfe": 8, "seconds": 0.1}
        rows.append(
            about | {"config": config, "method": method, "guidance": guidance} | {"values": values, "scalars": scalars}
        )
    return rows


DDIM, FEW, ICD = ("teacher", "DDIM 50+50", "w=1"), ("teacher", "DDIM 4+4", "w=1"), ("G", "iCD 4+4", "w=1")


@pytest.mark.parametrize(("ours", "few", "passed"), [(21.6, 19, True), (21.4, 19, False), (22, 20.5, False)])
def test_c2_takes_both_of_its_conditions(ours, few, passed):
    margins = CLAIMS["C2"][1](Found(rows_of({DDIM: 23, FEW: few, ICD: ours}, {})))
    assert all(margin.value > 0 for margin in margins) == passed
    assert margins[0].value == pytest.approx(ours - 23 + 1.5)
    low, high = margins[0].interval
    assert high - low < 1e-9  # pictures are paired, and all of them differ by as much


@pytest.mark.parametrize(("ratio", "passed"), [(2.9, False), (3.1, True)])
def test_c1_compares_with_three_times_the_error(ratio, passed):
    found = Found(rows_of({DDIM: 1, FEW: 1, ICD: 1}, {DDIM: 0.01, FEW: 0.01 * ratio}))
    assert (CLAIMS["C1"][1](found)[0].value > 0) == passed


def test_rows_that_lack_leave_a_claim_open_and_seeds_are_pooled():
    rows = rows_of({DDIM: 23, FEW: 19, ICD: 22}, {})
    second = rows_of({ICD: 20}, {})[1:]
    found = Found(rows + second)
    assert CLAIMS["C2"][1](found)[0].value == pytest.approx(21 - 23 + 1.5)
    with pytest.raises(LackingError, match="inversion: A iCD"):
        CLAIMS["C3"][1](found)
    text = "\n".join(table.verdicts(found))
    assert "| C2 | iCD reconstructs like DDIM 50+50 | FAIL |" in text
    assert "| C3 | more segments help without preservation | not measured |" in text


def test_results_go_on_where_they_stopped(tmp_path):
    row = dict.fromkeys(("config", "export", "method", "start", "guidance", "split", "num", "seed"))
    first = Results(tmp_path / "a" / "rows.jsonl")
    first.add(row | {"part": "inversion"}, {"psnr": torch.tensor([1.0, 2.0])}, nfe=8)
    again = Results(tmp_path / "a" / "rows.jsonl")
    assert not again.lacks(row | {"part": "inversion"})
    assert again.lacks(row | {"part": "inversion", "num": 3})
    assert read_rows([again.path])[0]["scalars"] == {"psnr": 1.5, "nfe": 8}
