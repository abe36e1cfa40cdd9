"""A policy that is trained on a network.

The network replaces the simulation while the policy trains. A network that was trained on random actions is wrong in
the states of a good policy, and the policy exploits these errors. So each round stores the policy's steps in the
simulation, and trains the network on these too.
"""

import gymnasium as gym
from stable_baselines3 import PPO

import physgym
from physgym.nn import MLP
from physgym.runner import SurrogateEnv, return_gap
from physgym.samplers import Policy
from physgym.training import Trainer

PREDICTED = ["next_observation", "terminated"]


def main(folder="data/cartpole", rounds=6, samples=5000, epochs=20, steps=20_000):
    gap, generation = None, {"samples": samples, "num_workers": 0}  # a step takes microseconds: no process pays
    for number in range(rounds):
        physgym.generate("transitions:CartPole-v1", f"{folder}-{number}", seed=number, **generation)
        dataset = physgym.SampleDataset([f"{folder}-{i}" for i in range(number + 1)])
        network = MLP.from_spec(dataset.spec, hidden=(64, 64), outputs=PREDICTED)
        trainer = Trainer(network, dataset, outputs=PREDICTED, epochs=epochs, batch_size=64, validation=None)
        trainer.fit()
        transitions = physgym.RecordTransition(gym.make("CartPole-v1"))
        surrogate = SurrogateEnv(transitions, trainer.predictor, reward=lambda before, action, after: 1.0)
        model = PPO("MlpPolicy", surrogate, n_steps=512, learning_rate=1e-3, seed=0, device="cpu").learn(steps)
        act = lambda seen, rng=None, model=model: model.predict(seen, deterministic=rng is None)[0]  # noqa: E731
        gap = return_gap(act, surrogate, gym.make("CartPole-v1"))
        print(f"round {number}, {len(dataset)} transitions\n{gap}\n", flush=True)
        if gap.gap < 0.1 * gap.simulation.mean():
            break
        generation["actions"] = Policy(act)  # the next samples are of this policy, which draws its actions
    return gap


if __name__ == "__main__":
    main()
