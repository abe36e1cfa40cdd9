"""Imitate a recording: a network learns a driver's actions from what he saw, and then drives on other roads.

Drive: physgym drive physgym/Track-v0 --arg observation=state --record data/me. In physgym view data/me, 2 calls a step
bad, a gives the right action. Then: python examples/imitation.py data/me. Without a recording a rule drives.
"""

import sys

import gymnasium
import numpy as np

import physgym
from physgym.data.labels import apply_labels
from physgym.nn import MLP
from physgym.training import Trainer


def rule(state):
    error, angle, speed, bend, _ = state
    return np.clip([6 * bend - 0.1 * error - angle, 0.3 * (6 - speed)], -1, 1).astype(np.float32)


def drive(env, act, seed):
    state, info, over = *env.reset(seed=seed), False
    while not over:
        state, _, terminated, truncated, info = env.step(act(state))
        over = terminated or truncated
    return round(info["distance"])


def main(recording=None, out="sessions/imitation", episodes=8, steps=500, epochs=30):
    track = gymnasium.make("physgym/Track-v0", observation="state", max_episode_steps=steps)
    if recording is None:
        recorded = physgym.Recorder(track, recording := f"{out}/rule")
        print([drive(recorded, rule, seed) for seed in range(episodes)], "m by the rule")
        recorded.close()
    dataset = apply_labels(recording, f"{out}/to_imitate")
    network = MLP.from_spec(dataset.spec, inputs=["observation"], outputs=["action"], hidden=(64, 64))
    trainer = Trainer(network, dataset, epochs=epochs, batch_size=64, session=f"{out}/session")
    trainer.fit()

    def act(state):
        return trainer.predictor.predict({"observation": state})["action"]

    driven = [drive(track, act, seed) for seed in range(100, 103)]
    print(driven, "m by the network")
    return driven


if __name__ == "__main__":
    main(*sys.argv[1:])
