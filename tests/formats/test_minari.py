from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from typer.testing import CliRunner

import physgym
from physgym.cli.app import app
from physgym.data.dataset import SampleDataset
from physgym.data.surgery.operations import diff
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.sample import Field, RecordTransition, SampleSpec
from physgym.spaces import to_json
from tests.support import datasets

minari = pytest.importorskip("minari", reason="pip install 'physgym[minari]'")

from minari.data_collector import EpisodeBuffer  # noqa: E402

from physgym.formats.minari import export_minari, import_minari  # noqa: E402


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


class Reach(gym.Env):
    """Nested observations of several dtypes, a tuple in them, and ends of both kinds."""

    observation_space = spaces.Dict(
        {
            "position": spaces.Box(-5, 5, (2,), np.float32),
            "sensors": spaces.Tuple([spaces.Discrete(4), spaces.MultiBinary(3)]),
            "pixels": spaces.Box(0, 255, (32, 32, 3), np.uint8),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 2).astype("f4"), 0
        return self.observation(), {}

    def observation(self):
        pixels = self.np_random.integers(0, 256, (32, 32, 3), np.uint8)
        sensors = (int(self.np_random.integers(4)), self.np_random.integers(0, 2, 3, np.int8))
        return {"position": self.position.copy(), "sensors": sensors, "pixels": pixels}

    def step(self, action):
        self.position += action
        self.steps += 1
        away = bool(np.abs(self.position).max() > 2)
        return self.observation(), -float(np.abs(self.position).sum()), away, self.steps == 6, {}


gym.register("test-minari/Reach-v0", f"{__name__}:Reach")  # by name: else its spec cannot be written as JSON


def record(path, env_id, count, *, drop=(), **options) -> SampleDataset:
    """Transitions of random actions, as generation would store them; the steps in `drop` were rejected."""
    made = gym.make(env_id)
    env = RecordTransition(made)
    attributes = {
        "spaces": json.dumps({"sample_space": to_json(env.sample_space)}),
        "env_spec": made.spec.to_json(),
    }
    spec = SampleSpec.from_env(env)
    source = {"env": env_id, "seed": 0}
    made.action_space.seed(0)
    with SampleWriter(path, spec, source=source, attributes=attributes, **options) as writer:
        stored, episode = 0, 0
        while stored < count:
            seed = 2**63 + 5 + episode  # as large as the seeds of generation
            env.reset(seed=seed)
            step, over = 0, False
            while not over and stored < count:
                *_, terminated, truncated, info = env.step(made.action_space.sample())
                over = terminated or truncated
                if (episode, step) not in drop:
                    writer.add(spec.check(info["sample"]), episode=episode, step=step, seed=seed)
                    stored += 1
                step += 1
            episode += 1
    return SampleDataset(path)


def assert_same(one: SampleDataset, two: SampleDataset) -> None:
    assert one.spec == two.spec
    assert len(one) == len(two)
    for name, column in one[:].items():
        assert two[:][name].dtype == column.dtype
        np.testing.assert_array_equal(two[:][name], column, err_msg=name)
    for name in ("episode", "step", "seed"):
        np.testing.assert_array_equal(two.index(name), one.index(name), err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "data_format"),
    [
        ("CartPole-v1", "hdf5"),
        ("Pendulum-v1", "hdf5"),
        ("test-minari/Reach-v0", "hdf5"),
        ("CartPole-v1", "arrow"),
        ("test-minari/Reach-v0", "arrow"),
    ],
)
def test_there_and_back_is_the_same(tmp_path, env_id, data_format):
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    dataset = record(tmp_path / "d", env_id, 90)
    made = export_minari(dataset, "test/random-v0", data_format=data_format)
    again = import_minari("test/random-v0", tmp_path / "e")
    assert_same(dataset, again)
    assert again.source == dataset.source
    assert made.env_spec == gym.spec(env_id)
    with made.recover_environment() as env:
        assert made.observation_space == env.observation_space
        assert made.action_space == env.action_space


