"""The device to compute on: given by its name, or the best one that this machine has."""

from __future__ import annotations

import torch

AUTO = "auto"


def as_device(device: torch.device | str) -> torch.device:
    """Return a device; for "auto" CUDA where torch finds it, else Apple's MPS, else the CPU.

    Raises:
        RuntimeError: There is no device of that name.
    """
    return torch.device(_best() if device == AUTO else device)


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
