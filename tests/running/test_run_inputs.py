"""A person's inputs in runs: recorded as they are made, and repeated to the bit, in process and in workers."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

import physgym
from physgym.data.dataset import SampleDataset
from physgym.envs.spring import Spring
from physgym.errors import ConfigError, DatasetError
from physgym.running.input_record import InputChange, InputRecord, InputWriter, free_name, name_for
from physgym.running.runner import Runner
from physgym.scene.inputs import RECORD
from tests.running.test_runner import spring_predictor
from tests.support.watching import Person

GIVEN = {
    3: [[0, "push", 3.0], [0, "push", 2.5]],
    5: [[0, "stop", True]],
    12: [[0, "push", -1.0]],
    17: [[0, "push", 0.0]],
}
STEPS, LENGTH = 24, 10


def ran(folder, predictor, steps=STEPS, callbacks=(), **options):
    options = {"max_steps": LENGTH, "seed": 3, **options}
    with Runner("physgym/Spring-v0", predictor, record=folder, **options) as runner:
        runner.run(steps, callbacks=callbacks, progress=False)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def samples_of(folder):
    return {name: data for name, data in files_of(folder).items() if name.endswith(".h5")}


def changes_of(folder):
    return [tuple(json.loads(line).values()) for line in (folder / RECORD).read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run with inputs: its folder, its network, and the folder of the same run without inputs."""
    folder, predictor = tmp_path_factory.mktemp("recorded"), spring_predictor()
    with pytest.MonkeyPatch.context() as patch:
        ran(folder / "a", predictor, callbacks=[Person(patch, GIVEN)], view="count")
    ran(folder / "plain", predictor)
    return folder / "a", predictor, folder / "plain"


def test_each_change_is_recorded_with_the_step_at_whose_beginning_it_was_made(recorded):
    folder, _, plain = recorded
    assert changes_of(folder) == [
        (0, 3, "push", 2.5),
        (0, 5, "stop", True),
        (1, 0, "push", 2.5),
        (1, 2, "push", -1.0),
        (1, 7, "push", 0.0),
    ]
    seen, unseen = (SampleDataset(place, mode="prediction") for place in (folder, plain))
    forces = np.array([[dataset[row]["force"][0] for dataset in (seen, unseen)] for row in range(STEPS)])
    added = np.repeat([0.0, 2.5, -1.0, 0.0], [3, 9, 5, 7])
    np.testing.assert_allclose(forces[:, 0], np.clip(forces[:, 1] + added, -5.0, 5.0), rtol=1e-6)
    assert np.array_equal(seen[2]["next_state"], unseen[2]["next_state"])
    assert seen[5]["state"][1] != seen[4]["next_state"][1]


@pytest.mark.parametrize("workers", [None, 0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_record_is_repeated_to_the_bit(tmp_path, recorded, workers):
    folder, predictor, _ = recorded
    ran(tmp_path / "b", predictor, inputs=folder, num_workers=workers)
    assert files_of(tmp_path / "b") == files_of(folder)


def test_a_run_whose_inputs_nobody_uses_is_the_one_without(tmp_path, recorded, monkeypatch):
    _, predictor, plain = recorded
    person = Person(monkeypatch, {})
    ran(tmp_path / "b", predictor, callbacks=[person], view="count")
    assert person.words["inputs"]
    assert samples_of(tmp_path / "b") == samples_of(plain)
    assert not (tmp_path / "b" / RECORD).exists()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_inputs_to_simulations_in_workers_are_recorded_where_they_were_made(tmp_path, recorded, monkeypatch, workers):
    _, predictor, _ = recorded
    given = {2: [[0, "push", 2.0], [1, "push", -2.0]], 20: [[0, "stop", True]]}
    person = Person(monkeypatch, given)
    options = {"num_envs": 2, "view": "count", "num_workers": workers, "timeout": 60}
    ran(tmp_path / "a", predictor, steps=200, callbacks=[person], **options)
    if (tmp_path / "a" / RECORD).exists():  # else the workers were through before they heard of it
        assert {change[2] for change in changes_of(tmp_path / "a")} <= {"push", "stop"}
        ran(tmp_path / "b", predictor, steps=200, inputs=tmp_path / "a")
        assert files_of(tmp_path / "b") == files_of(tmp_path / "a")
    assert workers or (tmp_path / "a" / RECORD).exists()


def test_a_run_that_is_continued_makes_its_inputs_again(tmp_path, recorded):
    folder, predictor, _ = recorded
    ran(tmp_path / "b", predictor, steps=6, inputs=_cut(folder, tmp_path / "first", 2))
    ran(tmp_path / "b", predictor, steps=4, resume=True)
    ran(tmp_path / "c", predictor, steps=10, inputs=tmp_path / "first")
    assert samples_of(tmp_path / "b") == samples_of(tmp_path / "c")
    with pytest.raises(ConfigError, match="had other inputs than those of"):
        ran(tmp_path / "b", predictor, steps=2, resume=True, inputs=folder)


def _cut(folder, file, changes):
    """Write the first changes of a record to a file, with half a line behind them."""
    lines = (folder / RECORD).read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: 1 + changes]) + lines[-1][:20])
    return file


