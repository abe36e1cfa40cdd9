"""Finiteness of tensors, found out on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class NonFiniteFlag:
    """Flag on a device that is set where a value of tensors is not finite, and stays set until it is read.

    All tensors are looked at in one operation, by which torch's `GradScaler` looks at gradients: it multiplies them,
    here by one. The device is waited for by `read` alone.

    Args:
        device: The device.

    Attributes:
        value: The flag, 0 or 1, shape (), float32.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.zeros((), device=device)
        self._one = torch.ones((), device=device)

    def note(self, tensors: list[Tensor]) -> None:
        """Set the flag where a value is not finite.

        Args:
            tensors: Those to look at, for which `takes` is true; their values stay as they are.
        """
        torch._amp_foreach_non_finite_check_and_unscale_(tensors, self.value, self._one)

    def read(self) -> bool:
        """Return whether it is set, and take it back."""
        found = bool(self.value.item())
        if found:
            self.value.zero_()
        return found

    def takes(self, tensors: Sequence[Tensor]) -> bool:
        """Return whether tensors can be looked at: dense real numbers of one dtype on the device of the flag."""
        device, dtype = self.value.device, tensors[0].dtype
        if not dtype.is_floating_point or device.type not in ("cpu", "cuda"):
            return False
        here = device.type == "cpu"  # of which there is one: comparing devices takes three times as long
        for tensor in tensors:
            there = tensor.is_cpu if here else tensor.device == device
            if not there or tensor.dtype is not dtype or tensor.layout is not torch.strided:
                return False
        return True
