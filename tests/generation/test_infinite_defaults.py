"""A default argument of a simulation that JSON cannot hold is no obstacle."""

from __future__ import annotations

import numpy as np

import physgym
from tests.support import toys


class Unlimited(toys.Line):
    """Has a limit that is infinite unless somebody sets it."""

    def __init__(self, limit=np.inf, **options):
        super().__init__(**options)
        self.limit = limit


def test_an_infinite_default_is_not_recorded(tmp_path):
    dataset = physgym.generate(Unlimited, tmp_path, samples=4, max_steps=2, num_workers=0, progress=False)
    (run,) = dataset.provenance["runs"]
    assert "limit" not in run.get("defaults", {})
    env, _ = physgym.reopen(dataset, 1, 1)
    assert env.unwrapped.limit == np.inf
    env.close()
