"""Readers of attributes that look at edits: as a gate while they are learnt, as a judge afterwards, never as both."""

import argparse
from collections.abc import Mapping

from torch import Tensor, nn

from fewstep.fast_edit.audit.judge import Judge
from fewstep.fast_edit.edit_base import EditBase
from fewstep.fast_edit.probes import AttributeProbe
from fewstep.files.weights import weights_sha256
from fewstep.rewards.attribute_reader import AttributeReader, load_attribute_reader


def check_reader(options: argparse.Namespace, asked: Mapping[str, str]) -> None:
    """ValueError in one line where a reader, what it is asked and its references do not come together."""
    if options.reader is not None and not asked:
        raise ValueError("--reader needs --asked ATTRIBUTE=VALUE, what it shall find")
    if options.reader is None and (options.references or options.hides):
        raise ValueError("--references and --hides need --reader FOLDER, which reads attributes")
    if options.reader is None and options.asked and getattr(options, "gate", None) is None:
        raise ValueError("--asked needs a reader to ask: --reader FOLDER")


def load_judge(options: argparse.Namespace, asked: Mapping[str, str], enlarge: int, base: EditBase) -> Judge | None:
    """enlarge: how often the CLIPs see each pixel."""
    if options.reader is None:
        return None
    reader = load_reader(options.reader, enlarge, base).to(options.device)
    return Judge(reader, dict(asked), dict(options.hides))


def load_gate(folder: str, asked: Mapping[str, str], enlarge: int, base: EditBase, device: str) -> AttributeProbe:
    """ValueError in one line for what the reader does not know."""
    reader = load_reader(folder, enlarge, base).to(device)
    Judge(reader, asked)
    return AttributeProbe(reader, asked)


def check_apart(gate: AttributeProbe | None, judge: Judge | None) -> None:
    """ValueError in one line where the judge has chosen what it judges."""
    if gate is not None and judge is not None and weights_sha256(gate.reader) == weights_sha256(judge.reader):
        raise ValueError("--gate and --reader are the same network; what it chooses, it cannot judge: give another one")


def load_reader(folder: str, enlarge: int, base: EditBase) -> AttributeReader:
    """Where the CLIPs see drawings enlarged, it does as well, as often as fits what it sees."""
    reader = load_attribute_reader(folder)
    factor = max(1, min(reader.image_size) // max(base.sample_size)) if enlarge > 1 else 1

    def shown(network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].repeat_interleave(factor, 2).repeat_interleave(factor, 3),)

    reader.register_forward_pre_hook(shown)
    return reader
