"""A program of MPI ranks for tests: it counts, and fails as its first argument says. It is run as a script."""

import os
import signal
import sys
import time

import numpy as np
from mpi4py import MPI

from physgym.adapters.mpi_ranks import serve
from physgym.errors import RejectSample


class Counter:
    """A sum over ranks that steps add to."""

    def __init__(self, comm, fault):
        self.comm, self.fault, self.rank = comm, fault, comm.Get_rank()

    def reset(self, seed, parameters):
        self.total = np.array([float(seed % 1000), float(parameters["rate"])])
        return {"total": self.total}

    def step(self, action):
        self.total = self.total + self.comm.allreduce(float(action["push"])) * self.total[1]
        if action["push"] > 0.9:
            self.fail()
        return {"total": self.total, "count": self.comm.Get_size(), **self.more()}

    def more(self):
        return {"count": 0.5} if self.fault == "fraction" else {}

    def fail(self):
        if self.fault == "raise" and self.rank == 1:
            raise ValueError("no such cell")
        if self.fault == "reject" and self.rank == 1:
            raise RejectSample("did not converge")
        if self.fault == "kill" and self.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "exit" and self.rank == 0:
            sys.stderr.write("solver: out of licences\n")
            os._exit(3)
        if self.fault == "sleep" and self.rank == 1:
            time.sleep(100)
        if self.fault == "shape":
            self.total = np.zeros(3)

    def state(self):
        return self.total

    def set_state(self, vector):
        self.total = np.array(vector)
        return {"total": self.total}


if __name__ == "__main__":
    serve(MPI.COMM_WORLD, Counter(MPI.COMM_WORLD, sys.argv[1] if len(sys.argv) > 1 else ""))
