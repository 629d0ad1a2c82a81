"""Adapters and copies behind one signature: rows do not mix, strengths are of the weights, mixing is one call."""

import copy

import pytest
import torch

from fewstep.backbones.adapters import matching_layers
from fewstep.fast_edit.tuned import TunedAdapters, TunedCopies, predict_mixed, with_base
from tests.tiny_edit_base import Calls, base, pictures, pixel_unet, trained

NAMES = ("hat", "smile")
T = torch.tensor([0.1, 0.5, 0.8])


def adapters(merged=False):
    return trained(TunedAdapters(base(), NAMES, rank=2, alpha=3, merged=merged))


def copies():
    tuned = TunedCopies(base(), NAMES)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in NAMES:
            for weight in tuned.parameters(name):
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return tuned


KINDS = {"adapters": adapters, "merged": lambda: adapters(True), "copies": copies}


@pytest.fixture(scope="module", params=KINDS)
def tuned(request):
    return KINDS[request.param]()


def at_strength(tuned, name, strength):
    """The same edit as a plain network with the weights written into it, by hand."""
    network = pixel_unet()
    state = tuned.state(name)
    with torch.no_grad():
        for key, weight in network.named_parameters():
            if isinstance(tuned, TunedCopies):
                weight += strength * (state[key] - weight)
            elif key.removesuffix("weight") + "lora_A.weight" in state:
                down, up = (state[key.removesuffix("weight") + f"lora_{half}.weight"] for half in "AB")
                weight += strength * 3 / 2 * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return network


def asked(network, x, t):
    with torch.no_grad():
        return network(x, (t * 1000).round().long() - 1).sample


def test_adapters_are_for_attention_and_convolutions_of_a_unet2d():
    layers = matching_layers(pixel_unet())
    ends = {name.split(".", 3)[-1] if name.startswith(("down", "up")) else name.split(".", 1)[-1] for name in layers}
    assert {"resnets.0.conv1", "attentions.0.to_q"} <= {name.removeprefix("mid_block.") for name in layers} | ends
    found = {name.rpartition(".")[2] for name in layers}
    assert found == {"conv1", "conv2", "conv_shortcut", "conv", "time_emb_proj", "to_q", "to_k", "to_v", "0"}
    assert "down_blocks.0.downsamplers.0.conv" in layers
    assert "mid_block.attentions.0.to_out.0" in layers
    outside = {
        name for name, part in pixel_unet().named_modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
    }
    assert outside - set(layers) == {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}


@pytest.mark.parametrize("kind", [TunedAdapters, TunedCopies])
def test_an_untrained_edit_is_the_base(kind):
    tuned, x = kind(base(), NAMES), pictures(3)
    with torch.no_grad():
        assert torch.equal(tuned.predict(x, T, "hat"), asked(pixel_unet(), x, T))
    tuned.predict(x, T, "hat").square().mean().backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in tuned.parameters("hat"))
    assert all(weight.grad is None for weight in tuned.parameters("smile"))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 1.7])
def test_strength_is_of_the_weights(tuned, strength):
    x = pictures(3)
    with torch.no_grad():
        before = tuned.predict(x, T, "hat")
        with tuned.scaled(strength):
            found = tuned.predict(x, T, "hat")
            torch.testing.assert_close(tuned.predict(x, T, None), asked(pixel_unet(), x, T), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, asked(at_strength(tuned, "hat", strength), x, T), rtol=1e-4, atol=1e-4)
        assert torch.equal(tuned.predict(x, T, "hat"), before)
        assert (found - before).abs().max() > 1e-2 or strength == 1


def test_adapters_merged_for_good_have_no_strength():
    tuned = adapters()
    tuned.adapters.keep_merged(["hat"])
    with pytest.raises(ValueError, match=r"have no strength 0\.5"), tuned.scaled(0.5):
        pass


def test_an_error_inside_leaves_the_strength_as_it_was(tuned):
    x = pictures(3)
    with torch.no_grad():
        before = tuned.predict(x, T, "smile")
        with pytest.raises(RuntimeError), tuned.scaled(0.3):
            raise RuntimeError
        assert torch.equal(tuned.predict(x, T, "smile"), before)


def test_rows_have_the_edit_of_their_block(tuned):
    x = pictures(3)
    blocks = [("smile", 1), (None, 1), ("hat", 1)]
    with torch.no_grad():
        whole = tuned.predict(x, T, blocks)
        for row, (name, _) in enumerate(blocks):
            alone = tuned.predict(x[row : row + 1], T[row : row + 1], name)
            torch.testing.assert_close(whole[row : row + 1], alone, rtol=1e-4, atol=1e-5)
        again = tuned.predict(torch.cat([x, x]), T.repeat(2), [("hat", 2), (None, 2), ("hat", 2)])
        torch.testing.assert_close(again[4:], tuned.predict(x[1:], T[1:], "hat"), rtol=1e-4, atol=1e-5)


def test_mixing_is_the_sum_of_shares_in_one_call():
    tuned, x, plain, t = adapters(), pictures(3), pictures(3, seed=8), torch.full((3,), 0.4)
    shares = with_base({"hat": 0.5, "smile": 0.8})
    assert shares == {"hat": 0.5, "smile": 0.8, None: pytest.approx(-0.3)}
    calls = Calls(tuned.base.network)
    with torch.no_grad():
        mixed, of_plain = predict_mixed(tuned, x, t, shares, plain)
        assert calls.rows == [12]
        expected = sum(share * tuned.predict(x, t, name) for name, share in shares.items())
        torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_plain, tuned.predict(plain, t, None), rtol=1e-4, atol=1e-5)
        calls.rows.clear()
        same, of_same = predict_mixed(tuned, x, t, shares, x)
        assert calls.rows == [9]  # the base's answer to x serves both
        torch.testing.assert_close(same, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_same, tuned.predict(x, t, None), rtol=1e-4, atol=1e-5)
        assert predict_mixed(tuned, x, t, shares)[1] is None
    assert with_base({"hat": 1.0, "smile": 0.0}) == {"hat": 1.0}


def test_states_move_an_edit_to_another_base(tuned):
    x = pictures(3)
    fresh = TunedCopies(base(), ("new",)) if isinstance(tuned, TunedCopies) else None
    fresh = fresh or TunedAdapters(base(), ("new",), rank=2, alpha=3)
    fresh.load_state("new", copy.deepcopy(tuned.state("hat")))
    with torch.no_grad():
        torch.testing.assert_close(fresh.predict(x, T, "new"), tuned.predict(x, T, "hat"), rtol=1e-4, atol=1e-5)
    state = dict(tuned.state("hat"))
    state.pop(next(iter(state)))
    with pytest.raises(ValueError, match="lacks"):
        fresh.load_state("new", state)


def test_mistakes_are_one_line(tuned):
    x = pictures(3)
    with pytest.raises(ValueError, match="is named 'beard'"):
        tuned.predict(x, T, "beard")
    with pytest.raises(ValueError, match="is named 'beard'"):
        tuned.parameters("beard")
    with pytest.raises(ValueError, match="2 rows"):
        tuned.predict(x, T, [("hat", 2)])
    with pytest.raises(ValueError, match="different names"):
        type(tuned)(base(), ["hat", "hat"])
