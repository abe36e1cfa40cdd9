"""`physgym.reopen`: a simulation just before a stored step, and the action of that step."""

from __future__ import annotations

import itertools
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import physgym
from physgym.data import SampleWriter
from physgym.data.surgery import operations as surgery
from physgym.data.surgery.operations import merge
from physgym.errors import ChangedCode, ConfigError, DatasetError
from physgym.generation import reopen as reopening
from physgym.nn import MLP, Predictor
from physgym.runner import Runner
from physgym.sample import RecordTransition, SampleSpec
from physgym.samplers import Policy
from tests.support import toys

QUICK = {"num_workers": 0, "progress": False}


def same(dataset, row, info):
    for name, value in dataset[row].items():
        if name == "truncated":  # an episode that a generation cut says so in its last sample
            continue
        np.testing.assert_array_equal(info["sample"][name], value)


def steps_again(dataset, rows=None, **options):
    """Reopen some rows of a dataset, and look whether the step gives them again."""
    for row in range(len(dataset)) if rows is None else rows:
        episode, step = (int(dataset.index(name)[row]) for name in ("episode", "step"))
        env, action = physgym.reopen(dataset, episode, step, **options)
        same(dataset, row, env.step(action)[-1])
        env.close()


@pytest.fixture(scope="module")
def spring(tmp_path_factory):
    path = tmp_path_factory.mktemp("reopen") / "spring"
    return physgym.generate("physgym/Spring-v0", path, samples=17, max_steps=7, seed=3, **QUICK)


class Plain(toys.Line):
    """A class that can be imported; it keeps no state."""


class Choosy(physgym.Simulation):
    """Rejects forces below -0.5; has no load_sample, and no field with its action."""

    action_space = spaces.Box(-1, 1, (), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (), np.float32)
    sample_space = spaces.Dict(before=observation_space, after=observation_space)
    sample_roles = {"before": "input", "after": "target"}  # noqa: RUF012
    shift = 0.0

    def begin(self, options):
        self.x = self.before = float(self.np_random.normal())

    def advance(self, action):
        self.before = self.x
        if action < -0.5:
            raise physgym.RejectSample("too small")
        self.x = self.x + float(action) + self.shift

    def observation(self):
        return np.array(self.x, np.float32)

    def sample(self):
        return {"before": self.before, "after": self.x}


def pushes(observation, rng):
    return np.clip(np.float32([-0.5 * observation[0] + rng.normal()]), -5, 5)


def test_a_step_is_given_again(spring):
    steps_again(spring, [0, 5, 6, 7, 16])
    env, _ = physgym.reopen(spring.paths[0], 1, 4)
    assert isinstance(env.unwrapped, physgym.envs.spring.Spring)
    row = int(np.flatnonzero((spring.index("episode") == 1) & (spring.index("step") == 4))[0])
    np.testing.assert_array_equal(env.unwrapped.observation()[:2], spring[row]["state"])


@pytest.mark.parametrize(
    ("env", "options"),
    [
        ("physgym/BurgersStep-v0", {"env_kwargs": {"size": 32, "viscosity": (0.05, 0.1)}}),
        ("physgym/Heat-v0", {"env_kwargs": [{"size": 5}, {"size": 5, "diffusivity": 2e-4}]}),
        ("physgym/Spring-v0", {"actions": "sobol", "parameters": "lhs:8"}),
        ("physgym/Spring-v0", {"actions": "gaussian", "mode": "validation"}),
        (Plain, {}),
        (Choosy, {"seed": 5}),
    ],
)
def test_samplers_arguments_and_rejections_are_those_of_the_dataset(tmp_path, env, options):
    dataset = physgym.generate(env, tmp_path, samples=9, max_steps=4, **QUICK, **options)
    steps_again(dataset, [3, 4, 8])


def test_a_selection_is_reopened_as_the_whole(spring):
    steps_again(physgym.SampleDataset(spring.paths[0], fields=["state"]).subset([9, 3]), [0, 1])


def test_a_step_that_was_rejected_is_reopened_too(tmp_path):
    dataset = physgym.generate(Choosy, tmp_path, samples=12, max_steps=6, **QUICK)
    stored = set(zip(dataset.index("episode").tolist(), dataset.index("step").tolist(), strict=True))
    missing = next((e, s) for e, s in itertools.product(range(2), range(6)) if (e, s) not in stored)
    env, action = physgym.reopen(dataset, *missing)
    assert env.step(action)[-1]["rejected"] == "too small"


class Choosier(Choosy):
    """Keeps states too; with a `limit` of its own."""

    limit = -0.5

    def advance(self, action):
        if action < self.limit:
            raise physgym.RejectSample("too small")
        self.before, self.x = self.x, self.x + max(float(action), -0.5)

    def state(self):
        return {"x": self.x}

    def set_state(self, state):
        self.x = float(self.checked_state(state)["x"])


class Patient(Choosier):
    """Rejects nothing."""

    limit = -1.0


