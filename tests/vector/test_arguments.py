"""Different arguments: one of a list for each environment, or, where a dataset is made, for each episode in turn."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import physgym
from physgym import generate
from physgym.errors import ConfigError, DatasetError, SampleError, UnequalSpaces
from physgym.experiment.config import check_config
from physgym.experiment.runs import generate_samples, train
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Predictor
from physgym.runner import RolloutEvaluation, Runner, SurrogateVectorEnv
from physgym.sample import SampleSpec
from physgym.vector import SocketVectorEnv
from tests.support.gains import Counting, Gain, Indexed, Weighed
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here

LIST = [{"gain": 1.0}, {"gain": 2.0}, {"gain": 3.0}]
QUICK = {"progress": False, "num_workers": 0}


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).glob("*.h5")}


def column(dataset, name):
    return dataset.read(0, len(dataset), [name])[name]


def network(spec=None):
    spec = spec or SampleSpec.from_env(Gain())
    return Predictor(MLP.from_spec(spec, hidden=(4,)), spec)


@pytest.mark.slow
def test_an_episode_has_arguments_of_its_own_whatever_runs_it(tmp_path):
    for place, (workers, envs) in enumerate([(0, None), (0, 4), (2, 5)]):
        options = {"samples": 40, "num_workers": workers, "num_envs": envs, "progress": False, "actions": "sobol"}
        dataset = generate("toy/Gain-v0", tmp_path / f"{place}", env_kwargs=LIST, **options)
        np.testing.assert_array_equal(column(dataset, "gain"), 1.0 + dataset.episodes % 3)
        assert digest(tmp_path / f"{place}") == digest(tmp_path / "0")
    assert dataset.source["env_kwargs"] == LIST


def test_a_resume_compares_the_list(tmp_path):
    options = {**QUICK, "resume": True}
    generate(Gain, tmp_path / "d", samples=10, env_kwargs=LIST, **options)
    for other in (LIST[:2], LIST[::-1], LIST[0]):
        with pytest.raises(DatasetError, match="env_kwargs"):
            generate(Gain, tmp_path / "d", samples=20, env_kwargs=other, **options)
    generate(Gain, tmp_path / "d", samples=20, env_kwargs=tuple(LIST), **options)
    generate(Gain, tmp_path / "whole", samples=20, env_kwargs=LIST, **QUICK)
    parts = [physgym.SampleDataset(tmp_path / name) for name in ("d", "whole")]
    np.testing.assert_array_equal(*(column(part, "y") for part in parts))


def test_a_list_of_one_is_no_list(tmp_path):
    generate(Gain, tmp_path / "d", samples=10, env_kwargs=[{"gain": 2.0}], **QUICK)
    dataset = generate(Gain, tmp_path / "d", samples=20, env_kwargs={"gain": 2.0}, resume=True, **QUICK)
    assert dataset.source["env_kwargs"] == {"gain": 2.0}


def test_a_stream_goes_on_with_the_same_list_alone():
    with SampleStream(Gain, env_kwargs=LIST, num_workers=0) as stream:
        stream.draw(7)
        state, expected = stream.state_dict(), stream.draw(9)
    with SampleStream(Gain, env_kwargs=LIST, num_workers=1) as stream:
        stream.load_state_dict(json.loads(json.dumps(state)))
        np.testing.assert_array_equal(stream.draw(9)["y"], expected["y"])
    with SampleStream(Gain, env_kwargs=LIST[:2], num_workers=0) as stream, pytest.raises(ConfigError, match="same"):
        stream.load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("changed", [{"size": 3}, {"wide": 8.0}, {"top": 8.0}])
def test_arguments_that_change_a_space_are_an_error_before_the_first_episode(tmp_path, changed, workers):
    begun = tmp_path / "begun"
    arguments = [{"begun": str(begun)}, {"begun": str(begun)}, {"begun": str(begun), **changed}]
    with pytest.raises(UnequalSpaces, match="must not change its spaces"):
        generate(Gain, tmp_path / "d", samples=9, num_workers=workers, env_kwargs=arguments, progress=False)
    with pytest.raises(UnequalSpaces, match="arguments 2 give"):
        Runner(Gain, network(), env_kwargs=arguments)
    assert not begun.exists()
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("wrong", ["gain", [], [1], [{1: 2}], 3, [{}, None]])
@pytest.mark.parametrize("make", [generate, Runner, RolloutEvaluation])
def test_what_is_no_list_of_arguments_is_refused(tmp_path, make, wrong):
    second = {generate: tmp_path / "d", Runner: network()}.get(make, 1)
    with pytest.raises(ConfigError, match="env_kwargs"):
        make(Gain, second, env_kwargs=wrong, **({"samples": 1} if make is generate else {}))


def test_a_wrong_name_says_in_which_arguments(tmp_path):
    with pytest.raises(ConfigError, match=r"arguments 1 of 2: .*no argument 'gian'; did you mean 'gain'"):
        generate("toy/Gain-v0", tmp_path / "d", samples=9, env_kwargs=[{}, {"gian": 1}], **QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", [False, True])
def test_a_runner_has_the_arguments_of_generation(tmp_path, surrogate):
    options = {"env_kwargs": LIST, "seed": 3, "surrogate": surrogate}
    predictor, records = network(), []
    for place, more in enumerate([{}, {"num_workers": 2, "num_envs": 3}]):
        with Runner(Gain, predictor, record=tmp_path / f"{place}", **options, **more) as runner:
            runner.run(12, progress=False)
            runner.run(8, progress=False)
        records.append(physgym.SampleDataset(tmp_path / f"{place}", mode="prediction"))
        np.testing.assert_array_equal(column(records[-1], "gain"), 1.0 + records[-1].episodes % 3)
        assert records[-1].source["env_kwargs"] == LIST
        for name in ("x", "prediction/y"):
            np.testing.assert_array_equal(column(records[-1], name), column(records[0], name))


def test_a_replay_has_the_arguments_of_each_stored_episode(tmp_path):
    dataset = generate(Gain, tmp_path / "d", samples=24, env_kwargs=LIST, **QUICK)
    some = dataset.subset(np.flatnonzero(np.isin(dataset.episodes, [1, 2, 4, 7])))
    with Runner(Gain, network(), env_kwargs=LIST) as runner:
        steps = [step.transition.sample["gain"] for step in runner.replay(some, solver=True)]
        np.testing.assert_array_equal(steps, column(some, "gain"))
        runner.run(4, progress=False)
    for wrong in (LIST[:2], LIST[0]):
        with Runner(Gain, network(), env_kwargs=wrong) as runner, pytest.raises(DatasetError, match="3 different arg"):
            list(runner.replay(dataset, solver=True))


def test_an_evaluation_has_the_arguments_of_each_episode():
    predictor = network()
    found = RolloutEvaluation(Gain, 9, env_kwargs=LIST, horizons=[1, 3])(predictor)
    errors = {}
    with Runner(Gain, predictor, env_kwargs=LIST, apply=False, part="evaluation") as runner:
        for _, step in zip(range(9), runner.steps(), strict=False):
            assert step.transition.sample["gain"] == 1.0 + step.episode % 3
            target = step.transition.sample["y"]
            error = np.linalg.norm(step.prediction["y"] - target) / np.linalg.norm(target)
            errors.setdefault(step.transition.step, []).append(error)
    # a step's prediction depends on its action alone, so that errors do not build up
    assert found["horizon_1/y"] == pytest.approx(np.mean(errors[0]), rel=1e-5)
    assert found["horizon_3/y"] == pytest.approx(np.mean(errors[2]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stored_episode_drives_the_counterpart_of_what_made_it(tmp_path, workers):
    made = generate(Gain, tmp_path / "d", samples=21, env_kwargs=LIST, **QUICK)
    stored = made.subset(np.flatnonzero(made.episodes != 1))  # so that episodes are not numbered as in the dataset
    finer = [{"gain": 10 * one["gain"], "top": 99.0} for one in LIST]
    with SampleStream(Gain, load=stored, env_kwargs=finer, num_workers=workers) as stream:
        drawn = stream.draw(4 * len(stored))  # passes after the first one are shuffled
        gains = {tuple(x): gain for x, gain in zip(column(stored, "x"), column(stored, "gain"), strict=True)}
    assert [10 * gains[tuple(x)] for x in drawn["x"]] == drawn["gain"].tolist()
    with pytest.raises(ConfigError, match="3 different arguments in turn, env_kwargs lists 2"):
        SampleStream(Gain, load=stored, env_kwargs=finer[:2], num_workers=workers)
    with SampleStream(Gain, load=stored, env_kwargs={"gain": 5.0}, num_workers=workers) as stream:
        assert set(stream.draw(9)["gain"]) == {5.0}


def test_environments_of_several_arguments_are_made_once_and_have_places_of_their_own(tmp_path):
    log = tmp_path / "log"
    arguments = [{"gain": gain, "log": str(log)} for gain in (1.0, 2.0, 3.0)]
    generate(Indexed, tmp_path / "d", samples=60, num_workers=0, num_envs=2, env_kwargs=arguments, progress=False)
    lines = log.read_text().splitlines()
    opened = [line.removeprefix("open ") for line in lines if line.startswith("open")]
    assert len(opened) == len(set(opened)) == 6
    assert {tuple(map(int, line.split()[1:])) for line in opened} == {(index, 6) for index in range(6)}
    assert sorted(line.removeprefix("close ") for line in lines if line.startswith("close")) == sorted(opened)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_vector_env_takes_one_for_each_environment(workers):
    with physgym.make_vec("toy/Gain-v0", env_kwargs=LIST, num_workers=workers, wide=5.0) as envs:
        assert envs.num_envs == 3
        assert envs.get_attr("gain") == (1.0, 2.0, 3.0)
        assert envs.single_observation_space.high[0] == 5.0
    with physgym.SocketVectorEnv([Gain] * 3, num_workers=workers, env_kwargs=LIST) as envs:
        assert envs.get_attr("gain") == (1.0, 2.0, 3.0)
    with physgym.SocketVectorEnv([Gain] * 2, num_workers=workers, env_kwargs={"gain": 4.0}) as envs:
        assert envs.get_attr("gain") == (4.0, 4.0)


def test_a_vector_env_of_a_class_is_made_like_one_of_an_id():
    with physgym.make_vec(Gain, env_kwargs=LIST, num_workers=0, wide=5.0) as envs:
        assert envs.get_attr("gain") == (1.0, 2.0, 3.0)
        assert envs.single_observation_space.high[0] == 5.0
    with pytest.raises(ConfigError, match="an id, an EnvSpec, or a callable that makes one, not 3"):
        physgym.make_vec(3, 2)


def test_a_list_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="3 arguments are given for 2 environments"):
        physgym.make_vec("toy/Gain-v0", 2, env_kwargs=LIST)
    with pytest.raises(ConfigError, match="3 arguments are given for 2 environments"):
        physgym.SocketVectorEnv([Gain] * 2, env_kwargs=LIST)
    with pytest.raises(ConfigError, match="3 arguments are given for 2 environments"):
        SurrogateVectorEnv(Gain, network(), 2, env_kwargs=LIST)
    envs = SurrogateVectorEnv(Gain, network(), 3, env_kwargs=LIST)
    assert envs.get_attr("gain") == (1.0, 2.0, 3.0)
    envs.close()


def configuration(tmp_path, arguments=LIST, **more):
    environment = {"id": "toy/Gain-v0", "arguments": arguments}
    dataset = {"samples": 30, "num_workers": 0, **more}
    data = {"session": str(tmp_path / "s"), "environment": environment, "dataset": dataset}
    training = {"epochs": 1, "batch_size": 10}
    return {**data, "training": training, "network": {"arguments": {"hidden": [4]}}}


def test_a_configuration_lists_arguments(tmp_path):
    dataset = generate_samples(check_config(configuration(tmp_path, path=str(tmp_path / "d")), "test"))
    np.testing.assert_array_equal(column(dataset, "gain"), 1.0 + dataset.episodes % 3)
    assert dataset.source["env_kwargs"] == LIST


@pytest.mark.slow
def test_a_configuration_with_a_list_trains(tmp_path):
    data = configuration(tmp_path, produce="always")
    data["validation"] = {"fraction": 0.0, "rollout": {"steps": 6, "every": 1, "horizons": [2]}}
    outcome = train(check_config(data, "test"), log=False)
    assert any("horizon_2/y" in name for name in outcome.history.epochs[-1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [([], "the list is empty"), ([3], "3 is no section"), (3, "3 is no section and no list"), ([{1: 2}], "must be te")],
)
def test_a_configuration_with_a_wrong_list_says_so(tmp_path, arguments, text):
    with pytest.raises(ConfigError, match=text) as caught:
        check_config(configuration(tmp_path, arguments), "test")
    assert "environment.arguments" in str(caught.value)
    assert "1 fault" in str(caught.value)


@pytest.mark.parametrize("envs", [1, 2])
def test_constants_are_the_same_for_all_arguments(tmp_path, envs):
    options = {"samples": 9, "num_envs": envs, **QUICK}
    dataset = generate(Weighed, tmp_path / "d", env_kwargs=LIST, **options)
    assert dataset.constants["weight"].tolist() == [1.0]
    with pytest.raises((UnequalSpaces, SampleError), match="constants"):
        generate(Weighed, tmp_path / "e", env_kwargs=[{}, {"weight": 2.0}], **options)


def test_a_runner_with_stored_samples_has_the_arguments_of_each(tmp_path):
    stored = generate(Gain, tmp_path / "d", samples=21, env_kwargs=LIST, **QUICK)
    some = stored.subset(np.flatnonzero(stored.episodes != 1))
    with Runner(Gain, network(), load=some, env_kwargs=LIST) as runner:
        for _, step, gain in zip(range(len(some)), runner.steps(), column(some, "gain"), strict=False):
            assert step.transition.sample["gain"] == gain


@pytest.mark.parametrize("workers", [0, 1])
def test_an_environment_changes_its_own_arguments_alone(workers):
    mine = {"resets": 0}
    with SocketVectorEnv([Counting] * 2, num_workers=workers, env_kwargs={"counts": mine}) as envs:
        envs.reset()
        assert [counts["resets"] for counts in envs.get_attr("counts")] == [1, 1]
    assert mine == {"resets": 0}
