"""Inverse entropic optimal transport with a closed-form normaliser (Persiianov et al., arXiv 2410.02628, section 3.3).

The conditional density is π(y|x) = exp(f(y) - c(x, y)) / Z(x), in natural coordinates: f, c and the slopes are divided
by ε and the covariances multiplied by it, so ε itself only rescales the axes in which an optimiser steps.

    c(x, y) = -log Σ_m v_m(x) exp⟨slope_m(x), y⟩          the cost (Eq. 15)
    f(y)    =  log Σ_n w_n N(y | center_n, Σ_n)            the potential (Eq. 16)
    log Z(x) = logsumexp_{n,m} [log v_m + log w_n + ½ slope_mᵀ Σ_n slope_m + ⟨center_n, slope_m⟩]   (Prop. 3.1)
    π(y|x)  = a mixture of the N·M Gaussians N(center_n + Σ_n slope_m(x), Σ_n) with these weights      (Prop. 3.2)

M = 1, v = 1, slope(x) = x is LightSB. Shape legend: B conditions, Q conditions and R points of a product, N potential
components, M cost components, D target dimensions.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.transport import mixtures


class Potential(NamedTuple):
    """f(y): a Gaussian mixture with Σ_n w_n = 1."""

    log_w: Tensor  # [N]
    center: Tensor  # [N, D]
    covariance: mixtures.Covariance


class Cost(NamedTuple):
    """c(x, ·) at B conditions: log-sum-exp of M affine functions with Σ_m v_m(x) = 1, which fixes the x-gauge."""

    log_v: Tensor  # [B, M]
    slope: Tensor  # [B, M, D]


def potential_value(potential: Potential, y: Tensor) -> Tensor:
    """f at y [B, D] (Eq. 16, in units of ε). Returns [B]."""
    return mixtures.log_prob(y, *potential)


def cost_value(cost: Cost, y: Tensor) -> Tensor:
    """c(x_i, y_i) at y [B, D], row by row (Eq. 15, in units of ε). Returns [B]."""
    return -torch.logsumexp(cost.log_v + torch.einsum("bmd,bd->bm", cost.slope, y), dim=-1)


def log_components(potential: Potential, cost: Cost) -> Tensor:
    """log z_mn(x), the unnormalised weights of the conditional mixture (Prop. 3.1). Returns [B, M, N].

    Two matrix products of (B·M) x D x N; nothing of size B·N·M·D is ever built.
    """
    slope = cost.slope.flatten(0, 1)  # [B·M, D]
    tilt = torch.addmm(0.5 * potential.covariance.quadratic(slope), slope, potential.center.T)  # [B·M, N]
    return tilt.unflatten(0, cost.log_v.shape) + cost.log_v[..., None] + potential.log_w


def log_normalizer(potential: Potential, cost: Cost) -> Tensor:
    """log Z(x) (Prop. 3.1). Returns [B]."""
    return torch.logsumexp(log_components(potential, cost).flatten(1), dim=-1)


def log_density(y: Tensor, potential: Potential, cost: Cost) -> Tensor:
    """log π(y_i|x_i) = f(y_i) - c(x_i, y_i) - log Z(x_i) in nats. y [B, D]. Returns [B]."""
    return potential_value(potential, y) - cost_value(cost, y) - log_normalizer(potential, cost)


def log_density_matrix(y: Tensor, potential: Potential, cost: Cost) -> Tensor:
    """log π(y_j|x_i) for every pair of the Q conditions in ``cost`` and y [R, D]. Returns [Q, R]."""
    tilt = torch.logsumexp((cost.slope @ y.T) + cost.log_v[..., None], dim=1)  # [Q, R]
    return potential_value(potential, y) + tilt - log_normalizer(potential, cost)[:, None]


def sample(potential: Potential, cost: Cost, uniform: Tensor, noise: Tensor) -> Tensor:
    """One draw y ~ π(·|x_i) per condition (Prop. 3.2), from uniform [B] and standard normal noise [B, noise_dim].

    Picks a component, then gathers only its mean: O(B·D) beyond the weights. Returns [B, D].
    """
    log_z = log_components(potential, cost)
    index = mixtures.categorical(log_z.flatten(1), uniform)
    m, n = index // log_z.shape[2], index % log_z.shape[2]
    slope = cost.slope[torch.arange(len(m), device=m.device), m]
    covariance = potential.covariance
    return potential.center[n] + covariance.shift(slope, n) + covariance.scale(noise, n)


def mean_slope(cost: Cost) -> Tensor:
    """E_x Σ_m v_m(x) slope_m(x), the direction in which the y-gauge drifts. Returns [D]."""
    return torch.einsum("bm,bmd->d", cost.log_v.exp(), cost.slope) / len(cost.slope)


def center_slopes(cost: Cost, reference: Cost) -> Cost:
    """Fixes the y-gauge: subtracts the mean slope over a reference set of conditions.

    c(x, y) + ⟨u, y⟩ together with a matching f gives the same π(y|x) for every u, while the empirical inverse-OT loss
    is linear in u and so falls without bound; with the mean slope held at zero no u is left to choose.
    """
    return Cost(cost.log_v, cost.slope - mean_slope(reference))


def inverse_ot_terms(
    potential: Potential, pair: Cost, y: Tensor, unpaired: Cost, y_unpaired: Tensor
) -> dict[str, Tensor]:
    """The paper's loss (Eq. 18) as its three means; each a scalar, their sum is the loss.

    Not bounded below: three different samples average three terms that only cancel in expectation. Never select a model
    on it.
    """
    return {
        "cost": cost_value(pair, y).mean(),
        "potential": -potential_value(potential, y_unpaired).mean(),
        "normalizer": log_normalizer(potential, unpaired).mean(),
    }


def blend_terms(
    potential: Potential, pair: Cost, y: Tensor, unpaired: Cost, y_unpaired: Tensor, blend: float
) -> dict[str, Tensor]:
    """NLL of the pairs plus λ times the two differences of means that turn it into Eq. 18.

    λ = 0 is supervised likelihood, λ = 1 the paper's loss. The differences have expectation zero, so λ is the
    coefficient of a control variate.
    """
    f_pair, log_z_pair = potential_value(potential, y), log_normalizer(potential, pair)
    nll = (cost_value(pair, y) - f_pair + log_z_pair).mean()
    return {
        "pair": nll,
        "potential": blend * (f_pair.mean() - potential_value(potential, y_unpaired).mean()),
        "normalizer": blend * (log_normalizer(potential, unpaired).mean() - log_z_pair.mean()),
    }


def marginal_terms(
    potential: Potential, pair: Cost, y: Tensor, unpaired: Cost, y_unpaired: Tensor
) -> dict[str, Tensor]:
    """Semi-supervised likelihood with the full Q x R product: -mean log π(y|x) - mean_r log mean_q π(y_r|x_q) (Eq. 25).

    Bounded below for floored covariances and free of both gauges. The inner mean over Q conditions is biased low by
    Jensen's inequality, so Q should be large.
    """
    product = log_density_matrix(y_unpaired, potential, unpaired)  # [Q, R]
    log_marginal = torch.logsumexp(product, dim=0) - math.log(product.shape[0])
    return {"pair": -log_density(y, potential, pair).mean(), "marginal": -log_marginal.mean()}
