"""The parser of the command line, and of every class that it builds."""

from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from commands.option_groups import check_groups


class WholeNamesParser(LightningArgumentParser):
    """Takes no abbreviations, nor do the parsers of classes that are made like it: --trainer.max_step is a slip."""

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def parse_args(self, args: Any = None, **kwargs: Any) -> Namespace:
        """The parser of a class gets a null that stands below it from jsonargparse as the text None."""
        if "defaults" in kwargs and args:
            args = [f"{word[:-4]}null" if word.endswith("=None") else word for word in args]
        return super().parse_args(args, **kwargs)

    def dump(self, cfg: Namespace, *args: Any, **kwargs: Any) -> str:
        """What `--print_config` prints is a config that a run would take."""
        check_groups(cfg)
        return super().dump(cfg, *args, **kwargs)


def add_own_options(parser: LightningArgumentParser) -> None:
    """What train.py takes beside the keys of trainer, model, data and callbacks."""
    add = parser.add_argument
    add("--run_dir", type=str | None, default=None, help="folder of this run; runs/CONFIG/ID if not given")
    add("--resume", type=str | None, default=None, help="auto (newest checkpoint in --run_dir) or a checkpoint")
    add("--dry_run", action="store_true", help="try two steps and one validation, write nothing")
    add("--num_threads", type=int | None, default=None, help="CPU threads per process; null is torch's choice")
    add("--wandb", type=Literal["offline", "online", "disabled"], default="offline", help="Weights & Biases mode")
    add("--wandb_project", type=str, default="fewstep", help="project in Weights & Biases and Trackio")
    add("--trackio", type=Literal["local", "disabled"], default="disabled", help="record in Trackio, too")
    add("--test_after_fit", type=bool, default=True, help="test the best checkpoint after training")
