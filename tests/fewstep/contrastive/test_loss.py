"""Against open_clip's own loss, closed forms, brute force, and one process instead of two."""

import math
import multiprocessing

import open_clip
import pytest
import torch
from torch.nn import functional as F

from fewstep.contrastive.loss import contrastive_loss, labels_of, retrieval_ranks
from tests.patience import PATIENCE


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_loss_of_pairs_is_open_clips():
    image, text = unit(12, 8), unit(12, 8, seed=1)
    expected = open_clip.ClipLoss()(image, text, 7.0)
    torch.testing.assert_close(contrastive_loss(image, text, 7.0).mean(), expected)


def test_distinct_labels_are_the_same_as_none():
    image, text = unit(6, 4), unit(6, 4, seed=1)
    labels = torch.tensor([5, -3, 2, 9, 0, 1])
    torch.testing.assert_close(contrastive_loss(image, text, 3.0, labels), contrastive_loss(image, text, 3.0))


def test_equal_captions_share_the_target():
    """Rows 0 and 1 show the same thing: logits s, s, 0 with target 1/2, 1/2, 0; row 2 has 0, 0, s with 0, 0, 1."""
    features = torch.eye(2)[[0, 0, 1]]
    labels = labels_of(["a cat", "a cat", "a dog"])
    loss = contrastive_loss(features, features, 3.0, labels)
    shared = math.log(2 * math.exp(3) + 1) - 3
    alone = math.log(math.exp(3) + 2) - 3
    torch.testing.assert_close(loss, torch.tensor([shared, shared, alone]))


def test_equal_texts_need_no_labels():
    """As many right answers as there are equal texts cannot be told apart, and the gradient does not try to."""
    labels, sums, gradients = torch.tensor([0, 1, 0, 2, 0, 1]), [], []
    for chosen in (labels, None):
        image, text = unit(6, 4).requires_grad_(), unit(3, 4, seed=1).requires_grad_()
        total = contrastive_loss(image, text[labels], 5.0, chosen).sum()
        sums.append(total)
        gradients.append(torch.autograd.grad(total, (image, text)))
    torch.testing.assert_close(*sums)
    torch.testing.assert_close(*gradients)


def test_perfect_features_reach_the_stated_least_loss():
    features = torch.eye(3)[[0, 0, 1, 1, 1, 2]]
    loss = contrastive_loss(features, features, 1e3, torch.tensor([4, 4, 5, 5, 5, 6]))
    torch.testing.assert_close(loss, torch.tensor([2, 2, 3, 3, 3, 1]).log())


def test_autocast_does_not_round_the_logits():
    image, text = unit(64, 32), unit(64, 32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(image, text, 100.0)
    torch.testing.assert_close(loss, contrastive_loss(image, text, 100.0))


def test_labels_tell_captions_apart_and_do_not_depend_on_the_process():
    labels = labels_of(["a cat", "a dog", "a cat", "", "a cät"])
    assert labels[0] == labels[2]
    assert len(labels.unique()) == 4
    assert labels.dtype == torch.int64
    assert labels[0] == -6711169336525982361  # Python's own hash of a text differs from process to process


def _one_rank(rank, world, file, rows, labels, answers):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    answers.put((rank, *_step(rows, labels, rank, world)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _step(rows, labels, rank, world):
    """Loss and gradients of two linear towers and a temperature on every world-th block of the rows."""
    torch.manual_seed(3)
    towers, log_scale = [torch.randn(6, 4, requires_grad=True) for _ in "it"], torch.tensor(1.5, requires_grad=True)
    mine = slice(rank * len(labels) // world, (rank + 1) * len(labels) // world)
    image, text = (F.normalize(part[mine] @ tower, dim=1) for part, tower in zip(rows, towers, strict=True))
    chosen = None if labels.unique().numel() == 1 else labels[mine]
    loss = contrastive_loss(image, text, log_scale.exp(), chosen, across_ranks=True).mean()
    loss.backward()
    return loss.item(), [value.grad.numpy() for value in (*towers, log_scale)]


@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 4, 5, 1, 7], [0] * 8], ids=["captions", "pairs"])
def test_two_processes_take_the_step_of_one(tmp_path, labels):
    rows, labels = (unit(8, 6), unit(8, 6, seed=1)), torch.tensor(labels)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (2, tmp_path / "rendezvous", rows, labels, answers)
    processes = [context.Process(target=_one_rank, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    results = [answers.get(timeout=PATIENCE) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    loss, gradients = _step(rows, labels, 0, 1)
    assert sum(r[1] for r in results) / 2 == pytest.approx(loss, rel=1e-5)
    for place, alone in enumerate(gradients):
        mean = sum(torch.tensor(r[2][place]) for r in results) / 2
        torch.testing.assert_close(mean, torch.tensor(alone), rtol=1e-4, atol=1e-6)


def test_ranks_against_counting():
    queries, candidates = unit(40, 5), unit(40, 5, seed=1)
    labels = torch.randint(25, (40,), generator=torch.Generator().manual_seed(2))
    expected = []
    for row in range(40):
        scores = [float(queries[row].double() @ candidates[c].double()) for c in range(40)]
        best = max(scores[c] for c in range(40) if labels[c] == labels[row])
        expected.append(sum(scores[c] >= best for c in range(40) if labels[c] != labels[row]))
    for chunk in (1, 7, 1024):
        assert retrieval_ranks(queries, candidates, labels, chunk).tolist() == expected


def test_collapsed_features_find_nothing():
    same = torch.ones(5, 3) / math.sqrt(3)
    assert retrieval_ranks(same, same, torch.arange(5)).tolist() == [4] * 5