def test_a_continued_run_adds_to_its_record(tmp_path, recorded, monkeypatch):
    folder, predictor, _ = recorded
    ran(tmp_path / "b", predictor, steps=6, inputs=_cut(folder, tmp_path / "first", 2))
    with (tmp_path / "b" / RECORD).open("a") as stream:
        stream.write('{"episode": 0, "st')  # of a process that was killed
    person = Person(monkeypatch, {2: [[0, "push", 1.5]]})
    ran(tmp_path / "b", predictor, steps=6, resume=True, callbacks=[person], view="count")
    assert changes_of(tmp_path / "b")[:3] == [(0, 3, "push", 2.5), (0, 5, "stop", True), (0, 8, "push", 1.5)]
    ran(tmp_path / "c", predictor, steps=12, inputs=tmp_path / "b")
    assert samples_of(tmp_path / "b") == samples_of(tmp_path / "c")


def test_a_replay_with_the_solver_makes_the_inputs_again(recorded):
    folder, predictor, _ = recorded
    dataset = SampleDataset(folder, mode="prediction")
    with Runner("physgym/Spring-v0", predictor, inputs=folder) as runner:
        assert runner.run(replay=dataset, solver=True, progress=False).steps == STEPS
    with Runner("physgym/Spring-v0", predictor) as runner, pytest.raises(DatasetError, match="with a person's inputs"):
        runner.run(replay=dataset, solver=True, progress=False)


def altered(folder, file, change=None, head=()):
    """Write a record with another head, or one change more."""
    first, *lines = (folder / RECORD).read_text().splitlines()
    found = json.loads(first)
    for keys, value in head:
        place = found
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value
    more = [] if change is None else [change if isinstance(change, str) else json.dumps(change)]
    file.write_text("\n".join([json.dumps(found), *lines, *more, ""]))
    return file


def change(**keys):
    return {"episode": 1, "step": 1, "name": "push", "value": 1.0} | keys


@pytest.mark.parametrize(
    ("more", "head", "text"),
    [
        (change(name="pull"), (), "the simulation has no input 'pull'; it has push, stop"),
        (change(value=5.1), (), "the slider 'push' goes from -5 to 5, and is not 5.1"),
        (change(value=None), (), "the slider 'push' goes from -5 to 5, and is not None"),
        (change(name="stop", value=0), (), "the button 'stop' is pressed"),
        (change(step=10), (), "there is no such step, episodes have at most 10"),
        (change(step=-1), (), "there is no step -1"),
        (change(episode=1.5), (), "there is no episode 1.5"),
        (change(more=1), (), "line 7: it is no change of an input"),
        ("{", (), "line 7: it is no change of an input"),
        ("[1, 2]", (), "line 7: it is no change of an input"),
        (None, [(("format",), "x")], "is no record of inputs: its first line does not say so"),
        (None, [(("source",), 5)], "is no record of inputs"),
        (None, [(("version",), 2)], "of version 2, this physgym reads 1"),
        (None, [(("source", "env"), "physgym/Beam-v0")], "has the inputs to another simulation, physgym/Beam-v0"),
        (None, [(("source", "env_kwargs"), {"max_force": 2.0})], "has the inputs to another simulation"),
        (None, [(("source", "seed"), 4)], "in a run with seed 4, and this one has 3: its episodes are others"),
        (None, [(("source", "max_steps"), 50)], "in a run with max_steps 50, and this one has 10"),
        (None, [(("code", "modules", "physgym.envs.spring"), "0" * 64)], "module physgym.envs.spring has changed"),
    ],
)
def test_a_record_that_does_not_fit_is_one_clear_error(tmp_path, recorded, more, head, text):
    folder, predictor, _ = recorded
    file = altered(folder, tmp_path / "record", more, head)
    with pytest.raises(ConfigError, match=re.escape(text)):
        ran(tmp_path / "b", predictor, inputs=file)
    assert not samples_of(tmp_path / "b") if (tmp_path / "b").exists() else True


def test_there_must_be_a_record(tmp_path, recorded):
    _, predictor, _ = recorded
    for file in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="there is no record of inputs"):
            ran(tmp_path / "b", predictor, inputs=file)
    with pytest.raises(ConfigError, match="inputs= repeats what a person changed in a simulation, and there is none"):
        Runner(None, predictor, inputs=tmp_path)


