"""The loss that all methods share which optimise one."""

from fewstep.augmentation import Augmentation
from fewstep.fast_edit.dictionary import known_edit
from fewstep.fast_edit.direction.clips import edit_loss
from fewstep.fast_edit.direction.edit_loss import EditLoss, EditLossOptions
from fewstep.fast_edit.direction.views import Views
from fewstep.rewards.clip_scores import CLIPSimilarity

# As configs/fast_edit/avatars_glasses.yaml has them, in pixels of 16.
LOSS = EditLossOptions(l1=5.0, views=Views(4, Augmentation(shift=0.5, scale=0.05, contrast=0.1, noise=0.1)))


def loss_of(clip: CLIPSimilarity, name: str, options: EditLossOptions = LOSS) -> EditLoss:
    """Of an edit of the dictionary."""
    known = known_edit(name)
    return edit_loss([clip], known.source, known.target, known.templates, options)
