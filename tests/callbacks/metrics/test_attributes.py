"""Attributes of generated pictures by a reader that a test can compute, on one and two processes."""

import numpy as np
import pytest
import torch
from torch import nn

from callbacks import AttributeCallback, ReadableCallback, RewardCallback
from fewstep.rewards.attributes import AttributeReward
from tests.callbacks.image_run import Loader, N, run, table, to_uint8

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.*(does not have many workers|sync_dist)")


class Channels(nn.Module):
    """`first`: which of two channels has the greater mean; `bright`: whether the mean of all is above 0.45."""

    def __init__(self):
        super().__init__()
        self.values = {"first": ["red", "green"], "bright": ["no", "yes"]}
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, images):
        assert images.dtype == torch.float32
        mean = images.mean((2, 3))
        bright = 10 * (mean.mean(1) + 0.2)
        return {
            "first": (5 * mean[:, :2]).log_softmax(1),
            "bright": torch.stack([-bright, bright], 1).log_softmax(1),
        }


def asked():
    """Every third picture is asked for nothing but its first channel."""
    return [{"first": "red"} if i % 3 == 0 else {"first": "green", "bright": "yes"} for i in range(N)]


def expected():
    """(right [N, 2], asked [N, 2], log p [N, 2]) without the code under test."""
    found = Channels()(to_uint8(table()["made"]).float() / 127.5 - 1)
    numbers = torch.tensor([[0, -1] if i % 3 == 0 else [1, 1] for i in range(N)])
    told = numbers >= 0
    right = torch.stack([found["first"].argmax(1), found["bright"].argmax(1)], 1) == numbers
    rows = torch.arange(N)
    p = torch.stack([found[name][rows, numbers[:, place].clamp(min=0)] for place, name in enumerate(found)], 1)
    return right & told, told, torch.where(told, p, 0)


@pytest.mark.parametrize("persons", [1, 2])
def test_an_edit_is_asked_for_what_it_shall_bring(tmp_path, persons):
    """As with the wanted attributes in the batch; what it does not change is asked for still."""
    plain = [{"first": "red"} if persons == 1 else [{"first": "red"}] * 2 for _ in range(N)]
    edited = [{"first": "red", "bright": "yes"} if persons == 1 else [{"first": "red", "bright": "yes"}] * 2] * N
    found = []
    for callback, attributes in (
        (AttributeCallback(Channels(), instead={"bright": "yes"}), plain),
        (AttributeCallback(Channels()), edited),
    ):
        found.append(run(tmp_path, [callback], Loader(table() | {"attributes": attributes}))[0])
    assert found[0] == found[1]
    assert "test/right_bright" in found[0]


@pytest.mark.parametrize("alone", [None, "", "padding"])
def test_values_are_means_over_pictures(tmp_path, alone):
    options = {} if alone is None else {"devices": 2, "strategy": "ddp_fork"}
    callback = AttributeCallback(Channels(), prefix="my_")
    reward = RewardCallback(AttributeReward(Channels()), "other_attributes_log_p", field="attributes")
    columns = table() | {"attributes": asked()}
    logged = run(tmp_path, [callback, reward], Loader(columns, alone=alone or ""), **options)[0]
    right, told, log_p = (values.float() for values in expected())
    mean_log_p = (log_p.sum(1) / told.sum(1)).mean().item()
    assert logged == pytest.approx(
        {
            "test/my_attributes_right": (right.sum(1) / told.sum(1)).mean().item(),
            "test/my_all_right": (right == told).all(1).float().mean().item(),
            "test/my_attributes_log_p": mean_log_p,
            "test/my_right_first": right[:, 0].mean().item(),
            "test/my_right_bright": (right[:, 1].sum() / told[:, 1].sum()).item(),
            "test/other_attributes_log_p": mean_log_p,
        },
        rel=1e-5,
    )
    assert 0.1 < logged["test/my_all_right"] < logged["test/my_attributes_right"] < 0.9  # the test sees both kinds


def test_pictures_of_which_nothing_is_asked_are_not_counted(tmp_path):
    callback, some = AttributeCallback(Channels()), [{} if i % 2 else wanted for i, wanted in enumerate(asked())]
    logged = run(tmp_path, [callback], Loader(table() | {"attributes": some}))[0]
    right, told, log_p = (values.float()[::2] for values in expected())
    assert logged["test/attributes_right"] == pytest.approx((right.sum(1) / told.sum(1)).mean().item())
    assert logged["test/all_right"] == pytest.approx((right == told).all(1).float().mean().item())
    assert logged["test/attributes_log_p"] == pytest.approx((log_p.sum(1) / told.sum(1)).mean().item(), rel=1e-5)
    assert callback.measured["test/all_right"]["num_generated"] == len(right)
    with pytest.raises(ValueError, match="something is asked in `attributes`, got 0"):
        run(tmp_path, [AttributeCallback(Channels())], Loader(table() | {"attributes": [{}] * N}))


