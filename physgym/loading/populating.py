"""A thread that maps the pages of samples ahead of those who gather single ones."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence

from physgym.loading.loadable import Loadable, Mapped, stored_nbytes
from physgym.system.memory import available_memory

LEAST = 64 << 20  # bytes of samples that are worth a thread
FITS = 0.7  # fraction of the available memory that samples may take to be read in vain at worst


def populate_ahead(owner: object, dataset: Loadable, fields: Sequence[str]) -> None:
    """Map all pages of samples in a thread, in the order of the file, if they fit the memory.

    What is gathered at random from the page cache meets a page that is not mapped in nearly every sample at first, and
    what the page cache lacks would be read from the disk page by page. Errors show where samples are gathered.

    Args:
        owner: Reads the samples; the thread ends with it at the latest.
        dataset: The samples.
        fields: Which fields of them.
    """
    if not isinstance(dataset, Mapped) or (size := stored_nbytes(dataset, fields)) < LEAST:
        return
    pieces = dataset.populate(fields)
    if next(pieces, None) is None:  # an earlier epoch has done it
        return
    memory = available_memory()
    if memory is None or size > FITS * memory:
        return
    stop = threading.Event()
    weakref.finalize(owner, stop.set)
    threading.Thread(target=_populate, args=(pieces, stop), name="physgym-populate", daemon=True).start()


def _populate(pieces: Iterator[int], stop: threading.Event) -> None:
    for _ in pieces:
        if stop.is_set():
            return
