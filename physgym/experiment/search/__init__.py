"""Hyper-parameter search over a configuration: trials that Optuna chooses, in worker processes that this starts."""
