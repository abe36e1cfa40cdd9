"""Surgery on datasets: merge, filter, drop, rename, add, describe, diff.

Each makes a new dataset of others, which stay as they are: it is written under a temporary name, verified, and then
gets its name, so that a killed surgery leaves nothing that reads as a dataset.
"""

from __future__ import annotations

from physgym.data.surgery.operations import SurgeryReport, add, describe, diff, drop, filter, merge, rename

__all__ = ["SurgeryReport", "add", "describe", "diff", "drop", "filter", "merge", "rename"]
