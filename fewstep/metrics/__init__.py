"""From sets of samples to distances and their intervals; a feature network is named in every protocol."""
