"""Several LoRA adapters on one frozen network, in one call: each row of a batch with one of them, or with none."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fewstep.backbones.adapter_files import AdapterFile, check_fits, read_adapter, save_adapter
from fewstep.backbones.adapter_rows import Block, RowBlocks, keep_merged
from fewstep.choices import require_range
from fewstep.files.weights import weights_sha256

# What iCD adapts in a UNet: all but the first and last layer and the embeddings of time and guidance.
UNET_TARGETS: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
UNET_TARGETS += ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")
# The same of a transformer with a second stream for the prompt, such as Stable Diffusion 3's.
JOINT_TARGETS = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "ff_context.net.0.proj", "ff_context.net.2")

PEFT_ALPHA = 8  # by default, and in iCD


class Adapters:
    """LoRA adapters (Hu et al. 2021), layers by peft, in a diffusers network that holds them; no nn.Module itself.

    model: changed in place, its own weights frozen; outside `rows` it computes the bare base. names: also of folders.
    rank, alpha: an adapter adds (alpha / rank) B A x to a layer; B starts at 0. 64 and 8 are iCD's (appendix A).
    targets: ends of the names of Linear and Conv2d layers; default UNET_TARGETS and JOINT_TARGETS, as far as present.
    merged: compute with W + (alpha / rank) B A instead of adding B A x. The same to rounding, faster where layers are
        narrow, and each adapter in a call that is differentiated holds weights of its own: for small float32 networks.
    base_sha256: the hash of the model's weights, where it is known already.
    """

    def __init__(
        self,
        model: Any,
        names: Sequence[str] = ("forward", "reverse"),
        rank: int = 64,
        alpha: float = 8,
        targets: Sequence[str] | None = None,
        merged: bool = False,
        base_sha256: str | None = None,
    ) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        require_range("rank", rank, 1)
        require_range("alpha", alpha, above=True)
        if merged and {weight.dtype for weight in model.parameters()} != {torch.float32}:
            raise ValueError("merged adapters need float32 weights: half precision would round what they add away")
        if not names or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(f"adapters need different names of letters, digits and _, got {list(names)}")
        if hasattr(model, "peft_config"):
            raise ValueError("the network has adapters already; load it afresh")
        layers = matching_layers(model, targets)
        self.model, self.names, self.rank, self.alpha = model, tuple(names), rank, alpha
        self.base_sha256, self.base_dtype = base_sha256 or weights_sha256(model), str(next(model.parameters()).dtype)
        model.requires_grad_(False)
        for name in names:
            config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[arg-type]  # float alpha
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # several are the point
                inject_adapter_in_model(config, model, _peft_name(name))
        self._layers: dict[str, Any] = {name: model.get_submodule(name) for name in layers}
        self._rows = RowBlocks()
        self._rows.checkpointed = [part for part in model.modules() if hasattr(part, "gradient_checkpointing")]
        model.register_forward_pre_hook(self._rows.keep)
        self._added: list[RemovableHandle] = []
        for layer in self._layers.values():
            layer.enable_adapters(False)  # the base only: the adapters in force are added here
            if merged:
                layer.forward = partial(self._rows.merge, layer)
            else:
                self._added.append(layer.register_forward_hook(self._rows.treat))
        for name in names:
            for parameter in self.parameters(name):  # peft would train one adapter at a time
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)

    @contextmanager
    def rows(self, blocks: Sequence[Block]) -> Iterator[None]:
        """Calls of the model inside treat their rows in these blocks: [("reverse", 4), (None, 8)], None the bare base.

        Needs as many rows as the batch has; ValueError in one line otherwise. Recomputation by gradient checkpointing
        sees the blocks of its own forward pass, also when it comes later.
        """
        merged: list[Block] = []
        for name, rows in blocks:
            if name is not None and name not in self.names:
                raise ValueError(f"no adapter is named {name!r}; choose one of {', '.join(self.names)} or None")
            if rows < 0:
                raise ValueError(f"a block of {rows} rows is none; give 0 or more")
            peft_name = None if name is None else _peft_name(name)
            if merged and merged[-1][0] == peft_name:
                merged[-1] = (peft_name, merged[-1][1] + rows)
            elif rows:
                merged.append((peft_name, rows))
        with self._rows.use(merged):
            yield

    @contextmanager
    def scaled(self, strength: float) -> Iterator[None]:
        """What every adapter adds is multiplied by this number inside: 0 is the base, 1 the adapter.

        A recomputation by gradient checkpointing sees the number that is in force by then. ValueError in one line after
        `keep_merged`, whose weights know one strength alone.
        """
        if any(hasattr(layer, f"merged_{_peft_name(name)}") for layer in self._layers.values() for name in self.names):
            raise ValueError(f"adapters that are merged for good have no strength {strength:g}; do without keep_merged")
        before = {name: layer.scaling for name, layer in self._layers.items()}
        try:
            for name, layer in self._layers.items():
                layer.scaling = {adapter: value * strength for adapter, value in before[name].items()}
            yield
        finally:
            for name, layer in self._layers.items():
                layer.scaling = before[name]

    def keep_merged(self, names: Sequence[str] | None = None) -> None:
        """Let these adapters, which nothing trains any more, cost what the base costs, in any dtype: for applying them.

        Each is merged once, in float32, into weights of its own beside the base's, which take as much memory again.
        """
        for name in self.names if names is None else names:
            for parameter in self.parameters(name):
                parameter.requires_grad_(False)
            for layer in self._layers.values():
                keep_merged(layer, _peft_name(name))
        for layer in self._layers.values():
            layer.forward = partial(self._rows.merge, layer)
        for hook in self._added:
            hook.remove()

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The weights of one adapter, float32, A and B of each layer in turn; always trainable."""
        return list(self._weights(name).values())

    def state(self, name: str) -> dict[str, Tensor]:
        """The weights of one adapter under peft's names, such as `mid_block.resnets.0.conv1.lora_A.weight`."""
        return {key: weight.detach() for key, weight in self._weights(name).items()}

    def load_state(self, name: str, state: Mapping[str, Tensor], source: str | Path = "this state") -> None:
        """Copy weights under peft's names into one adapter; ValueError in one line unless all of them fit."""
        own = self.state(name)
        check_fits(state, own, source)
        if any(hasattr(layer, f"merged_{_peft_name(name)}") for layer in self._layers.values()):
            raise ValueError(f"the adapter {name!r} is merged for good; load {source} into a network of its own")
        for key, weight in own.items():
            weight.copy_(state[key])

    def save(self, folder: str | Path, names: Sequence[str] | None = None) -> None:
        """Write FOLDER/NAME/pytorch_lora_weights.safetensors for each adapter, as plain diffusers and peft load it.

        names: of some adapters only.
        """
        part = "unet" if "UNet" in type(self.model).__name__ else "transformer"  # what pipelines call it
        settings = {"r": self.rank, "lora_alpha": self.alpha, "target_modules": list(self._layers)}
        base = {"base_sha256": self.base_sha256, "base_dtype": self.base_dtype}
        for name in self.names if names is None else names:
            save_adapter(Path(folder, name), self.state(name), part, settings, base)

    def load(self, source: str | Path | Mapping[str, str | Path], other_base: bool = False) -> None:
        """Read what `save` wrote, or {name: file, folder or hub id} of diffusers, peft, kohya or the authors of iCD.

        A file with peft's names that tells no alpha is read with this object's, with a warning unless that is peft's
        default, 8. Other files without one mean their rank: if that is not this object's alpha, their weights are
        scaled to compute the same, with a warning. other_base: accept an adapter that was trained on other
        weights of the same shapes; where the base has another dtype than in training, they cannot be told apart.
        ValueError in one line, and nothing is changed, where a file does not fit.
        """
        files = source if isinstance(source, Mapping) else {name: Path(source, name) for name in self.names}
        states = {name: self._checked(name, file, other_base) for name, file in files.items()}
        for name, state in states.items():
            self.load_state(name, state, files[name])

    def _checked(self, name: str, file: str | Path, other_base: bool) -> dict[str, Tensor]:
        own = self.state(name)
        found = read_adapter(file, list(self._layers))
        alpha = found.alpha if found.states_alpha else None
        for what, theirs, ours in (("rank", found.rank, self.rank), ("alpha", alpha, self.alpha)):
            if theirs is not None and theirs != ours:
                raise ValueError(f"{file} has {what} {theirs:g}, these adapters have {ours:g}; give {what}={theirs:g}")
        check_fits(found.state, own, file)
        same_dtype = found.base_dtype in (None, self.base_dtype)  # else the hashes differ anyway
        if same_dtype and found.base_sha256 not in (None, self.base_sha256) and not other_base:
            raise ValueError(
                f"{file} is an adapter for another base ({found.base_sha256}, here {self.base_sha256}); load that one, "
                "or give other_base=True"
            )
        return self._scaled(found, file)

    def _scaled(self, found: AdapterFile, file: str | Path) -> dict[str, Tensor]:
        """The weights that compute with this object's alpha what they mean in a file that stores none."""
        if found.states_alpha or (found.alpha or PEFT_ALPHA) == self.alpha:
            return found.state
        if found.alpha is None:
            warnings.warn(f"{file} tells no alpha; it is read with alpha={self.alpha:g}", stacklevel=4)
            return found.state
        warnings.warn(
            f"{file} tells no alpha, which means its rank, {found.alpha:g}; its weights are scaled to compute the same "
            f"with alpha={self.alpha:g}",
            stacklevel=4,
        )
        factor = found.alpha / self.alpha
        return {key: weight.float() * factor if "lora_B" in key else weight for key, weight in found.state.items()}

    def _weights(self, name: str) -> dict[str, nn.Parameter]:
        if name not in self.names:
            raise ValueError(f"no adapter is named {name!r}; choose one of {', '.join(self.names)}")
        return {
            f"{path}.{half}.weight": getattr(layer, half)[_peft_name(name)].weight
            for path, layer in self._layers.items()
            for half in ("lora_A", "lora_B")
        }


def matching_layers(model: nn.Module, targets: Sequence[str] | None = None) -> list[str]:
    """Names of the Linear and Conv2d layers whose name is, or ends in, one of the targets; ValueError for none.

    By default no layer outside the blocks: a transformer's last `proj_out` is not meant.
    """
    adaptable = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    found: list[str] = []
    for target in UNET_TARGETS + JOINT_TARGETS if targets is None else targets:
        matches = [name for name in adaptable if name.endswith(f".{target}") or (targets and name == target)]
        if targets is not None and not matches:
            raise ValueError(
                f"no Linear or Conv2d layer of {type(model).__name__} is named ...{target}; see its modules"
            )
        found += matches
    if not found:
        raise ValueError(
            f"{type(model).__name__} has none of the layers that adapters are for; name its layers as targets"
        )
    return [name for name in adaptable if name in set(found)]


def _peft_name(name: str) -> str:
    """peft keeps adapters in an nn.ModuleDict, which cannot hold `forward` or any other name of its methods."""
    return f"{name}_adapter"
