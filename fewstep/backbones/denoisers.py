"""Networks of diffusers as denoisers, with or without an embedding of the guidance scale w (1 is unguided)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.backbones.control import Control
from fewstep.diffusion.guidance import Condition, GuidanceEmbedding, guidance_features
from fewstep.diffusion.schedules import Schedule


class DiffusersDenoiser:
    """(x, t, guidance_scale, condition) -> output of a UNet2DConditionModel, SD3Transformer2DModel or UNet2DModel.

    condition: "prompt" [B, L, D]; for SDXL also "pooled" [B, P] and "time_ids" [B, 6], for SD3 "pooled"; with a control
    network beside it also "control" [B, 3, H, W] in [-1, 1]; empty for a UNet2DModel, which knows no prompts. The
    network may be held in half precision: it is fed in its own dtype, and what it answers is float32, or more. Of 2C
    channels for C, the last C are its variance (Nichol and Dhariwal 2021, section 3.1), which no solver here asks for.
    Not an nn.Module, and `network` is the `fewstep.diffusion.guidance.Network` that ClassifierFree takes.
    """

    def __init__(self, model: nn.Module, schedule: Schedule, control: Control | None = None) -> None:
        from diffusers import SD3Transformer2DModel, UNet2DConditionModel, UNet2DModel

        if not isinstance(model, UNet2DConditionModel | SD3Transformer2DModel | UNet2DModel):
            known = "use a UNet2DConditionModel, SD3Transformer2DModel or UNet2DModel"
            raise ValueError(f"a {type(model).__name__} cannot denoise here; {known}")
        self.model: Any = model
        config: Any = model.config
        self.is_unconditional = isinstance(model, UNet2DModel)
        if self.is_unconditional:
            check_unconditional(config)
        if control is not None:
            control.check(model)
        self.schedule, self.control = schedule, control
        self.is_transformer = isinstance(model, SD3Transformer2DModel)

    def __call__(self, x: Tensor, t: Tensor, guidance_scale: Tensor | None, condition: Condition) -> Tensor:
        """[B, C, h, w] for x [B, C, h, w], t [B] and guidance_scale [B], which is None for a network without one."""
        if guidance_scale is None and has_guidance_embedding(self.model):
            raise ValueError("this network has a guidance embedding: give guidance_scale, which is 1 for unguided")
        if guidance_scale is not None and not has_guidance_embedding(self.model):
            raise ValueError("this network has no guidance embedding: distil guidance into it first, or pass None")
        if ("control" in condition) != (self.control is not None):
            told = (
                "no control network: load one, or leave its" if self.control is None else "a control network: give its"
            )
            raise ValueError(f"this network has {told} picture, the `control` of its condition")
        if self.is_unconditional and condition:
            raise ValueError(f"this network knows no {', '.join(condition)}: give an empty condition")
        output = self._answer(x, t, guidance_scale, condition)
        output = output[:, : x.shape[1]] if output.shape[1] == 2 * x.shape[1] else output
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def _answer(self, x: Tensor, t: Tensor, guidance_scale: Tensor | None, condition: Condition) -> Tensor:
        dtype = next(self.model.parameters()).dtype
        timestep = self.schedule.timestep(t)
        if self.is_unconditional:
            return self.model(x.to(dtype), timestep).sample
        prompt = condition["prompt"].to(dtype)
        if self.is_transformer:
            if guidance_scale is not None:
                timestep = torch.stack([timestep.to(guidance_scale), guidance_scale], 1)  # GuidedTimeTextEmbeddings
            pooled = condition["pooled"].to(dtype)
            return self.model(x.to(dtype), prompt, pooled_projections=pooled, timestep=timestep).sample
        options: dict[str, Any] = {}
        if guidance_scale is not None:
            dim = self.model.time_embedding.cond_proj.in_features
            options["timestep_cond"] = guidance_features(guidance_scale, dim).to(dtype)
        if "pooled" in condition:
            added = {"text_embeds": condition["pooled"].to(dtype), "time_ids": condition["time_ids"]}
            options["added_cond_kwargs"] = added
        if self.control is not None:
            given = x.to(dtype), timestep, prompt, condition["control"]
            options |= self.control.additions(*given, options.get("added_cond_kwargs"))
        return self.model(x.to(dtype), timestep, prompt, **options).sample

    def network(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The answer [B, C, h, w] of a network without guidance embedding."""
        return self(x, t, None, condition)


def check_unconditional(config: Mapping[str, Any]) -> None:
    """ValueError in one line unless a UNet2DModel with this config takes pictures and training steps, and no more."""
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise ValueError("the UNet2DModel is told classes (num_class_embeds); use one that was trained without")
    if config.get("time_embedding_type", "positional") == "fourier":
        raise ValueError('the UNet2DModel is told noise levels (time_embedding_type "fourier"), not training steps')


class GuidedTimeTextEmbeddings(nn.Module):
    """The embedding of time and pooled prompt of an SD3Transformer2DModel, plus that of w.

    It stands in for the model's own time_text_embed and keeps its names, so stored weights of either load. The model
    hands its `timestep` on untouched: [B, 2], timestep and w.
    """

    def __init__(self, plain: Any, dim: int) -> None:
        super().__init__()
        self.time_proj, self.timestep_embedder = plain.time_proj, plain.timestep_embedder
        self.text_embedder = plain.text_embedder
        self.guidance = GuidanceEmbedding(plain.timestep_embedder.linear_2.out_features, dim)

    def forward(self, timestep_and_scale: Tensor, pooled: Tensor) -> Tensor:
        timestep, guidance_scale = timestep_and_scale.unbind(1)
        time = self.timestep_embedder(self.time_proj(timestep).to(pooled.dtype))
        return time + self.guidance(guidance_scale) + self.text_embedder(pooled)


def guidance_embedding(model: Any) -> nn.Linear | None:
    """The projection of w's features in a UNet or SD3 transformer, without bias; None where there is none."""
    if isinstance(embedder := getattr(model, "time_text_embed", None), GuidedTimeTextEmbeddings):
        return embedder.guidance.projection
    return getattr(getattr(model, "time_embedding", None), "cond_proj", None)


def has_guidance_embedding(model: nn.Module) -> bool:
    return guidance_embedding(model) is not None


def add_guidance_embedding(model: Any, dim: int = 512) -> nn.Module:
    """The same model, changed in place: it takes w, and answers as before for every w until it is trained.

    UNets get `cond_proj`, which diffusers pipelines feed themselves (Luo et al. 2023, LCM); SD3 transformers, which
    have no such entry, GuidedTimeTextEmbeddings. The new weights require gradients.
    """
    if has_guidance_embedding(model):
        raise ValueError("this network has a guidance embedding already; take a network without one")
    if hasattr(model, "time_embedding") and "cross_attention_dim" not in model.config:
        raise ValueError(f"a {type(model).__name__} knows no prompts, so there is nothing to guide")
    like = next(model.parameters())
    if hasattr(model, "time_text_embed"):
        model.time_text_embed = GuidedTimeTextEmbeddings(model.time_text_embed, dim)
        model.time_text_embed.guidance.to(like)
    else:
        projection = nn.Linear(dim, model.time_embedding.linear_1.in_features, bias=False)
        nn.init.zeros_(projection.weight)
        model.time_embedding.cond_proj = projection.to(like)
        model.register_to_config(time_cond_proj_dim=dim)
    return model
