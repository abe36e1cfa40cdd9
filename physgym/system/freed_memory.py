"""Memory that this process has freed: kept for what comes next, or given back to the system."""

from __future__ import annotations

import numpy as np

LARGEST = (32 << 20) - (1 << 16)  # bytes of a block up to which the C library learns from what is freed


def keep_freed_memory() -> None:
    """Let the C library keep freed memory, up to 64 MB, in place of giving it back to the system again and again.

    A step of a network on a CPU takes and frees the same megabytes each time. Memory that is new to the process is
    cleared by the system page by page, which for a UNet on a grid took up to a third of a step. glibc keeps memory
    for blocks as large as the largest one that was freed so far, and twice that in all; so a large one is freed, which
    nobody has touched. Other libraries stay as they are.
    """
    np.empty(LARGEST, np.uint8)
