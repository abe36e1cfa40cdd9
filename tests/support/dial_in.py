"""A worker in Python that is started as any other: HOST:PORT --token-file FILE [--envs K]; ids stand before them.

One process in place of the two of `physgym worker`, which starts in half of the time.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from physgym.machines.address import parse_address
from physgym.machines.dialled_worker import DialIn, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("env")
    parser.add_argument("address")
    parser.add_argument("--token-file", type=Path)
    parser.add_argument("--envs", type=int, default=1)
    given = parser.parse_args()
    settings = DialIn(
        tuple(parse_address(given.address)),
        given.token_file.read_text().strip(),
        plain=True,
        envs=[given.env],
        count=given.envs,
        patience=5.0,
    )
    reading, writing = os.pipe()
    os.write(writing, settings.to_line())
    os.dup2(reading, 0)
    main()
