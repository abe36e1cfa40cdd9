"""Comparison of weights."""

from __future__ import annotations

import torch


def same_weights(one, other):
    """Equal names and values."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
