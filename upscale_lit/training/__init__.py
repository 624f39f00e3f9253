"""Training a network: steps, losses, checkpoints, image grids, reports."""
