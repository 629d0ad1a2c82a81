"""Against a plain transcription of prompt-to-prompt: four rows an edit, every map written out, loops over tokens."""

import pytest
import torch
from torch.nn.functional import max_pool2d

from fewstep.diffusion.guidance import guidance_features, guide
from fewstep.icd.attention_control import PromptToPrompt, attention_control
from tests.tiny_diffusion import unet
from tests.tiny_tokenizer import letter_tokenizer

LENGTH, STEPS, SIDE, W = 16, 4, 16, 5.0
BLOCKS = {
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "time_cond_proj_dim": 8,
}
SDXL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 32}
SAME = {place: (place,) for place in range(LENGTH)}  # target token -> the source tokens that it takes
# start a cat on a red rug -> start a f o x on a red rug; "rug" is three tokens
SWAP = ("a cat on a red rug", "a fox on a red rug")
SWAP_MAP = {
    0: (0,),
    1: (1,),
    2: (2,),
    3: (2,),
    4: (2,),
    5: (3,),
    6: (4,),
    7: (5,),
    8: (6,),
    9: (7,),
    10: (8,),
    11: (9,),
}
SWAP_MAP |= {place: (place,) for place in range(12, LENGTH)}
SWAP_SHARE = {2: 1 / 3, 3: 1 / 3, 4: 1 / 3}
# start a cat on a cat end -> start a big cat on a red cat end
REFINED = ("a cat on a cat", "a big cat on a red cat")
REFINED_MAP = {0: (0,), 1: (1,), 2: (), 3: (2,), 4: (3,), 5: (4,), 6: (), 7: (5,), 8: (6,)}
REFINED_MAP |= {place: (place,) for place in range(9, LENGTH)}


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokenizer(LENGTH)


def network(**config):
    """Sharp attention: with the usual random weights every map is flat, and every edit the same."""
    model = unet(**(BLOCKS | config)).eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        if name.endswith("to_q.weight"):
            weight *= 30
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def states(*prompts):
    """[B, LENGTH, 16], random but the same for the same prompt."""
    return torch.stack([normal(LENGTH, 16, seed=sum(map(ord, prompt))) for prompt in prompts])


def start(num_edits, shape=(SIDE, SIDE)):
    noise = normal(num_edits, 4, *shape, seed=5)
    return torch.cat([noise, noise])


def sample(model, edit, x, w=W, control=None, **extra):
    """STEPS Euler steps of 2B rows, sources unguided; without a control the plain sampler."""
    prompts = states(*edit.source, *edit.target)
    scales = torch.cat([torch.ones(len(edit.source)), torch.full((len(edit.target),), w)])
    for step in range(STEPS):
        if control is not None:
            control.start(step)
        feature = guidance_features(scales, 8) if model.config.time_cond_proj_dim else None
        output = model(x, 999 - 250 * step, prompts, timestep_cond=feature, **extra).sample
        x = x - 0.25 * output.float()
        x = x if control is None else control.blend(x)
    return x


def edited(model, edit, x=None, **options):
    with attention_control(model, edit) as control, torch.no_grad():
        return sample(model, edit, start(len(edit.source)) if x is None else x, control=control, **options)


