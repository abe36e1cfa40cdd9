"""Errors of rollouts by horizon after one-step, change-predicting and unrolled training, three seeds each.

`physgym/BurgersStep-v0` and `physgym/KuramotoSivashinsky-v0`, episodes of 20 steps. All trainings of a
seed see the same samples, begin with the same weights and make equally many gradient steps. An unrolled one makes four
steps of the network in each, so that it computes about four times as long. Errors are relative L2 errors against the
solver, means over test episodes that no training has seen, from the same initial states.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402

import physgym  # noqa: E402
from physgym.nn import FNO, Optimization  # noqa: E402
from physgym.training import Trainer  # noqa: E402

ENVS = ("physgym/KuramotoSivashinsky-v0", "physgym/BurgersStep-v0")
STEPS = 20  # of an episode, and the farthest horizon
HORIZONS = (1, 5, 10, 20)
BATCH = 8
METHODS = {
    "one step": {},
    "change": {"predict": "change"},
    "unrolled": {"unroll": 4},
    "both": {"predict": "change", "unroll": 4},
}


def rollout_errors(predictor, test):
    """Return the mean relative L2 error at each step, shape (STEPS,): horizon 1 is the first predicted state."""
    truth = np.stack([test.episode(number)["next_state"] for number in np.unique(test.index("episode"))])
    state = np.stack([test.episode(number)["state"][0] for number in np.unique(test.index("episode"))])
    errors = []
    for step in range(STEPS):
        state = predictor.predict({"state": state}, batched=True)["next_state"]
        wanted = truth[:, step]
        errors.append((np.linalg.norm(state - wanted, axis=1) / np.linalg.norm(wanted, axis=1)).mean())
    return np.array(errors)


def trained(dataset, seed, steps, lr, options):
    """Return the trained network, the seconds that it took, and its gradient steps."""
    torch.manual_seed(seed)
    network = FNO.from_spec(dataset.spec, modes=16, width=12, depth=2, projection=32, coordinates=False)
    batches = len(dataset) // BATCH
    epochs = max(1, steps // min(batches, 50))
    optimization = Optimization(
        network,
        lr=lr,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps),
        scheduler_every="batch",
    )
    trainer = Trainer(
        network,
        dataset,
        epochs=epochs,
        batches_per_epoch=steps // epochs,
        batch_size=BATCH,
        validation=0,
        optimization=optimization,
        seed=seed,
        progress=False,
        **options,
    )
    begin = time.perf_counter()
    trainer.fit()
    return trainer.predictor, time.perf_counter() - begin, trainer.step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--steps", type=int, default=400, help="gradient steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[:3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for env in arguments.envs:
        print(f"\n{env}\n{'method':<10}" + "".join(f"{f'step {h}':>20}" for h in HORIZONS) + f"{'seconds':>10}")
        with tempfile.TemporaryDirectory() as folder:
            parts = [
                physgym.generate(
                    env, Path(folder) / name, episodes=count, max_steps=STEPS, num_workers=0, seed=seed,
                    progress=False,
                )
                for name, count, seed in (("training", arguments.episodes, 1), ("test", 20, 2))
            ]  # fmt: skip
            for method in arguments.methods:
                found, seconds = [], 0.0
                for seed in range(arguments.seeds):
                    predictor, took, made = trained(parts[0], seed, arguments.steps, arguments.lr, METHODS[method])
                    assert made == arguments.steps, made
                    found.append(rollout_errors(predictor, parts[1])[np.array(HORIZONS) - 1])
                    seconds += took / arguments.seeds
                mean, low, high = np.mean(found, 0), np.min(found, 0), np.max(found, 0)
                cells = "".join(f"{f'{m:.3f} ({a:.3f}-{b:.3f})':>20}" for m, a, b in zip(mean, low, high, strict=True))
                print(f"{method:<10}{cells}{seconds:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
