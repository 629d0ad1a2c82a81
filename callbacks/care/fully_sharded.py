"""Split weights, gradients and optimizer state over the processes, for models that do not fit into one."""

import gc
from datetime import timedelta

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FullySharded(ModelParallelStrategy):
    """Fully sharded data parallel for any LightningModule whose networks are its submodules; on GPUs and on CPUs.

    Each process keeps 1 / world of every weight and gathers the others while a step needs them. Clipping by norm,
    accumulation and bf16-mixed work as in one process. A checkpoint is one ordinary file that one process can load.

    blocks: class names of submodules that are gathered one at a time, such as BasicTransformerBlock; without any, the
    whole module is gathered at once and only gradients and optimizer state are saved.
    timeout: how long a process waits for the others, h:mm:ss in a config.
    Errors: ValueError for blocks that the module lacks, and for weights that a network outside the module uses too.
    Source: Rajbhandari et al. (2020), ZeRO stage 3; torch.distributed.fsdp.fully_shard.
    """

    def __init__(
        self,
        blocks: list[str] | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta = default_pg_timeout,
    ) -> None:
        # Lightning's own FSDPStrategy has no clipping by norm, no CPU, and unpickles a checkpoint as it likes.
        super().__init__(
            save_distributed_checkpoint=False, process_group_backend=process_group_backend, timeout=timeout
        )
        self.blocks = blocks or []

    def set_world_ranks(self) -> None:
        super().set_world_ranks()
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1

    def setup(self, trainer: Trainer) -> None:
        # The parent would ask for a `configure_model` in the module: sharding is the strategy's business.
        assert self.accelerator is not None
        assert isinstance(self.model, LightningModule)
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        if not isinstance(self.model, FSDPModule):  # else a test after the training
            self._shard(self.model)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        else:
            self.optimizers = []  # no state to be restored
        self.setup_precision_plugin()

    def _shard(self, module: LightningModule) -> None:
        refuse_shared_weights(module)
        missing = set(self.blocks) - {type(part).__name__ for part in module.modules()}
        if missing:
            raise ValueError(f"no block of class {', '.join(sorted(missing))} in {type(module).__name__} to shard")
        mesh = self.device_mesh["data_parallel"]
        for part in [p for p in module.modules() if type(p).__name__ in self.blocks]:
            fully_shard(part, mesh=mesh)
        steps = [name for name in STEPS if is_overridden(name, module)]
        fully_shard(module, mesh=mesh)
        for name in steps:  # weights are whole inside these methods and split outside
            register_fsdp_forward_method(module, name)


def refuse_shared_weights(module: nn.Module) -> None:
    """ValueError if a network that is no submodule holds weights of `module`: it would keep using its own copy."""
    inside = set(map(id, module.modules()))
    weights = {id(p) for p in module.parameters()}
    for other in gc.get_objects():
        if not issubclass(type(other), nn.Module) or id(other) in inside:
            continue
        if any(id(p) in weights for p in other.__dict__.get("_parameters", {}).values()):
            raise ValueError(
                f"{type(module).__name__} trains weights inside a network that is not its submodule "
                f"({type(other).__name__}), which cannot be sharded; use configs/trainer/ddp.yaml"
            )