class Transcription:
    """The controller of one edit for the rows [nothing, nothing, source, target]."""

    def __init__(self, cross_end, self_end, token_map, shares, factors, words, self_max_tokens, shape=(SIDE, SIDE)):
        self.shape, self.quarter = shape, (shape[0] // 4, shape[1] // 4)
        self.cross_end, self.self_end, self.self_max_tokens = cross_end, self_end, self_max_tokens
        self.token_map, self.shares, self.factors, self.words = token_map, shares, factors, words
        self.step, self.stored = 0, []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(layer(x))
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        scores = torch.einsum("rqd,rkd->rqk", query, key) / query.shape[-1] ** 0.5
        if attention_mask is not None:
            scores = scores + attention_mask.repeat_interleave(attn.heads, 0)
        maps = scores.softmax(-1).unflatten(0, (4, attn.heads)).clone()
        source, target = maps[2], maps[3].clone()
        if encoder_hidden_states is None:
            if self.step < self.self_end and maps.shape[2] <= self.self_max_tokens:
                maps[3] = source
        else:
            if self.step < self.cross_end:
                for column, rows in self.token_map.items():
                    moved = target[..., column] if not rows else 0
                    for row in rows:
                        moved = moved + self.shares.get(column, 1) * source[..., row]
                    maps[3, ..., column] = moved * self.factors.get(column, 1)
            if maps.shape[2] == self.quarter[0] * self.quarter[1]:
                self.stored.append(maps[2:])
        attended = torch.einsum("rqk,rkd->rqd", maps.flatten(0, 1), value)
        return attn.to_out[0](attn.batch_to_head_dim(attended))

    def blend(self, x):
        masks = []
        for side, tokens in enumerate(self.words):
            seen = torch.zeros(self.quarter)
            for layer in self.stored:
                for token in tokens:
                    seen += layer[side, ..., token].mean(0).unflatten(0, seen.shape) / len(self.stored)
            seen = max_pool2d(seen[None], 3, 1, 1)[0].repeat_interleave(4, 0).repeat_interleave(4, 1)
            masks.append(seen / seen.max() > 0.3)
        mask = (masks[0] | masks[1]).float()
        self.coverage = mask.mean().item()
        return torch.stack([x[0], x[0] + mask * (x[1] - x[0])])


@torch.no_grad()
def transcribed(model, prompts, control, w=W, mask=None):
    """Two of the four rows are computed and thrown away, as the authors do."""
    rows, x = states("", "", *prompts), start(1, control.shape)
    before = dict(model.attn_processors)
    model.set_attn_processor(control)
    features = guidance_features(torch.tensor([1.0, 1.0, 1.0, w]), 8)
    for control.step in range(STEPS):
        many = None if mask is None else torch.cat([mask, mask])
        timestep = 999 - 250 * control.step
        output = model(torch.cat([x, x]), timestep, rows, timestep_cond=features, encoder_attention_mask=many).sample
        x = x - 0.25 * output[2:]
        x = control.blend(x) if control.words else x
    model.set_attn_processor(before)
    return x


CASES = {  # prompts, options of ours, (map, shares, factors, words) of the transcription
    "replace": (SWAP, {"mode": "replace"}, (SWAP_MAP, SWAP_SHARE, {}, ())),
    "refine": (REFINED, {}, (REFINED_MAP, {}, {}, ())),
    "reweight": (REFINED, {"equaliser": [{"big": 3.0, "cat": -2.0}]}, (REFINED_MAP, {}, {2: 3, 3: -2, 7: -2}, ())),
    "reweight the same": (("a fox", "a fox"), {"equaliser": [{"fox": 4.0}]}, (SAME, {}, {2: 4, 3: 4, 4: 4}, ())),
    "blend": (SWAP, {"blend_words": [(["cat"], ["red"])]}, (SWAP_MAP, SWAP_SHARE, {}, ((2,), (7,)))),
    "blend, reweight": (
        REFINED,
        {"equaliser": [{"big": 4.0}], "blend_words": [((), ["red"])]},
        (REFINED_MAP, {}, {2: 4}, ((), (6,))),
    ),
}


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (12, 24)])
@pytest.mark.parametrize("case", CASES)
def test_two_rows_give_what_four_rows_of_explicit_maps_give(model, tokenizer, case, shape):
    (source, target), options, (token_map, shares, factors, words) = CASES[case]
    half = shape[0] // 2 * (shape[1] // 2)
    early = {"cross_share": 0.6, "self_share": 0.3} if words else {}  # three and one of the steps, else two and two
    edit = PromptToPrompt([source], [target], tokenizer, STEPS, self_max_tokens=half, **early, **options)
    control = Transcription(*((3, 1) if words else (2, 2)), token_map, shares, factors, words, half, shape)
    ours, theirs = edited(model, edit, start(1, shape)), transcribed(model, (source, target), control)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    if words:
        assert 0.05 < control.coverage < 0.95
    with torch.no_grad():
        plain = sample(model, edit, start(1, shape))
    assert (ours[1] - plain[1]).abs().max() > 0.01  # the edit does something


@pytest.mark.parametrize("num_steps", [4, 5, 50])
def test_windows_are_those_of_the_published_code(tokenizer, num_steps):
    for percent in range(101):
        edit = PromptToPrompt(["cat"], ["cat"], tokenizer, num_steps, percent / 100, percent / 100)
        assert edit.cross_steps == percent * (num_steps + 1) // 100
        assert edit.self_steps == percent * num_steps // 100


def test_without_shares_it_is_plain_sampling_of_the_target(model, tokenizer):
    edit = PromptToPrompt([SWAP[0]], [SWAP[1]], tokenizer, STEPS, 0, 0, equaliser=[{"fox": 5.0}])
    with torch.no_grad():
        torch.testing.assert_close(edited(model, edit), sample(model, edit, start(1)), atol=0, rtol=0)