def test_minari_sees_the_episodes(tmp_path):
    dataset = record(tmp_path / "d", "test-minari/Reach-v0", 40)
    export_minari(dataset, "test/random-v0", author="A. Nother", code_permalink="https://example.org")
    made = minari.load_dataset("test/random-v0")
    samples, episode = dataset[:], dataset.index("episode")
    assert made.total_steps == 40
    assert made.total_episodes == episode.max() + 1
    assert made.storage.metadata["author"] == {"A. Nother"}
    assert "test-minari/Reach-v0" in made.storage.metadata["description"]
    for i, data in enumerate(made.iterate_episodes()):
        mine = {name: column[episode == i] for name, column in samples.items()}
        steps = len(mine["reward"])
        assert len(data) == steps
        observations = data.observations
        np.testing.assert_array_equal(observations["pixels"][:-1], mine["observation/pixels"])  # not as JPEG
        np.testing.assert_array_equal(observations["position"][1:], mine["next_observation/position"])
        np.testing.assert_array_equal(observations["sensors"][0][:steps], mine["observation/sensors/0"])
        np.testing.assert_array_equal(data.actions, mine["action"])
        np.testing.assert_array_equal(data.rewards, mine["reward"])
        assert data.terminations.dtype == data.truncations.dtype == bool
        np.testing.assert_array_equal(data.terminations, mine["terminated"])
        assert made.observation_space["position"].contains(observations["position"][0])
    seeds = [data["seed"] for data in made.storage.get_episode_metadata(made.episode_indices)]
    assert seeds == [2**63 + 5 + i for i in range(made.total_episodes)]
    assert len(made.sample_episodes(3)) == 3
    assert made.filter_episodes(lambda data: bool(data.terminations[-1])).total_episodes == samples["terminated"].sum()


def test_an_episode_with_a_gap_is_cut_there(tmp_path):
    dataset = record(tmp_path / "d", "Pendulum-v1", 250, drop={(0, 3), (0, 4), (0, 50)})
    made = export_minari(dataset, "test/random-v0")
    assert [len(data) for data in made] == [3, 45, 149, 53]
    for data, cut in zip(made, (True, True, True, True), strict=True):
        np.testing.assert_array_equal(data.truncations, [False] * (len(data) - 1) + [cut])
    assert_same(dataset, import_minari(made, tmp_path / "e"))


@pytest.mark.slow
def test_portions_and_interleaved_episodes_make_no_difference(tmp_path, monkeypatch):
    dataset = record(tmp_path / "d", "CartPole-v1", 80)
    made = export_minari(dataset, "test/whole-v0")
    order = np.argsort(dataset.index("step"), kind="stable")  # as several simulations would have written it
    with SampleWriter(tmp_path / "mixed", dataset.spec, max_file_size=2000) as writer:
        where = {name: dataset.index(name)[order] for name in ("episode", "step", "seed")}
        writer.append(dataset.gather(order), **where)
    monkeypatch.setattr("physgym.formats.minari_buffers.CHUNK_BYTES", 1)
    mixed = export_minari(SampleDataset(tmp_path / "mixed"), "test/mixed-v0")
    assert mixed.total_episodes == made.total_episodes > 2
    for one, two in zip(made, mixed, strict=True):
        np.testing.assert_array_equal(one.observations, two.observations)
        np.testing.assert_array_equal(one.actions, two.actions)
    assert mixed.observation_space.shape == (4,)  # without a description of the spaces: of the field
    assert mixed.env_spec is None
    named = export_minari(SampleDataset(tmp_path / "mixed"), "test/named-v0", env="CartPole-v1")
    assert named.env_spec == gym.spec("CartPole-v1")
    again = export_minari(dataset, "test/renamed-v0", env="MountainCar-v0")  # rather than what the dataset says
    assert again.env_spec.id == "MountainCar-v0"


