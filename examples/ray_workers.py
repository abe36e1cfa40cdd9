"""Generate samples by workers that Ray places: on this machine, or on the cluster whose address is given.

python examples/ray_workers.py [auto | HOST:PORT]
"""

from __future__ import annotations

import sys

import physgym
from physgym.machines.ray_launcher import RayLauncher

ENV = "physgym/Heat-v0"


def main(address: str = "local") -> None:
    """Have two workers placed, and take samples from them; the samples are those that this process would make."""
    with RayLauncher(address, [ENV], workers=2, request={"num_cpus": 0.5}) as launcher:
        dataset = physgym.generate(ENV, "data/ray_workers", samples=1000, seed=0, launcher=launcher)
    print(f"{len(dataset)} samples in data/ray_workers")


if __name__ == "__main__":
    main(*sys.argv[1:2])
