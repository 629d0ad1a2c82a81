"""Two adapters in one call against plain peft, which has one adapter on a network of its own."""

import copy
import multiprocessing

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fewstep.backbones import copied_to
from fewstep.backbones.adapters import JOINT_TARGETS, UNET_TARGETS, Adapters, matching_layers
from tests.patience import PATIENCE
from tests.tiny_diffusion import unet

MIXED = [("reverse", 2), (None, 1), ("forward", 1), ("reverse", 1)]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
OF_GRADIENTS = {"rtol": 1e-4, "atol": 1e-4}  # sums of hundreds of terms, in the order of the processor; most are near 1


def adapted(model=None, seed=1, **options):
    """Adapters with random B, as after training."""
    adapters = Adapters(unet() if model is None else model, **{"rank": 4, "alpha": 3} | options)
    generator = torch.Generator().manual_seed(seed)
    for name in adapters.names:
        for key, weight in adapters.state(name).items():
            if "lora_B" in key:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
    return adapters


def plain_peft(state, model=None, rank=4, alpha=3):
    """The same weights in a network of plain peft."""
    model = (unet() if model is None else model).requires_grad_(False)
    layers = {key.split(".lora_")[0] for key in state}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers), model, "default")
    report = set_peft_model_state_dict(model, dict(state), "default")
    assert not report.unexpected_keys
    return model


def inputs(rows, seed=2):
    generator = torch.Generator().manual_seed(seed)
    x, prompt = torch.randn(rows, 4, 8, 8, generator=generator), torch.randn(rows, 3, 16, generator=generator)
    return x, torch.linspace(0, 999, rows), prompt


def call(model, x, timestep, prompt):
    return model(x, timestep, encoder_hidden_states=prompt).sample


def weighted(output, seed=3):
    return (output * torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))).sum()


@pytest.fixture(scope="module", params=[False, True], ids=["added", "merged"])
def shared(request):
    return adapted(merged=request.param)


def gradients(adapters, loss):
    for name in adapters.names:
        for weight in adapters.parameters(name):
            weight.grad = None
    loss.backward()
    return {name: [weight.grad.clone() for weight in adapters.parameters(name)] for name in adapters.names}


def reference(adapters, blocks, of=inputs, calling=call, fresh=unet):
    """(outputs, {name: gradients}) of `weighted`, one network of plain peft per block."""
    rows = [size for _, size in blocks]
    parts = list(zip(*(value.split(rows) for value in of(sum(rows))), strict=True))
    trained = {name: plain_peft(adapters.state(name), fresh()) for name in adapters.names}
    outputs = [calling(trained.get(name, fresh()), *part) for (name, _), part in zip(blocks, parts, strict=True)]
    weighted(torch.cat(outputs)).backward()
    grads = {}
    for name, model in trained.items():
        own = dict(model.named_parameters())
        grads[name] = [own[key.replace(".weight", ".default.weight")].grad for key in adapters.state(name)]
    return torch.cat(outputs).detach(), grads


@pytest.mark.parametrize("blocks", [MIXED, [("forward", 2), ("reverse", 3)]], ids=["with base", "two"])
def test_a_mixed_call_is_plain_peft_row_by_row_in_outputs_and_gradients(blocks, shared):
    adapters = shared
    adapters.model.train()
    expected, expected_grads = reference(adapters, blocks)
    with adapters.rows(blocks):
        with torch.no_grad():
            without_graph = call(adapters.model, *inputs(5))
        output = call(adapters.model, *inputs(5))
    torch.testing.assert_close(output, expected, **TOLERANCE)
    torch.testing.assert_close(without_graph, expected, **TOLERANCE)
    torch.testing.assert_close(gradients(adapters, weighted(output)), expected_grads, **OF_GRADIENTS)
    assert all(grad.abs().max() > 0 for grads in expected_grads.values() for grad in grads)


@pytest.mark.parametrize("name", ["forward", "reverse", None])
def test_one_block_for_all_rows_moves_no_rows(name, monkeypatch, shared):
    model = unet() if name is None else plain_peft(shared.state(name))
    expected = call(model, *inputs(3)).detach()
    splits = []
    monkeypatch.setattr(torch.Tensor, "split", lambda *_, **__: splits.append(1))
    with shared.rows([(name, 1), (name, 0), (name, 2)]):
        torch.testing.assert_close(call(shared.model, *inputs(3)), expected, **TOLERANCE)
    assert splits == []


