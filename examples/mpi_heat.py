"""A rod on two MPI ranks.

Each half of the rod belongs to a rank. A sample is one step of its temperature. Rank 0 communicates with physgym. If
you start this program by hand, it makes the environment, which starts the program again by mpiexec.
"""

import os
import sys

import numpy as np

N = 16  # cells of each rank


class Rod:
    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def reset(self, seed, parameters):
        self.diffusion = float(parameters["diffusion"])
        whole = np.random.default_rng(seed).uniform(280, 320, N * self.size)  # alike in all ranks
        self.part = whole[self.rank * N : (self.rank + 1) * N]
        return {"temperature": whole}

    def step(self, action):
        ends = self.comm.allgather((self.part[0], self.part[-1]))  # a rod without ends: a ring
        left, right = ends[self.rank - 1][1], ends[(self.rank + 1) % self.size][0]
        around = np.concatenate([[left], self.part, [right]])
        self.part = self.part + self.diffusion * np.diff(around, 2)
        self.part[0] += float(action["heating"]) if self.rank == 0 else 0.0
        return {"temperature": np.concatenate(self.comm.allgather(self.part))}


if __name__ == "__main__" and "PHYSGYM_REQUESTS" in os.environ:  # a rank
    from mpi4py import MPI

    from physgym.adapters.mpi_ranks import serve

    serve(MPI.COMM_WORLD, Rod(MPI.COMM_WORLD))
elif __name__ == "__main__":
    import physgym

    rod = {
        "program": [__file__],
        "ranks": 2,
        "parameters": {"diffusion": {"low": 0.05, "high": 0.4}},
        "actions": {"heating": {"low": 0, "high": 10, "unit": "K"}},
        "states": {"temperature": {"shape": [2 * N], "unit": "K"}},
    }
    out = sys.argv[1] if len(sys.argv) > 1 else "data/rod"
    print(physgym.generate("physgym/Mpi-v0", out, env_kwargs=rod, samples=40, max_steps=20, num_workers=1))
