"""A watch of a child process: it ends soon after its parent, which may be killed."""

from __future__ import annotations

import os
import threading
import time

WATCH = 0.5  # seconds between looks


def end_with_parent(parent: int) -> None:
    """End this process soon after the process that started it.

    Args:
        parent: The number of that process.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, name=f"watch of process {parent}", daemon=True).start()
