"""The global random generators of Python, NumPy and torch: seeds and states."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - code of the user may draw from the global generator
    torch.manual_seed(seed)


def generator_states() -> dict[str, Any]:
    """Return the states of the global generators of Python, NumPy and torch."""
    version, words, gauss = random.getstate()
    algorithm, key, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - as above
    states: dict[str, Any] = {
        "python": {"version": version, "words": np.array(words, np.uint64), "gauss": gauss},
        "numpy": {
            "algorithm": algorithm,
            "key": key,
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_generator_states(states: Mapping[str, Any]) -> None:
    """Put the global generators where `generator_states` found them."""
    python, legacy = states["python"], states["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    key = np.asarray(legacy["key"], np.uint32)
    known = (legacy["algorithm"], key, legacy["position"], legacy["has_gauss"], legacy["cached"])
    np.random.set_state(known)  # noqa: NPY002 - as above
    torch.set_rng_state(states["torch"])
    if len(states.get("cuda", ())) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(states["cuda"])


def check_generators(states: Mapping[str, Any]) -> None:
    """Raise an error of some kind unless the global generators take these states; they stay where they are."""
    before = generator_states()
    try:
        set_generator_states(states)
    finally:
        set_generator_states(before)


def seed_of(*numbers: int) -> int:
    """Return a seed that is a function of numbers, such as a seed and an epoch."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
