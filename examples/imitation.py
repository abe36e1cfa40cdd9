"""Imitate a driver: a person who was recorded, or a rule where nobody was."""

import sys

import gymnasium
import numpy as np

import physgym
from physgym.data.labels import apply_labels
from physgym.nn import MLP
from physgym.training import Trainer


def rule(s):
    return np.clip([6 * s[3] - 0.1 * s[0] - s[1], 0.3 * (6 - s[2])], -1, 1).astype(np.float32)


def drive(env, act, seed):
    (state, info), ends = env.reset(seed=seed), []
    while not any(ends):
        state, _, *ends, info = env.step(act(state))
    return round(info["distance"])


def main(recording=None, out="sessions/imitation", episodes=8, steps=500, epochs=30):
    track = gymnasium.make("physgym/Track-v0", observation="state", max_episode_steps=steps)
    if recording is None:  # what physgym drive physgym/Track-v0 --arg observation=state --record DIR stores
        with physgym.Recorder(track, recording := f"{out}/rule") as recorder:
            print([drive(recorder, rule, seed) for seed in range(episodes)], "m by the rule")
    dataset = apply_labels(recording, f"{out}/to_imitate")
    network = MLP.from_spec(dataset.spec, inputs=["observation"], outputs=["action"], hidden=(64, 64))
    (trainer := Trainer(network, dataset, epochs=epochs, batch_size=64, session=f"{out}/session")).fit()
    predict = trainer.predictor.predict
    return [drive(track, lambda state: predict({"observation": state})["action"], seed) for seed in (100, 101, 102)]


if __name__ == "__main__":
    print(main(*sys.argv[1:3], *map(int, sys.argv[3:])), "m by the network")