def test_without_rows_and_with_fresh_adapters_it_is_the_base(shared):
    expected = call(unet(), *inputs(5)).detach()
    torch.testing.assert_close(call(shared.model, *inputs(5)), expected, rtol=0, atol=0)
    fresh = Adapters(unet(), rank=4)
    with fresh.rows(MIXED):
        torch.testing.assert_close(call(fresh.model, *inputs(5)), expected, **TOLERANCE)


def test_every_kind_of_layer_of_a_unet_is_adapted_and_no_other(shared):
    adapters = shared
    assert {t for t in UNET_TARGETS if any(name.endswith(f".{t}") for name in adapters._layers)} == set(UNET_TARGETS)
    convolutions = [layer.get_base_layer() for layer in adapters._layers.values()]
    kinds = {(c.kernel_size, c.stride) for c in convolutions if isinstance(c, nn.Conv2d)}
    assert kinds == {((3, 3), (1, 1)), ((1, 1), (1, 1)), ((3, 3), (2, 2))}
    top = {name.split(".")[0] for name in adapters._layers}
    assert top == {"down_blocks", "mid_block", "up_blocks"}


def test_only_adapters_train_whichever_is_in_force(shared):
    adapters = shared
    trained = {id(weight) for name in adapters.names for weight in adapters.parameters(name)}
    for blocks in (MIXED, [("forward", 5)], [(None, 5)]):
        with adapters.rows(blocks):
            call(adapters.model, *inputs(5))
        assert {id(p) for p in adapters.model.parameters() if p.requires_grad} == trained


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16 base"])
def test_half_precision_rounds_no_more_than_peft(base):
    def half(model, x, timestep, prompt):
        with torch.autocast("cpu", torch.bfloat16, enabled=base == torch.float32):
            output = call(model, x.to(base), timestep, prompt.to(base))
        assert output.dtype == torch.bfloat16
        return output.float()

    def flat(output, grads):
        return torch.cat([output.flatten(), *(grad.flatten() for name in adapters.names for grad in grads[name])])

    fresh = lambda: copied_to(unet(), base)  # noqa: E731
    adapters, blocks = adapted(fresh()), [("forward", 1), ("reverse", 1)]
    assert {weight.dtype for name in adapters.names for weight in adapters.parameters(name)} == {torch.float32}
    exact = flat(*reference(adapters, blocks, fresh=lambda: copied_to(fresh(), torch.float32)))
    theirs = flat(*reference(adapters, blocks, calling=half, fresh=fresh))
    with adapters.rows(blocks):
        output = half(adapters.model, *inputs(2))
    ours = flat(output.detach(), gradients(adapters, weighted(output)))
    assert (ours - exact).norm() < 1.3 * (theirs - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(("enable_first", "merged"), [(True, False), (False, False), (True, True)])
def test_checkpointing_recomputes_with_the_rows_of_its_own_forward_pass(enable_first, merged):
    def two_calls(adapters):
        with adapters.rows(MIXED):
            first = call(adapters.model, *inputs(5))
        with adapters.rows([("forward", 2)]):
            second = call(adapters.model, *inputs(2, seed=7))
        base = call(adapters.model, inputs(2)[0].requires_grad_(), *inputs(2)[1:])  # of the bare base
        with adapters.rows([("reverse", 9)]):  # of other calls, while the recomputation takes place
            return gradients(adapters, weighted(first) + weighted(second) + weighted(base))

    expected = two_calls(adapted(merged=merged))
    model = unet()
    if enable_first:
        model.enable_gradient_checkpointing()
    adapters = adapted(model, merged=merged)
    if not enable_first:
        model.enable_gradient_checkpointing()
    adapters.model.train()
    calls, original = [], torch.utils.checkpoint.checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
        torch.testing.assert_close(two_calls(adapters), expected, **TOLERANCE)
    assert calls


def test_a_copied_pair_of_network_and_adapters_works_on_its_own(shared):
    copied = copy.deepcopy(shared)
    with shared.rows(MIXED):
        expected = call(shared.model, *inputs(5))
        with copied.rows([(None, 5)]):
            assert not torch.allclose(call(copied.model, *inputs(5)), expected)
            torch.testing.assert_close(call(shared.model, *inputs(5)), expected)
    with copied.rows(MIXED):
        torch.testing.assert_close(call(copied.model, *inputs(5)), expected)


def tiny_transformer(seed=0):
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    sizes = {"attention_head_dim": 4, "num_attention_heads": 2, "caption_projection_dim": 8, "joint_attention_dim": 6}
    sizes |= {"num_layers": 2, "pooled_projection_dim": 5, "pos_embed_max_size": 8, "sample_size": 8, "patch_size": 2}
    return SD3Transformer2DModel(in_channels=4, out_channels=4, **sizes)


def test_a_transformer_with_two_streams():
    def of(rows):
        generator = torch.Generator().manual_seed(2)
        shapes = [(rows, 4, 8, 8), (rows, 3, 6), (rows, 5)]
        return [torch.randn(*shape, generator=generator) for shape in shapes] + [torch.linspace(0, 999, rows)]

    adapters = adapted(tiny_transformer())
    ends = UNET_TARGETS[:4] + UNET_TARGETS[6:8] + JOINT_TARGETS
    assert {t for t in ends if any(name.endswith(f".{t}") for name in adapters._layers)} == set(ends)
    assert all(name.startswith("transformer_blocks.") for name in adapters._layers)
    calling = lambda model, *values: model(*values).sample  # noqa: E731
    expected, expected_grads = reference(adapters, MIXED, of, calling, tiny_transformer)
    with adapters.rows(MIXED):
        output = calling(adapters.model, *of(5))
    torch.testing.assert_close(output, expected, **TOLERANCE)
    torch.testing.assert_close(gradients(adapters, weighted(output)), expected_grads, **OF_GRADIENTS)


def _one_rank(rank, world, file, answers):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    adapters = adapted()
    network = DistributedDataParallel(adapters.model)
    grads = []
    for step in range(2):  # a second step is where DDP complains of the first one's unused weights
        network.zero_grad()
        values = [value.split(2) for value in inputs(8, seed=step)]  # a process has a forward and a reverse block
        mine = [torch.cat([parts[rank], parts[2 + rank]]) for parts in values]
        with adapters.rows([("forward", 2), ("reverse", 2)]):
            output = network(mine[0], mine[1], encoder_hidden_states=mine[2]).sample
        grads = gradients(adapters, output.square().sum() * world)  # DDP averages
    answers.put((rank, {name: [grad.numpy() for grad in values] for name, values in grads.items()}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_with_both_adapters_in_one_backward_pass(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    ranks = [context.Process(target=_one_rank, args=(rank, 2, tmp_path / "meet", answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = dict(answers.get(timeout=PATIENCE) for _ in ranks)
    for process in ranks:
        process.join(60)
    adapters = adapted()
    with adapters.rows([("forward", 4), ("reverse", 4)]):
        output = call(adapters.model, *inputs(8, seed=1))
    expected = gradients(adapters, output.square().sum())
    for grads in found.values():
        ours = {name: [torch.from_numpy(grad) for grad in values] for name, values in grads.items()}
        torch.testing.assert_close(ours, expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda a: a.rows([("inverse", 2)]), "'inverse'; choose one of forward, reverse or None"),
        (lambda a: a.rows([(None, -1)]), "-1 rows"),
        (lambda a: a.parameters("inverse"), "'inverse'"),
        (lambda a: Adapters(a.model), "has adapters already"),
        (lambda a: Adapters(unet(), targets=["to_q", "to_w"]), "UNet2DConditionModel is named ...to_w"),
        (lambda a: Adapters(nn.Sequential(nn.Linear(2, 2))), "Sequential has none of the layers"),
        (lambda a: Adapters(unet(), rank=0), "rank=0: must be at least 1"),
        (lambda a: Adapters(copied_to(unet(), torch.bfloat16), merged=True), "merged adapters need float32"),
        (lambda a: Adapters(unet(), names=("a", "a")), r"\['a', 'a'\]"),
        (lambda a: Adapters(unet(), names=("../a",)), "letters, digits"),
    ],
)
def test_misuse_is_one_line(use, message, shared):
    with pytest.raises(ValueError, match=message) as error, use(shared):
        pass
    assert "\n" not in str(error.value)


def test_rows_that_are_not_the_batch_are_refused(shared):
    adapters = shared
    for blocks, told in (([("forward", 4)], 4), ([], 0), ([*MIXED, (None, 1)], 6)):
        with adapters.rows(blocks), pytest.raises(ValueError, match=f"{told} rows, .* batch of 5"):
            call(adapters.model, *inputs(5))
    with pytest.raises(KeyboardInterrupt), adapters.rows(MIXED):
        raise KeyboardInterrupt
    call(adapters.model, *inputs(2))  # the bare base again


def test_targets_are_ends_or_whole_names():
    model = unet()
    assert matching_layers(model, ["conv_in"]) == ["conv_in"]
    assert all(name.endswith("attn2.to_k") for name in matching_layers(model, ["attn2.to_k"]))
    assert matching_layers(nn.ModuleDict({"proj_out": nn.Linear(1, 1), "in": nn.Conv2d(1, 1, 1)}), ["in"]) == ["in"]
