"""What students of a diffusion teacher share: boundaries of segments, consistency losses, network calls."""
