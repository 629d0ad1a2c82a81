"""Conditional densities: inverse entropic optimal transport (arXiv 2410.02628), its mixtures, energies, classes.

model = fewstep.transport.load("RUN or its export")    a trained model that answers in the units of your table
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewstep.transport.saved_models import load, save

__all__ = ["load", "save"]


def __getattr__(name: str) -> object:
    """On first use, so that a training that needs one formula does not wait for all of the room."""
    if name not in __all__:
        raise AttributeError(f"module 'fewstep.transport' has no attribute {name!r}")
    from fewstep.transport import saved_models

    return getattr(saved_models, name)
