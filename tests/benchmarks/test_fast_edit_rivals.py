"""The rivals of fast edit by their formulas, their passes counted at the network, and the sums of what they cost."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.avatars.evaluation_set import Avatars
from benchmarks.fast_edit import bench, table
from benchmarks.fast_edit.accounting import cost, passes, reached, seconds, threshold
from benchmarks.fast_edit.asyrp import AsyrpEdit, Block, asymmetric_step
from benchmarks.fast_edit.asyrp_learning import Asyrp
from benchmarks.fast_edit.boundary import BoundaryDiffusion, fit_boundary
from benchmarks.fast_edit.edit_tasks import Task
from benchmarks.fast_edit.h_space import answer_at, answer_with_h
from benchmarks.fast_edit.memory import bytes_of_mode, saved_bytes
from benchmarks.fast_edit.pixels import Pixels
from benchmarks.fast_edit.rivals import Asked, Learning, Looked, Memory, Point
from benchmarks.fast_edit.scores import RATIOS, Scores, look_of
from benchmarks.fast_edit.sdedit import SDEdit
from benchmarks.fast_edit.tuned_rivals import DDIM, PLAIN, Tuning, pictures_used
from benchmarks.icd.results import read_rows
from fewstep.backbones import load_latent_diffusion
from fewstep.diffusion.solvers import ddim, even_times, time_like
from fewstep.fast_edit.audit.auditor import Direction
from fewstep.fast_edit.direction.clips import edit_loss
from fewstep.fast_edit.direction.edit_loss import EditLossOptions
from fewstep.fast_edit.direction.views import Views
from fewstep.fast_edit.encoding import Encoding
from fewstep.fast_edit.estimates import GradientMode
from fewstep.fast_edit.learn import LoopOptions
from fewstep.fast_edit.tuning import TuningOptions
from fewstep.files.weights import weights_sha256
from tests.tiny_clip import tiny_clip
from tests.tiny_diffusion import write_pipeline
from tests.tiny_edit_base import SCHEDULE, Calls, base, pictures

SHORT = Encoding(0.3, "ddim", 3)
LOOP = LoopOptions(passes=2, batch_size=2, look_every=1)


@pytest.fixture(scope="module")
def loss():
    return edit_loss([tiny_clip()], "face", "face with glasses", "plain", EditLossOptions(views=Views(1)))


def asked_of(loss, looks=None, **options):
    """look: answers what it is told to, and edits nothing."""
    looks = iter(looks) if looks else None
    look = lambda apply: Looked(0.5, 1.0) if looks is None else next(looks)  # noqa: E731
    return Asked(loss, 0.3, pictures(3, seed=5), look, **options)


def random_block(model, seed=0):
    x = torch.zeros(1, 3, 8, 8)
    with torch.no_grad():
        _, h, embedding = answer_with_h(model, x, time_like(x, 0.3))
    torch.manual_seed(seed)
    block = Block(h.shape[1], embedding.shape[1], groups=4)
    nn.init.normal_(block.out.weight)
    return block


def plain_decode(model, x, num_steps):
    with torch.no_grad():
        return ddim(model.denoiser, model.parametrization, x, even_times(num_steps, 0.3, 0.0), {}).clamp(-1, 1)


def encoded(model, data):
    with torch.no_grad():
        return ddim(model.denoiser, model.parametrization, data, even_times(3, 0.0, 0.3), {})


def test_h_space_is_left_as_it_was():
    model, x = base(), pictures()
    t = time_like(x, 0.2)
    answer, h, embedding = answer_with_h(model, x, t)
    torch.testing.assert_close(answer, model.predict(x, t), rtol=0, atol=0)
    torch.testing.assert_close(answer_at(model, x, t, torch.zeros_like(h)), answer, rtol=0, atol=0)
    assert (answer_at(model, x, t, torch.ones_like(h)) - answer).abs().max() > 1e-3
    assert h.shape == (2, 16, 4, 4)
    assert embedding.shape == (2, 32)
    assert not model.network.mid_block._forward_hooks


def test_a_new_block_of_asyrp_decodes_as_the_base_does():
    model, data = base(), pictures()
    block = random_block(model)
    nn.init.zeros_(block.out.weight)
    nn.init.zeros_(block.out.bias)
    edit = AsyrpEdit(model, block, SHORT, 4, 0.1, Memory(), None)
    torch.testing.assert_close(edit.apply(data), plain_decode(model, encoded(model, data), 4), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_asyrp_moves_the_data_that_are_aimed_at_and_not_the_noise(prediction):
    model, x = base(prediction=prediction), pictures()
    t, s = time_like(x, 0.3), time_like(x, 0.2)
    step = asymmetric_step(model, random_block(model), x, t, s)
    plain = asymmetric_step(model, None, x, t, s)
    torch.testing.assert_close(plain.after, model.parametrization.jump(x, model.predict(x, t), t, s))
    alpha = float(SCHEDULE(torch.tensor(0.2))[0])
    torch.testing.assert_close(step.plain, plain.data)
    assert (step.data - step.plain).abs().max() > 1e-3
    torch.testing.assert_close(step.after - plain.after, alpha * (step.data - step.plain), rtol=1e-4, atol=1e-5)


def test_asyrp_edits_early_steps_alone_and_counts_its_passes():
    model, data = base(), pictures()
    edit = AsyrpEdit(model, random_block(model), SHORT, 3, 0.2, Memory(), None)
    calls = Calls(model.network)
    edit.apply(data)
    assert sum(calls.rows) == edit.passes * len(data) == (3 + 3 + 2) * 2
    assert [steps[0] for steps in calls.timesteps[3:]] == [299, 299, 199, 199, 99]
    assert (edit.apply(data) - edit.apply(data, 0.0)).abs().max() > 1e-3


def test_encodings_are_remembered_but_not_for_a_clock():
    model, data, memory = base(), pictures(), Memory()
    edit = AsyrpEdit(model, random_block(model), SHORT, 3, 0.2, memory, None)
    calls = Calls(model.network)
    counted = []
    for emptied in (False, False, True, False):
        calls.rows.clear()
        with memory.emptied() if emptied else nullcontext():
            edit.apply(data)
        counted.append(len(calls.rows))
    assert counted == [8, 5, 8, 5]


def test_asyrp_learns_its_block_and_leaves_the_base(loss):
    model = base()
    before, calls = weights_sha256(model.network), Calls(model.network)
    made = Asyrp(encoding_steps=3, num_steps=3, t_edit=0.3, loop=LOOP)(model, pictures(4), asked_of(loss), 0)
    assert weights_sha256(model.network) == before
    assert not any(weight.requires_grad for weight in model.network.parameters())
    last = made.learning.points[-1]
    assert last.updates == len(made.learning.points) == 2 * 2 * 3  # 2 passes of 2 batches, 3 steps from 0.3 to 0.09
    assert last.passes == sum(calls.rows) - 1  # one row tells the size of the bottleneck
    assert last.used == 4
    assert made.learning.points[0].used == 2
    assert made.block.out.weight.abs().max() > 0


def test_the_boundary_parts_two_gaussians_and_is_moved_across_by_its_distance():
    torch.manual_seed(0)
    centre = F.normalize(torch.randn(2, 3, 3).flatten(), dim=0).view(2, 3, 3)
    without, having = torch.randn(200, 2, 3, 3) - 2 * centre, torch.randn(200, 2, 3, 3) + 2 * centre
    boundary = fit_boundary(without, having)
    assert boundary.normal.norm().item() == pytest.approx(1, abs=1e-5)
    assert (boundary.normal * centre).sum() > 0.9
    fresh = torch.randn(500, 2, 3, 3)
    assert (boundary.distance(fresh + 2 * centre) > 0).float().mean() > 0.9
    assert (boundary.distance(fresh - 2 * centre) < 0).float().mean() > 0.9
    assert boundary.gap == pytest.approx(4, abs=0.6)
    for by in (-1.5, 0.0, 2.5):
        moved = boundary.distance(boundary.moved(fresh, by))
        torch.testing.assert_close(moved, boundary.distance(fresh) + by, rtol=1e-4, atol=1e-4)


def test_boundary_diffusion_moves_once_and_counts_its_passes(loss):
    model, data = base(), pictures()
    calls = Calls(model.network)
    edit = BoundaryDiffusion(encoding_steps=3, num_steps=4)(model, pictures(4), asked_of(loss), 0)
    (point,) = edit.learning.points
    assert point.passes == sum(calls.rows) == (4 + 3) * (3 + 1)
    assert point.used == 4 + 3
    calls.rows.clear()
    edited = edit.apply(data)
    assert sum(calls.rows) == edit.passes * len(data)
    x = encoded(model, data)
    torch.testing.assert_close(edit.apply(data, 0.0), plain_decode(model, x, 4), rtol=1e-4, atol=1e-5)
    assert (edited - edit.apply(data, 0.0)).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["one_step", "random_t", "eff", "full"])
def test_tuned_edits_count_what_the_network_was_asked(loss, mode, monkeypatch):
    """random_t is the text slider. In the base itself, not in a copy of it, for the count."""
    model = base()
    monkeypatch.setattr("benchmarks.fast_edit.tuned_rivals.copy", SimpleNamespace(deepcopy=lambda network: network))
    calls = Calls(model.network)
    encoding = Encoding(0.9) if mode == "random_t" else Encoding(0.9, "ddim", 3)
    how = Tuning(GradientMode(mode, 3), encoding, application=replace(PLAIN, num_steps=2), loop=LOOP)
    edit = how(model, pictures(4), asked_of(loss), 1)
    last, encodings = edit.learning.points[-1], 4 * edit.learning.encoding_passes
    assert sum(calls.rows) == last.passes + encodings  # those that were timed beforehand
    updates = 3 if mode == "eff" else 1
    assert last.updates == 2 * 2 * updates
    assert [p.used for p in edit.learning.points[::updates]] == [2, 4, 4, 4]
    calls.rows.clear()
    edit.apply(pictures())
    assert sum(calls.rows) == edit.passes * 2 == 4
    assert edit.application.encoding.t0 == 0.3  # the edit's


def test_the_best_look_is_kept(loss):
    model = base()
    looks = [Looked(0.2, 1.0), Looked(0.9, 0.9), Looked(1.0, 0.5), Looked(0.9, 0.8)]
    edit = Tuning(loop=LOOP)(model, pictures(4), asked_of(loss, looks), 0)
    assert edit.learning.best == 2
    once = Tuning(loop=replace(LOOP, passes=1))(
        model, pictures(4), asked_of(loss, looks[:2]), 0
    )  # the same two updates
    for name, weight in edit.tuned.state("edit").items():
        torch.testing.assert_close(weight, once.tuned.state("edit")[name])
    assert not hasattr(model.network, "peft_config")
    other = edit.applied(replace(PLAIN, encoding=DDIM, num_steps=40))
    assert other.passes == 39 + 40
    assert other.application.encoding.t0 == 0.3


def test_pixels_are_the_same_at_all_strengths(loss):
    data = pictures()
    edit = Pixels(steps=2)(base(), data, asked_of(loss), 0)
    whole, half = edit.apply(data), edit.apply(data, 0.5)
    torch.testing.assert_close(half - data, (whole - data) / 2, rtol=0, atol=1e-6)
    assert (whole - data).abs().max() > 1e-3


def test_sdedit_is_told_captions_and_counts_both_answers(loss, tmp_path):
    model = load_latent_diffusion(write_pipeline(tmp_path / "pipeline", "sd"))
    side = model.image_size[0] // 2
    data = pictures(2, side, side)
    edit = SDEdit(model, num_steps=3)(base(), data, asked_of(loss, captions=["a face", "a hat"]), 0)
    calls = Calls(model.network)
    edited = edit.apply(data)
    assert sum(calls.rows) == edit.passes * 2
    assert edited.shape == data.shape
    torch.testing.assert_close(edit.apply(data, 0.0), data)
    with pytest.raises(ValueError, match="2 captions for 3 pictures"):
        edit.apply(pictures(3, side, side))
    with pytest.raises(ValueError, match="whose side divides it"):
        edit.apply(pictures(2, side + 1, side + 1))


def test_what_is_counted_of_encoding():
    """10 s of updates with 20 of 50 pictures encoded at 0.1 s each: 8 s without, 13 s with all of them."""
    learning = Learning(0.1, 39, 50)
    point = Point(4, 10.0, 20 * 39 + 240, 20, 0.9, 0.97)
    assert seconds(learning, point) == pytest.approx((8.0, 10.0, 13.0))
    assert passes(learning, point) == (240, 1020, 240 + 50 * 39)
    assert cost(3.0, 20, 50, 0.0) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("updates", "batch", "each", "num", "used"),
    [(1, 5, 1, 50, 5), (10, 5, 1, 50, 50), (12, 5, 1, 50, 50), (6, 5, 6, 50, 5), (7, 5, 6, 50, 10), (2, 4, 1, 6, 6)],
)
def test_pictures_used(updates, batch, each, num, used):
    assert pictures_used(updates, batch, each, num) == used


def test_quality_is_reached_where_both_shares_are():
    points = [
        Point(n, n, n, n, *shares) for n, shares in enumerate([(0.9, 0.5), (0.5, 1.0), (0.92, 0.95), (1, 0.97)], 1)
    ]
    wanted = threshold(Learning(points=points))
    assert wanted == pytest.approx((0.9, 0.95))
    assert reached(Learning(points=points), wanted) == points[2]
    assert reached(Learning(points=points[:2]), wanted) is None


def test_ratios_are_of_the_same_edit_and_seed():
    """A method that takes 4 times as long in one cell and 16 times in another: 8 in the geometric mean."""

    def row(method, seed, spent):
        learning = {"encoding_seconds": 0.0, "encoding_passes": 0, "num": 4, "best": 1}
        return {
            "method": method,
            "edit": "hat",
            "seed": seed,
            "learning": learning | {"points": [(1, spent, 4, 4, 1, 1)]},
        }

    rows = [row("fast edit", 0, 1.0), row("fast edit", 1, 3.0)]
    rows += [row("DiffusionCLIP full", 1, 48.0), row("DiffusionCLIP full", 0, 4.0)]
    printed = table.learning_table(table.by_method(rows)).splitlines()
    assert printed[2].count("1.00 [1.00, 1.00]") == 3
    assert printed[3].startswith("| DiffusionCLIP full | 2 of 2 |")
    assert printed[3].count("8.00 [4.00, 16.00]") == 3


def test_bytes_that_autograd_keeps():
    """A product keeps both factors, a storage counts once, and weights lie there anyway."""
    a, b = torch.ones(100, requires_grad=True), nn.Parameter(torch.ones(100))
    assert saved_bytes(lambda: a * b) == 800
    assert saved_bytes(lambda: a * b, [b]) == 400
    assert saved_bytes(lambda: (a * b, a * b), [b]) == 400
    assert saved_bytes(lambda: a + b) == 0


def test_a_graph_through_six_steps_keeps_six_times_as_much():
    tuned = TuningOptions(merged=True).of(base(), ["edit"])
    of = {
        name: bytes_of_mode(tuned, pictures(4), GradientMode(name), 0.3)
        for name in ("one_step", "eff", "last_k", "full")
    }
    assert of["full"] >= 5 * of["one_step"] > 0
    assert of["eff"] == pytest.approx(of["one_step"], rel=0.02)
    assert of["last_k"] == pytest.approx(of["one_step"], rel=0.02)


class Halves(nn.Module):
    """Reads whether the upper and the lower half are light."""

    image_size = (8, 8)

    def __init__(self, upper="hat", values=("none", "red")):
        super().__init__()
        self.upper, below = upper, ("hair_length", "hair_color", "shirt")
        self.values = {"hat": ["none", "red"]} | {name: ["dark", "light"] for name in below} | {upper: list(values)}
        self.trunk = nn.Identity()

    def forward(self, images):
        upper, lower = (half.mean((1, 2, 3)) for half in images.split(4, 2))
        means = {name: upper if name == self.upper else lower for name in self.values}
        return {name: torch.stack([-mean, mean], 1).log_softmax(1) for name, mean in means.items()}


def test_scores_of_sources_and_of_true_edits():
    sources = pictures(4) * 0.1 - 0.5
    true = sources[:3].clone()
    true[:, :, :4] += 1
    nothing = torch.zeros(0, 3, 8, 8)
    task = Task("hat", "hat", "red", 0.3, nothing, nothing, sources, sources, true, [], ([], []))
    clip, other = tiny_clip(), tiny_clip(1)
    directions = [Direction(each, F.normalize(torch.ones(8), dim=0)) for each in (clip, other)]
    scores = Scores(task, base(), Halves(), *directions)
    unedited = scores(sources)
    assert unedited["asked"] == unedited["background"] == 0
    assert unedited["kept"] == 1
    assert [unedited[name] for name in RATIOS] == pytest.approx([1, 1])
    assert unedited["to_true_edit"] == pytest.approx(0.5)
    assert unedited["held_out_direction"] == pytest.approx(0, abs=1e-5)
    edited = scores(true)
    assert edited["asked"] == edited["kept"] == 1
    assert edited["background"] == edited["to_true_edit"] == 0
    wrong = sources.clone()
    wrong[:, :, 4:] += 1
    assert scores(wrong)["kept"] == 0
    assert scores(wrong)["asked"] == 0
    look = look_of(task, Halves())
    assert look(lambda shown: shown) == (0, 1)
    assert look(lambda shown: -shown) == (1, 0)


def test_steps_and_grid_agree():
    edit = AsyrpEdit(base(), random_block(base()), SHORT, 6, 0.1, Memory(), None)
    assert [start for start, _ in edit.steps] == pytest.approx(even_times(6, 0.3, 0.0)[:-1])
    assert [end for _, end in edit.steps] == pytest.approx(even_times(6, 0.3, 0.0)[1:])
    assert [start for start, _ in edit.edited_steps] == pytest.approx([0.3, 0.25, 0.2, 0.15, 0.1])


def avatars(num, edited=0):
    """Two of three without glasses; the first ones have a true edit."""
    rest = {"shirt": "red", "hair_length": "short", "hair_color": "blond", "hat": "none"}
    worn = ["glasses" if row % 3 == 2 else "none" for row in range(num)]
    before = [{"background": "pink", "glasses": word} | rest for word in worn]
    changed = ["glasses" if row < edited and row % 3 < 2 else "shirt" for row in range(num)]
    new = [{"glasses": "glasses"} if word == "glasses" else {"shirt": "blue"} for word in changed]
    after = [old | change for old, change in zip(before, new, strict=True)]
    image, words, keys = pictures(num), ["an avatar"] * num, [str(row) for row in range(num)]
    return Avatars(image, image.flip(2), words, words, before, after, changed, keys)


@pytest.fixture
def small_bench(monkeypatch):
    clips, reader = [tiny_clip(), tiny_clip(1)], Halves("glasses", ("none", "glasses"))
    loop = LoopOptions(passes=1, batch_size=25, look_every=1)
    tuned = [Tuning(GradientMode(mode, 2), SHORT, application=PLAIN, loop=loop) for mode in ("one_step", "full")]
    methods = {"fast edit": tuned[0], "DiffusionCLIP full": tuned[1], "pixels": Pixels(steps=1)}
    changes = {
        "METHODS": methods | {"BoundaryDiffusion": BoundaryDiffusion(encoding_steps=2, num_steps=2)},
        "load_base": lambda source: base(),
        "read_pictures": lambda path: (avatars(160), avatars(12, edited=6)),
        "load_edit_clip": lambda source, enlarge: clips[source == "scorer"],
        "load_attribute_reader": lambda source: reader,
        "TIMED": 2,
    }
    for name, value in changes.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(torch, "set_num_threads", lambda num: None)


def test_the_harness_goes_on_where_it_stopped_and_is_tabulated(small_bench, tmp_path, capsys):
    out, sheets = tmp_path / "rows.jsonl", tmp_path / "sheets"
    methods = ["no edit", "true edit", "fast edit", "DiffusionCLIP full", "pixels", "BoundaryDiffusion"]
    command = ["--edits", "avatar_glasses", "--num", "6", "--strengths", "0.5", "1", "--out", str(out)]
    command += ["--held-out", "scorer", "--sheets", str(sheets), "--only", *methods, "--seeds"]
    bench.main([*command, "0"])
    first = out.read_text()
    bench.main([*command, "0", "1"])
    rows = read_rows([out])
    assert out.read_text().startswith(first)
    assert [(row["method"], row["seed"]) for row in rows] == [(name, seed) for seed in (0, 1) for name in methods]
    assert len(list(sheets.iterdir())) == 4
    by_name = {row["method"]: row for row in rows}
    assert by_name["no edit"]["points"][0]["quality"]["kept"] == 1
    assert by_name["true edit"]["points"][0]["quality"]["to_true_edit"] == 0
    assert [point["strength"] for point in by_name["pixels"]["points"]] == [0.5, 1]
    assert by_name["fast edit"]["learning"]["num"] == 50
    capsys.readouterr()
    table.main([str(out), "--plot", str(tmp_path / "plot.png")])
    printed = capsys.readouterr().out
    assert "| DiffusionCLIP full | 2 of 2 |" in printed
    assert "| BoundaryDiffusion | own | 4 |" in printed  # 2 passes up, 2 down
    assert (tmp_path / "plot.png").stat().st_size > 0
