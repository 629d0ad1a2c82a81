"""The image tower of a CLIP replaced by another one, such as one that small changes of pixels cannot fool.

Ganz and Elad 2023 (CLIPAG, arXiv 2306.16805) tune the image tower on adversarial pictures and keep the text tower: its
gradients then look like what the texts say, and a loss is harder to please by texture.
"""

from pathlib import Path

from torch import nn

from fewstep.files.hub import check_keys, read_weights
from fewstep.rewards.clip_scores import CLIPSimilarity

OF_WHOLE_CLIPS = "visual."


def split_off_tower(source: str) -> tuple[str, Path | None]:
    """("SOURCE", FILE) of "SOURCE+FILE", or (source, None). ValueError in one line where there is no such file."""
    rest, plus, tower = source.rpartition("+")
    if not plus or Path(source).is_dir() or Path(source.partition(":")[2]).is_file():
        return source, None  # or the plus is part of a name
    if not Path(tower).is_file():
        raise ValueError(f"{source}: behind the + belongs the weights file of an image tower, and {tower!r} is none")
    return rest, Path(tower)


def put_image_tower(clip: CLIPSimilarity, file: Path) -> None:
    """Load the image tower's weights from a file, float32, frozen as the rest.

    file: safetensors or torch.save (never unpickled), a state dict of open_clip's `visual` alone or of a whole CLIP.
    Whether it was tuned for this text tower no file tells: a tower of another one gives directions without meaning.
    ValueError in one line for other names and shapes.
    """
    tower: nn.Module = clip.model.visual
    state = read_weights(file)
    if any(name.startswith(OF_WHOLE_CLIPS) for name in state):
        visual = {name: weight for name, weight in state.items() if name.startswith(OF_WHOLE_CLIPS)}
        state = {name.removeprefix(OF_WHOLE_CLIPS): weight for name, weight in visual.items()}
    check_keys(state, tower.state_dict(), file)
    tower.load_state_dict({name: weight.float() for name, weight in state.items()})
