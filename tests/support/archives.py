"""Archives that tests unpack."""

from __future__ import annotations

import tarfile


def unpack(archive, folder):
    """Unpack a tar archive; Python has the filter against names that lead elsewhere since 3.11.4."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
    else:
        archive.extractall(folder)