def test_a_step_after_the_end_of_its_episode_ends_the_run(tmp_path, recorded):
    """An episode that ends before is one of another run; one that the run does not reach is said."""
    folder, predictor, _ = recorded
    file = altered(folder, tmp_path / "record", change(episode=0, step=9))
    with pytest.warns(
        UserWarning, match="3 changes of the record of inputs were not made: the first one belongs to step 0"
    ):
        ran(tmp_path / "b", predictor, steps=10, inputs=file)
    options = {"env_kwargs": {"max_episode_steps": 8}}
    head = [(("source", "env_kwargs"), options["env_kwargs"])]
    file = altered(folder, tmp_path / "other", change(episode=0, step=9), head)
    with pytest.raises(
        ConfigError, match="has 'push' at step 9 of episode 0, which there is not: the episode has 8 steps"
    ):
        ran(tmp_path / "c", predictor, inputs=file, **options)


def test_another_network_is_said(tmp_path, recorded):
    folder, _, _ = recorded
    with pytest.warns(UserWarning, match="was made with another network next to the solver"):
        ran(tmp_path / "b", spring_predictor(), inputs=folder)
    fields = [
        {name: SampleDataset(place, mode="prediction")[7][name] for name in ("force", "next_state")}
        for place in (folder, tmp_path / "b")
    ]
    assert all(np.array_equal(fields[0][name], fields[1][name]) for name in fields[0])


def test_without_a_place_for_them_no_inputs_are_offered(recorded, monkeypatch):
    _, predictor, _ = recorded
    person = Person(monkeypatch, {})
    with Runner("physgym/Spring-v0", predictor, view="count") as runner:
        runner.run(3, callbacks=[person], progress=False)
    assert not person.words["inputs"]


def test_inputs_are_kept_in_a_file_of_ones_own(tmp_path, recorded, monkeypatch):
    _, predictor, _ = recorded
    person = Person(monkeypatch, {1: [[0, "push", 1.0]]})
    with Runner("physgym/Spring-v0", predictor, view="count", record_inputs=tmp_path / "mine") as runner:
        assert runner.kept_inputs is None
        runner.run(3, callbacks=[person], progress=False)
        assert runner.kept_inputs == tmp_path / "mine"
    assert InputRecord.read(tmp_path / "mine").changes == (InputChange(0, 1, "push", 1.0),)


def test_a_run_is_continued_with_the_inputs_of_a_file_of_ones_own(tmp_path, recorded, monkeypatch):
    _, predictor, _ = recorded
    own = {"record_inputs": tmp_path / "mine"}
    person = Person(monkeypatch, {2: [[0, "push", 2.0]]})
    ran(tmp_path / "a", predictor, steps=6, callbacks=[person], view="count", **own)
    ran(tmp_path / "a", predictor, steps=4, resume=True, **own)
    ran(tmp_path / "b", predictor, steps=10, inputs=tmp_path / "mine")
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "b")
    with pytest.raises(DatasetError, match="which is there already"):
        ran(tmp_path / "c", predictor, steps=4, inputs=tmp_path / "mine", **own)
    assert name_for(tmp_path, "s3://bucket/a") != name_for(tmp_path, "s3://bucket/b")


def test_a_record_never_takes_the_place_of_another_one(tmp_path):
    assert free_name(tmp_path) == tmp_path / RECORD
    for name in (RECORD, "inputs-2.jsonl"):
        (tmp_path / name).touch()
    assert free_name(tmp_path) == tmp_path / "inputs-3.jsonl"
    writer = InputWriter(tmp_path / RECORD, {}, None)
    with pytest.raises(DatasetError, match=r"cannot be recorded in .*: File exists"):
        writer.add(InputChange(0, 0, "push", 1.0))
    writer.close()


class Mortal(Spring):
    """Dies once in a step of its first episode, in the worker."""

    marker = ""

    def __init__(self, marker, **arguments):
        super().__init__(**arguments)
        self.marker, self.steps = Path(marker), 0

    def begin(self, options):
        super().begin(options)
        self.steps = 0

    def advance(self, action):
        super().advance(action)
        self.steps += 1
        time.sleep(0.02)
        if self.steps == 150 and not self.marker.exists():
            self.marker.touch()
            os._exit(1)


