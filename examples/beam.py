"""The beam with a larger budget: 20,000 samples, a wider network, at most half an hour on two cores.

The same study as ``physgym demo``, which takes about two minutes.
"""

import argparse

from physgym.experiment.beam_study import LARGE, QUICK, study

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="sessions/beam", help="folder for everything; a taken name gets a suffix")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few samples and epochs: does it run?")
    arguments = parser.parse_args()
    study(QUICK if arguments.quick else LARGE, arguments.out, num_workers=arguments.workers, seed=arguments.seed)
