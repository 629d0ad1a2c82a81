"""Fast text-driven editing: an unconditional diffusion model tuned along a direction between two texts."""
