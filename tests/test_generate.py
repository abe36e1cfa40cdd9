from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest

import physgym
from physgym import SocketVectorEnv, generate
from physgym.data.generate import SampleStream
from physgym.errors import ConfigError, DatasetError, SampleError, WorkerError
from physgym.rollout import episode_seed, run_episode
from physgym.sample import SampleSpec
from physgym.vector.rollouts import CHUNKS_AHEAD, LARGEST_CHUNK
from tests import toys


def content(dataset) -> dict[str, bytes]:
    data = {name: value.tobytes() for name, value in dataset[:].items()}
    return data | {name: dataset.index(name).tobytes() for name in ("episode", "step", "seed")}


@pytest.mark.parametrize("make", ["physgym/Spring-v0", "physgym/Beam-v0", toys.Flaky])
def test_the_dataset_does_not_depend_on_the_workers(tmp_path, make):
    datasets = [
        generate(
            make, tmp_path / f"{workers}-{envs}", samples=30, num_workers=workers, num_envs=envs, seed=5, progress=False
        )
        for workers, envs in ((1, 1), (2, 2), (2, 7))
    ]
    assert content(datasets[0]) == content(datasets[1]) == content(datasets[2])
    assert len(datasets[0]) == 30
    other = generate(make, tmp_path / "other", samples=30, num_workers=1, seed=6, progress=False)
    assert content(other)["seed"] != content(datasets[0])["seed"]


def test_the_samples_are_those_of_the_seeded_episodes(tmp_path):
    dataset = generate(toys.Line, tmp_path / "d", samples=10, num_workers=2, seed=3, progress=False)
    env = toys.Line()
    spec = SampleSpec.from_env(env)
    want = [t.sample for e in range(3) for t in run_episode(env, spec, seed=episode_seed(3, e))][:10]
    for got, expected in zip(dataset, want, strict=True):
        for name in spec:
            np.testing.assert_array_equal(got[name], expected[name])
    assert dataset.index("step").tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_rejected_steps_are_left_out(tmp_path):
    dataset = generate(toys.Flaky, tmp_path / "d", samples=40, num_workers=1, progress=False)
    assert (dataset[:]["x"] <= 0).all()
    steps, episodes = dataset.index("step"), dataset.index("episode")
    assert len(set(zip(episodes.tolist(), steps.tolist(), strict=True))) == 40
    assert episodes.max() > 40 // 5  # about half of the steps were rejected


def test_too_many_rejects_end_with_the_reason(tmp_path):
    with pytest.raises(SampleError, match=r"10 steps in a row.*did not converge"):
        generate(lambda: toys.Flaky(reject_above=-2), tmp_path / "d", samples=5, num_workers=1, progress=False)
    assert not (tmp_path / "d").exists()


def test_rejects_count_across_episodes_of_one_step(tmp_path):
    make = lambda: gym.wrappers.TimeLimit(toys.Flaky(reject_above=-2), 1)  # noqa: E731
    with pytest.raises(SampleError, match=r"episode 3: 4 steps in a row"):
        generate(make, tmp_path / "d", samples=5, num_workers=2, max_rejects=4, progress=False)


def test_resume_continues_after_the_last_sample(tmp_path):
    whole = generate(toys.Flaky, tmp_path / "whole", samples=50, num_workers=2, seed=1, progress=False)
    for samples in (7, 8, 21, 50):
        part = generate(
            toys.Flaky, tmp_path / "part", samples=samples, num_workers=1, seed=1, resume=True, progress=False
        )
        assert len(part) == samples
    assert content(part) == content(whole)
    assert len(generate(toys.Flaky, tmp_path / "part", samples=20, seed=1, resume=True, progress=False)) == 50
    with pytest.raises(DatasetError, match="resume with the same environment"):
        generate(toys.Flaky, tmp_path / "part", samples=60, seed=2, resume=True, progress=False)


def test_a_killed_worker_keeps_what_was_committed_and_resume_completes_it(tmp_path):
    whole = generate("physgym/Spring-v0", tmp_path / "whole", samples=250, num_workers=1, progress=False)
    switch = tmp_path / "switch"

    def make():
        return toys.Flaky(kill_switch=str(switch))

    generate(make, tmp_path / "d", samples=12, num_workers=1, progress=False)
    switch.touch()
    with pytest.raises(WorkerError, match="killed by SIGKILL"):
        generate(make, tmp_path / "d", samples=30, num_workers=1, resume=True, progress=False)
    dataset = generate(make, tmp_path / "d", samples=30, num_workers=1, resume=True, progress=False)
    reference = generate(toys.Flaky, tmp_path / "reference", samples=30, num_workers=1, progress=False)
    assert content(dataset) == content(reference)
    assert len(whole) == 250


