from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from physgym import RejectSample, SampleDataset, generate
from physgym.envs.heat import Heat
from physgym.errors import ConfigError, DatasetError, SampleError, WorkerError
from physgym.generation import stored_episodes as stored
from physgym.generation.stream import SampleStream
from physgym.protocol.messages import Rollout
from physgym.vector import episode_schedule as rollouts
from physgym.vector.fleet import WorkerPool
from tests.support import toys

QUICK = {"num_workers": 0, "progress": False}


class Driven(toys.Tuned):
    """`Tuned`, of which stored samples are the actions; it notes which it was given."""

    given: list = []  # noqa: RUF012

    def load_sample(self, sample):
        assert set(sample) == {"x", "y"}
        self.given.append((self.parameters["gain"], *sample["x"].tolist()))
        return sample["x"]


class DrivenLine(toys.Line):
    """A plain environment with the hook."""

    def load_sample(self, sample):
        return -sample["x"]


def same_samples(first, second):
    return all(first[:][name].tobytes() == second[:][name].tobytes() for name in first.spec)


def index(dataset, *names):
    return [tuple(row) for row in np.stack([dataset.index(name).astype(object) for name in names], 1).tolist()]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Forty samples of episodes with rejected steps, and parameters that the simulation would not draw itself."""
    path = tmp_path_factory.mktemp("tuned") / "d"
    return generate(toys.Tuned, path, samples=40, parameters="sobol", seed=3, **QUICK)


def test_stored_samples_drive_the_simulation(tmp_path, tuned):
    dataset = generate(Driven, tmp_path / "d", load=tuned, **QUICK)
    assert same_samples(dataset, tuned)
    assert dataset.index("seed").tolist() == tuned.index("seed").tolist()
    # in each episode the k-th stored sample gives step k
    numbers = np.unique(tuned.index("episode"), return_inverse=True)[1]
    steps = [step for count in np.bincount(numbers) for step in range(count)]
    assert index(dataset, "episode", "step") == list(zip(numbers.tolist(), steps, strict=True))
    rows = np.isin(tuned.parameter_episodes, tuned.index("episode"))
    for name, column in tuned.parameters.items():
        np.testing.assert_array_equal(dataset.parameters[name], column[rows])
    assert dataset.source["actions"] == {"sampler": "load_sample"}
    assert dataset.source["load"]["samples"] == 40
    assert dataset.source["load"]["source"] == tuned.source


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "envs"), [(0, 1), (1, 3), (2, 2)])
def test_passes_are_shuffled_by_the_seed_and_do_not_depend_on_the_workers(tmp_path, tuned, workers, envs):
    with SampleStream(Driven, load=tuned, seed=7, num_workers=0) as stream:
        want = stream.draw(130)
        names = stream.drawn
    episodes = len(np.unique(tuned.index("episode")))
    passes = [want["x"][names.episodes // episodes == number] for number in range(3)]
    assert passes[0].tolist() == tuned[:]["x"].tolist()
    for later in passes[1:]:
        assert sorted(later.tolist()) == sorted(passes[0].tolist())
        assert later.tolist() != passes[0].tolist()
    assert passes[1].tolist() != passes[2].tolist()
    assert sorted(set(names.episodes.tolist())) == list(range(names.episodes[-1] + 1))
    path = tmp_path / "d"
    with SampleStream(Driven, load=tuned, seed=7, num_workers=workers, num_envs=envs, path=path) as stream:
        first, state = stream.draw(57), json.loads(json.dumps(stream.state_dict()))
    options = {"path": path, "resume": True, "num_workers": workers, "num_envs": envs}
    with SampleStream(Driven, load=tuned, seed=7, **options) as stream:
        stream.load_state_dict(state)
        parts = [first, stream.draw(23), stream.draw(50)]
        assert stream.stored == 130
    for name, column in want.items():
        assert np.concatenate([part[name] for part in parts]).tobytes() == column.tobytes()
    with pytest.raises(DatasetError, match="resume with the same environment"):
        SampleStream(Driven, load=tuned.subset(np.arange(39)), seed=7, num_workers=0, path=path, resume=True)


def test_one_pass_can_be_resumed_and_more_asked_for(tmp_path, tuned):
    generate(Driven, tmp_path / "d", samples=17, load=tuned, **QUICK)
    dataset = generate(Driven, tmp_path / "d", load=tuned, resume=True, **QUICK)
    assert same_samples(dataset, tuned)
    dataset = generate(Driven, tmp_path / "d", samples=55, load=tuned, resume=True, **QUICK)
    assert len(dataset) == 55
    with SampleStream(Driven, load=tuned, num_workers=0, passes=2) as stream:
        assert [len(stream.draw(60)["x"]), len(stream.draw(60)["x"])] == [60, 20]
        assert len(stream.take(5)) == 0
        with pytest.raises(DatasetError, match="all stored samples were loaded 2 times"):
            stream.draw(1)


def test_rejected_steps_are_left_out_as_ever(tmp_path, tuned):
    options = {"keep_rejected": True, "max_rejects": 20, "load": tuned, **QUICK}
    dataset = generate(Driven, tmp_path / "d", env_kwargs={"reject_above": 0.1}, **options)
    kept = tuned[:]["x"][:, 0] <= 0.1
    assert 0 < kept.sum() < 40
    np.testing.assert_array_equal(dataset[:]["x"], tuned[:]["x"][kept])
    np.testing.assert_array_equal(dataset.rejected.samples["x"], tuned[:]["x"][~kept])
    with pytest.raises(SampleError, match="all 40 steps that the stored samples asked for were rejected"):
        generate(Driven, tmp_path / "e", env_kwargs={"reject_above": -2}, **{**options, "max_rejects": 99})
    assert not (tmp_path / "e").exists()
    with pytest.raises(SampleError, match=r"steps in a row gave no valid sample \(max_rejects=5\)"):
        generate(Driven, tmp_path / "e", env_kwargs={"reject_above": -2}, **{**options, "max_rejects": 5})


@pytest.mark.slow
def test_a_plain_environment_and_a_wrapper_can_have_the_hook(tmp_path):
    line = generate(toys.Line, tmp_path / "line", samples=10, **QUICK)

    class Doubling(gym.Wrapper):
        def load_sample(self, sample):
            return np.clip(2 * sample["x"], -1, 1)

    driven = generate(DrivenLine, tmp_path / "d", load=line, **QUICK)
    np.testing.assert_array_equal(driven[:]["x"], -line[:]["x"])
    wrapped = generate(lambda: Doubling(DrivenLine()), tmp_path / "e", load=line, num_workers=1, progress=False)
    np.testing.assert_array_equal(wrapped[:]["x"], np.clip(2 * line[:]["x"], -1, 1))


def test_some_rows_of_several_folders(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        generate(toys.Line, folder, samples=10, seed=seed, **QUICK)
    joined = SampleDataset(folders)
    part = joined.subset(np.array([18, 5, 1, 0, 11, 12, 4]))
    driven = generate(DrivenLine, tmp_path / "d", load=part, **QUICK)
    want = [0, 1, 4, 5, 11, 12, 18]  # by folder, episode and step
    np.testing.assert_array_equal(driven[:]["x"], -joined.gather(np.array(want))["x"])
    assert driven.index("seed").tolist() == joined.index("seed")[want].tolist()
    assert driven.index("episode").tolist() == [0, 0, 1, 1, 2, 2, 3]


class Needy(toys.Tuned):
    def load_sample(self, sample):
        return sample["force"]


class Short(Driven):
    def outcome(self):
        return 0.0, self.left <= 1


def short():
    return gym.wrappers.TimeLimit(Driven(), 1)


@pytest.mark.parametrize(
    ("env", "options", "error", "text"),
    [
        (toys.Tuned, {}, ConfigError, "Tuned has no load_sample, so stored samples cannot drive it. Give it"),
        (toys.Line, {}, ConfigError, "Line has no load_sample"),
        (Needy, {}, SampleError, r"episode 0, stored sample 0: .*field 'force'; the stored samples have \['x', 'y'\]"),
        (Short, {}, SampleError, "episode 0, step 1: the episode reached a terminal state after 2 steps, but 3 stored"),
        (short, {}, SampleError, "the episode was truncated after 1 steps.*{.max_episode_steps.: 3}"),
        (Driven, {"max_steps": 2}, ConfigError, "has 4 samples, more than max_steps=2; raise max_steps"),
        (Driven, {"actions": "sobol"}, ConfigError, "leave actions out"),
        (Driven, {"load": "folder"}, ConfigError, "load must be a dataset, not 'folder'; open it with physgym.Sample"),
        (Driven, {"samples": 0}, ConfigError, "samples must be at least 1"),
        (Driven, {"load": None}, ConfigError, "samples must be at least 1 and an integer, not None"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_says_why(tmp_path, tuned, env, options, error, text):
    with pytest.raises(error, match=text):
        generate(env, tmp_path / "d", **{"load": tuned, **QUICK, **options})
    assert (tmp_path / "d").exists() == (env is Short)  # which has two samples before the error


@pytest.mark.slow
def test_errors_come_from_workers_as_well(tmp_path, tuned):
    for env, error, text in (
        (toys.Tuned, ConfigError, "environment 0: Tuned has no load_sample"),
        (Needy, SampleError, "episode 0, stored sample 0: load_sample asks for the field 'force'"),
        (Short, SampleError, "episode 0, step 1: the episode reached a terminal state"),
    ):
        with pytest.raises(error, match=text):
            generate(env, tmp_path / "d", load=tuned, num_workers=1, progress=False)


def test_arguments_of_streams(tuned):
    with pytest.raises(ConfigError, match="give them with load="):
        SampleStream(toys.Line, passes=2, num_workers=0)
    for passes in (0, True, 1.5):
        with pytest.raises(ConfigError, match="passes must be at least 1, or None for ever"):
            SampleStream(Driven, load=tuned, passes=passes, num_workers=0)
    with pytest.raises(DatasetError, match="the dataset to load has no samples"):
        SampleStream(Driven, load=tuned.subset(np.zeros(0, int)), num_workers=0)


class OtherParameters(Driven):
    parameter_space = spaces.Dict({"gain": spaces.Box(1, 2, (), np.float64), "age": spaces.Box(0, 1, (), np.float64)})

    def begin(self, options):
        self.x, self.left = np.zeros(2, np.float32), 10


class FromLine(toys.Tuned):
    def begin(self, options):
        self.x, self.left = np.zeros(2, np.float32), 4

    def load_sample(self, sample):
        return sample["x"][:2]


@pytest.mark.slow
def test_parameters_of_episodes(tmp_path, tuned):
    with pytest.raises(DatasetError, match=r"has the parameters \['gain', .*the simulation has \['age', 'gain'\]"):
        generate(OtherParameters, tmp_path / "d", load=tuned, **QUICK)
    drawn = generate(OtherParameters, tmp_path / "e", load=tuned, parameters="sobol", **QUICK)
    np.testing.assert_array_equal(drawn[:]["x"], tuned[:]["x"])
    assert len(drawn.parameters["age"]) == len(np.unique(tuned.index("episode")))
    # a dataset without parameters leaves them to the simulation, which draws them from the stored seed
    without = generate(toys.Line, tmp_path / "l", samples=8, **QUICK)
    seeded = generate(FromLine, tmp_path / "f", load=without, env_kwargs={"reject_above": 2}, **QUICK)
    env = FromLine()
    for row, seed in enumerate(without.index("seed")[[0, 4]].tolist()):
        assert env.reset(seed=seed)[1]["parameters"]["gain"] == seeded.parameters["gain"][row]
    generate(toys.Tuned, tmp_path / "two", samples=5, seed=1, **QUICK)
    with pytest.raises(DatasetError, match="several datasets with parameters of episodes were joined"):
        generate(Driven, tmp_path / "g", load=SampleDataset([tuned.paths[0], tmp_path / "two"]), **QUICK)


class Big(gym.Env):
    """Samples of 40 kB, forty in an episode."""

    observation_space = spaces.Box(-10, 10, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    sample_space = spaces.Dict({"x": spaces.Box(-1, 1, (10_000,), np.float32), "y": action_space})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        sample = {"x": np.full(10_000, action[0], np.float32), "y": action}
        return np.zeros(1, np.float32), 0.0, False, self.count == 40, {"sample": sample}

    def load_sample(self, sample):
        return sample["y"]


@pytest.mark.slow
def test_large_samples_travel_in_messages_of_limited_size(tmp_path, monkeypatch):
    big = generate(Big, tmp_path / "big", samples=120, num_workers=1, progress=False)
    sizes, episode = [], 40 * 40_004
    real = WorkerPool.post

    def post(self, worker, message, context=None):
        if isinstance(message, Rollout):
            columns = (column for *_, given in message.episodes for column in given["load_samples"].values())
            sizes.append(sum(column.nbytes for column in columns))
        real(self, worker, message, context)

    monkeypatch.setattr(WorkerPool, "post", post)
    monkeypatch.setattr(rollouts, "CHUNK_SECONDS", 100.0)  # as if a step took no time
    monkeypatch.setattr(rollouts, "CHUNK_BYTES", episode + 1)
    with SampleStream(Big, load=big, num_workers=1) as stream:
        got = stream.draw(400)
    np.testing.assert_array_equal(got["x"][:120], big[:]["x"])
    assert set(sizes) == {episode, 2 * episode}
    monkeypatch.setattr(stored, "LARGEST", episode - 1)
    with pytest.raises(ConfigError, match=r"take 2 MB, and only 2 MB fit.*fields=\[...\]"):
        SampleStream(Big, load=big, num_workers=1)
    with SampleStream(Big, load=SampleDataset(tmp_path / "big", fields=["y"]), num_workers=1) as stream:
        np.testing.assert_array_equal(stream.draw(120)["x"], big[:]["x"])


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(tmp_path, tuned):
    switch = tmp_path / "switch"
    want = generate(Driven, tmp_path / "want", load=tuned, **QUICK)
    switch.touch()
    options = {"load": tuned, "env_kwargs": {"kill_switch": str(switch)}, "num_workers": 1, "progress": False}
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        generate(Driven, tmp_path / "d", **options)
    switch.touch()
    assert same_samples(generate(Driven, tmp_path / "e", on_error="restart", **options), want)


# --- shipped simulations

SHIPPED = {
    "physgym/Spring-v0": {},
    "physgym/Heat-v0": {"size": 7},
    "physgym/Burgers-v0": {"size": 32},
    "physgym/BurgersStep-v0": {"size": 32, "viscosity": (0.05, 0.1)},
    "physgym/KuramotoSivashinsky-v0": {"size": 64, "warm_up": 20.0},
    "physgym/NavierStokes2D-v0": {"size": 16},
    "physgym/Darcy-v0": {"size": 9},
    "physgym/Beam-v0": {"nodes": (4, 4, 4)},
}


@pytest.mark.slow
@pytest.mark.parametrize("env", SHIPPED)
def test_a_dataset_of_a_shipped_simulation_gives_itself(tmp_path, env):
    options = {"env_kwargs": SHIPPED[env], **QUICK}
    dataset = generate(env, tmp_path / "d", samples=30, **options)
    assert same_samples(generate(env, tmp_path / "e", load=dataset, **options), dataset)
    # some rows have to suffice, as they hold the state
    rows = np.array([2, 5, 9, 21, 22, 29])
    part = generate(env, tmp_path / "part", load=dataset.subset(rows), **options)
    for name in dataset.spec:
        np.testing.assert_allclose(part[:][name], dataset[rows][name], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_another_heat_conduction_gives_other_targets_for_the_same_inputs(tmp_path):
    dataset = generate("physgym/Heat-v0", tmp_path / "d", samples=30, env_kwargs={"size": 7}, **QUICK)
    slow = {"size": 7, "diffusivity": 5e-5}
    other = generate("physgym/Heat-v0", tmp_path / "slow", load=dataset, env_kwargs=slow, **QUICK)
    for name in ("temperature", "source"):
        np.testing.assert_array_equal(other[:][name], dataset[:][name])
    assert np.abs(other[:]["next_temperature"] - dataset[:]["next_temperature"]).max() > 0.1
    env = Heat(**slow)
    env.reset(seed=0)
    row = {name: column[17] for name, column in dataset[:].items()}
    step = env.step(env.load_sample(row))
    np.testing.assert_allclose(step[4]["sample"]["next_temperature"], other[:]["next_temperature"][17], atol=1e-5)


def test_a_finer_heat_conduction_agrees_at_the_points_of_the_coarse_one(tmp_path):
    dataset = generate("physgym/Heat-v0", tmp_path / "d", samples=8, env_kwargs={"size": 7}, **QUICK)
    for size, fine, coarse in ((15, slice(1, None, 2), slice(None)), (3, slice(None), slice(1, None, 2))):
        carried = generate("physgym/Heat-v0", tmp_path / str(size), load=dataset, env_kwargs={"size": size}, **QUICK)
        for name in dataset.spec:
            there, here = carried[:][name][:, fine, fine], dataset[:][name][:, coarse, coarse]
            if size > 7:
                np.testing.assert_allclose(there, here, atol=1e-4)
            else:  # which lacks the finer waves
                assert np.linalg.norm(there - here) < 0.5 * np.linalg.norm(here)


def test_a_finer_burgers_equation_agrees_where_both_resolve_it(tmp_path):
    dataset = generate("physgym/Burgers-v0", tmp_path / "d", samples=8, env_kwargs={"size": 64}, **QUICK)
    finer = generate("physgym/Burgers-v0", tmp_path / "e", load=dataset, env_kwargs={"size": 128}, **QUICK)
    np.testing.assert_allclose(finer[:]["initial"][:, ::2], dataset[:]["initial"], atol=1e-5)
    np.testing.assert_allclose(finer[:]["final"][:, ::2], dataset[:]["final"], atol=1e-4)


def test_a_stiffer_beam_bends_less_and_one_of_other_nodes_is_refused(tmp_path):
    dataset = generate("physgym/Beam-v0", tmp_path / "d", samples=4, env_kwargs={"nodes": (4, 4, 4)}, **QUICK)
    stiff = {"nodes": (4, 4, 4), "young_modulus": 4000.0}
    other = generate("physgym/Beam-v0", tmp_path / "e", load=dataset, env_kwargs=stiff, **QUICK)
    np.testing.assert_array_equal(other[:]["forces"], dataset[:]["forces"])
    ratio = np.abs(other[:]["displacement"]).max((1, 2)) / np.abs(dataset[:]["displacement"]).max((1, 2))
    assert (ratio < 0.7).all()
    with pytest.raises(SampleError, match=r"nodal forces in newtons of shape \(112, 3\).*got shape \(64, 3\)"):
        generate("physgym/Beam-v0", tmp_path / "f", load=dataset, env_kwargs={"nodes": (7, 4, 4)}, **QUICK)


def test_a_spring_of_other_parameters_takes_the_stored_states(tmp_path):
    dataset = generate("physgym/Spring-v0", tmp_path / "d", samples=30, **QUICK)
    options = {"load": dataset, "parameters": "sobol", **QUICK}
    other = generate("physgym/Spring-v0", tmp_path / "e", **options)
    for name in ("state", "force"):
        np.testing.assert_array_equal(other[:][name], dataset[:][name])
    assert not np.array_equal(other[:]["parameters"], dataset[:]["parameters"])
    assert not np.allclose(other[:]["next_state"], dataset[:]["next_state"])


@pytest.mark.slow
def test_a_sample_that_cannot_be_repeated_is_a_rejected_step(tmp_path):
    class Rejecting(DrivenLine):
        def load_sample(self, sample):
            if sample["x"][0] > 0:
                raise RejectSample("x is positive")
            return sample["x"]

    line = generate(toys.Line, tmp_path / "line", samples=16, **QUICK)
    dataset = generate(Rejecting, tmp_path / "d", load=line, **QUICK)
    kept = line[:]["x"][:, 0] <= 0
    np.testing.assert_array_equal(dataset[:]["x"], line[:]["x"][kept])
    assert dataset.index("step").tolist() == line.index("step")[kept].tolist()
    with pytest.raises(SampleError, match="the last reason: x is positive"):
        generate(Rejecting, tmp_path / "e", load=line.subset(~kept), max_rejects=3, **QUICK)
