"""The worker process: a group of environments, served one request after another."""