def test_a_step_that_was_rejected_must_be_rejected_again(tmp_path):
    dataset = physgym.generate(Choosier, tmp_path / "d", samples=20, max_steps=6, **QUICK)
    stored = set(zip(dataset.index("episode").tolist(), dataset.index("step").tolist(), strict=True))
    episode, step = next((e, s) for e, s in itertools.product(range(4), range(5)) if (e, s) not in stored)
    env, action = physgym.reopen(dataset, episode, step)
    assert "rejected" in env.step(action)[-1]
    options = {"env": Patient, "allow_changed_code": True}
    for later in (step, step + 1):
        with pytest.raises(DatasetError, match=f"step {step}: the simulation gives another 'outcome'"):
            physgym.reopen(dataset, episode, later, **options)
    surgery.filter(tmp_path / "d", f"step != {step}", out=tmp_path / "filtered")
    physgym.reopen(tmp_path / "filtered", episode, step, **options)  # nothing says that it was rejected


def test_an_action_that_was_filtered_out_is_not_called_rejected(tmp_path):
    arguments = {"samples": 6, "max_steps": 6, "actions": Policy(pushes), **QUICK}
    physgym.generate("physgym/Spring-v0", tmp_path / "d", **arguments)
    surgery.filter(tmp_path / "d", "step != 2", out=tmp_path / "filtered")
    physgym.generate("physgym/Spring-v0", tmp_path / "e", **{**arguments, "seed": 1})
    surgery.merge([tmp_path / "filtered", tmp_path / "e"], tmp_path / "merged")
    for name in ("filtered", "merged"):
        with pytest.raises(ConfigError, match="step 2 of episode 0 was filtered out or rejected, so that its action"):
            physgym.reopen(tmp_path / name, 0, 4)


def remembering():
    return gymnasium.wrappers.StickyAction(gymnasium.wrappers.TimeLimit(Patient(), 50), 0.5)


def test_a_wrapper_of_gymnasium_that_remembers_is_no_false_alarm(tmp_path):
    assert reopening._keeps_all(gymnasium.wrappers.TimeLimit(Patient(), 50))
    steps_again(physgym.generate(remembering, tmp_path, samples=10, max_steps=10, **QUICK), [1, 4, 9])


def test_one_branches_from_there(spring):
    env, action = physgym.reopen(spring, 0, 3)
    sim = env.unwrapped
    state = sim.state()
    ends = [env.step(action)[0]]
    for changed in ({}, {"stiffness": 40.0}):
        sim.set_state({**state, **changed})
        ends.append(sim.step(-action)[0])
    assert len({end[:2].tobytes() for end in ends}) == 3


@pytest.mark.slow
def test_actions_of_a_function_come_from_the_stored_samples_or_from_the_caller(tmp_path):
    arguments = {"samples": 8, "max_steps": 4, "actions": Policy(pushes), **QUICK}
    steps_again(physgym.generate("physgym/Spring-v0", tmp_path / "loaded", **arguments), [0, 3, 7])
    transitions = physgym.generate(recorded, tmp_path / "recorded", **arguments)
    steps_again(transitions, [0, 3, 7])
    steps_again(transitions, [5], actions=pushes)


def recorded():
    return RecordTransition(gymnasium.make("physgym/Spring-v0"))


def test_actions_that_are_nowhere_are_an_error_that_says_so(tmp_path):
    dataset = physgym.generate(
        Choosy, tmp_path / "d", samples=4, actions=lambda _, rng: np.float32(rng.uniform(0, 1)), **QUICK
    )
    with pytest.raises(ConfigError, match=r"only the name is stored; pass actions=.*no field 'action'.*no load_sample"):
        physgym.reopen(dataset, 0, 1)
    with SampleWriter(tmp_path / "w", SampleSpec.from_env(Choosy())) as writer:
        writer.append({"before": np.zeros(1), "after": np.zeros(1)}, episode=[0], step=[0], seed=[1])
    with pytest.raises(ConfigError, match="does not say which simulation made it; pass env="):
        physgym.reopen(tmp_path / "w", 0, 0)
    with pytest.raises(ConfigError, match="does not say what gave its actions"):
        physgym.reopen(tmp_path / "w", 0, 0, env=Choosy)


def test_a_dataset_of_loaded_samples_is_reopened_by_its_own(tmp_path, spring):
    again = physgym.generate("physgym/Spring-v0", tmp_path, load=spring, **QUICK)
    steps_again(again, [0, 6, 7, 16])


def test_a_record_of_a_run_is_reopened_but_not_that_of_a_surrogate(tmp_path, spring):
    network = Predictor(MLP.from_spec(spring.spec, hidden=(2,)), spring.spec)
    for name, surrogate in (("run", False), ("surrogate", True)):
        with Runner("physgym/Spring-v0", network, record=tmp_path / name, surrogate=surrogate) as runner:
            runner.run(4, progress=False)
    record = physgym.SampleDataset(tmp_path / "run", mode="prediction")
    env, action = physgym.reopen(record, 0, 2)
    np.testing.assert_array_equal(env.step(action)[-1]["sample"]["next_state"], record[2]["next_state"])
    with pytest.raises(DatasetError, match="a network in place of the solver"):
        physgym.reopen(physgym.SampleDataset(tmp_path / "surrogate", mode="prediction"), 0, 1)


