"""What the transport models are compared with; every baseline trains on the same OT batch and is measured the same way.

A baseline is an nn.Module for standardised tables of a few dimensions with

``losses(batch)``         scalar terms that sum to the loss (the GANs have two players instead, see `adversarial`)
``log_density(y, x)``     [B] in nats
``sample(x, rng=None)``   [B, Dy], one draw per row of x
``calibrate(x, y)``       only Regression and the GANs: fits what their training leaves open of the density, on pairs
``adam``                  AdamW arguments for the runner (`generator_adam` and `discriminator_adam` for GANs)
"""

from benchmarks.ot_conditional.adversarial import CGAN, UGAN
from benchmarks.ot_conditional.flow_matching import FlowMatching
from benchmarks.ot_conditional.flows import ConditionalFlow
from benchmarks.ot_conditional.regression import MixtureDensityNetwork, Regression

__all__ = ["CGAN", "UGAN", "ConditionalFlow", "FlowMatching", "MixtureDensityNetwork", "Regression"]