def test_equal_prompts_without_guidance_leave_the_source(model, tokenizer):
    edit = PromptToPrompt(["a red cat"], ["a red cat"], tokenizer, STEPS, 1, 1, blend_words=[(["cat"], ["cat"])])
    source, target = edited(model, edit, w=1.0).chunk(2)
    assert torch.equal(source, target)
    plain = sample(model, edit, start(1), w=1.0)
    torch.testing.assert_close(source, plain[:1], atol=1e-5, rtol=0)


def test_a_source_never_depends_on_its_target(model, tokenizer):
    edits = [PromptToPrompt([SWAP[0]], [target], tokenizer, STEPS, 0.8, 0.8) for target in (SWAP[1], "a dog")]
    first, second = (edited(model, edit)[0] for edit in edits)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_edits_of_one_batch_are_those_of_two(model, tokenizer):
    """One is a swap with blending and the other a refinement without, in either order."""
    pairs, blends = [SWAP, REFINED], [(["cat"], ["red"]), None]
    factors, noise = [{}, {"big": 2.0}], start(2)[:2]
    alone = []
    for row in range(2):
        edit = PromptToPrompt(
            *([p] for p in pairs[row]), tokenizer, STEPS, equaliser=[factors[row]], blend_words=[blends[row]]
        )
        alone.append(edited(model, edit, torch.stack([noise[row], noise[row]])))
    for order in ([0, 1], [1, 0]):
        source, target = ([pairs[row][side] for row in order] for side in range(2))
        both = PromptToPrompt(
            source,
            target,
            tokenizer,
            STEPS,
            equaliser=[factors[row] for row in order],
            blend_words=[blends[row] for row in order],
        )
        together = edited(model, both, torch.cat([noise[order], noise[order]]))
        for place, row in enumerate(order):
            torch.testing.assert_close(together[[place, place + 2]], alone[row], atol=1e-5, rtol=0)


def test_classifier_free_guidance_keeps_its_unconditional_rows(tokenizer):
    """4B rows, as `ClassifierFree` has them: the first half plain, the second edited."""
    plain = network(time_cond_proj_dim=None)
    edit = PromptToPrompt([REFINED[0]], [REFINED[1]], tokenizer, STEPS, 0.4, 0.6)
    rows, x = states("", "", *REFINED), torch.cat([start(1), start(1)])
    control = Transcription(2, 2, REFINED_MAP, {}, {}, (), 1024)
    with torch.no_grad():
        with attention_control(plain, edit) as ours:
            ours.start(1)
            output = plain(x, 749, rows).sample
        plain.set_attn_processor(control)
        control.step = 1
        torch.testing.assert_close(output, plain(x, 749, rows).sample, atol=1e-5, rtol=0)
    guided = guide(output[:2], output[2:], torch.tensor([1.0, W]))
    torch.testing.assert_close(guided[0], output[2])


def test_masks_of_the_prompt_move_with_the_source(model, tokenizer):
    source, target = REFINED
    edit = PromptToPrompt([source], [target], tokenizer, STEPS, 0.4, 0.6)
    mask = torch.ones(2, LENGTH)
    mask[0, 7:], mask[1, 9:] = 0, 0
    ours = edited(model, edit, encoder_attention_mask=mask)
    theirs = transcribed(model, REFINED, Transcription(2, 2, REFINED_MAP, {}, {}, (), 1024), mask=mask)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_half_precision_comes_close(model, tokenizer):
    edit = PromptToPrompt([SWAP[0]], [SWAP[1]], tokenizer, STEPS, 0.4, 0.6)
    exact = edited(model, edit)
    with torch.autocast("cpu", torch.bfloat16):
        half = edited(model, edit)
        plain = sample(model, edit, start(1))
    assert half.dtype == torch.float32
    assert (half - exact).norm() < 0.1 * exact.norm()
    assert (half - exact).norm() < 0.5 * (plain - exact).norm()
    blended = PromptToPrompt([SWAP[0]], [SWAP[1]], tokenizer, STEPS, blend_words=[(["cat"], ["red"])])
    with torch.autocast("cpu", torch.bfloat16):
        source, target = edited(model, blended).chunk(2)
    same = (source == target).all(1).float().mean()
    assert 0.05 < same < 0.95  # blended somewhere, edited elsewhere


