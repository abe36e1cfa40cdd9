"""Simulators in real time: complete datasets that no part promises to make again."""

from __future__ import annotations

import warnings
from unittest import SkipTest

import gymnasium
import numpy as np
import pytest

from physgym import Recorder, SampleDataset, generate, reopen
from physgym.errors import ConfigError
from physgym.real_time import runs_in_real_time
from physgym.testing import ConformanceNote, EnvConformance, check_env
from tests.support.toys import Line, RealTime

OPTIONS = {"num_workers": 1, "num_envs": 1, "max_steps": 8, "progress": False}


def runs(dataset: SampleDataset) -> dict[int, list[float]]:
    """The runs of the simulator that each episode has rows of, by their numbers."""
    y, episode = dataset.read(0, len(dataset), ["y"])["y"][:, 0], dataset.index("episode")
    return {int(one): sorted(set(y[episode == one].tolist())) for one in np.unique(episode)}


def lengths(dataset: SampleDataset) -> dict[int, int]:
    episodes, counts = np.unique(dataset.index("episode"), return_counts=True)
    return dict(zip(episodes.tolist(), counts.tolist(), strict=True))


def test_the_declaration_is_a_flag():
    assert runs_in_real_time(RealTime.metadata)
    assert not runs_in_real_time(Line.metadata)
    with pytest.raises(ConfigError, match="True or False, not 'yes'"):
        runs_in_real_time({"physgym.real_time": "yes"})


@pytest.mark.slow
def test_what_was_cut_short_is_left_as_it_is(tmp_path):
    made = generate(RealTime, tmp_path, samples=12, **OPTIONS)
    assert made.source["real_time"] is True
    assert lengths(made) == {0: 8, 1: 4}
    more = generate(RealTime, tmp_path, samples=24, resume=True, **OPTIONS)
    assert lengths(more) == {0: 8, 1: 4, 2: 8, 3: 4}  # the rest of episode 1 would be that of another one
    assert all(len(found) == 1 for found in runs(more).values())
    assert more.ended["episode"].tolist() == [0, 2]
    assert "real_time" not in generate(Line, tmp_path / "line", samples=4, **OPTIONS).source


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_episode_whose_worker_has_died_is_not_made_of_two(tmp_path, workers):
    (tmp_path / "dies").touch()
    made = generate(
        RealTime,
        tmp_path / "data",
        episodes=4,
        env_kwargs={"dies": str(tmp_path / "dies")},
        on_error="restart",
        **{**OPTIONS, "num_workers": workers, "num_envs": workers},
    )
    assert not (tmp_path / "dies").exists()
    cut, *others = sorted(lengths(made).values())
    assert 0 < cut <= 4  # what had been sent
    assert others == [8, 8, 8]
    assert all(len(found) == 1 for found in runs(made).values())
    assert len(made.ended["episode"]) == 3  # of the one that was cut short nobody knows how it ended


@pytest.mark.slow
def test_samples_are_counted_where_an_episode_was_cut_short(tmp_path):
    (tmp_path / "dies").touch()
    arguments = {"dies": str(tmp_path / "dies")}
    made = generate(RealTime, tmp_path / "data", samples=20, env_kwargs=arguments, on_error="restart", **OPTIONS)
    found = lengths(made)
    assert len(made) == 20
    assert 0 < found[0] <= 4
    assert found == {0: found[0], 1: 8, 2: min(8, 12 - found[0])} | ({3: 4 - found[0]} if found[0] < 4 else {})
    assert all(len(one) == 1 for one in runs(made).values())


@pytest.mark.slow
def test_no_step_is_opened_again(tmp_path):
    made = generate(RealTime, tmp_path / "made", samples=4, **OPTIONS)
    with pytest.raises(ConfigError, match="in real time, which does not repeat itself"):
        reopen(made, 0, 2, env=RealTime)


def test_a_recorder_says_it(tmp_path):
    with Recorder(RealTime(), tmp_path) as env:
        env.reset(seed=0)
        env.step(env.action_space.sample())
    assert SampleDataset(tmp_path).source["real_time"] is True


def test_the_rules_that_compare_episodes_are_left_out_and_named():
    said, noted, skipped = [], [], {}
    check_env(
        RealTime,
        lambda rule, fault: said.append(rule),
        lambda rule, text: noted.append((rule, text)),
        skip=skipped.__setitem__,
    )
    assert {rule for rule, _ in noted} == {"test_samples_fit_the_declaration"}  # which are beyond the bounds
    assert "test_samples_fit_the_declaration" in said
    for rule in ("test_same_seed_same_episode", "test_equal_through_a_worker"):
        assert "in real time" in skipped[rule]
    assert not set(skipped) & set(said)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", ConformanceNote)
        check_env(RealTime)
    assert any(str(one.message).startswith("test_same_seed_same_episode: not checked") for one in warned)


def test_a_suite_skips_them():
    class Suite(EnvConformance):
        def make_env(self, **kwargs):
            return RealTime(**kwargs)

    with pytest.raises(SkipTest, match="real time"):
        Suite().test_same_seed_same_episode()
    Suite().test_gymnasium_accepts_it()


def test_a_registered_one_is_nondeterministic_for_gymnasium_too():
    class Suite(EnvConformance):
        def make_env(self, **kwargs):
            return gymnasium.make("tests/RealTime-v0", **kwargs)

    try:
        for known in (False, True):
            gymnasium.register("tests/RealTime-v0", RealTime, nondeterministic=known)
            if known:
                Suite().test_gymnasium_accepts_it()
            else:
                with pytest.raises(AssertionError, match="nondeterministic=True"):
                    Suite().test_gymnasium_accepts_it()
            del gymnasium.registry["tests/RealTime-v0"]
    finally:
        gymnasium.registry.pop("tests/RealTime-v0", None)
