"""Parts of datasets: seeds of their own, and what is said where two of them have episodes in common."""

from __future__ import annotations

import functools
import json
import warnings

import gymnasium
import h5py
import numpy as np
import pytest

from physgym import SampleDataset, generate
from physgym.data import SampleWriter
from physgym.data.provenance import overlaps, overlaps_with_stream
from physgym.data.stream_origin import origin_of
from physgym.episode import episode_seed, part_seed
from physgym.errors import ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.record import read_record
from physgym.experiment.runs import train
from physgym.generation.sample_source import SampleSource
from physgym.generation.stream import SampleStream
from physgym.nn import MLP
from physgym.registration import defaults_of
from physgym.runner import Runner
from physgym.sample import Field, SampleSpec
from physgym.training import Trainer
from tests.support import toys


def make(folder, samples=12, **more):
    return generate(toys.Line, folder, samples=samples, num_workers=1, progress=False, **more)


def test_the_seeds_of_a_part_follow_from_run_and_part():
    parts = ("training", "validation", "test", "prediction", "evaluation")
    seeds = {part: part_seed(5, part) for part in parts}
    assert seeds["training"] == 5
    assert len(set(seeds.values())) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    assert {part_seed(5, part, rule=1) for part in parts} == {5}
    # written numbers: datasets depend on them
    assert part_seed(0, "validation") == 5159804436923125699
    with pytest.raises(ConfigError, match="must be one of"):
        part_seed(5, "others")
    with pytest.raises(ConfigError, match="rule 3"):
        part_seed(5, "training", rule=3)


@pytest.mark.slow
def test_a_part_from_before_goes_on_with_its_seeds_and_its_source(tmp_path):
    make(tmp_path / "d", 8, mode="validation", seed=3)
    file = tmp_path / "d" / "validation-00000.h5"
    old = make(tmp_path / "old", 8, seed=3)  # of training: the seeds that all parts had
    assert old.source["seeds"]["rule"] == 2
    with SampleStream(toys.Line, path=tmp_path / "d", mode="validation", seed=3, resume=True, num_workers=1) as stream:
        assert stream.source["seeds"] == {"part": "validation", "rule": 2}
    with h5py.File(file, "r+") as stored:  # as an older physgym wrote it
        source = json.loads(stored.attrs["source"])
        del source["seeds"]
        stored.attrs["source"] = json.dumps(source, sort_keys=True)
    described = json.loads((tmp_path / "d" / "dataset.json").read_text())
    del described["modes"]["validation"]["source"]["seeds"]
    (tmp_path / "d" / "dataset.json").write_text(json.dumps(described))
    with SampleStream(toys.Line, path=tmp_path / "d", mode="validation", seed=3, resume=True, num_workers=1) as stream:
        assert "seeds" not in stream.source
        assert stream.episode_seed(7) == episode_seed(3, 7)


