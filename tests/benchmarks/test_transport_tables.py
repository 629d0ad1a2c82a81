"""The two further tables: nothing of one block in two splits, the values of the rows, and the units they are in."""

import numpy as np

from benchmarks.ot_conditional import tables


def test_days_of_a_row_of_shares_are_in_one_block_and_the_last_is_to_be_predicted():
    rows = [{"DJ_return": f"{day / 1000}", "log_volume": f"{day}", "log_volatility": "-9"} for day in range(200)]
    x, y, block = tables.shares(rows, np.random.default_rng(0))
    today = x[:, 1].round().astype(int)
    assert (today // tables.BLOCK == block).all()
    assert ((today + 1) // tables.BLOCK == block).all()
    assert ((today - tables.PAST + 1) // tables.BLOCK == block).all()
    np.testing.assert_allclose(y[:, 1], today + 1, atol=1e-6)
    np.testing.assert_allclose(x[:, 4], today - 2, atol=1e-6)
    assert len(today) == 5 * (tables.BLOCK - tables.PAST)


def test_bikes_are_log_counts_within_their_step():
    names = ("hr", "day", "workingday", "temp", "hum", "windspeed", "casual", "registered")
    rows = [dict(zip(names, map(str, (6, 1 + day, 0, 0.5, 0.4, 0.1, day, 7)), strict=True)) for day in range(21)]
    x, y, block = tables.bikes(rows, np.random.default_rng(0))
    counts = np.exp(y) - 1
    assert ((counts[:, 0] >= np.arange(21)) & (counts[:, 0] < np.arange(21) + 1)).all()
    np.testing.assert_allclose(x[:, :2], [[1, 0]] * 21, atol=1e-12)  # six in the morning
    assert block.tolist() == [0] * 7 + [1] * 7 + [2] * 7


def test_blocks_are_never_parted_and_scales_are_of_the_training(monkeypatch):
    monkeypatch.setattr(tables, "PAIRED", 100)
    rng = np.random.default_rng(0)
    block = np.repeat(np.arange(40), 10)
    x = np.column_stack([np.arange(400.0), rng.normal(size=400)])
    splits, scale = tables.split(x, x[:, :1] * 2, block, rng)
    of = {
        name: side["x"][:, 0] * scale["x_std"][0] + scale["x_mean"][0] for name, side in splits.items() if "x" in side
    }
    roles = {name: set((np.round(rows).astype(int) // 10 % 5).ravel().tolist()) for name, rows in of.items()}
    assert roles["train_paired"] | roles["train_x"] == {0, 1, 2}
    assert (roles["val"], roles["test"]) == ({3}, {4})
    assert not set(of["train_paired"].round().tolist()) & set(of["train_x"].round().tolist())
    train = x[block % 5 < 3, 0]
    np.testing.assert_allclose([scale["x_mean"][0], scale["x_std"][0]], [train.mean(), train.std()])
