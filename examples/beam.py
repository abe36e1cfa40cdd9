"""The study of the beam with a larger budget.

The same study as ``physgym demo``, with 20,000 samples for the quick mesh or the full one. It takes some minutes on
two cores.
"""

import argparse

from physgym.demos.beam import FULL_SIZE, LARGE, QUICK, study

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="sessions/beam", help="folder for everything; a taken name gets a suffix")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few samples and epochs: does it run?")
    parser.add_argument("--full-size", action="store_true", help="25 x 5 x 5 nodes instead of 13 x 4 x 4")
    arguments = parser.parse_args()
    budget = QUICK if arguments.quick else FULL_SIZE if arguments.full_size else LARGE
    study(budget, arguments.out, num_workers=arguments.workers, seed=arguments.seed)
