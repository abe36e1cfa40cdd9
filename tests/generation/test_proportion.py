"""Work in proportion to what was asked: steps are counted, not seconds."""

import itertools
import shutil
import time
import warnings
from collections import namedtuple

import numpy as np
import pytest
import torch

import physgym
from physgym.errors import ConfigError, DatasetError
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Predictor
from physgym.runner import Runner
from physgym.sample import SampleSpec
from physgym.training import Callback
from physgym.vector.quota import Quota
from tests.support.counting import Counting, Echo


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Generate into a folder; gives the dataset and the steps of each process."""
    number = 0

    def made(folder=None, *, env=None, **options):
        nonlocal number
        number += 1
        log = tmp_path / f"steps-{number}"
        log.mkdir()
        folder = folder or tmp_path / f"data-{number}"
        monkeypatch.setenv("STEPS", str(log))  # no argument: a dataset is continued by the same source alone
        dataset = physgym.generate(Counting, folder, env_kwargs=env or {}, progress=False, **options)
        return dataset, sorted(file.stat().st_size for file in log.iterdir())

    return made


@pytest.mark.slow
def test_no_step_beyond_the_last_sample_that_is_wanted(run):
    assert run(samples=1, num_workers=0)[1] == [1]
    assert run(samples=50, num_workers=0)[1] == [50]
    assert run(samples=50, num_workers=0, max_steps=20)[1] == [50]
    assert run(samples=50, num_workers=1)[1] == [50]
    dataset, steps = run(samples=50, num_workers=1, env={"reject": 5})
    assert (len(dataset), steps) == (50, [62])  # every fifth of them was rejected


@pytest.mark.slow
def test_workers_share_the_work_and_none_begins_what_cannot_be_wanted(run):
    dataset, steps = run(samples=80, num_workers=2, max_steps=10, env={"pause": 0.01})
    assert (len(dataset), sum(steps)) == (80, 80)
    assert max(steps) <= 50


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "length"), [(50, 7), (8, 7), (33, 4)])
def test_the_last_episode_ends_with_the_last_sample_that_is_wanted(run, samples, length):
    dataset, steps = run(samples=samples, num_workers=2, max_steps=length, env={"pause": 0.002})
    assert (len(dataset), sum(steps)) == (samples, samples)


@pytest.mark.slow
def test_a_limit_of_the_environment_counts_as_one_of_its_episodes(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, steps = run(samples=60, num_workers=2, env={"pause": 0.005, "length": 20, "spec": 20})
    assert sum(steps) == 60
    assert min(steps) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("reject", [2, 5])
def test_where_steps_are_rejected_a_handful_more_are_made(run, reject):
    options = {"samples": 50, "max_steps": 7, "env": {"reject": reject, "pause": 0.001}}
    alone, needed = run(num_workers=0, **options)
    dataset, steps = run(num_workers=2, **options)
    assert sum(needed) <= sum(steps) <= sum(needed) + 7
    for name in ("episode", "step"):
        assert np.array_equal(dataset.index(name), alone.index(name))
    assert np.array_equal(dataset[:]["x"], alone[:]["x"])


@pytest.mark.slow
@pytest.mark.parametrize("samples", [12, 40])
def test_an_episode_that_stopped_too_early_goes_on_where_it_was(run, samples):
    # every other episode is short, so that the last one is wanted further than it seemed
    options = {"samples": samples, "max_steps": 9, "env": {"pause": 0.01, "short": 4}}
    alone, _ = run(num_workers=0, **options)
    dataset, steps = run(num_workers=2, **options)
    assert sum(steps) <= samples + 3
    assert np.array_equal(dataset.index("episode"), alone.index("episode"))
    assert np.array_equal(dataset[:]["x"], alone[:]["x"])


def test_an_endless_episode_makes_no_worker_step_further_than_the_samples_wanted(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        _, steps = run(samples=30, num_workers=2, env={"pause": 0.01})
    assert steps == [30]  # the other worker has nothing to do


@pytest.mark.slow
def test_a_hint_says_that_one_episode_leaves_workers_idle(run, monkeypatch):
    monkeypatch.setattr("physgym.generation.arrivals.HINT_SECONDS", 0.1)
    with pytest.warns(UserWarning, match=r"an episode is sequential.*Set max_steps \(now 1000\), as to max_steps=5"):
        run(samples=40, num_workers=2, env={"pause": 0.01})


@pytest.mark.slow
def test_what_shares_the_work_gets_no_hint(run, monkeypatch):
    monkeypatch.setattr("physgym.generation.arrivals.HINT_SECONDS", 0.0)
    run(samples=40, num_workers=2, max_steps=5, env={"pause": 0.005})


@pytest.mark.slow
@pytest.mark.parametrize("reject", [0, 4])
def test_a_dataset_that_was_continued_is_that_which_was_made_at_once(run, tmp_path, reject):
    folder = tmp_path / "parts"
    options = {"max_steps": 7, "keep_rejected": True, "parameters": "sobol", "env": {"reject": reject}}
    for samples, workers in ((20, 0), (21, 1), (33, 2), (50, 0)):
        parts, steps = run(folder, samples=samples, num_workers=workers, resume=samples > 20, **options)
    whole, _ = run(samples=50, num_workers=0, **options)
    assert len(parts) == len(whole) == 50
    for field in ("x",):
        assert np.array_equal(parts[:][field], whole[:][field])
    assert np.array_equal(parts.index("step"), whole.index("step"))
    assert sum(steps) <= 17 + 7 + 6


@pytest.mark.slow
def test_short_episodes_are_handed_out_many_at_a_time(run):
    dataset, steps = run(samples=2000, num_workers=2, env={"length": 3})
    assert len(dataset) == 2000
    assert sum(steps) <= 2000 + 2 * 3


@pytest.mark.slow
def test_episodes_in_place_of_samples(run, tmp_path):
    folder = tmp_path / "episodes"
    dataset, steps = run(folder, episodes=3, num_workers=1, max_steps=4)
    assert (len(dataset), sum(steps)) == (12, 12)
    dataset, _ = run(folder, episodes=5, num_workers=2, max_steps=4, resume=True)
    assert np.unique(dataset.episodes).tolist() == [0, 1, 2, 3, 4]
    whole, _ = run(episodes=5, num_workers=0, max_steps=4)
    assert np.array_equal(dataset[:]["x"], whole[:]["x"])


def test_samples_and_episodes_end_with_what_comes_first(run):
    assert len(run(samples=10, episodes=2, max_steps=4, num_workers=0)[0]) == 8
    assert len(run(samples=5, episodes=2, max_steps=4, num_workers=0)[0]) == 5


def test_a_stream_of_some_episodes_ends(tmp_path):
    (tmp_path / "log").mkdir()
    with SampleStream(Counting, env_kwargs={"log": str(tmp_path / "log")}, num_workers=0, max_steps=3, episodes=2) as s:
        assert sum(len(s.take(100)) for _ in range(10)) == 6
        with pytest.raises(DatasetError, match="all episodes=2 have ended"):
            s.draw(1)


@pytest.mark.slow
def test_more_may_be_taken_than_was_expected(tmp_path):
    (tmp_path / "log").mkdir()

    def samples(expected):
        with SampleStream(Counting, env_kwargs={"log": str(tmp_path / "log")}, num_workers=1, max_steps=9) as stream:
            if expected:
                stream.expect(expected)
            return np.concatenate([stream.draw(7)["x"] for _ in range(4)])

    assert np.array_equal(samples(10), samples(None))


@pytest.mark.parametrize("episodes", [0, -1, 1.5, True])
def test_episodes_must_be_a_positive_integer(run, episodes):
    with pytest.raises(ConfigError, match="episodes must be at least 1"):
        run(episodes=episodes, num_workers=0)


def test_neither_samples_nor_episodes(run):
    with pytest.raises(ConfigError, match=r"samples must be at least 1.* or say how many episodes="):
        run(num_workers=0)


def test_a_dataset_that_does_not_fit_on_the_disk_is_refused_before_the_first_step(run, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(40e9, 20e9, 20e9))
    row = 8 + 28
    with pytest.raises(DatasetError, match=r"need 98 GB, 20 GB are free"):
        run(tmp_path / "large", samples=int(98e9) // row, num_workers=0)
    assert not list((tmp_path / "steps-1").iterdir())
    assert not list(tmp_path.glob("large/*.h5"))


class Telling(Callback):
    def __init__(self, stop=False):
        self.told, self.stop = [], stop

    def data_generation_begin(self, pipeline):
        assert pipeline.stored == 0
        self.told.append("begin")

    def sample_begin(self, pipeline):
        self.told.append("<")

    def sample_end(self, pipeline, sample):
        assert sample["x"].shape == (2,)
        self.told.append(">")

    def data_generation_batch_end(self, pipeline, samples):
        self.told.append(samples)
        if self.stop:
            pipeline.stop("enough")

    def data_generation_end(self, pipeline):
        self.told.append("end")

    def close(self):
        self.told.append("close")


def test_events_of_a_generation(run):
    telling = Telling()
    run(samples=8, max_steps=4, num_workers=0, callbacks=[telling])
    batch = ["<", ">"] * 4 + [4]
    assert telling.told == ["begin", *batch, *batch, "end", "close"]


def test_a_callback_ends_a_generation(run):
    telling = Telling(stop=True)
    dataset, _ = run(samples=8, max_steps=4, num_workers=0, callbacks=[telling])
    assert len(dataset) == 4
    assert telling.told[-2:] == ["end", "close"]


def test_callbacks_are_closed_after_an_error(tmp_path):
    def fails():
        env = Counting(str(tmp_path))
        env.begin = lambda options: 1 / 0
        return env

    telling = Telling()
    with pytest.raises(ZeroDivisionError):
        physgym.generate(fails, tmp_path / "d", samples=3, num_workers=0, callbacks=[telling], progress=False)
    assert telling.told == ["begin", "close"]


def test_what_is_no_callback_is_refused(run):
    with pytest.raises(ConfigError, match="callbacks must be of"):
        run(samples=3, num_workers=0, callbacks=[print])


def test_breed_is_refused_where_no_losses_drive_it(run):
    with pytest.raises(ConfigError, match="by the losses of a training, and there are none here"):
        run(samples=3, num_workers=0, parameters="breed")


def test_the_end_is_left_to_free_workers():
    quota = Quota(100, 60)
    assert (quota.room(ahead=False), quota.room(ahead=True)) == (2, 0)  # lengths are not known yet
    quota.begin(0, 1)
    assert (quota.limit(), quota.limit(own=[0])) == (40, 100)
    quota.take(0, 10, [10])
    quota.end(0)
    assert (quota.limit(), quota.length) == (90, 10)
    assert (quota.room(ahead=False), quota.room(ahead=True)) == (9, 9)
    quota.begin(1, 8)
    quota.begin(9, 1)
    assert (quota.limit(1), quota.limit(9), quota.limit()) == (90, 10, 0)
    assert (quota.room(ahead=False), quota.room(ahead=True)) == (0, 0)
    quota.take(1, 14, [10])
    assert (quota.limit(9), quota.limit()) == (10, 0)
    quota.take(1, 10, [])  # the second one is longer than the others: as long again, at least
    assert quota.limit(9) == 100 - 10 - 24 - 14 - 6 * 10
    assert not quota.met


def test_lengths_that_differ_make_the_end_cautious():
    quota = Quota(30, 60)
    quota.begin(0, 2)
    quota.take(0, 20, [8, 12])
    quota.end(0)
    quota.begin(2, 1)
    assert quota.room(ahead=False) == 0
    quota = Quota(32, 60)
    quota.begin(0, 2)
    quota.take(0, 20, [8, 12])
    quota.end(0)
    quota.begin(2, 1)
    assert (quota.room(ahead=False), quota.limit()) == (1, -2)
    quota.take(2, 8, [8])
    quota.end(2)
    assert (quota.limit(), quota.met) == (4, False)
    quota.begin(3, 1)
    quota.take(3, 4, [])
    assert quota.met


# --- runs of a network


@pytest.fixture
def network():
    torch.manual_seed(0)
    spec = SampleSpec.from_env(Echo("unused"))
    return Predictor(MLP.from_spec(spec, hidden=(4,)), spec)


@pytest.fixture
def steps_made(tmp_path, monkeypatch):
    """A function that gives how many steps all processes have made until now."""
    monkeypatch.setenv("STEPS", str(tmp_path))
    return lambda: sum(file.stat().st_size for file in tmp_path.iterdir())


SEVEN = {"max_steps": 7}
RUNS = [
    *itertools.product((None, 0), ({}, SEVEN, SEVEN | {"batch_size": 4}, {"apply": False}, {"max_steps": 1})),
    *((1, {}), (2, {}), (2, SEVEN | {"apply": False, "batch_size": 4})),
]


@pytest.mark.parametrize(("workers", "options"), RUNS, ids=str)
def test_a_run_makes_no_step_beyond_those_that_are_wanted(network, steps_made, workers, options):
    kwargs = {"pause": 0.002}
    with Runner(Echo, network, env_kwargs=kwargs, num_workers=workers, **options) as runner:
        for steps, made in ((25, 25), (1, 26), (24, 50)):
            assert runner.run(steps, progress=False).steps == steps
            time.sleep(0.05)  # for what would be made in vain
            assert steps_made() == made


def test_a_run_in_pieces_has_the_steps_of_one_that_is_whole(network, steps_made):
    runs = []
    for workers, pieces in ((None, [40]), (0, [3, 1, 20, 16]), (0, [10, None]), (2, [3, 1, 20, None])):
        runs.append(found := [])
        with Runner(Echo, network, max_steps=9, env_kwargs={"short": 4}, num_workers=workers) as runner:
            for piece in pieces:
                if piece is None:  # without end
                    for step in itertools.islice(runner.steps(), 40 - len(found)):
                        found.append((step.episode, step.transition.step, step.transition.sample["y"].tolist()))
                else:
                    runner.run(piece, callbacks=[Collected(found)], progress=False)
    assert len(runs[0]) == 40
    assert all(run == runs[0] for run in runs)


class Collected(Callback):
    def __init__(self, found):
        self.found = found

    def sample_end(self, pipeline, sample):
        step = pipeline.last
        self.found.append((step.episode, step.transition.step, step.transition.sample["y"].tolist()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_ended_early_goes_on_without_steps_in_vain(network, steps_made, workers):
    class Ends(Callback):
        def sample_end(self, pipeline, sample):
            if pipeline.last.transition.step == 9:
                raise KeyboardInterrupt

    with Runner(Echo, network, env_kwargs={"pause": 0.002}, num_workers=workers) as runner:
        assert runner.run(25, callbacks=[Ends()], progress=False).steps in (9, 10)
        runner.run(30, progress=False)
        assert runner.last.transition.step == 39
        assert steps_made() == 40


def test_rejected_steps_count_as_steps_of_a_run(network, steps_made):
    for workers, made in ((None, 25), (0, 50)):
        with Runner(Echo, network, env_kwargs={"reject": 5}, max_steps=8, num_workers=workers) as runner:
            report = runner.run(25, progress=False)
        assert (report.steps, report.rejected > 0) == (25, True)
        assert steps_made() == made
