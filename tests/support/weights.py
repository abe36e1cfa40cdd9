"""Weights of networks: copies and comparisons."""

from __future__ import annotations

import torch


def copied_weights(run):
    """Copies of weights and buffers of a trainer's network, by name."""
    return {name: value.clone() for name, value in run.predictor.state_dict().items()}


def flat_weights(module):
    """All weights of a network in a vector."""
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def same_weights(one, other):
    """Equal names and values."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
