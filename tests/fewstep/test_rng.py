import numpy as np
import pytest
import torch

from fewstep.rng import PerSampleRng, mix_seed, standard_normal, standard_uniform


def test_mix_seed_is_the_head_of_sha256():
    # first 16 hex digits of `printf '7:lamp' | sha256sum`: the same in every process, unlike Python's hash
    assert mix_seed(7, "lamp") == 0x679AE4FFE3AD33CD >> 1
    assert mix_seed(7, 3) == mix_seed(7, "3") == mix_seed(7, np.int64(3))


def test_rows_do_not_depend_on_batch_or_order():
    keys = [5, "lamp", 11, 0, 2**40]
    whole = PerSampleRng(3, keys)
    normal, uniform, later = whole.normal(4), whole.uniform(2, 3), whole.normal()
    for i in (3, 1, 4):
        alone = PerSampleRng(3, [keys[i]])
        assert torch.equal(alone.normal(4)[0], normal[i])
        assert torch.equal(alone.uniform(2, 3)[0], uniform[i])
        assert torch.equal(alone.normal()[0], later[i])


def test_seed_and_key_both_matter():
    rows = PerSampleRng(0, range(2000)).normal(2)
    assert len(rows.unique(dim=0)) == 2000
    assert not torch.isclose(rows, PerSampleRng(1, range(2000)).normal(2)).all(1).any()


def test_draws_have_the_stated_distribution():
    from scipy.stats import kstest

    rng = PerSampleRng(0, range(4000))
    assert kstest(rng.normal(2)[:, 1].numpy(), "norm").pvalue > 0.01
    assert kstest(rng.uniform(2)[:, 0].numpy(), "uniform").pvalue > 0.01


def test_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    PerSampleRng(0, [1, 2]).normal(3)
    assert torch.equal(torch.rand(3), expected)


def test_without_rng_the_global_generator_draws():
    like = torch.zeros(5, 2, dtype=torch.float64)
    torch.manual_seed(4)
    expected = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    torch.manual_seed(4)
    assert torch.equal(standard_normal(None, like, 3), expected[0])
    assert torch.equal(standard_uniform(None, like), expected[1])


def test_with_rng_dtype_follows_like():
    like = torch.zeros(2, 2, dtype=torch.float64)
    draws = standard_normal(PerSampleRng(0, [1, 2]), like, 3)
    assert draws.dtype == torch.float64
    assert torch.equal(draws.float(), PerSampleRng(0, [1, 2]).normal(3))


@pytest.mark.parametrize("draw", [standard_normal, standard_uniform])
def test_wrong_number_of_keys_is_one_clear_line(draw):
    with pytest.raises(ValueError, match="rng has 3 keys for 2 rows"):
        draw(PerSampleRng(0, [1, 2, 3]), torch.zeros(2, 1), 1)


def test_a_single_string_is_not_a_list_of_keys():
    with pytest.raises(ValueError, match="one key per sample"):
        PerSampleRng(0, "lamp")
