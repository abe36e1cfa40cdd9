"""Finiteness: of tensors, found out on their device, and of what a network is fed."""

from __future__ import annotations

import cmath
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from physgym.casting import FIELD, VALUE
from physgym.errors import SampleError
from physgym.sample import Field, finite_values
from physgym.spaces import Array


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


def check_finite(spec: Mapping[str, Field], fed: Mapping[str, Array], whose: str, *, batched: bool) -> None:
    """Raise SampleError where what a network is fed is not finite, and a mask does not take it out.

    Args:
        spec: The fields.
        fed: Their values, shape (n, *field shape), each of the declared dtype.
        whose: What is fed, for the error.
        batched: Whether the error names the sample.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # squares of large numbers, which are looked at once more
        found = [n for n, v in fed.items() if v.dtype.kind in "fc" and not cmath.isfinite((f := v.ravel()).dot(f))]
    for name in found:
        good = finite_values(spec, name, fed)
        if good.all():
            continue
        row, *index = np.argwhere(~good)[0].tolist()
        value, where = fed[name][(row, *index)], f" at index {tuple(index)}" if index else ""
        where += f" of sample {row}" if batched else ""
        error = f"holds {value}{where}, which is not finite. Repair the value, or leave the sample out"
        raise SampleError(FIELD.format(name=name, whose=whose, error=error))


def check_cast(fields: Mapping[str, Tensor], dtype: torch.dtype, whose: str) -> None:
    """Raise SampleError where finite values become infinite in another dtype.

    Args:
        fields: The values.
        dtype: That of the weights.
        whose: What is fed, for the error.
    """
    for name, value in fields.items():
        if not value.is_floating_point():
            continue
        lost = value.isfinite() & ~value.to(dtype).isfinite()
        if lost.any():
            index = tuple(lost.nonzero()[0].tolist())
            error = VALUE.format(value=value[index].item(), got=value.dtype, index=index, want=dtype)
            raise SampleError(FIELD.format(name=name, whose=whose, error=error))
