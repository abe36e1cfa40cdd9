"""Generation of samples by simulations: streams, datasets, and the buffer of an online training."""
