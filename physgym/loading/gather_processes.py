"""Batches gathered by worker processes, for datasets whose `gather` is Python that takes long."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from physgym.errors import DatasetError
from physgym.loading.epoch_reader import as_native
from physgym.loading.loadable import Loadable
from physgym.spaces import Array
from physgym.system.parent_watch import end_with_parent

if TYPE_CHECKING:
    from torch import Tensor

    from physgym.loading.loader import Loader

TIMEOUT = 300.0  # seconds to wait for a batch

LOST = "a worker that loads samples is lost or stuck: {error}. Use fewer workers, or repair the dataset's gather"


class Gathering:
    """Request of a worker for a batch, by its epoch, number and indices.

    What gathering draws from the global generators of Python, NumPy and torch follows from (seed, epoch, number of the
    batch), so that neither the number of workers nor a resume changes it.
    """

    def __init__(self, dataset: Loadable, fields: Sequence[str], seed: int) -> None:
        self._dataset, self._fields, self._seed = dataset, fields, seed

    def __getitem__(self, batch: tuple[int, int, Array]) -> dict[str, Array]:
        import random

        import numpy as np
        import torch

        epoch, number, indices = batch
        state = np.random.SeedSequence((self._seed, epoch, number)).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(state[1])  # noqa: NPY002 - code of the user may draw from the global generator
        torch.manual_seed(int(state[2]))
        return {name: as_native(value) for name, value in self._dataset.gather(indices, self._fields).items()}


def gathered_by_workers(loader: Loader, epoch: int, batch: int, workers: int) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of an epoch from one of them on: those that the loader gives, gathered by worker processes.

    Args:
        loader: What to load, in which order.
        epoch: Number of the epoch.
        batch: Number of the first batch.
        workers: Number of processes.

    Raises:
        DatasetError: A worker died or gave no batch in time.
    """
    import torch
    from torch.utils.data import DataLoader

    numbered = ((epoch, batch + place, rows) for place, rows in enumerate(loader.batch_indices(epoch, batch)))
    gathering: Any = Gathering(loader.dataset, loader.fields, loader.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="This DataLoader will create"
        )  # more workers than cores: as asked for
        feed: Any = DataLoader(
            gathering,
            sampler=numbered,
            batch_size=None,
            num_workers=workers,
            timeout=TIMEOUT,
            worker_init_fn=functools.partial(_end_with, os.getpid()),
            pin_memory=loader.pin_memory,
            # a generator of its own: it would draw from torch's, which the training uses
            generator=torch.Generator().manual_seed(loader.seed),
        )
        batches = iter(feed)
    try:
        while True:
            try:
                arrived = next(batches, None)
            except RuntimeError as error:  # also the death of a worker
                raise DatasetError(LOST.format(error=error)) from error
            except (EOFError, OSError) as error:  # its death while it hands a batch over
                if "in DataLoader worker process" in str(error):  # as torch adds to what gathering raised
                    raise
                raise DatasetError(LOST.format(error=repr(error))) from error
            if arrived is None:
                return
            yield arrived
    finally:
        if (shut := getattr(batches, "_shutdown_workers", None)) is not None:
            shut()


def _end_with(parent: int, number: int) -> None:
    """End this worker soon after the process that started it, which may be killed.

    A worker of torch looks as well, but between batches alone, and then waits until what it has gathered is taken.
    """
    end_with_parent(parent)


def is_death(error: BaseException) -> bool:
    """Return whether an error is the one that torch raises when a worker has died, in any part of this process."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")