@pytest.mark.parametrize(
    ("episode", "step", "text"),
    [
        (3, 0, r"has no episode 3; it has 3, from 0 to 2"),
        (0, 7, r"episode 0 of .* has no step 7; its last one is 6"),
        (2, 3, r"episode 2 of .* has no step 3; its last one is 2"),
        (-1, 0, "episode must not be negative"),
        (0, 0.5, "step must be an integer"),
    ],
)
def test_an_unknown_episode_or_step_is_named(spring, episode, step, text):
    with pytest.raises(ConfigError, match=text):
        physgym.reopen(spring, episode, step)


@pytest.mark.parametrize("step", [0, 3])
def test_another_simulation_is_noticed_at_the_sample_itself(spring, step):
    with pytest.raises(DatasetError, match="episode 0, step 0: the simulation gives another 'next_state'"):
        physgym.reopen(spring, 0, step, env_kwargs={"time_step": 0.2})
    with pytest.raises(DatasetError, match=r"the dataset has the fields .*: it is another one"):
        physgym.reopen(spring, 0, step, env="physgym/Heat-v0", env_kwargs={"size": 4}, allow_changed_code=True)


def test_changed_code_is_refused_first(tmp_path):
    file = tmp_path / "reopened_simulation.py"
    text = "from tests.generation.test_reopen import Choosy\n\n\nclass Mine(Choosy):\n    shift = {}\n"
    file.write_text(text.format(0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        dataset = physgym.generate("reopened_simulation:Mine", tmp_path / "d", samples=4, **QUICK)
        steps_again(dataset, [2], env="reopened_simulation:Mine")
        file.write_text(text.format(1.0))
        with pytest.raises(ChangedCode, match="module reopened_simulation has changed"):
            physgym.reopen(dataset, 0, 2, env="reopened_simulation:Mine")
        steps_again(dataset, [2], env="reopened_simulation:Mine", allow_changed_code=True)


class Careless(physgym.Simulation):
    """Keeps the state that it is given, gives its own, and changes its action."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    sample_space = spaces.Dict(before=observation_space, after=observation_space)
    sample_roles = {"before": "input", "after": "target"}  # noqa: RUF012

    def __init__(self, factor=None):
        super().__init__()
        self.factor = factor

    def begin(self, options):
        self.x = self.np_random.normal(size=2)
        self.before = self.x.copy()

    def advance(self, action):
        self.before = self.x.copy()
        action *= np.float32(0.5)
        self.x += action if self.factor is None else action * self.factor.sum()

    def observation(self):
        return self.x.copy()

    def sample(self):
        return {"before": self.before, "after": self.x}

    def state(self):
        return {"x": self.x}

    def set_state(self, state):
        self.x = state["x"]


def test_comparing_the_step_leaves_the_simulation_and_the_action_as_they_are(tmp_path):
    steps_again(physgym.generate(Careless, tmp_path, samples=6, max_steps=4, **QUICK), [0, 2, 5])


def test_arguments_that_are_only_described_are_to_be_given(tmp_path):
    arguments = {"factor": np.array([1.0, 2.0])}
    dataset = physgym.generate(Careless, tmp_path, samples=4, env_kwargs=arguments, **QUICK)
    with pytest.raises(ConfigError, match="an argument 'factor' of which the dataset holds a description"):
        physgym.reopen(dataset, 0, 2)
    steps_again(dataset, [2], env_kwargs=arguments)


def test_several_folders_are_refused(spring):
    with pytest.raises(ConfigError, match="reopen a step of one of them"):
        physgym.reopen(physgym.SampleDataset([spring.paths[0]] * 2), 0, 0)


def test_episodes_of_a_merged_dataset_are_those_of_their_sources(tmp_path):
    options = {"samples": 6, "max_steps": 3, "actions": "sobol", **QUICK}
    for number, arguments in enumerate(({"time_step": 0.1}, [{"time_step": 0.2}, {"time_step": 0.3}])):
        physgym.generate("physgym/Spring-v0", tmp_path / str(number), seed=number, env_kwargs=arguments, **options)
    merge([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    steps_again(physgym.SampleDataset(tmp_path / "merged"), [1, 5, 7, 11])


def test_an_id_that_a_module_registers_is_found_by_the_module_that_is_recorded(tmp_path, monkeypatch):
    folder = tmp_path / "code"
    folder.mkdir()
    text = "import gymnasium\nfrom physgym.envs.spring import Spring\nclass Mine(Spring):\n    pass\n"
    (folder / "own_springs.py").write_text(f'{text}gymnasium.register("own/Mine-v0", Mine)\n')
    monkeypatch.syspath_prepend(folder)
    dataset = physgym.generate("own_springs:own/Mine-v0", tmp_path / "data", samples=3, **QUICK)
    del gymnasium.registry["own/Mine-v0"], sys.modules["own_springs"]  # as in another process
    try:
        steps_again(dataset, [1])
    finally:
        gymnasium.registry.pop("own/Mine-v0", None)
