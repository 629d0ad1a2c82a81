import math
from random import Random

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from callbacks import SamplePicture, TransportMetrics
from callbacks.metrics.rows import EvaluationRows
from callbacks.pictures.column_labels import as_written
from callbacks.pictures.sample_picture import SAMPLE, TRUTH, condition_title, draw
from fewstep.metrics.point_clouds import cross_halves, energy_distance, mmd, sliced_wasserstein2, wasserstein2

torch.set_num_threads(1)
N, G, K, D = 61, 5, 16, 2


def random(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


class Sampler(LightningModule):
    """Its samples stand in the batch; `shift` makes them wrong."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.zeros(())), shift

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        outputs = {"sample": batch["sample"] + self.shift}
        if dataloader_idx == 0:
            outputs["nll"] = batch["nll"]
            self.log("test/nll", (batch["nll"] * batch["weight"]).sum(), add_dataloader_idx=False, on_epoch=True)
        return outputs


def tables():
    pairs = {"x": random(N, 3, seed=0), "y": random(N, D, seed=1), "sample": random(N, D, seed=2)}
    pairs["nll"] = random(N, seed=3)
    x = random(G, 1, 3, seed=4).expand(G, K, 3)
    probes = {"x": x, "y": random(G, K, D, seed=5), "sample": random(G, K, D, seed=6)}
    return pairs, probes


def batches(table, batch_size, ranks=1, rank=0):
    """What rank `rank` reads: rows rank::ranks, the last batch filled with junk of weight 0."""
    rows = torch.arange(len(table["y"]))[rank::ranks]
    count = -(-math.ceil(len(table["y"]) / ranks) // batch_size)
    for b in range(count):
        index = rows[b * batch_size : (b + 1) * batch_size]
        padding = batch_size - len(index)
        filled = torch.cat([index, torch.zeros(padding, dtype=torch.long)])
        batch = {name: column[filled] for name, column in table.items()}
        batch["sample"][len(index) :] = torch.nan  # whoever reads padding will notice
        yield batch | {"index": filled, "weight": (torch.arange(batch_size) < len(index)).float()}


class RankLoader:
    """Splits the rows among the ranks, as the datamodules do."""

    def __init__(self, table, batch_size, alone=False):
        self.table, self.batch_size, self.alone = table, batch_size, alone

    def read(self):
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if ranks > 1 else 0
        if self.alone:  # everything for the first rank, nothing but padding for the others
            whole = list(batches(self.table, self.batch_size))
            return [batch | {"weight": 0 * batch["weight"]} for batch in whole] if rank else whole
        return list(batches(self.table, self.batch_size, ranks, rank))

    def __len__(self):
        return len(self.read())

    def __iter__(self):
        return iter(self.read())


def run(tmp_path, loaders, callbacks, model=None, **options):
    options = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path, "callbacks": callbacks} | options
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(**options, **quiet, use_distributed_sampler=False, barebones=False)
    results = trainer.test(model or Sampler(), loaders, verbose=False)
    return {name: value for result in results for name, value in result.items()}, trainer


def measured(tmp_path, batch_size=7, group_batch=2, **options):
    pairs, probes = tables()
    metrics = TransportMetrics()
    loaders = [RankLoader(pairs, batch_size), RankLoader(probes, group_batch)]
    return run(tmp_path, loaders, [metrics], **options)[0], metrics


def test_values_are_those_of_the_distances_on_the_plain_tables(tmp_path):
    logged, metrics = measured(tmp_path)
    pairs, probes = tables()
    for name, distance in (("w2", wasserstein2), ("sw2", sliced_wasserstein2), ("energy", energy_distance)):
        both = torch.tensor([cross_halves(distance, s, y) for s, y in zip(probes["sample"], probes["y"], strict=True)])
        assert logged[f"test/conditional_{name}"] == pytest.approx(both[:, 0].mean().item(), rel=1e-5)
        assert logged[f"test/conditional_{name}_floor"] == pytest.approx(both[:, 1].mean().item(), rel=1e-5)
        assert logged[f"test/conditional_{name}_se"] == pytest.approx(both[:, 0].std().item() / 5**0.5, rel=1e-5)
        torch.testing.assert_close(metrics.rows[f"test/conditional_{name}"], both[:, 0].double(), rtol=1e-5, atol=1e-6)
    for name, distance in (("marginal_sw2", sliced_wasserstein2), ("mmd", mmd)):
        value, floor = cross_halves(distance, pairs["sample"], pairs["y"])
        assert logged[f"test/{name}"] == pytest.approx(value.item(), rel=1e-5)
        assert logged[f"test/{name}_floor"] == pytest.approx(floor.item(), rel=1e-5)
    assert torch.equal(metrics.rows["test/nll"], pairs["nll"])
    assert torch.equal(metrics.pairs["index"], torch.arange(N))


@pytest.mark.parametrize(("batch_size", "group_batch"), [(1, 1), (61, 5), (64, 3)])
def test_values_do_not_depend_on_the_batches(tmp_path, batch_size, group_batch):
    expected = measured(tmp_path)[0]
    logged = measured(tmp_path, batch_size, group_batch)[0]
    assert {k: v for k, v in logged.items() if k != "test/nll"} == {
        k: v for k, v in expected.items() if k != "test/nll"
    }


@pytest.mark.parametrize("alone", [False, True], ids=["shared", "one_rank_without_a_row"])
def test_two_processes_measure_what_one_does(tmp_path, alone):
    expected = measured(tmp_path)[0]
    pairs, probes = tables()
    loaders = [RankLoader(pairs, 7), RankLoader(probes, 2, alone)]
    logged = run(tmp_path, loaders, [TransportMetrics()], devices=2, strategy="ddp_fork")[0]
    assert logged.keys() == expected.keys()
    for name in expected.keys() - {"test/nll"}:
        assert logged[name] == pytest.approx(expected[name], rel=1e-6)


def test_a_wrong_sampler_scores_above_the_floor(tmp_path):
    logged, _ = measured(tmp_path, model=Sampler(shift=2.0))
    for name in ("conditional_w2", "conditional_sw2", "conditional_energy", "marginal_sw2", "mmd"):
        assert logged[f"test/{name}"] > logged[f"test/{name}_floor"] + 0.3


def test_intervals_enclose_the_values(tmp_path):
    logged, metrics = measured(tmp_path)
    found = metrics.intervals(num_draws=300)
    assert found.keys() == {k for k in logged if not k.endswith("_se")} - {"test/marginal_sw2_floor", "test/mmd_floor"}
    mean = metrics.rows["test/nll"].mean().item()
    assert found["test/nll"][0] < mean < found["test/nll"][1]
    for name in found.keys() - {"test/nll"}:
        low, high = found[name]
        assert low <= logged[name] <= high
        assert high - low < 1


def test_rows_seen_twice_count_once():
    rows = EvaluationRows()
    rows.add(torch.tensor([4, 2]), torch.ones(2), value=torch.tensor([40.0, 20.0]))
    rows.add(torch.tensor([2, 0, 9]), torch.tensor([1.0, 1.0, 0.0]), value=torch.tensor([20.0, 0.0, 90.0]))
    gathered = rows.gather()
    assert gathered["index"].tolist() == [0, 2, 4]
    assert gathered["value"].tolist() == [0.0, 20.0, 40.0]


def test_samples_that_are_not_finite_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"samples are not finite in 5 test rows \(first: row 0\)"):
        measured(tmp_path, model=Sampler(shift=math.nan))


def test_a_module_without_samples_is_refused(tmp_path):
    class Silent(Sampler):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            return None

    with pytest.raises(ValueError, match="need test_step to return a dict with a `sample`"):
        measured(tmp_path, model=Silent())


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_the_picture_is_written_and_handed_to_the_logger(tmp_path):
    import matplotlib.image
    from lightning.pytorch.loggers import CSVLogger

    class Album(CSVLogger):
        def log_image(self, key, images):
            self.shown = [key, *images]

    album = Album(tmp_path)
    pairs, probes = tables()
    trainer = Trainer(
        accelerator="cpu", devices=1, default_root_dir=tmp_path, callbacks=[SamplePicture()], logger=album,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.test(Sampler(), [RankLoader(pairs, 7), RankLoader(probes, 2)], verbose=False)
    path = tmp_path / "pictures" / "samples.png"
    assert album.shown == ["test/samples", str(path)]
    image = matplotlib.image.imread(path)
    assert image.shape[0] > 500
    assert image.shape[1] > 1500
    assert 0.5 < (image[..., :3] == 1).all(-1).mean() < 0.99  # mostly paper, but not empty


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 6])
def test_every_dimension_has_a_picture(dims):
    pairs = {"y": random(50, dims, seed=0), "sample": random(50, dims, seed=1)}
    x = random(4, 8, 2, seed=2)
    figure = draw(pairs, {"x": x, "y": random(4, 8, dims, seed=3), "sample": random(4, 8, dims, seed=4)})
    figure.canvas.draw()
    shown = sum(ax.get_visible() and ax.axison for ax in figure.axes)
    assert shown == {1: 1, 2: 1, 3: 6, 4: 10, 6: 1}[dims] + 4 + 1


NAMES = [
    "$$",
    r"$\frac{",
    "a$b",
    r"\$",
    r"$x\$",
    "_hidden",
    "\x1b[31m\n",
    "<b>",
    "%",
    "",
    " ",
    "°C",
    "x" * 200,
    "\ud800",
]


@pytest.mark.parametrize("dims", [2, 4])
def test_names_of_columns_are_shown_as_written(dims):
    pairs = {"y": random(9, dims, seed=0), "sample": random(9, dims, seed=1)}
    probes = {"x": random(2, 4, 2, seed=2), "y": random(2, 4, dims, seed=3), "sample": random(2, 4, dims, seed=4)}
    for first in range(0, len(NAMES), dims):
        figure = draw(pairs, probes, [*NAMES, *NAMES][first : first + dims])
        figure.canvas.draw()  # where matplotlib reads formulas
    labels = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert len(labels) == dims + 1


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"], [1, 2], [None, None], [], None])
def test_names_that_do_not_fit_are_replaced_by_numbers(names):
    pairs = {"y": random(9, 2, seed=0), "sample": random(9, 2, seed=1)}
    (ax,) = draw(pairs, {}, names).axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$y_{1}$", "$y_{2}$")


def test_no_name_is_a_formula_and_no_sign_of_it_is_lost():
    from matplotlib.text import Text

    draw = Random(0)
    for _ in range(500):
        name = "".join(draw.choices("$\\{}_^ab", k=draw.randint(0, 12)))
        shown, formula = Text()._preprocess_math(as_written(name))
        assert shown.lstrip() == name.lstrip()
        assert not formula


def test_scatter_shows_both_clouds_in_their_colours():
    from matplotlib.colors import to_rgb

    pairs = {"y": torch.zeros(30, 2), "sample": torch.ones(30, 2)}
    cloud = draw(pairs, {}).axes[0].collections[0]
    colours = [tuple(c[:3]) for c in cloud.get_facecolors()]
    for (a, b), colour in zip(cloud.get_offsets().tolist(), colours, strict=True):
        assert colour == pytest.approx(to_rgb(TRUTH if (a, b) == (0, 0) else SAMPLE))


def calibration(y, sample):
    pairs = {"y": y[0], "sample": sample[0]}
    figure = draw(pairs, {"x": torch.zeros(*y.shape[:2], 1), "y": y, "sample": sample})
    return [torch.tensor(line.get_xydata()) for line in figure.axes[-1].lines[1:]]


def test_calibration_is_the_diagonal_for_a_perfect_sampler_and_s_shaped_for_a_wide_one():
    y, sample = random(200, 40, 2, seed=0), random(200, 40, 2, seed=1)
    for line in calibration(y, sample):
        assert (line[:, 0] - line[:, 1]).abs().max() < 0.02
    for line in calibration(y, 3 * sample):
        assert line[len(line) // 5, 1] < line[len(line) // 5, 0] - 0.1  # low quantiles lie too low
        assert line[-len(line) // 5, 1] > line[-len(line) // 5, 0] + 0.1
    for line in calibration(y, sample + 2):  # samples too high: nearly all truth below
        assert line[len(line) // 2, 1] > 0.9


def test_probe_titles_name_the_condition_where_there_is_one():
    assert condition_title(torch.tensor([[0.5, -2.0]]).expand(4, 2), 7) == "$x$ = (0.50, −2.00)"
    assert condition_title(torch.zeros(4, 8), 7) == "condition 7"
    assert condition_title(random(4, 2, seed=0), 7) == "neighbourhood 7"
