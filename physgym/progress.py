"""Progress bars: drawn on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

QUIET_INTERVAL = 10.0  # seconds between lines where there is no terminal


def progress(total: int | None, description: str, unit: str, *, initial: int = 0, enabled: bool = True) -> tqdm[Any]:
    """A progress bar on stderr.

    Args:
        total: How much there is to do, None if unknown.
        description: What is done.
        unit: Of what.
        initial: How much is done already.
        enabled: False shows nothing.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        initial=initial,
        disable=not enabled,
        dynamic_ncols=terminal,
        mininterval=0.1 if terminal else QUIET_INTERVAL,
        # off a terminal a carriage return would pile all states into one endless line
        bar_format=None if terminal else "{desc}: {n_fmt}/{total_fmt} in {elapsed}, {rate_fmt}{postfix}\n",
    )