def test_sdxl_and_adapters(tokenizer):
    """A UNet with added conditions; LoRA beside its weights gives what LoRA merged into them gives."""
    from peft import LoraConfig

    wide = unet(**(BLOCKS | SDXL), transformer_layers_per_block=2).eval().requires_grad_(False)
    edit = PromptToPrompt([REFINED[0]], [REFINED[1]], tokenizer, STEPS, blend_words=[((), ["big"])])
    added = {"text_embeds": normal(2, 8, seed=8), "time_ids": torch.full((2, 6), 16.0)}
    before = edited(wide, edit, added_cond_kwargs=added)
    torch.manual_seed(0)
    wide.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False))
    beside = edited(wide, edit, added_cond_kwargs=added)
    assert (beside - before).abs().max() > 1e-3
    wide.fuse_lora()
    torch.testing.assert_close(edited(wide, edit, added_cond_kwargs=added), beside, atol=1e-5, rtol=1e-4)


def test_processors_come_back_after_an_error(model, tokenizer):
    before = dict(model.attn_processors)
    edit = PromptToPrompt(["a cat"], ["a fox"], tokenizer, STEPS)

    def fail():
        with attention_control(model, edit) as control:
            assert all(processor is control for processor in model.attn_processors.values())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.attn_processors == before
    with attention_control(model, edit), pytest.raises(RuntimeError, match=r"control\.start\(step\)"):
        sample(model, edit, start(1))
    with attention_control(model, edit) as control:
        with pytest.raises(ValueError, match="1 edits need 2 rows, sources then targets; got 6"):
            sample(model, PromptToPrompt(["a"] * 3, ["a"] * 3, tokenizer, STEPS), start(3), control=control)
        with pytest.raises(ValueError, match="step 4 of an edit with num_steps 4"):
            control.start(4)
        control.start(0)
        with pytest.raises(ValueError, match="the edit is for prompts of length 16, the network got 5"):
            model(start(1), 1, states("", "")[:, :5], timestep_cond=torch.zeros(2, 8))
    assert model.attn_processors == before


def test_one_control_serves_run_after_run(model, tokenizer):
    edit = PromptToPrompt([SWAP[0]], [SWAP[1]], tokenizer, STEPS, blend_words=[(["cat"], ["red"])])
    with attention_control(model, edit) as control, torch.no_grad():
        runs = [sample(model, edit, start(1), control=control) for _ in range(2)]
    torch.testing.assert_close(runs[0], runs[1], atol=0, rtol=0)


def test_image_and_text_in_one_layer_is_refused(tokenizer):
    from diffusers import SD3Transformer2DModel

    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4, "joint_attention_dim": 8}
    model = SD3Transformer2DModel(sample_size=4, caption_projection_dim=8, pooled_projection_dim=8, **sizes)
    edit = PromptToPrompt(["a cat"], ["a fox"], tokenizer, STEPS)
    with (
        pytest.raises(ValueError, match="a UNet with cross-attention, got SD3Transformer2DModel; switch prompts"),
        attention_control(model, edit),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "replace", "target": ["a big cat"]}, "'a cat' has 2 and 'a big cat' 3; use refine"),
        ({"mode": "switch"}, "mode 'switch' is unknown; choose auto, replace or refine"),
        ({"cross_share": 1.5}, "cross_share must be from 0 to 1, got 1.5"),
        ({"self_share": float("nan")}, "self_share must be from 0 to 1, got nan"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"target": ["a", "b"]}, "1 source prompts, but 2 of target"),
        ({"equaliser": []}, "1 source prompts, but 0 of equaliser"),
        ({"equaliser": [{"dog": 2.0}]}, "'dog' is not a word of the prompt 'a fox'"),
        ({"equaliser": [{"fox": float("inf")}]}, "the factor of 'fox' must be a finite number, got inf"),
        ({"blend_words": [(["fox"], ["fox"])]}, "'fox' is not a word of the prompt 'a cat'"),
        ({"source": "a cat"}, "an edit needs lists of prompts"),
        ({"source": ["cat " * 20]}, "prompt of 22 tokens, at most 16"),
    ],
)
def test_one_line_for_what_cannot_be_done(tokenizer, options, message):
    fine = {"source": ["a cat"], "target": ["a fox"], "tokenizer": tokenizer, "num_steps": STEPS, "mode": "refine"}
    with pytest.raises(ValueError, match=message) as error:
        PromptToPrompt(**(fine | options))
    assert "\n" not in str(error.value)