def test_a_killed_parent_loses_nothing_that_was_committed(tmp_path):
    code = (
        "import sys; from physgym import generate; from tests.toys import Slow\n"
        "generate(Slow, sys.argv[1], samples=1000, num_workers=2, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")])
    part = tmp_path / "d" / "training-00000.h5"
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    process.kill()
    process.wait()
    kept = len(physgym.SampleDataset(tmp_path / "d"))
    assert kept > 0
    dataset = generate(toys.Slow, tmp_path / "d", samples=kept + 5, num_workers=2, resume=True, progress=False)
    want = generate(toys.Slow, tmp_path / "want", samples=kept + 5, num_workers=2, progress=False)
    assert content(dataset) == content(want)


def test_ctrl_c_keeps_what_is_complete_and_ends_within_two_seconds(tmp_path):
    code = (
        "import sys; from physgym import generate; from tests.toys import Slow\n"
        "generate(Slow, sys.argv[1], samples=1000, num_workers=2)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "d")], stderr=subprocess.PIPE, start_new_session=True
    )
    part = tmp_path / "d" / "training-00000.h5"
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - start < 2
    assert b"KeyboardInterrupt" in errors
    assert len(physgym.SampleDataset(tmp_path / "d")) > 0
    assert (tmp_path / "d" / "dataset.json").exists()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (toys.MissingField, r"episode 0, step 0: field 'y' is missing"),
        (toys.WrongShape, r"'y'\] has shape \(3, 1\); sample_space says \(3,\)"),
        (toys.NotANumber, r"'y'\] holds 3 non-finite values"),
        (toys.NoSamples, "declares no sample_space"),
    ],
)
def test_wrong_samples_are_named_and_leave_nothing(tmp_path, make, text):
    with pytest.raises(SampleError, match=text):
        generate(make, tmp_path / "d", samples=5, num_workers=1, progress=False)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 1"),
        ({"num_envs": -1}, "num_envs must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"max_steps": 0}, "max_steps and max_rejects"),
        ({"env": "physgym/Nothing-v0"}, "no environment"),
        ({"env_kwargs": {"stiffness_of_the_moon": 1}}, "stiffness_of_the_moon"),
    ],
)
def test_bad_arguments_leave_nothing(tmp_path, kwargs, text):
    arguments = {"env": "physgym/Spring-v0", "samples": 5, "progress": False, **kwargs}
    with pytest.raises((ConfigError, WorkerError), match=text):
        generate(path=tmp_path / "d", **arguments)
    assert not (tmp_path / "d").exists()


class OneSlowEpisode(toys.Line):
    def reset(self, *, seed=None, options=None):
        if seed == episode_seed(0, 0):
            time.sleep(2)
        return super().reset(seed=seed, options=options)


def test_a_slow_episode_does_not_let_the_others_run_away():
    begun = []
    names = ((begun.append(i), (i, episode_seed(0, i)))[1] for i in range(1_000_000))
    with SocketVectorEnv([OneSlowEpisode] * 2, num_workers=2) as envs:
        ended = []
        for _, part in envs.rollout(names, max_steps=5, max_rejects=5):
            ended += [entry[0] for entry in part.ended]
            if 0 in ended:
                break
    assert max(begun) < 2 * CHUNKS_AHEAD * LARGEST_CHUNK
    assert len(ended) > 20
    assert len(set(ended)) == len(ended)


def test_numpy_integers_are_integers(tmp_path):
    options = {"samples": np.int64(5), "seed": np.int32(3), "max_steps": np.int64(3), "progress": False}
    assert len(generate(toys.Line, tmp_path / "d", num_workers=1, **options)) == 5
    with pytest.raises(ConfigError, match="must be integers"):
        generate(toys.Line, tmp_path / "e", samples=5, seed=1.5)
    with pytest.raises(ConfigError, match="samples must be at least 1 and an integer"):
        generate(toys.Line, tmp_path / "e", samples=2.5)


def test_an_existing_dataset_is_not_touched(tmp_path):
    generate(toys.Line, tmp_path / "d", samples=5, num_workers=1, progress=False)
    before = (tmp_path / "d" / "training-00000.h5").read_bytes()
    with pytest.raises(DatasetError, match="already holds training samples"):
        generate(toys.Line, tmp_path / "d", samples=5, num_workers=1, progress=False)
    assert (tmp_path / "d" / "training-00000.h5").read_bytes() == before


def test_a_stream_gives_batches_and_stores_them(tmp_path):
    with SampleStream(toys.Line, path=tmp_path / "d", num_workers=2, seed=2) as stream:
        first, second = stream.draw(6), stream.draw(6)
        assert first["x"].shape == (6, 3)
        assert stream.dataset() is not None
        assert len(stream.dataset()) == 12
    dataset = physgym.SampleDataset(tmp_path / "d")
    np.testing.assert_array_equal(dataset[:]["x"], np.concatenate([first["x"], second["x"]]))
    with SampleStream(toys.Line, num_workers=1, seed=2) as unstored:
        np.testing.assert_array_equal(unstored.draw(6)["x"], first["x"])
        assert unstored.dataset() is None
