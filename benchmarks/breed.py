"""What `Breed` gains over uniform parameters: the error of a network trained online for a number of steps, three seeds.

The springs of `physgym/Spring-v0`, whose parameters are stiffness, mass, friction and the state at the beginning. One
simulation has 20 steps; both trainings see equally many batches. Errors are mean squared errors of normalized outputs
over 2,000 samples of other simulations with uniform parameters, and over their hardest tenth.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402

import physgym  # noqa: E402
from physgym.generation.online import Online  # noqa: E402
from physgym.generation.stream import SampleStream  # noqa: E402
from physgym.nn import MLP  # noqa: E402
from physgym.training import Trainer  # noqa: E402

ENV = "physgym/Spring-v0"
STEPS = 20  # of a simulation


def errors(trainer, test):
    predictor = trainer.predictor
    samples = test[:]
    predicted = predictor.predict({name: samples[name] for name in predictor.inputs}, batched=True)
    each = []
    for name in predictor.outputs:
        wanted, scale = samples[name].reshape(len(test), -1), samples[name].std() or 1.0
        each.append(((np.asarray(predicted[name]).reshape(len(test), -1) - wanted) / scale) ** 2)
    error = np.sort(np.concatenate(each, axis=1).mean(axis=1))
    return float(error.mean()), float(error[-len(error) // 10 :].mean())


def trained(parameters, seed, batches, test):
    torch.manual_seed(seed)
    stream = SampleStream(ENV, num_workers=1, max_steps=STEPS, parameters=parameters, seed=100 + seed)
    online = Online(stream, capacity=2000, minimum=500, seed=seed)
    network = MLP.from_spec(stream.spec, hidden=(64, 64))
    trainer = Trainer(
        network, source=online, produce="always", batch_size=64, batches_per_epoch=batches, epochs=1, progress=False
    )
    trainer.fit()
    return (*errors(trainer, test), online.report().received // STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        test = physgym.generate(
            ENV, Path(folder) / "test", samples=2000, max_steps=STEPS, num_workers=0, seed=7, parameters="uniform",
            progress=False,
        )  # fmt: skip
        print(f"{'parameters':<12}{'seed':>5}{'error':>12}{'hardest tenth':>15}{'simulations':>13}")
        for parameters in ("uniform", "breed"):
            found = [trained(parameters, seed, arguments.batches, test) for seed in range(arguments.seeds)]
            for seed, (mean, hard, count) in enumerate(found):
                print(f"{parameters:<12}{seed:>5}{mean:>12.2e}{hard:>15.2e}{count:>13,}", flush=True)
            mean, hard = (float(np.exp(np.log([row[i] for row in found]).mean())) for i in (0, 1))
            print(f"{parameters:<12}{'mean':>5}{mean:>12.2e}{hard:>15.2e}", flush=True)


if __name__ == "__main__":
    main()