def test_other_fields_travel_as_infos(tmp_path):
    plain = record(tmp_path / "d", "CartPole-v1", 30)
    spec = SampleSpec([*plain.spec.values(), Field("load/force", (3,), np.dtype("f4"), "additional", "N")])
    forces = np.random.default_rng(0).random((30, 3), np.float32)
    with SampleWriter(tmp_path / "e", spec) as writer:
        where = {name: plain.index(name) for name in ("episode", "step", "seed")}
        writer.append({**plain[:], "load/force": forces}, **where)
    made = export_minari(SampleDataset(tmp_path / "e"), "test/infos-v0")
    first = made[0]
    np.testing.assert_array_equal(first.infos["load"]["force"][1:], forces[: len(first)])
    np.testing.assert_array_equal(first.infos["load"]["force"][0], 0)
    again = import_minari(made, tmp_path / "f")
    assert_same(SampleDataset(tmp_path / "e"), again)
    assert again.spec["load/force"].unit == "N"
    bare = export_minari(SampleDataset(tmp_path / "e"), "test/bare-v0", infos=False)
    assert not bare[0].infos
    with pytest.raises(ConfigError, match=r"test/bare-v0 has no infos \['nothing'\]"):
        import_minari(bare, tmp_path / "n", infos=["nothing"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has no environment.*:UserWarning")
def test_samples_of_a_simulation_need_a_mapping(tmp_path):
    dataset = datasets.write(tmp_path / "d", 12)
    with pytest.raises(ConfigError, match=r"what Minari's observations and actions are.*fields=.*RecordTransition"):
        export_minari(dataset, "test/x-v0")
    with pytest.raises(ConfigError, match=r"\['observation'\] are none of Minari's names"):
        export_minari(dataset, "test/x-v0", fields={"observation": "forces"})
    with pytest.raises(ConfigError, match="'stress'; the dataset has the fields"):
        export_minari(dataset, "test/x-v0", fields={"observations": "stress", "actions": "energy"})
    with pytest.raises(ConfigError, match="rewards must be one number"):
        export_minari(dataset, "test/x-v0", fields={"observations": "energy", "actions": "energy", "rewards": "forces"})
    with pytest.raises(ConfigError, match="do not hold complex64"):
        export_minari(dataset, "test/x-v0", fields={"observations": "wave", "actions": "energy"})
    fields = {"observations": ["forces", "group/count"], "actions": "energy", "rewards": "energy"}
    made = export_minari(dataset, "test/x-v0", fields=fields)
    assert [len(data) for data in made] == [5, 5, 2]
    first = made[0]
    forces = datasets.rows(0, 5)["forces"]
    np.testing.assert_array_equal(first.observations["forces"], np.concatenate([forces, forces[-1:]]))
    np.testing.assert_array_equal(first.actions, datasets.rows(0, 5)["energy"])
    np.testing.assert_array_equal(first.rewards, first.actions)
    np.testing.assert_array_equal(first.infos["group"]["flags"][1:], datasets.rows(0, 5)["group/flags"])
    assert_same(dataset, import_minari(made, tmp_path / "e"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*has no environment.*:UserWarning")
def test_a_field_that_is_repeated_on_the_command_line_adds_to_the_others(tmp_path):
    dataset = datasets.write(tmp_path / "d", 12)
    export = ["export", str(tmp_path / "d"), "--to", "minari", "--name", "test/two-v0"]

    def run(*fields):
        return CliRunner().invoke(app, [*export, *(word for field in fields for word in ("--field", field))])

    for fields, text in (
        ([], "such as --field observations="),
        (["observations=forces", "observations=stress", "actions=energy"], "'stress'.*; the dataset has the fields"),
        (["observations=forces", "observations=forces"], "'observations=forces' is given twice"),
    ):
        refused = run(*fields).exception
        assert isinstance(refused, ConfigError)
        assert re.search(text, str(refused))
        assert "fields=" not in str(refused)
    done = run("observations=forces", "observations=group/count", "actions=energy")
    assert done.exit_code == 0, done.output
    assert "observations: forces, group/count; actions: energy; infos: " in done.output
    first = minari.load_dataset("test/two-v0")[0]
    np.testing.assert_array_equal(first.observations["forces"][:-1], dataset[:5]["forces"])
    np.testing.assert_array_equal(first.observations["group"]["count"][:-1], dataset[:5]["group/count"])


def test_a_name_that_is_taken_and_an_export_that_fails(tmp_path, root, monkeypatch):
    dataset = record(tmp_path / "d", "CartPole-v1", 30)
    export_minari(dataset, "test/random-v0")
    with pytest.raises(DatasetError, match="already exists"):
        export_minari(dataset, "test/random-v0")
    for name in ("no good name-v0", "without/version"):
        with pytest.raises(DatasetError, match="is no name for Minari"):
            export_minari(dataset, name)

    def interrupted(self, buffer):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(minari.MinariDataset, "update_dataset_from_buffer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_minari(dataset, "test/other-v0")
    assert sorted(minari.list_local_datasets()) == ["test/random-v0"]
    export_minari(dataset, "test/other-v0")


def collected(root) -> minari.MinariDataset:
    """A dataset that Minari made, of an environment with an info."""
    buffers = []
    rng = np.random.default_rng(0)
    for i in range(4):
        steps = 3 + i
        buffers.append(
            EpisodeBuffer(
                seed=None if i == 2 else 40 + i,
                observations={"a": rng.random((steps + 1, 2)), "b": rng.integers(0, 3, steps + 1)},
                actions=rng.random((steps, 1)).astype("f4"),
                rewards=list(rng.random(steps)),
                terminations=[False] * (steps - 1) + [i % 2 == 0],
                truncations=[False] * (steps - 1) + [i % 2 == 1],
                infos={"goal": {"position": rng.random((steps + 1, 3))}, "cost": rng.random(steps)},
            )
        )
    observation_space = spaces.Dict({"a": spaces.Box(0, 1, (2,), np.float32), "b": spaces.Discrete(3)})
    return minari.create_dataset_from_buffers(
        "foreign/data-v3",
        buffers,
        observation_space=observation_space,
        action_space=spaces.Box(0, 1, (1,), np.float32),
        author={"B", "A"},
        author_email="a@example.org",
        algorithm_name="random",
        code_permalink="https://example.org",
        description="made here",
        eval_env="CartPole-v1",
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*env_spec is None.*:UserWarning")
def test_a_dataset_that_minari_made_becomes_samples(tmp_path, root):
    made = collected(root)
    dataset = import_minari(made, tmp_path / "d", infos=["goal/position", "cost"], mode="validation")
    assert dataset.mode == "validation"
    roles = {name: field.role for name, field in dataset.spec.items()}
    assert list(roles) == [
        *("observation/a", "observation/b", "action", "next_observation/a", "next_observation/b"),
        *("reward", "terminated", "truncated", "goal/position", "cost"),
    ]
    assert dataset.spec.names("input") == ("observation/a", "observation/b", "action")
    assert dataset.spec.names("target") == ("next_observation/a", "next_observation/b", "reward")
    assert dataset.spec["observation/a"].dtype == np.float64  # as the data are, whatever the space says
    assert dataset.index("seed").tolist() == [40] * 3 + [41] * 4 + [0] * 5 + [43] * 6
    assert dataset.index("step").tolist() == [*range(3), *range(4), *range(5), *range(6)]
    for i, data in enumerate(made):
        mine = dataset[np.flatnonzero(dataset.index("episode") == i)]
        np.testing.assert_array_equal(mine["observation/a"], data.observations["a"][:-1])
        np.testing.assert_array_equal(mine["next_observation/b"], data.observations["b"][1:])
        np.testing.assert_array_equal(mine["goal/position"], data.infos["goal"]["position"][1:])
        np.testing.assert_array_equal(mine["cost"], data.infos["cost"])
        np.testing.assert_array_equal(mine["truncated"], data.truncations)
    origin = dataset.source["minari"]
    assert origin["dataset_id"] == "foreign/data-v3"
    assert origin["author"] == ["A", "B"]
    again = export_minari(dataset, "foreign/again-v0")
    metadata = again.storage.metadata
    assert metadata["author"] == {"A", "B"}
    assert metadata["algorithm_name"] == "random"
    assert metadata["description"] == "made here"
    for one, two in zip(made, again, strict=True):
        np.testing.assert_array_equal(one.observations["a"], two.observations["a"])
        np.testing.assert_array_equal(one.rewards, two.rewards)
        np.testing.assert_array_equal(one.terminations, two.terminations)


@pytest.mark.filterwarnings("ignore:.*env_spec is None.*:UserWarning")
@pytest.mark.parametrize(
    ("cost", "text"),
    [
        (np.full(4, 300), r"cost of episode 1 has values that int8 cannot hold, the first 300 of dtype int64 at index"),
        (np.full(4, 0.5), "cost of episode 1 has dtype float64, which does not convert to int8"),
        (np.ma.array(np.ones(4, "i1"), mask=[0, 0, 1, 0]), "cost of episode 1 is a masked array with 1 missing values"),
        (np.full(4, 3), None),
    ],
)
def test_episodes_of_another_dtype_than_the_first_fit_or_are_refused(tmp_path, root, monkeypatch, cost, text):
    made = collected(root)
    kept = []
    for i, episode in enumerate(made.iterate_episodes()):
        known = cost if i == 1 else np.full(len(episode), i, np.int8)
        kept.append(replace(episode, infos={**episode.infos, "cost": known}))
    monkeypatch.setattr(type(made), "iterate_episodes", lambda self, indices=None: iter(kept))
    if text is not None:
        with pytest.raises(DatasetError, match=text):
            import_minari(made, tmp_path / "d", infos=["cost"])
        assert not (tmp_path / "d").exists()
        return
    dataset = import_minari(made, tmp_path / "d", infos=["cost"])
    assert dataset.spec["cost"].dtype == np.int8
    assert dataset[:]["cost"][dataset.index("episode") == 1].tolist() == [3] * 4


@pytest.mark.filterwarnings("ignore:.*env_spec is None.*:UserWarning")
def test_the_spaces_of_minari_come_along(tmp_path, root):
    made = collected(root)
    again = export_minari(import_minari(made, tmp_path / "d"), "foreign/again-v0")
    assert again.action_space == made.action_space
    assert again.observation_space["b"] == made.observation_space["b"]


@pytest.mark.filterwarnings("ignore:.*env_spec is None.*:UserWarning")
def test_what_cannot_be_imported_is_named(tmp_path, root):
    with pytest.raises(DatasetError, match="Minari has no dataset 'no/such-v0' here"):
        import_minari("no/such-v0", tmp_path / "d")
    made = collected(root)
    with pytest.raises(ConfigError, match=r"episode 0 of foreign/data-v3 has no info 'goal/speed'"):
        import_minari(made, tmp_path / "d", infos=["goal/speed"])
    with pytest.raises(ConfigError, match="'goal' of episode 0 is no array"):
        import_minari(made, tmp_path / "d", infos=["goal"])
    assert not (tmp_path / "d").exists()
    import_minari(made, tmp_path / "d")
    with pytest.raises(DatasetError, match="already holds"):
        import_minari(made, tmp_path / "d")


@pytest.mark.slow
def test_texts_and_numbers_come_along_as_infos(tmp_path):
    fields = [Field("x", (2,), "f4", "input"), Field("y", (2,), "f4", "target"), Field("mass", (), "f8", "target")]
    spec = SampleSpec([*fields, Field("name", (), "<U8", "target"), Field("two", (2,), "S3", "target")])
    names = np.array(["steel", "", "Stähle"], "<U8")
    values = {"x": np.zeros((3, 2), "f4"), "y": np.ones((3, 2), "f4"), "mass": np.arange(3.0), "name": names}
    values["two"] = np.array([[b"a", b"bc"]] * 3, "S3")
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(values, episode=np.zeros(3, int), step=np.arange(3), seed=np.zeros(3, np.uint64))
    fields = {"observations": "x", "actions": "y"}
    for form in ("hdf5", "arrow", "parquet"):
        made = export_minari(SampleDataset(tmp_path / "d"), f"beam/{form}-v0", fields=fields, data_format=form)
        again = import_minari(made, tmp_path / form)
        assert again.spec == spec
        assert again[:]["name"].tolist() == names.tolist()
        assert again[:]["two"].tolist() == [[b"a", b"bc"]] * 3
        assert again[:]["mass"].tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match="Minari's spaces do not hold <U8, the dtype of name"):
        export_minari(SampleDataset(tmp_path / "d"), "beam/random-v1", fields={**fields, "actions": ["y", "name"]})


@pytest.mark.slow
def test_memory_is_bounded_both_ways(tmp_path, monkeypatch):
    """What it takes does not grow with the dataset; most of it is what the writer takes to seal a partition."""
    spec = SampleSpec(
        [
            Field("observation", (1000,), np.dtype("f4"), "input"),
            Field("action", (2,), np.dtype("f4"), "input"),
            Field("next_observation", (1000,), np.dtype("f4"), "target"),
        ]
    )
    with SampleWriter(tmp_path / "d", spec) as writer:
        for episode in range(100):
            x = np.random.default_rng(episode).random((101, 1000), np.float32)
            rows = {"observation": x[:-1], "action": x[:-1, :2], "next_observation": x[1:]}
            index = {"episode": np.full(100, episode), "step": np.arange(100), "seed": np.zeros(100, "u8")}
            writer.append(rows, **index)
    monkeypatch.setattr("physgym.formats.minari_buffers.CHUNK_BYTES", 1 << 20)
    dataset = SampleDataset(tmp_path / "d")
    assert dataset.nbytes > 80e6
    tracemalloc.start()
    try:
        made = export_minari(dataset, "test/large-v0")
        again = import_minari(made, tmp_path / "e")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    np.testing.assert_array_equal(again[4000:4100]["next_observation"], dataset[4000:4100]["next_observation"])


def test_stable_baselines3_learns_from_the_export(tmp_path):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3 import DQN
    from stable_baselines3.common.buffers import ReplayBuffer

    dataset = record(tmp_path / "d", "CartPole-v1", 600)
    made = export_minari(dataset, "cartpole/random-v0")
    buffer = ReplayBuffer(dataset_size := made.total_steps, made.observation_space, made.action_space, n_envs=1)
    for data in made.iterate_episodes():
        for t in range(len(data)):
            ended = data.terminations[t] or data.truncations[t]
            buffer.add(
                data.observations[t],
                data.observations[t + 1],
                data.actions[t : t + 1],
                data.rewards[t : t + 1],
                np.array([ended]),
                [{"TimeLimit.truncated": bool(data.truncations[t])}],
            )
    assert buffer.full
    assert dataset_size == 600
    samples = dataset[:]
    np.testing.assert_array_equal(buffer.observations[:, 0], samples["observation"])
    np.testing.assert_array_equal(buffer.next_observations[:, 0], samples["next_observation"])
    model = DQN(
        "MlpPolicy",
        made.recover_environment(),
        device="cpu",
        seed=0,
        learning_starts=0,
        policy_kwargs={"net_arch": [16]},
    )
    model.replay_buffer = buffer
    model._setup_learn(1)
    before = [p.clone() for p in model.q_net.parameters()]
    model.train(gradient_steps=20, batch_size=64)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.q_net.parameters(), strict=True))


def test_behaviour_is_cloned_from_the_export(tmp_path):
    """A policy that depends on the observation is learnt from the episodes as Minari gives them."""
    dataset = record(tmp_path / "d", "CartPole-v1", 800)
    action = (dataset[:]["observation"] @ np.array([0.0, 1.0, 0.0, 1.0]) > 0).astype(np.int64)
    with SampleWriter(tmp_path / "e", dataset.spec) as writer:
        where = {name: dataset.index(name) for name in ("episode", "step", "seed")}
        writer.append({**dataset[:], "action": action}, **where)
    made = export_minari(SampleDataset(tmp_path / "e"), "cartpole/expert-v0")
    x = torch.as_tensor(np.concatenate([data.observations[:-1] for data in made]))
    y = torch.as_tensor(np.concatenate([data.actions for data in made]))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    assert (network(x).argmax(1) == y).float().mean() > 0.95


# --- recordings


def recorded(path, env, steps, *, infos=(), seed=7, **options):
    """A recording of random actions; of a vector environment whose resets after the first one nobody seeds."""
    env = physgym.Recorder(env, path, infos=infos, every=20, **options)
    vector = isinstance(env, gym.vector.VectorWrapper)
    env.action_space.seed(0)
    env.reset(seed=seed)
    for step in range(steps):
        *_, terminated, truncated, _ = env.step(env.action_space.sample())
        if not vector and (terminated or truncated):
            env.reset(seed=seed + step + 1)
    env.close()
    return SampleDataset(path)


class Lap(gym.Wrapper):
    """Says how far it is, in an info of a number, and of a text."""

    def reset(self, **kwargs):
        self.count = 0
        return self.env.reset(**kwargs)

    def step(self, action):
        self.count += 1
        *result, info = self.env.step(action)
        return *result, {**info, "lap": {"count": self.count}, "at": np.full(2, self.count / 3, np.float32), "on": "ö"}


def in_order(dataset):
    """Rows by episode and step: a vector environment writes them in turn."""
    order = np.lexsort((dataset.index("step"), dataset.index("episode")))
    rows = {name: column[order] for name, column in dataset[:].items()}
    return rows | {f"index/{name}": dataset.index(name)[order] for name in ("episode", "step", "seed", "env")}


def assert_same_rows(one, two):
    assert one.keys() == two.keys()
    for name, column in one.items():
        assert two[name].dtype == column.dtype
        assert two[name].tobytes() == column.tobytes(), name


@pytest.mark.filterwarnings("ignore:.*has no environment.*:UserWarning")
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_a_recording_there_and_back_is_the_same_to_the_bit(tmp_path, data_format):
    if data_format == "arrow":
        pytest.importorskip("pyarrow")
    made = Lap(gym.make("test-minari/Reach-v0"))
    dataset = recorded(tmp_path / "d", made, 40, infos=["at", "on"])
    exported = export_minari(dataset, "test/recorded-v0", data_format=data_format)
    again = import_minari("test/recorded-v0", tmp_path / "e")
    assert again.spec == dataset.spec
    assert [field.to_json() for field in again.spec.values()] == [field.to_json() for field in dataset.spec.values()]
    assert_same_rows(in_order(dataset), in_order(again))
    assert again.source == dataset.source
    assert again.attributes["spaces"] == dataset.attributes["spaces"]
    assert exported.observation_space == made.observation_space
    assert exported.action_space == made.action_space


def test_minari_sees_the_episodes_of_a_recording(tmp_path):
    dataset = recorded(tmp_path / "d", Lap(gym.make("CartPole-v1", max_episode_steps=15)), 60, infos=["at"])
    with pytest.warns(UserWarning, match=r"has no environment, .* CartPole-v1 do not describe one.*module:Class"):
        made = export_minari(dataset, "test/recorded-v0")
    samples, episode = dataset[:], dataset.index("episode")
    assert made.total_steps == 60
    assert made.total_episodes == episode.max() + 1
    assert made.env_spec is None  # a wrapper of one's own has no description
    ends = []
    for number, data in enumerate(made.iterate_episodes()):
        mine = {name: column[episode == number] for name, column in samples.items()}
        np.testing.assert_array_equal(data.observations, mine["observation"])  # the last one included
        assert len(data.observations) == len(data.actions) + 1
        for name, values in (("action", data.actions), ("reward", data.rewards), ("info/at", data.infos["at"][1:])):
            np.testing.assert_array_equal(values, mine[name][:-1], err_msg=name)
        np.testing.assert_array_equal(data.terminations, mine["terminated"][:-1])
        ends.append((bool(data.terminations[-1]), bool(data.truncations[-1])))
        if number < made.total_episodes - 1:
            np.testing.assert_array_equal(data.truncations, mine["truncated"][:-1])
    assert {(True, False), (False, True)} <= set(ends)
    assert ends[-1] == (False, True)  # it was left, of which Minari must say something
    again = in_order(import_minari(made, tmp_path / "e"))
    assert again["truncated"][again["index/episode"] == episode.max()].sum() == 0


def test_a_recording_of_a_vector_environment_and_what_was_cut(tmp_path):
    makers = [lambda: gym.make("Pendulum-v1", max_episode_steps=9)] * 3
    dataset = recorded(tmp_path / "d", gym.vector.SyncVectorEnv(makers), 24)
    made = export_minari(dataset, "test/vector-v0")
    assert_same_rows(in_order(dataset), in_order(import_minari(made, tmp_path / "e")))
    rows = np.arange(len(dataset) - 2)  # as after a kill: the last observations were not written
    killed = export_minari(dataset.subset(rows), "test/killed-v0")
    assert killed.storage.metadata["physgym"]["left_out"] == 2
    assert killed.total_steps == made.total_steps - 2
    with pytest.raises(ConfigError, match="leave fields out"):
        export_minari(dataset, "test/other-v0", fields={"observations": "observation", "actions": "action"})
    bare = import_minari(export_minari(dataset, "test/bare-v0", infos=False), tmp_path / "f")
    assert len(bare.windows(1, 1)) == len(dataset.windows(1, 1))


def test_a_class_that_is_registered_is_the_environment_of_the_export(tmp_path):
    gym.register("test-minari/Class-v0", entry_point=Reach, max_episode_steps=4)
    local = type("Reach", (Reach,), {})
    gym.register("test-minari/Local-v0", entry_point=local)
    try:
        for number, made in enumerate((gym.make("test-minari/Class-v0"), gym.make_vec("test-minari/Class-v0", 2))):
            exported = export_minari(recorded(tmp_path / f"{number}", made, 9), f"test/class-{number}-v0")
            again = exported.recover_environment()
            assert type(again.unwrapped) is Reach
            assert again.spec.max_episode_steps == 4
            again.close()
        name = f"{__name__}:test-minari/Class-v0"
        dataset = recorded(tmp_path / "l", gym.make("test-minari/Local-v0"), 9)
        with pytest.warns(UserWarning, match="has no environment"):
            export_minari(dataset, "test/local-v0")
        named = export_minari(dataset, "test/named-v0", env=name, eval_env=name)
        assert named.env_spec.entry_point == f"{__name__}:Reach"
        assert f"{__name__}:Reach" in named.storage.metadata["eval_env_spec"]
        with pytest.raises(ConfigError, match="env: test-minari/Local-v0 cannot be written down"):
            export_minari(dataset, "test/none-v0", env="test-minari/Local-v0")
        with pytest.raises(ConfigError, match="importing 'no_such_module'"):
            export_minari(dataset, "test/none-v0", env="no_such_module:A-v0")
    finally:
        for name in ("Class", "Local"):
            gym.registry.pop(f"test-minari/{name}-v0")


def test_the_arguments_of_a_vector_environment_come_along(tmp_path):
    made = physgym.make_vec("Pendulum-v1", 2, num_workers=0, g=3.7)
    exported = export_minari(recorded(tmp_path / "d", made, 9), "test/arguments-v0")
    again = exported.recover_environment()
    assert again.unwrapped.g == 3.7
    again.close()


def test_infos_of_our_own_export_have_either_name(tmp_path):
    dataset = recorded(tmp_path / "d", Lap(gym.make("test-minari/Reach-v0")), 9, infos=["at"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = export_minari(dataset, "test/infos-v0")
    for number, name in enumerate(("at", "info/at")):
        assert "info/at" in import_minari(made, tmp_path / f"{number}", infos=[name]).spec
    with pytest.raises(ConfigError, match=r"no infos \['lap'\]; it has \['at'\]"):
        import_minari(made, tmp_path / "e", infos=["lap"])


def test_a_difference_of_order_says_whose_episodes_are_in_turn(tmp_path):
    dataset = recorded(tmp_path / "d", gym.make_vec("Pendulum-v1", 2, max_episode_steps=5), 24)
    again = import_minari(export_minari(dataset, "test/order-v0"), tmp_path / "e")
    found = diff(tmp_path / "d", again.paths[0]).lines
    assert found == (
        "training: the samples that both have are in another order: the first has episodes in turn, as of several "
        "environments, the second episodes one after another",
    )
