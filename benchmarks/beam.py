"""The beam's solver on one core with one BLAS thread: speed, convergence, size of the loads, stiffness of the mesh.

The reference for the tip deflection under a small load is linear elasticity on a refined mesh, by scikit-fem.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # as in the workers; before numpy is imported
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402

from physgym.episode import episode_seed, require_spec, run_episode  # noqa: E402
from tests.envs.test_beam import reference_deflection, tip_deflection  # noqa: E402

REFINED = (40, 6, 6)  # quadratic elements of the reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=2000, help="on the quick mesh; a quarter of them on the full one")
    arguments = parser.parse_args()
    reference = reference_deflection(REFINED)
    print(
        f"{'environment':<20}{'loads':>7}{'converged':>11}{'samples/s':>11}{'median largest, mm':>20}{'tip error':>11}"
    )
    for env_id, loads in (("physgym/Beam-v0", arguments.loads), ("physgym/BeamFull-v0", arguments.loads // 4)):
        env = gym.make(env_id)
        spec, largest, start = require_spec(env), [], time.perf_counter()
        for episode in range(loads):
            for transition in run_episode(env, spec, seed=episode_seed(0, episode)):
                if transition.sample is not None:
                    largest.append(transition.info["max_displacement"])
        rate = len(largest) / (time.perf_counter() - start)
        error = tip_deflection(env.unwrapped) / reference - 1
        found = f"{len(largest) / loads:>11.2%}{rate:>11.0f}{np.median(largest):>20.1f}{error:>11.1%}"
        print(f"{env_id:<20}{loads:>7}{found}", flush=True)


if __name__ == "__main__":
    main()
