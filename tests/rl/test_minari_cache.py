"""A dataset of Minari trains as the recording does from which it was made, whoever made it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import physgym
from physgym.rl.cache import TransitionCache

minari = pytest.importorskip("minari", reason="pip install 'physgym[minari]'")

from minari.data_collector import EpisodeBuffer  # noqa: E402

from physgym.formats.minari import export_minari, import_minari  # noqa: E402


def transitions(cache: TransitionCache) -> set[tuple[float, ...]]:
    """All transitions: drawn so often that none is left out."""
    batch = cache.sample(60 * len(cache), np.random.default_rng(0), 0.9)
    columns = [batch.observation["observation"], batch.action, batch.reward, batch.next_observation["observation"]]
    rows = np.concatenate([column.numpy().reshape(len(batch), -1) for column in (*columns, batch.discount)], 1)
    return set(map(tuple, rows.tolist()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is set to None.*:UserWarning", "ignore:.*env_spec is None.*:UserWarning")
def test_both_ways_from_and_to_minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env = physgym.Recorder(gym.make("CartPole-v1", max_episode_steps=12), tmp_path / "a")
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(70):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
    env.close()
    made = export_minari(physgym.SampleDataset(tmp_path / "a"), "cartpole/recorded-v0")
    import_minari(made, tmp_path / "b")
    buffers = [
        EpisodeBuffer(
            observations=data.observations,
            actions=data.actions,
            rewards=data.rewards,
            terminations=data.terminations,
            truncations=data.truncations,
        )
        for data in made.iterate_episodes()
    ]
    foreign = minari.create_dataset_from_buffers(
        "cartpole/foreign-v0", buffers, observation_space=made.observation_space, action_space=made.action_space
    )
    import_minari(foreign, tmp_path / "c")
    caches = [TransitionCache(tmp_path / name) for name in "abc"]
    expected = transitions(caches[0])
    assert len(expected) == len(caches[0]) == 70
    assert sorted({row[-1] for row in expected}) == pytest.approx([0, 0.9])
    for cache in caches[1:]:
        assert (cache.frame_space, cache.action_space) == (caches[0].frame_space, caches[0].action_space)
        assert transitions(cache) == expected
