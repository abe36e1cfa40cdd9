"""Agents that learn from recordings alone: no step of the environment, and the last network counts.

cartpole: a whole training of Stable-Baselines3's DQN on CartPole-v1, 50,000 steps with the settings of its zoo, which
`physgym.Recorder` records around its loop; then a DQN of physgym from that recording.
track: drives of mixed quality on physgym/Track-v0, of which each takes a part of its actions, from none to four in
five, at random; then a DQN of physgym from these, with 7 x 2 bins and the state as observation, on held-out tracks.

The seed of an agent is that of its recording. Observations are normalized by the moments of the recording, and the
conservative penalty has the weight below. Nothing is chosen by a return.

    python benchmarks/offline_agents.py cartpole track --seeds 0 1 2 --save results.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import DiscretizeAction

import physgym
from physgym.rl import DQN, AgentEvaluation, TransitionCache, Transitions, evaluate_agent, evaluate_offline

CARTPOLE: dict[str, Any] = {"lr": 1e-3, "lr_steps": 6000, "tau": 0.05, "conservative": 1.0}
TRACK: dict[str, Any] = {"lr": 1e-3, "lr_steps": 4500, "gamma": 0.98, "conservative": 0.1}
BATCH = 128
BINS = (7, 2)
RECORDED, HELD_OUT = (0, 1000), (1000, 2000)  # tracks


def record_cartpole(path: Path, seed: int, steps: int) -> None:
    """Record a training of Stable-Baselines3."""
    from stable_baselines3 import DQN as PeerDQN

    env = physgym.Recorder(gymnasium.make("CartPole-v1"), path, every=10_000)
    zoo = {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.16,
        "exploration_final_eps": 0.04,
        "policy_kwargs": {"net_arch": [256, 256]},
    }
    PeerDQN("MlpPolicy", env, seed=seed, device="cpu", **zoo).learn(steps)
    env.close()


def record_track(path: Path, seed: int, steps: int) -> None:
    """Record drives of mixed quality."""
    inner = track(observation="state", tracks=RECORDED)
    env = physgym.Recorder(inner, path, every=10_000, infos=["distance", "speed", "lap_count"])
    driver: Any = inner.unwrapped
    rng = np.random.default_rng(seed)
    done = 0
    while done < steps:
        env.reset(seed=int(rng.integers(2**31)))
        chance, over = rng.uniform(0, 0.8), False
        while not over:
            wanted = inner.revert_action(driver.sample_action(rng))
            action = int(rng.integers(inner.action_space.n)) if rng.random() < chance else wanted
            *_, terminated, truncated, _ = env.step(action)
            over, done = terminated or truncated, done + 1
    env.close()


def track(**kwargs: Any) -> Any:
    return DiscretizeAction(gymnasium.make("physgym/Track-v0", **kwargs), bins=BINS)


def returns_of(path: Path) -> list[float]:
    dataset = physgym.SampleDataset(path)
    sums = np.bincount(dataset.index("episode"), dataset[:]["reward"])
    return [float(one) for one in sums]


def learn(cache: TransitionCache, seed: int, steps: int, arguments: dict[str, Any]) -> tuple[DQN, Any]:
    """Return an agent that has learned from recordings, and the normalization of its observations."""
    normalization = cache.normalization()
    agent = DQN(cache.observation_space, cache.action_space, seed=seed, **arguments)
    generator = np.random.default_rng(seed)
    for _ in range(steps):
        drawn = cache.sample(BATCH, generator, agent.gamma)
        seen, following = (normalization.observations(one) for one in (drawn.observation, drawn.next_observation))
        agent.learn(Transitions(seen, drawn.action, drawn.reward, following, drawn.discount))
    return agent, normalization


def recorded(case: str, folder: Path, seed: int, quick: bool) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a recording, which is made unless it is there, and its figures."""
    path, begin = folder / f"{case}-{seed}", time.perf_counter()
    if not path.exists():
        record = record_cartpole if case == "cartpole" else record_track
        record(path, seed, 1500 if quick else 50_000 if case == "cartpole" else 30_000)
    returns = returns_of(path)
    return path, {
        "recorded_return": round(float(np.mean(returns)), 1),
        "recorded_last_20": round(float(np.mean(returns[-20:])), 1),
        "recording_seconds": round(time.perf_counter() - begin, 1),
    }


def measured(case: str, path: Path, seed: int, quick: bool, episodes: int) -> dict[str, Any]:
    """Return the figures of an agent of one seed."""
    env: Any = "CartPole-v1"
    steps, arguments, env_kwargs = 6000, CARTPOLE, {}
    if case == "track":
        env, steps, arguments, env_kwargs = track, 4500, TRACK, {"observation": "state", "tracks": HELD_OUT}
    steps = 100 if quick else steps
    begin = time.perf_counter()
    cache = TransitionCache(path)
    agent, normalization = learn(cache, seed, steps, arguments)
    seconds = time.perf_counter() - begin

    def act(observations: np.ndarray) -> np.ndarray:
        return agent.act(normalization.observations({"observation": observations}), explore=False)

    found: AgentEvaluation = evaluate_agent(act, env, episodes=episodes, num_envs=20, env_kwargs=env_kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        offline = evaluate_offline(agent, cache, normalization=normalization).to_json()
    figures = ("mean_error", "correlation", "above", "uncovered")
    return {
        "case": case,
        "seed": seed,
        "transitions": len(cache),
        "gradient_steps": steps,
        **arguments,
        **{name: round(value, 4) for name, value in found.values.items()},
        "least_return": round(float(found.returns.min()), 4),
        **{name: offline[name] for name in figures},
        "learning_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=("cartpole", "track"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of recordings and agents")
    parser.add_argument("--episodes", type=int, default=None, help="100 of CartPole and 20 tracks by default")
    parser.add_argument("--quick", action="store_true", help="a few steps of all, to see that it runs")
    parser.add_argument("--folder", type=Path, help="keep the recordings there, and take those that are")
    parser.add_argument("--save", type=Path, help="write the figures there as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        rows = list(run(options, options.folder or Path(temporary)))
    if options.save:
        options.save.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1))


def run(options: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for case in options.cases:
        for seed in options.seeds:
            path, about = recorded(case, folder, seed, options.quick)
            episodes = options.episodes or (3 if options.quick else 100 if case == "cartpole" else 20)
            row = {**measured(case, path, seed, options.quick, episodes), **about}
            print(json.dumps(row), flush=True)
            yield row


if __name__ == "__main__":
    main()
