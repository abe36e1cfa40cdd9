"""The configuration files in `examples`: all are valid, each shipped simulation has one, each trains."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium
import pytest

import physgym  # noqa: F401  # registers the simulations
from physgym import SampleDataset
from physgym.envs import OF_OTHERS
from physgym.experiment.config import load_config
from physgym.experiment.runs import train

ROOT = Path(__file__).parents[2]
FILES = {file.name: file for file in sorted((ROOT / "examples").glob("*.yaml"))}
SHIPPED = sorted(env_id for env_id in gymnasium.registry if env_id.startswith("physgym/") and env_id not in OF_OTHERS)


def small(file: Path) -> list[str]:
    """Overrides that leave little to do of a configuration, and its features as they are."""
    config = load_config(file)
    if config.agent is not None:
        return [
            *("agent.steps=120", "agent.learning_starts=40", "agent.batch_size=4", "agent.report_every=60"),
            *("agent.num_workers=0", "agent.num_envs=2", "agent.evaluate_every=60", "agent.evaluate_episodes=1"),
            *("agent.max_episode_steps=20",),
        ]
    steps = gymnasium.spec(config.environment.id).max_episode_steps
    samples = max(8, 5 * steps // 2)  # of three episodes, so that one can be held out
    changes = ["dataset.num_workers=1", "training.epochs=1"]
    changes += ["training.batch_size=4", "training.batches_per_epoch=2"]
    if config.dataset.produce == "online":
        # a training that ends ends its simulators: this one begins when they have made all
        changes += [f"dataset.online.minimum={samples}", f"dataset.online.samples={samples}"]
    else:
        changes += [f"dataset.samples={samples}"]
    if config.validation.rollout is not None:
        changes += ["validation.rollout.steps=2"]
    return changes


def test_each_shipped_simulation_has_one():
    assert SHIPPED
    assert {load_config(file).environment.id for file in FILES.values()} >= set(SHIPPED)


@pytest.mark.parametrize("name", FILES)
def test_it_says_what_it_is_for_and_where_it_writes(name):
    config = load_config(FILES[name])
    assert len(config.description.split()) >= 10
    assert config.session == f"sessions/{Path(name).stem}"


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_it_trains(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT)  # as where a user starts it
    config = load_config(FILES[name], small(FILES[name]))
    outcome = train(config)
    assert outcome.session == Path(config.session).absolute()
    if config.agent is not None:
        assert [epoch["step"] for epoch in outcome.history.epochs] == [60, 120]
        assert all(math.isfinite(epoch["evaluation_return"]) for epoch in outcome.history.epochs)
        assert SampleDataset(outcome.session / "replay")
        return
    assert [epoch["epoch"] for epoch in outcome.history.epochs] == [1]
    assert outcome.trainer.step == 2
    wanted = config.dataset.samples or config.dataset.online.samples
    assert len(SampleDataset(outcome.session / "dataset")) == wanted
