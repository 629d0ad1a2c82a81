"""Diffusion in one convention: t = 0 is data, 1 is noise; schedules, predictions, guidance, solvers, latents."""