@pytest.mark.slow
def test_a_worker_that_is_started_again_makes_the_inputs_again(tmp_path, recorded, monkeypatch):
    _, predictor, _ = recorded
    options = {"max_steps": 200, "seed": 3, "env_kwargs": {"marker": str(tmp_path / "died")}}
    person = Person(monkeypatch, {10: [[0, "push", 2.0]], 60: [[0, "push", 1.0]]})
    workers = {"num_workers": 1, "on_error": "restart", "view": "count", "timeout": 60}
    with Runner(Mortal, predictor, record=tmp_path / "a", **options, **workers) as runner:
        runner.run(180, callbacks=[person], progress=False)
    assert (tmp_path / "died").exists()
    made = changes_of(tmp_path / "a")
    assert [change[2:] for change in made] == [("push", 2.0), ("push", 1.0)]
    with Runner(Mortal, predictor, record=tmp_path / "b", inputs=tmp_path / "a", **options) as runner:
        runner.run(180, progress=False)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_a_network_in_place_of_the_solver_takes_inputs_too(tmp_path, recorded, monkeypatch):
    _, predictor, _ = recorded
    person = Person(monkeypatch, {3: [[0, "push", 2.0]]})
    ran(tmp_path / "a", predictor, steps=8, callbacks=[person], view="count", surrogate=True)
    assert changes_of(tmp_path / "a") == [(0, 3, "push", 2.0)]
    ran(tmp_path / "b", predictor, steps=8, inputs=tmp_path / "a", surrogate=True)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    ran(tmp_path / "c", predictor, steps=8, surrogate=True)
    assert samples_of(tmp_path / "a") != samples_of(tmp_path / "c")


def test_a_step_that_a_person_changed_is_not_reopened_alone(recorded):
    folder, _, _ = recorded
    with pytest.raises(ConfigError, match="a person changed inputs of the simulation while these samples were made"):
        physgym.reopen(SampleDataset(folder, mode="prediction"), 0, 4)


class Hasty(Person):
    """Gives inputs before the first step."""

    def prediction_begin(self, runner):
        self.steps = -1
        self.sample_end(runner, None)


@pytest.mark.parametrize("workers", [None, 0])
def test_a_person_changes_nothing_in_steps_that_a_continued_run_makes_again(tmp_path, recorded, monkeypatch, workers):
    folder, predictor, _ = recorded
    ran(tmp_path / "a", predictor, steps=6, inputs=_cut(folder, tmp_path / "first", 2), num_workers=workers)
    hasty = Hasty(monkeypatch, {0: [[0, "push", -2.0]]})
    ran(tmp_path / "a", predictor, steps=6, resume=True, callbacks=[hasty], view="count", num_workers=workers)
    assert changes_of(tmp_path / "a")[2] == (0, 6, "push", -2.0)
    ran(tmp_path / "b", predictor, steps=12, inputs=tmp_path / "a")
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "b")


def test_a_replay_between_two_runs_leaves_a_persons_inputs_as_they_are(tmp_path, recorded, monkeypatch):
    _, predictor, _ = recorded
    person = Person(monkeypatch, {2: [[0, "push", 2.0]], 4: [[0, "stop", True]]})
    options = {"max_steps": LENGTH, "seed": 3, "record_inputs": tmp_path / "mine"}
    with Runner("physgym/Spring-v0", predictor, view="count", **options) as runner:
        runner.run(6, callbacks=[person], progress=False)
        runner._simulation.stop()  # as a replay does
        states = [step.fields["next_state"] for step, _ in zip(runner.steps(), range(2), strict=False)]
    options = {"max_steps": LENGTH, "seed": 3, "inputs": tmp_path / "mine"}
    with Runner("physgym/Spring-v0", predictor, **options) as runner:
        again = [step.fields["next_state"] for step, _ in zip(runner.steps(), range(8), strict=False)]
    np.testing.assert_array_equal(states, again[6:])


@pytest.mark.parametrize("workers", [None, 0])
def test_a_slider_stays_where_it_is_for_other_arguments(tmp_path, recorded, monkeypatch, workers):
    _, predictor, _ = recorded
    options = {"env_kwargs": [{}, {"simulations_per_step": 2}], "num_workers": workers}
    person = Person(monkeypatch, {4: [[0, "push", 2.0]]})
    ran(tmp_path / "a", predictor, steps=40, callbacks=[person], view="count", **options)
    assert changes_of(tmp_path / "a")[-2:] == [(2, 0, "push", 2.0), (3, 0, "push", 2.0)]
    ran(tmp_path / "b", predictor, steps=40, inputs=tmp_path / "a", **options)
    assert samples_of(tmp_path / "a") == samples_of(tmp_path / "b")


def test_a_run_that_is_continued_without_its_inputs_says_so(tmp_path, recorded):
    folder, predictor, _ = recorded
    ran(tmp_path / "a", predictor, steps=8, inputs=_cut(folder, tmp_path / "first", 2))
    (tmp_path / "a" / RECORD).unlink()
    with pytest.warns(UserWarning, match="its last step is not repeated: step 7 of episode 0: .* A person's inputs"):
        ran(tmp_path / "a", predictor, steps=1, resume=True)
