"""From simulations to samples: streams, datasets, and the buffer of an online training."""
