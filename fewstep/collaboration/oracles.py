"""Oracles by a text, as a command line or a config names them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from fewstep.rewards.aesthetic import load_aesthetic
from fewstep.rewards.attribute_reader import load_attribute_reader
from fewstep.rewards.attributes import AllRightReward, AttributeReward, ProbabilityReward
from fewstep.rewards.clip_scores import load_clip, load_hpsv2, load_pickscore
from fewstep.rewards.image_reward import load_image_reward
from fewstep.rewards.preference import load_preference_reward

ORACLES: Mapping[str, Callable[..., nn.Module]] = {
    "image_reward": load_image_reward,
    "clip": lambda source="ViT-L-14-quickgelu": load_clip(*_clip(source)),
    "hpsv2": load_hpsv2,
    "pickscore": load_pickscore,
    "aesthetic": load_aesthetic,
    "preference": load_preference_reward,
    "attributes": lambda source: AttributeReward(load_attribute_reader(source)),
    "all_right": lambda source: AllRightReward(load_attribute_reader(source)),
    "probability": lambda source: ProbabilityReward(load_attribute_reader(source)),
}
READ_ATTRIBUTES = ("attributes", "all_right", "probability")
NEEDS_SOURCE = {  # for example
    **dict.fromkeys(READ_ATTRIBUTES, "assets/avatar_judge"),
    "aesthetic": "sa_0_4_vit_l_14_linear.pth",
    "preference": "RUN/export",
}


def load_oracle(text: str) -> nn.Module:
    """NAME or NAME=SOURCE, such as "image_reward", "clip=local-dir:FOLDER" or "attributes=assets/avatar_judge".

    "attributes", "all_right" and "probability" are told what is asked of each picture, {attribute: value} or a list of
    these; all others its prompt.
    ValueError in one line for another name, or for what cannot be loaded.
    """
    name, _, source = text.partition("=")
    if name not in ORACLES:
        raise ValueError(
            f"oracle {text!r}: choose one of {', '.join(ORACLES)}, with =SOURCE if it is not the usual one"
        )
    if name in NEEDS_SOURCE and not source:
        raise ValueError(f"oracle {name!r}: say where its weights are, such as {name}={NEEDS_SOURCE[name]}")
    return ORACLES[name](source) if source else ORACLES[name]()


def _clip(source: str) -> tuple[str, str | None]:
    """open_clip's name and tag; a folder that it wrote is as good as local-dir:FOLDER."""
    if Path(source).is_dir():
        return f"local-dir:{source}", None
    if ":" in source:
        return source, None
    return source, "openai"


def reads_attributes(text: str) -> bool:
    """Whether the oracle of this text is told attributes instead of the prompt."""
    return text.partition("=")[0] in READ_ATTRIBUTES
