"""The loss: how far pictures moved along the direction between two texts, as CLIPs see augmented views of them."""
