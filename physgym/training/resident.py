"""Stored samples that are held on the device as a whole, and gathered into batches there."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from physgym.checks import one_of
from physgym.errors import ConfigError
from physgym.loading.epoch_reader import as_native
from physgym.loading.loadable import BlockReadable
from physgym.loading.loader import Loader
from physgym.nn.transforms import Fields
from physgym.training.sources import IndexedSamples, Samples

DeviceResident = bool | Literal["auto"]

SHARE = 0.25  # of the free memory of a device that samples may take there, where that is not asked for
COPIED = 64 << 20  # bytes that are copied to a device together
INDICES = 1 << 16  # samples whose order is copied to a device together

log = logging.getLogger(__name__)


class ResidentSamples:
    """Samples on a device.

    Args:
        samples: The samples.
        fields: Their fields that are read.
        device: Where to hold them.

    Raises:
        ConfigError: They do not fit there.
    """

    def __init__(self, samples: Samples, fields: Sequence[str], device: torch.device) -> None:
        self._device, count = device, len(samples)
        spec = {name: samples.spec[name] for name in fields}
        row = sum(field.nbytes for field in spec.values())
        dtypes = {name: torch.from_numpy(as_native(np.empty(0, field.dtype))).dtype for name, field in spec.items()}
        try:
            self._columns: Fields = {
                name: torch.empty((count, *field.shape), dtype=dtypes[name], device=device)
                for name, field in spec.items()
            }
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"the samples take {count * row / 1e9:.3g} GB, for which {device} has no room: leave out "
                "device_resident=True, or choose fewer fields"
            ) from error
        step = max(1, COPIED // max(1, row))
        for start in range(0, count, step):
            stop = min(start + step, count)
            rows = np.arange(start, stop)
            read = isinstance(samples, BlockReadable)
            part: Any = samples.read(start, stop, fields) if read else samples.gather(rows, fields)  # type: ignore[attr-defined]
            for name, column in self._columns.items():
                column[start:stop].copy_(torch.from_numpy(as_native(np.require(part[name], requirements="W"))))

    def batches(self, loader: Loader, epoch: int, batch: int) -> Iterator[Fields]:
        """Yield the batches that a loader has, from one of an epoch on: fields of shape (batch, *shape).

        Args:
            loader: Knows the order.
            epoch: The epoch.
            batch: Number of the first batch.
        """
        waiting: list[Any] = []
        for indices in loader.batch_indices(epoch, batch):
            waiting.append(indices)
            if sum(map(len, waiting)) >= INDICES:
                yield from self._gathered(waiting)
                waiting = []
        yield from self._gathered(waiting)

    def _gathered(self, order: Sequence[Any]) -> Iterator[Fields]:
        if not order:
            return
        rows = torch.from_numpy(np.concatenate(order)).to(self._device)
        for part in torch.split(rows, [len(indices) for indices in order]):
            yield {name: column.index_select(0, part) for name, column in self._columns.items()}


def check_resident(device_resident: Any) -> None:
    """Raise ConfigError unless it says whether samples are held on the device."""
    one_of("device_resident", device_resident, (True, False, "auto"))


def resident_samples(
    samples: Samples, loader: Loader, device: torch.device, wanted: DeviceResident, workers: int
) -> ResidentSamples | None:
    """Return samples on a device, or None where they are to be streamed there.

    Args:
        samples: The samples.
        loader: Reads them otherwise.
        device: The device.
        wanted: True holds them there, "auto" where it is a GPU of which they take a quarter of the free memory at most.
            Of samples without names, such as those of a `torch.utils.data.Dataset`, it is not known whether they are
            the same whenever they are read: these are held only where that is asked for.
        workers: Processes that gather batches, which are asked for where gathering computes something.

    Raises:
        ConfigError: They do not fit there.
    """
    if wanted is False:
        return None
    nbytes = len(samples) * sum(samples.spec[name].nbytes for name in loader.fields)
    if wanted == "auto":
        known = isinstance(samples, IndexedSamples) and not loader.blockwise and not workers
        if device.type != "cuda" or not known or nbytes > SHARE * torch.cuda.mem_get_info(device)[0]:
            return None
    log.info("%d samples are held on %s: %.3g GB", len(samples), device, nbytes / 1e9)
    return ResidentSamples(samples, loader.fields, device)
