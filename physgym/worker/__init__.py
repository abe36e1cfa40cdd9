"""What a worker process runs: a group of environments."""
