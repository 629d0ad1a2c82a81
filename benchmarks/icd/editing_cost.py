"""Time of a prompt-to-prompt edit: ours against a plain transcription of the authors' scheme, with the same output.

    python benchmarks/icd/editing_cost.py [--device cuda] [--edits 1 8] [--side 32]

Both decode B codes in four calls on the UNet of the embedded teacher with random weights. Ours: 2B rows and fused
attention (fewstep.icd.attention_control, fewstep.icd.editing). Theirs (utils/generation.py and utils/p2p.py of
github.com/yandex-research/invertible-cd): 4B rows, [nothing, nothing, source, target], of which half are thrown away,
and every attention map written out, edited and stored; here for B edits at once, where their code takes one.
The edits alternate in one process; the table has medians. CPU seconds of this process on the CPU. Encoding costs the
same in both and is left out.
"""

import argparse
import statistics
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.icd.emoji_unet import EMOJI, SCHEDULE, make_network
from benchmarks.icd.results import timed
from fewstep.backbones import DiffusersDenoiser, load_clip_text_encoder
from fewstep.diffusion.guidance import DynamicGuidance, guidance_features
from fewstep.diffusion.predictions import Parametrization
from fewstep.diffusion.prompt_encoder import PromptEncoder
from fewstep.distillation.boundaries import Boundaries
from fewstep.icd.attention_control import PromptToPrompt, attention_control
from fewstep.icd.editing import edit

W, BELOW = 8.0, 0.8
BOUNDARIES = Boundaries((0, 0.26, 0.52, 0.78, 1))
KINDS = {  # source, target
    "replace": ("a flat drawing of a red heart", "a soft drawing of a red heart"),
    "refine": ("a flat drawing of a heart", "a flat drawing of a large red heart"),
}


class AuthorsControl:
    """An attention processor for 4B rows, and the attention maps that it keeps."""

    def __init__(self, edits: PromptToPrompt, device: str) -> None:
        self.edits, self.device = edits, device
        self.mapper, self.equaliser = edits.token_maps.to(device), edits.factors.to(device)
        self.alpha = (self.mapper.sum(1) > 0).float()  # 0 at target tokens that the source lacks
        self.step = 0
        self.stored: list[Tensor] = []

    def __call__(self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else x
        query, key, value = (
            attn.head_to_batch_dim(layer(states))
            for layer, states in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        maps = (torch.einsum("bid,bjd->bij", query, key) * attn.scale).softmax(-1)
        maps = maps.unflatten(0, (-1, attn.heads))  # [4B, heads, q, k]
        half = len(maps) // 2
        maps[half:] = self._edited(maps[half:], is_cross)
        attended = torch.einsum("bij,bjd->bid", maps.flatten(0, 1), value)
        return attn.to_out[0](attn.batch_to_head_dim(attended))

    def _edited(self, maps: Tensor, is_cross: bool) -> Tensor:
        if maps.shape[2] <= 32**2:
            self.stored.append(maps.clone())
        source, target = maps.chunk(2)
        if is_cross and self.step < self.edits.cross_steps:
            moved = torch.einsum("bhpw,bwn->bhpn", source, self.mapper)
            alpha = self.alpha[:, None, None]
            target = (moved + target * (1 - alpha)) * self.equaliser[:, None, None]
        elif not is_cross and self.step < self.edits.self_steps and maps.shape[2] <= self.edits.self_max_tokens:
            target = source
        return torch.cat([source, target])


@torch.no_grad()
def theirs(network: Any, edits: PromptToPrompt, code: Tensor, prompts: list[Tensor]) -> Tensor:
    """prompts: of nothing, of the sources and of the targets, each [B, L, D]."""
    control, before = AuthorsControl(edits, str(code.device)), dict(network.attn_processors)
    network.set_attn_processor(control)
    x, one = torch.cat([code, code]), torch.ones(len(code), device=code.device)
    context = torch.cat([prompts[0], prompts[0], *prompts[1:]])
    for step, (t, s) in enumerate(pairwise(BOUNDARIES.decode_times)):
        control.step, control.stored = step, []
        w = torch.cat([one, one, one, one * (W if t <= BELOW else 1)])
        timestep = torch.full((4 * len(code),), round(1000 * t) - 1, device=code.device)
        eps = network(torch.cat([x, x]), timestep, context, timestep_cond=guidance_features(w)).sample[len(x) :]
        (alpha, sigma), (end_alpha, end_sigma) = (
            SCHEDULE(torch.tensor(float(time), device=code.device)) for time in (t, s)
        )
        x = end_alpha * (x - sigma * eps) / alpha + end_sigma * eps
    network.set_attn_processor(before)
    return x[len(code) :]


@torch.no_grad()
def ours(network: Any, edits: PromptToPrompt, code: Tensor, prompts: list[Tensor]) -> Tensor:
    states = [code] * len(BOUNDARIES.encode_times)  # only the last is read
    with attention_control(network, edits) as control:
        return edit(
            DiffusersDenoiser(network, SCHEDULE),
            Parametrization(SCHEDULE, "eps"),
            BOUNDARIES,
            code,
            states,
            {"prompt": prompts[1]},
            {"prompt": prompts[2]},
            DynamicGuidance(W, BELOW),
            control=control,
        )


def prepared(
    encoder: PromptEncoder, kind: str, num: int, device: str = "cpu", side: int = 16
) -> tuple[PromptToPrompt, Tensor, list[Tensor]]:
    """The edits, their codes [B, 4, side, side] and the states of nothing, sources and targets."""
    source, target = KINDS[kind]
    word = "soft" if kind == "replace" else "red"
    edits = PromptToPrompt(
        [source] * num, [target] * num, encoder.tokenizer, 4, 0.4, 0.6, kind,  # type: ignore[arg-type]
        equaliser=[{word: 2.0}] * num, length=encoder.length, self_max_tokens=(side // 2) ** 2,
    )  # fmt: skip
    code = torch.randn(num, 4, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    prompts = [encoder([text] * num)["prompt"].to(device) for text in ("", source, target)]
    return edits, code, prompts


def sharpened(network: nn.Module) -> nn.Module:
    """With the usual random weights every attention map is flat, and no edit does anything."""
    for name, weight in network.requires_grad_(False).named_parameters():
        if name.endswith("to_q.weight"):
            weight *= 10
    return network.eval()


def row(network: nn.Module, encoder: PromptEncoder, kind: str, num: int, options: argparse.Namespace) -> str:
    arguments = (network, *prepared(encoder, kind, num, options.device, options.side))
    sides = {"authors": partial(theirs, *arguments), "ours": partial(ours, *arguments)}
    outputs = [side() for side in sides.values()]
    difference = float((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max())
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            times[name].append(timed(side, torch.device(options.device))[1])
    ratio = statistics.median(a / b for a, b in zip(times["authors"], times["ours"], strict=True))
    ms = [f"{1e3 * statistics.median(values) / num:.1f}" for values in times.values()]
    return f"| {kind} | {options.side} | {num} | {ms[0]} | {ms[1]} | {ratio:.2f}x | {difference:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--edits", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--side", type=int, default=16, help="of the latents; 64 is that of Stable Diffusion 1")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--text-encoder", default="assets/clip_emoji", help="open_clip folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = sharpened(make_network(EMOJI, options.device))
    encoder = PromptEncoder(*load_clip_text_encoder(options.text_encoder))
    print(
        "| edit | side of latents | at once | authors, ms each | ours, ms each | faster | largest relative difference |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for kind in KINDS:
        for num in options.edits:
            print(row(network, encoder, kind, num, options), flush=True)


if __name__ == "__main__":
    main()
