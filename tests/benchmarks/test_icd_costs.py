"""What benchmarks/icd times against each other is the same mathematics."""

import pytest
import torch

from benchmarks.icd import authors_schedule, editing_cost, iteration
from benchmarks.icd.emoji_unet import SCHEDULE, make_network
from fewstep.backbones import clip_tokenizer
from fewstep.contrastive.vocabulary import write_vocabulary
from tests.tiny_diffusion import UNET

CONFIG = UNET | {"time_cond_proj_dim": 512, "cross_attention_dim": 16}


@pytest.fixture(scope="module")
def sides():
    theirs, ours = iteration.Theirs(make_network(CONFIG), 2), iteration.Ours(make_network(CONFIG), 2)
    iteration.randomise_adapters(theirs, ours)
    return theirs, ours


def every_time():
    """Rows that see each segment, both ends of the grid and every boundary."""
    batch = iteration.make_batch(8, CONFIG)
    reverse = torch.tensor([19, 39, 259, 279, 519, 779, 799, 999])
    forward = torch.tensor([19, 239, 259, 499, 519, 759, 779, 979])
    return batch._replace(reverse_time=reverse, forward_time=forward, segment=torch.arange(8) % 4)


def test_both_have_the_same_four_losses(sides):
    theirs, ours = sides
    batch = every_time()
    with torch.no_grad():
        _, terms = ours.losses(batch)
        assert len(terms) == 4
        for name, loss in terms.items():
            torch.testing.assert_close(loss, getattr(theirs, name)(batch), rtol=1e-5, atol=0)
            assert loss > 1e-3  # nothing but zeros would compare nothing


def test_gradients_of_the_losses_agree_too(sides):
    theirs, ours = sides
    batch = every_time()
    total, _ = ours.losses(batch)
    total.backward()
    weights = {"reverse_cd": 1, "forward_cd": 1, "forward_preservation": 1.5, "reverse_preservation": 1.5}
    for name, weight in weights.items():
        (weight * getattr(theirs, name)(batch)).backward()
    for student in ("forward", "reverse"):
        pairs = zip(authors_schedule.trained(getattr(theirs, student)), ours.adapters.parameters(student), strict=True)
        for their, our in pairs:
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-3, atol=1e-6)
    for network in (theirs.reverse, theirs.forward, ours.network):
        network.zero_grad(set_to_none=True)


def test_an_iteration_steps_each_student_of_the_authors_twice(sides):
    theirs, _ = sides
    theirs.iteration(every_time())
    for optimizer in theirs.optimizers.values():
        assert {float(state["step"]) for state in optimizer.state.values()} == {2.0}


def test_resident_parameters_are_counted(sides):
    theirs, ours = sides
    base = iteration.parameter_bytes([make_network(CONFIG)])
    adapter = 4 * sum(parameter.numel() for parameter in ours.adapters.parameters("forward"))
    assert iteration.parameter_bytes(theirs.modules) == 3 * base + 2 * adapter
    assert iteration.parameter_bytes(ours.modules) == base + 2 * adapter


@pytest.mark.parametrize("kind", editing_cost.KINDS)
def test_both_ways_of_editing_have_the_same_output(kind, tmp_path):
    write_vocabulary(list(sum(editing_cost.KINDS.values(), ())), 600, tmp_path / "bpe.txt.gz")

    class Encoder:
        tokenizer, length = clip_tokenizer(tmp_path / "bpe.txt.gz", 16), 16

        def __call__(self, texts):
            rows = [torch.randn(16, 16, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
            return {"prompt": torch.stack(rows)}

    network = editing_cost.sharpened(make_network(CONFIG))
    edits, code, prompts = editing_cost.prepared(Encoder(), kind, 2, "cpu")
    theirs, ours = (side(network, edits, code, prompts) for side in (editing_cost.theirs, editing_cost.ours))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(ours.abs().max()))
    without = editing_cost.ours(network, edits, code, [prompts[0], prompts[2], prompts[2]])
    assert (without - ours).abs().max() > 1e-3 * ours.abs().max()  # the source's attention matters


def test_the_schedule_is_that_of_the_integer_times():
    alphas = SCHEDULE(torch.arange(1, 1001) / 1000)[0] ** 2
    assert alphas[[19, 259, 999]].tolist() == pytest.approx([0.98224, 0.65898, 0.00466], abs=1e-5)  # as published
