"""Snapshots of a dataset: which there are, and that `physgym.reopen` starts from them."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

import physgym
from physgym.data import constants
from physgym.data.sizes import size_text
from physgym.data.snapshots import read_snapshot, snapshot_steps
from physgym.data.summary import summarize
from physgym.data.surgery import operations as surgery
from physgym.errors import ChangedCode, ConfigError, DatasetError
from physgym.events import Callback
from physgym.samplers import Policy

QUICK = {"num_workers": 0, "progress": False}
EVERY, STEPS = 3, 10  # of the datasets here
MADE: list[int] = []  # steps that solvers made, by their number in the episode


class Counter(physgym.Simulation):
    """Sums its actions; a step with a sum above a limit is rejected. Writes down each step."""

    action_space = spaces.Box(-1, 1, (), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (), np.float64)
    sample_space = spaces.Dict(before=observation_space, after=observation_space)
    sample_roles = {"before": "input", "after": "target"}  # noqa: RUF012
    time_step = 0.5

    def __init__(self, limit=1e9, size=1, **options):
        super().__init__(**options)
        self.limit, self.size = limit, size

    def begin(self, options):
        self.x = self.before = float(self.np_random.normal())
        self.steps = 0

    def advance(self, action):
        MADE.append(self.steps)
        self.steps += 1
        self.before, self.x = self.x, self.x + float(action) + 0.01 * self.np_random.normal()
        if self.x > self.limit:
            raise physgym.RejectSample("above the limit")

    def observation(self):
        return np.array(self.x)

    def sample(self):
        return {"before": self.before, "after": self.x}

    def state(self):
        held = {"x": self.x, "steps": self.steps, "size": np.zeros(self.size), "time_step": self.time_step}
        return {**held, "generator": self.generator_state}

    def set_state(self, state):
        values = self.checked_state(state)
        self.x = self.before = float(values["x"])
        self.steps, self.generator_state = int(values["steps"]), values["generator"]


class Remembers(gymnasium.Wrapper):
    """Could have something to remember."""


def remembering():
    return Remembers(Counter())


def limited():
    return TimeLimit(Counter(), 8)


class Stateless(Counter):
    state = physgym.Simulation.state


def files(path):
    """All snapshots of a dataset by episode and step."""
    found = (Path(path) / "snapshots").rglob("*.npz")
    return {(int(file.parent.name), int(file.stem)): file.read_bytes() for file in found}


def generated(path, samples=25, env=Counter, **options):
    return physgym.generate(env, path, samples=samples, **{"max_steps": STEPS, "snapshots": EVERY, **QUICK, **options})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return generated(tmp_path_factory.mktemp("snapshots") / "data")


@pytest.fixture(scope="module")
def expected(dataset):
    """Before each third step but the last that is stored in its episode: 2 whole episodes and 5 steps of another."""
    assert len(dataset) == 25
    return {(0, 3), (0, 6), (0, 9), (1, 3), (1, 6), (1, 9), (2, 3)}


def same(dataset, episode, step, **options):
    """Reopen a step, compare its sample; return the steps that were made before it."""
    MADE.clear()
    env, action = physgym.reopen(dataset, episode, step, **options)
    made = list(itertools.takewhile(lambda number: number != step, MADE))
    row = np.flatnonzero((dataset.index("episode") == episode) & (dataset.index("step") == step))
    info = env.step(action)[-1]
    if len(row):
        for name, value in dataset[int(row[0])].items():
            assert value.tobytes() == np.asarray(info["sample"][name]).tobytes()
    else:
        assert "rejected" in info
    env.close()
    return made


def test_there_is_a_state_after_every_so_many_steps(dataset, expected):
    assert set(files(dataset.paths[0])) == expected
    assert snapshot_steps(dataset.paths[0], "training", 1) == [3, 6, 9]
    for episode, step in expected:
        found = read_snapshot(dataset.paths[0], "training", episode, step)
        row = int(np.flatnonzero((dataset.index("episode") == episode) & (dataset.index("step") == step - 1))[0])
        assert found.state["x"] == dataset[row]["after"]
        assert (found.state["steps"], found.step, found.step_seconds) == (step, step, 0.5)
        assert (found.episode, found.seed) == (episode, dataset.index("seed")[row])


def test_info_says_how_many_there_are(dataset):
    size = sum(map(len, files(dataset.paths[0]).values()))
    (line,) = (line for line in summarize(dataset.paths[0]) if line.startswith("  snapshots:"))
    assert line == f"  snapshots: 7 states, {size_text(size)}, from which physgym.reopen continues"


def test_samples_do_not_depend_on_snapshots(tmp_path, dataset):
    plain = generated(tmp_path / "plain", snapshots=None)
    assert not (tmp_path / "plain" / "snapshots").exists()
    stored = [part.path.read_bytes() for part in dataset.partitions]
    assert [part.path.read_bytes() for part in plain.partitions] == stored


@pytest.mark.parametrize(
    "workers",
    [{"num_workers": 0, "num_envs": 3}, pytest.param({"num_workers": 2, "num_envs": 4}, marks=pytest.mark.slow)],
)
def test_snapshots_are_the_same_whatever_ran_them(tmp_path, dataset, workers):
    generated(tmp_path / "other", **workers)
    assert files(tmp_path / "other") == files(dataset.paths[0])


class Dies(Counter):
    """Ends its process once, in the middle of an episode."""

    def __init__(self, marker, **options):
        super().__init__(**options)
        self.marker = Path(marker)

    def advance(self, action):
        super().advance(action)
        if self.steps == 8 and not self.marker.exists():
            self.marker.touch()
            time.sleep(0.2)  # what was made so far is sent
            os._exit(1)


@pytest.mark.slow
def test_a_worker_that_dies_and_is_started_again_changes_nothing(tmp_path, dataset):
    arguments = {"marker": str(tmp_path / "marker")}
    generated(tmp_path / "other", env=Dies, env_kwargs=arguments, num_workers=1, on_error="restart")
    assert (tmp_path / "marker").exists()
    again, first = files(tmp_path / "other"), files(dataset.paths[0])
    assert again.keys() == first.keys()
    for episode, step in first:
        states = [
            read_snapshot(path, "training", episode, step).state for path in (tmp_path / "other", dataset.paths[0])
        ]
        assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[1])


class Crash(Callback):
    """Raises after so many samples."""

    def __init__(self, samples):
        self.left = samples

    def sample_end(self, stream, sample):
        self.left -= 1
        if not self.left:
            raise RuntimeError("crash")


@pytest.mark.parametrize(
    "samples", [pytest.param(1, marks=pytest.mark.slow), 8, pytest.param(13, marks=pytest.mark.slow)]
)
def test_a_crash_and_a_resume_lose_none(tmp_path, dataset, samples):
    with pytest.raises(RuntimeError, match="crash"):
        generated(tmp_path / "other", callbacks=[Crash(samples)])
    generated(tmp_path / "other", samples=14, resume=True)
    generated(tmp_path / "other", resume=True)
    assert files(tmp_path / "other") == files(dataset.paths[0])


def test_reopen_makes_only_the_steps_after_the_nearest_state(dataset):
    assert same(dataset, 0, 2) == [0, 1]  # before the first one
    assert same(dataset, 1, 6) == []
    assert same(dataset, 1, 8) == [6, 7]
    assert same(dataset, 2, 4) == [3]
    plain = physgym.SampleDataset(dataset.paths[0], fields=["after"]).subset([3, 1])
    MADE.clear()
    physgym.reopen(plain, 1, 8)[0].close()
    assert MADE[:2] == [6, 7]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("physgym/Spring-v0", {"parameters": "sobol", "actions": "lhs:8"}),
        ("physgym/BurgersStep-v0", {"env_kwargs": {"size": 32, "viscosity": (0.05, 0.1)}, "samples": 9}),
        (Counter, {"actions": "gaussian", "mode": "validation"}),
        (Counter, {"env_kwargs": [{"size": 1}, {"size": 4}]}),
    ],
)
def test_samplers_arguments_and_parts_are_those_of_the_dataset(tmp_path, env, options):
    found = generated(tmp_path, env=env, **{"samples": 18, "max_steps": 8, **options})
    for episode, step in ((0, 3), (0, 5), (1, 0)):
        same(found, episode, step)
    if env is Counter:
        assert same(found, 1, 7) == [6]


@pytest.mark.slow
def test_rejected_steps_before_and_at_a_state(tmp_path):
    found = generated(tmp_path, samples=20, env_kwargs={"limit": 0.3}, max_rejects=100)
    stored = set(zip(found.index("episode").tolist(), found.index("step").tolist(), strict=True))
    begun = np.unique(found.index("episode")).tolist()[:-1]  # an episode may be rejected as a whole
    whole = [(episode, step) for episode in begun for step in range(STEPS)]
    rejected = [name for name in whole if name not in stored]
    after = [name for name in rejected if name[1] > EVERY]
    assert after
    assert any((episode, step - 1) not in stored for episode, step in files(tmp_path))  # taken after a rejected one
    for episode, step in after[:3]:
        begin = step - step % EVERY
        assert same(found, episode, step) == list(range(begin, step))


def test_a_limit_of_steps_counts_those_that_were_not_made_again(tmp_path):
    found = generated(tmp_path, samples=16, env=limited, max_steps=100)
    env, action = physgym.reopen(found, 1, 7, env=limited)
    *_, truncated, _ = env.step(action)
    assert truncated
    env.close()
    env, action = physgym.reopen(found, 1, 6, env=limited)
    assert not env.step(action)[3]
    assert env.step(action)[3]
    env.close()


def pushes(observation, rng):
    return np.clip(np.float32(-0.5 * observation + rng.normal()), -1, 1)


@pytest.mark.slow
def test_actions_that_follow_from_what_was_seen_are_replayed_from_the_seed(tmp_path):
    found = generated(tmp_path, samples=10, actions=Policy(pushes))
    assert same(found, 0, 7, actions=Policy(pushes)) == list(range(7))


@pytest.mark.slow
def test_another_version_or_a_changed_state_is_an_error(tmp_path):
    found = generated(tmp_path, samples=10)
    file = tmp_path / "snapshots" / "training" / "0" / "6.npz"
    held, original = dict(constants.decode(file.read_bytes(), file)), file.read_bytes()
    for changes, error, text in (
        ({"code": np.array("0" * 64)}, ChangedCode, "made by another version of the simulation"),
        ({"step_seconds": np.array(0.25)}, DatasetError, r"steps of 0\.25 s, the simulation takes steps of 0\.5 s"),
        ({"state/time_step": np.array(0.25)}, ConfigError, r"one of steps of 0\.25 s"),
        (
            {"state/size": np.zeros(2)},
            ConfigError,
            r"does not fit the simulation.*'size' of the state is float64 \(2,\)",
        ),
        (
            {"state/x": held["state/x"] + 1e-9},
            DatasetError,
            r"the simulation gives another.*6\.npz: let state\(\) hold",
        ),
        ({"name": np.array([0, 3])}, DatasetError, r"6\.npz is no readable snapshot"),
        ({"seed": np.uint64(5)}, DatasetError, r"6\.npz is of an episode with the seed 5, .* one of another dataset"),
    ):
        file.write_bytes(constants.encode({**held, **changes}))
        with pytest.raises(error, match=text):
            physgym.reopen(found, 0, 7)
    file.write_bytes(original[:100])
    with pytest.raises(DatasetError, match=r"6\.npz is no readable snapshot. Delete it"):
        physgym.reopen(found, 0, 7)
    file.unlink()
    assert same(found, 0, 7) == [3, 4, 5, 6]


def test_what_a_state_does_not_hold_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the wrapper Remembers around the simulation may remember"):
        generated(tmp_path / "a", env=remembering)
    with pytest.raises(ConfigError, match=r"Stateless has no state, so its state can be neither kept nor restored"):
        generated(tmp_path / "a", env=Stateless)
    with pytest.raises(ConfigError, match="snapshots must be at least 1, not 0"):
        generated(tmp_path / "a", snapshots=0)
    with pytest.raises(ConfigError, match="files next to a dataset on the disk"):
        generated("s3://bucket/prefix")
    with pytest.raises(ConfigError, match="give path, or leave snapshots out"):
        physgym.data.SampleStream(Counter, snapshots=3, num_workers=0)
    assert not list(tmp_path.iterdir())


def test_surgery_leaves_snapshots_out_and_steps_are_replayed(tmp_path, dataset):
    surgery.filter(dataset.paths[0], "step < 8", tmp_path / "part")
    part = physgym.SampleDataset(tmp_path / "part")
    assert not files(tmp_path / "part")
    assert same(part, 1, 7) == list(range(7))
