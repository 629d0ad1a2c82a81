"""Conditional densities: inverse entropic optimal transport (arXiv 2410.02628), its mixtures, energies, classes."""
