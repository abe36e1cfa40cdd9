"""An agent learns from what others have put into Minari, as from a recording of one's own."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.rl import TransitionCache
from tests.rl.test_cache import ALL, check, record, whole

minari = pytest.importorskip("minari", reason="pip install 'physgym[minari]'")

from minari.data_collector import EpisodeBuffer  # noqa: E402

from physgym.formats.minari import export_minari, import_minari  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.* is set to None|.*env_spec is None:UserWarning")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has no environment.*:UserWarning")
def test_a_recording_there_and_back_gives_the_same_transitions(tmp_path):
    export_minari(physgym.SampleDataset(record(tmp_path / "a", 7)), "own/drives-v0")
    import_minari("own/drives-v0", tmp_path / "b")
    for stack in (1, 3):
        assert sorted(check(whole(TransitionCache(tmp_path / "b", stack=stack)), stack)) == ALL


@pytest.mark.slow
def test_a_dataset_that_minari_made(tmp_path):
    rng = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations=np.stack(
                [np.full(steps + 1, steps), np.arange(steps + 1.0)], 1
            ),  # float64, whatever the space
            actions=np.arange(steps) % 3,
            rewards=list(rng.random(steps)),
            terminations=[False] * (steps - 1) + [steps % 2 == 0],
            truncations=[False] * (steps - 1) + [steps % 2 == 1],
        )
        for steps in (3, 4, 5)
    ]
    observation, action = spaces.Box(0, 9, (2,), np.float32), spaces.Discrete(3)
    minari.create_dataset_from_buffers(
        "foreign/data-v3", buffers, observation_space=observation, action_space=action, eval_env="CartPole-v1"
    )
    cache = TransitionCache(import_minari("foreign/data-v3", tmp_path / "d"), stack=2)
    assert (cache.frame_space, cache.action_space, len(cache)) == (observation, action, 12)
    batch = whole(cache)
    seen, following = batch.observation["observation"].numpy(), batch.next_observation["observation"].numpy()
    assert seen.dtype == np.float32
    steps, at = seen[:, 1, 0], seen[:, 1, 1]
    np.testing.assert_array_equal(seen[:, 0, 1], np.maximum(at - 1, 0))
    np.testing.assert_array_equal(following[:, :, 1], np.stack([at, at + 1], 1))
    np.testing.assert_array_equal(batch.action, at % 3)
    np.testing.assert_array_equal(batch.discount == 0, (at == steps - 1) & (steps % 2 == 0))
