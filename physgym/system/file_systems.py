"""The kind of file system on which a file lies."""

from __future__ import annotations

import os
from pathlib import Path


def file_system_of(handle: int) -> str:
    """Return the kind of file system of an open file, such as "ext4"; empty where the system does not say.

    Args:
        handle: Descriptor of the file.
    """
    device = os.fstat(handle).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:  # 36 35 98:0 /root /mount options ... - kind source options
        place, _, kind = line.partition(" - ")
        if place.split(" ", 3)[2:3] == [wanted]:
            return kind.split(" ", 1)[0]
    return ""
