"""Class paths that a config of an earlier version may still name, and where the classes are now."""

import callbacks

MOVED = {
    "fewstep.clip_networks": "fewstep.contrastive.network",
    "fewstep.clip_scores": "fewstep.rewards.clip_scores",
    "fewstep.discrete_transport": "fewstep.transport.discrete_transport",
    "fewstep.energy": "fewstep.transport.energy",
    "fewstep.features": "fewstep.metrics.features",
    "fewstep.image_reward": "fewstep.rewards.image_reward",
    "fewstep.light_transport": "fewstep.transport.light_transport",
    "fewstep.networks": "fewstep.transport.networks",
    "fewstep.perceptual": "fewstep.metrics.perceptual",
    "fewstep.rewards": "fewstep.rewards.aesthetic",
}


def new_path(path: str) -> str | None:
    """fewstep.light_transport.LightTransport -> fewstep.transport.light_transport.LightTransport; None if not moved."""
    module, _, name = path.rpartition(".")
    if module.startswith("callbacks.") and name in callbacks.__all__:
        return f"callbacks.{name}"
    return f"{MOVED[module]}.{name}" if module in MOVED else None