def test_a_sample_without_attributes_is_named(tmp_path):
    columns = table() | {"attributes": [None if i == 4 else wanted for i, wanted in enumerate(asked())]}
    for callback in (AttributeCallback(Channels()), RewardCallback(AttributeReward(Channels()), "x", "attributes")):
        with pytest.raises(ValueError, match=f"needs `attributes` of every sample, and {columns['key'][4]} has none"):
            run(tmp_path, [callback], Loader(columns))


def test_rows_and_intervals_are_of_pictures(tmp_path):
    callback = AttributeCallback(Channels())
    run(tmp_path, [callback], Loader(table() | {"attributes": asked()}), stage="validate")
    right, told, _ = (values.double() for values in expected())
    torch.testing.assert_close(callback.rows["val/attributes_right"], right.sum(1) / told.sum(1))
    low, high = callback.intervals(num_draws=200)["val/all_right"]
    assert low < callback.measured["val/all_right"]["value"] < high
    assert callback.measured["val/all_right"]["num_generated"] == N
    assert len(callback.measured["val/all_right"]["weights_sha256"]) == 16


@pytest.mark.parametrize(
    "kind", [lambda: AttributeCallback(Channels()), lambda: RewardCallback(Channels(), "x", "attributes")]
)
def test_a_batch_without_attributes_says_where_to_list_them(tmp_path, kind):
    with pytest.raises(ValueError, match=r"needs `attributes` in the batch: list it in --data\.metadata"):
        run(tmp_path, [kind()])


def hat_read():
    """A reader of `first` and of a hat, worn where the picture is bright; below it `first` may not be seen."""
    reader = Channels()
    reader.values = {"first": ["red", "green"], "bright": ["no", "none"]}
    return reader


def certainties(images, hidden):
    """[N] without the code under test: where `bright` is read as its first value, `first` does not count if hidden."""
    found = Channels()(to_uint8(images).float() / 127.5 - 1)
    first, bright = found["first"].amax(1), found["bright"].amax(1)
    return bright + (first * (found["bright"].argmax(1) == 1) if hidden else first)


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("devices", [1, 2])
def test_readable_is_the_share_above_the_quantile_of_real_pictures(tmp_path, hidden, devices):
    columns = table()
    columns["made"] = columns["made"] * torch.linspace(-0.3, 0.8, N)[:, None, None, None] - 0.2
    columns["image"] = columns["image"].roll(3, 0) * 0.8
    options = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
    callback = ReadableCallback(hat_read(), {"bright": ["first"]} if hidden else None, real_share=0.8)
    logged = run(tmp_path, [callback], Loader(columns), **options)[0]
    made, real = (certainties(columns[name], hidden).double() for name in ("made", "image"))
    least = torch.tensor(np.quantile(real.numpy(), 0.2))
    assert logged == {"test/readable": pytest.approx((made >= least).double().mean().item())}
    assert 0.02 < logged["test/readable"] < 0.9
    assert (certainties(columns["made"], True) >= least).sum() != (certainties(columns["made"], False) >= least).sum()


def test_real_pictures_are_readable_by_the_share_that_was_asked(tmp_path):
    columns = table()
    columns["made"] = columns["image"]
    callback = ReadableCallback(Channels(), real_share=0.9, prefix="held_out_")
    run(tmp_path, [callback], Loader(columns), stage="validate")
    rows = callback.rows["val/held_out_readable"]
    assert len(rows) == N
    assert abs(rows.mean() - 0.9) <= 1 / N
    low, high = callback.intervals(num_draws=200)["val/held_out_readable"]
    assert low < rows.mean() < high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_share": 1.0}, r"real_share=1\.0: between 0 and 1"),
        ({"hides": {"hat": ["first"]}}, "hides names 'hat'; the reader knows first, bright"),
        ({"hides": {"bright": ["hair"]}}, "hides names 'hair'"),
        ({"hides": {"first": ["bright"]}}, r"hides\.first: it is never 'none', its values are red, green"),
    ],
)
def test_readable_says_what_it_cannot_use(options, message):
    with pytest.raises(ValueError, match=message):
        ReadableCallback(Channels(), **options)