@pytest.mark.slow
def test_what_two_datasets_have_in_common_is_said(tmp_path):
    training = make(tmp_path / "a", 20)
    same, other, part = (
        make(tmp_path / "b", 12), make(tmp_path / "c", 12, seed=1), make(tmp_path / "a", 12, mode="validation"),
    )  # fmt: skip
    assert "3 of the 3 episodes of the first are among those of the second" in overlaps(same, training)
    assert overlaps(other, training) == overlaps(part, training) == ""
    network = MLP.from_spec(training.spec, hidden=(4,))
    with pytest.warns(UserWarning, match="3 of the 3 episodes of the validation samples are among those of the train"):
        Trainer(network, training, validation=same, epochs=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(network, training, validation=part, epochs=1, progress=False)
    with SampleStream(toys.Line, num_workers=1) as stream, pytest.warns(UserWarning, match="that are produced"):
        Trainer(
            network, source=stream, produce="always", batches_per_epoch=1, validation=same, epochs=1, progress=False
        )


class Scaled(toys.Line):
    def __init__(self, gain=1.0, render_mode=None):
        super().__init__(render_mode=render_mode)
        self.gain = gain

    def make_sample(self, action):
        return {**super().make_sample(action), "y": self.gain * action.astype(np.float64)}


class Same(Scaled):
    pass


SPELLED = {
    "id": lambda: "Scaled-v0",
    "id behind a module": lambda: "tests.support.toys:Scaled-v0",
    "spec": lambda: gymnasium.spec("Scaled-v0"),
    "lambda": lambda: lambda: Scaled(),
    "partial": lambda: functools.partial(Scaled, gain=1.0),
    "make": lambda: lambda: gymnasium.make("Scaled-v0"),
    "limit": lambda: lambda: gymnasium.wrappers.TimeLimit(Scaled(), 3),
    "subclass": lambda: Same,
}


@pytest.mark.slow
def test_however_a_simulation_is_spelled_its_episodes_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setitem(gymnasium.registry, "Scaled-v0", gymnasium.envs.registration.EnvSpec("Scaled-v0", Scaled))
    other = gymnasium.envs.registration.EnvSpec("Doubled-v0", Scaled, kwargs={"gain": 2.0})
    monkeypatch.setitem(gymnasium.registry, "Doubled-v0", other)
    options = {"samples": 8, "num_workers": 0, "progress": False}
    first = generate(Scaled, tmp_path / "first", **options)
    doubled = generate(Scaled, tmp_path / "doubled", env_kwargs={"gain": 2.0}, **options)
    for name, make in SPELLED.items():
        found = generate(make(), tmp_path / name, **options)
        count = 3 if name == "limit" else 2
        assert overlaps(found, first).startswith(f"2 of the {count} episodes"), name
        assert overlaps(first, found).startswith("2 of the 2 episodes"), name
        assert not overlaps(found, doubled), name
    assert overlaps(generate("Doubled-v0", tmp_path / "v2", **options), doubled).startswith("2 of the 2")
    assert not overlaps(SampleDataset(tmp_path / "v2"), first)
    with SampleStream("Scaled-v0", num_workers=0) as stream:
        assert overlaps_with_stream(first, stream).startswith("2 of the 2")
        assert not overlaps_with_stream(doubled, stream)


def test_parameters_that_both_drew_are_said(tmp_path):
    first, second = (
        generate(
            toys.Tuned, tmp_path / str(seed), samples=12, num_workers=1, progress=False, parameters="grid:2", seed=seed
        )
        for seed in (0, 1)
    )
    assert not set(first.index("seed").tolist()) & set(second.index("seed").tolist())
    assert "have the parameters of episodes" in overlaps(first, second)


def several(folder, arguments=None, kind=toys.Tuned, **more):
    return generate(kind, folder, samples=12, env_kwargs=arguments, num_workers=0, max_steps=2, progress=False, **more)


class Gain(toys.Line):
    """A simulation with an argument of its own, beside those of its base class."""

    def __init__(self, gain=1.0, offset=(0, 1), **more):
        super().__init__(**more)
        self.gain, self.offset = gain, offset


@pytest.mark.slow
def test_defaults_that_are_written_out_hide_no_overlap(tmp_path):
    plain = several(tmp_path / "plain", kind=Gain)
    for number, alike in enumerate(
        [
            {"gain": 1.0},
            {"gain": 1},
            {"gain": np.float32(1)},
            {"offset": (0, 1)},
            {"offset": [0, 1], "render_mode": None},
        ]
    ):
        text = overlaps(plain, several(tmp_path / str(number), alike, kind=Gain))
        assert "6 of the 6 episodes of the first are among those of the second" in text
    assert overlaps(plain, several(tmp_path / "other", {"gain": 2.0}, kind=Gain)) == ""
    spring = generate("physgym/Spring-v0", tmp_path / "s", samples=4, num_workers=0, max_steps=2, progress=False)
    assert defaults_of("physgym/Spring-v0").items() >= {"time_step": 0.1}.items()
    assert overlaps(
        spring,
        generate(
            "physgym/Spring-v0", tmp_path / "t", samples=4, num_workers=0, max_steps=2, env_kwargs={"time_step": 0.1},
            progress=False,
        ),
    )  # fmt: skip


def test_arguments_by_episode_hide_no_overlap(tmp_path):
    plain = several(tmp_path / "plain", kind=Gain)
    mixed = several(tmp_path / "mixed", [{"gain": 2.0}, {"gain": 1.0}, {}], kind=Gain)
    assert "4 of the 6 episodes of the first" in overlaps(mixed, plain)
    assert "4 of the 6 episodes of the first" in overlaps(plain, mixed)
    assert "6 of the 6" in overlaps(mixed, several(tmp_path / "again", [{"gain": 2}, {}, {"gain": 1}], kind=Gain))
    assert "2 of the 6" in overlaps(mixed, several(tmp_path / "two", [{"gain": 1.0}, {"gain": 3.0}], kind=Gain))
    network = MLP.from_spec(plain.spec, hidden=())
    options = {"produce": "always", "batches_per_epoch": 1, "epochs": 1, "progress": False}
    kwargs = [{"gain": 1.0}, {"gain": 2.0}]
    said = pytest.warns(UserWarning, match="3 of the 6 episodes of the validation samples")
    with SampleStream(Gain, num_workers=0, max_steps=2, env_kwargs=kwargs) as stream, said:
        Trainer(network, source=stream, validation=plain, **options)


def test_a_record_of_before_has_no_defaults_and_its_resume_adds_no_run(tmp_path):
    several(tmp_path / "d", kind=Gain)
    file = tmp_path / "d" / "dataset.json"
    stored = json.loads(file.read_text())
    assert stored["modes"]["training"]["provenance"]["runs"][0].pop("defaults") == {
        "gain": 1.0, "offset": [0, 1], "render_mode": None,
    }  # fmt: skip
    file.write_text(json.dumps(stored))
    again = generate(Gain, tmp_path / "d", samples=16, num_workers=0, max_steps=2, progress=False, resume=True)
    assert len(again.provenance["runs"]) == 1


class Loads(Gain):
    """The same from stored samples."""

    def load_sample(self, sample):
        return np.zeros(self.action_space.shape, self.action_space.dtype)


def test_loaded_samples_are_the_episodes_that_they_were(tmp_path):
    training = several(tmp_path / "d", kind=Loads)
    with pytest.warns(UserWarning, match="its part training are among those of the part validation gets by loading"):
        copied = several(tmp_path / "d", kind=Loads, load=training, mode="validation")
    assert "6 of the 6" in overlaps(copied, training)
    with pytest.warns(UserWarning, match="samples of the part training are loaded and made again as part test"):
        elsewhere = several(tmp_path / "e", {"gain": 2.0}, kind=Loads, load=training, mode="test")
    assert "6 of the 6" in overlaps(elsewhere, training)  # other arguments, but the episodes that were loaded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        several(tmp_path / "f", kind=Loads, load=training)
        several(tmp_path / "d", kind=Loads, mode="test")


def test_a_run_of_what_was_trained_on_is_said(tmp_path):
    training, fresh = several(tmp_path / "d", kind=Loads), several(tmp_path / "f", kind=Loads, seed=1)
    network = MLP.from_spec(training.spec, hidden=())
    Trainer(network, training, epochs=1, session=tmp_path / "s", progress=False).fit()
    with Runner(Loads, tmp_path / "s", max_steps=2, env_kwargs={"gain": 1.0}, part="training") as runner:
        with pytest.warns(
            UserWarning, match="6 episodes of the samples that the network was trained on are drawn again"
        ):
            runner.run(2, progress=False)
        with pytest.warns(UserWarning, match="6 of the 6 episodes of the replayed samples are among those of the sam"):
            runner.run(replay=training, progress=False)
    with pytest.warns(UserWarning, match="replayed samples"), Runner(None, tmp_path / "s") as runner:
        runner.run(replay=training, progress=False)
    said = pytest.warns(UserWarning, match="6 of the 6 episodes of the loaded samples")
    with Runner(Loads, tmp_path / "s", max_steps=2, load=training) as runner, said:
        runner.run(2, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Runner(Loads, tmp_path / "s", max_steps=2) as runner:
            runner.run(2, progress=False)
            runner.run(replay=fresh, progress=False)


@pytest.mark.slow
def test_the_validation_part_validates(tmp_path):
    folder = tmp_path / "d"
    make(folder, 20)
    make(folder, 12, mode="validation")
    data = {
        "session": str(tmp_path / "s"),
        "dataset": {"path": str(folder), "samples": None},
        "network": {"arguments": {"hidden": [4]}},
        "training": {"epochs": 1},
    }
    validating = SampleDataset(folder, mode="validation")
    for validation in ({}, {"path": str(folder)}):
        outcome = train(check_config({**data, "validation": validation}, "the test"))
        np.testing.assert_array_equal(outcome.trainer.validation.index("seed"), validating.index("seed"))
        assert len(outcome.trainer.training) == 20
        run = read_record(outcome.session)["runs"][0]
        assert run["others"]["validation"]["hash"] != run["dataset"]["hash"]
    outcome = train(check_config({**data, "validation": {"fraction": 0}}, "the test"))
    assert outcome.trainer.validation is None


def test_the_two_sides_of_a_split_have_nothing_in_common(tmp_path):
    dataset = generate(
        toys.Tuned, tmp_path / "d", samples=40, num_workers=1, progress=False, parameters="sobol", max_steps=4
    )
    training, validation = dataset.split(0.3, seed=0)
    assert overlaps(validation, training) == ""


def trained(dataset, **more):
    return Trainer(MLP.from_spec(dataset.spec, hidden=(4,)), dataset, epochs=1, progress=False, **more)


def test_a_fraction_of_folders_with_equal_episodes_is_warned_about(tmp_path):
    one, other, alike = (several(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1), ("c", 0)))
    joined = SampleDataset([one.paths[0], alike.paths[0]])
    with pytest.warns(UserWarning, match="episodes of the validation samples are among those of the training samples"):
        trained(joined, validation=0.4)
    for dataset in (one, SampleDataset([one.paths[0], other.paths[0]])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            trained(dataset, validation=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(joined, validation=None)


def test_a_fraction_of_one_folder_is_not_looked_at(tmp_path, monkeypatch):
    dataset = several(tmp_path / "a")
    monkeypatch.setattr("physgym.data.provenance.overlaps", lambda *_: pytest.fail("it costs time"))
    trained(dataset, validation=0.4)


def test_episodes_of_one_folder_are_the_same_whatever_is_known_of_it(tmp_path):
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input"), Field("y", (2,), np.dtype("f4"), "target")])
    for name in ("a", "b"):
        with SampleWriter(tmp_path / name, spec) as writer:  # which says nothing of a simulation
            values = np.arange(24, dtype="f4").reshape(12, 2)
            writer.append(
                {"x": values, "y": values},
                episode=np.arange(12) // 2,
                step=np.arange(12) % 2,
                seed=np.zeros(12, np.uint64),
            )
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "a")
    for paths in ([tmp_path / "a"] * 2, [tmp_path / "a", tmp_path / "b", link]):
        with pytest.warns(UserWarning, match=f"of the training samples: both are read from {tmp_path / 'a'}"):
            trained(SampleDataset(paths), validation=0.5)
    whole = SampleDataset(tmp_path / "a")
    with pytest.warns(UserWarning, match="6 of the 6 episodes of the validation samples are among those of the train"):
        trained(whole, validation=whole)
    training, held_out = whole.split(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(training, validation=held_out)
        trained(whole, validation=SampleDataset(tmp_path / "b"))


def test_a_source_of_ones_own_need_not_say_where_its_samples_come_from(tmp_path):
    class Own(SampleSource):
        spec = SampleSpec([Field("x", (1,), np.dtype("f4"), "input")])

        def draw(self, batch_size):
            return {"x": np.zeros((batch_size, 1), np.float32)}

    class Around(Own):
        def __init__(self, stream):
            self._stream = stream

        @property
        def origin(self):
            return self._stream

    dataset = generate(toys.Line, tmp_path / "a", samples=8, seed=3, num_workers=0, progress=False)
    with SampleStream(toys.Line, seed=3, num_workers=0) as stream:
        assert origin_of(stream) is stream
        assert overlaps_with_stream(dataset, Own()) == overlaps_with_stream(dataset, np.zeros(3)) == ""
        assert overlaps_with_stream(dataset, Around(stream)) == overlaps_with_stream(dataset, stream) != ""
