"""What tests of vector environments share."""

from __future__ import annotations

import numpy as np


def receive(envs, number, seen):
    """Receive until so many environments have been seen; their indices are added to `seen`."""
    while len(seen) < number:
        seen += envs.recv(1)[5].tolist()


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (tuple, list)):
        assert type(a) is type(b)
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray) and a.dtype == object:
        assert b.dtype == object
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b
        assert type(a) is type(b)
