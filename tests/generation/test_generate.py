from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest

import physgym
from physgym import SocketVectorEnv, generate
from physgym.episode import ActionGenerator, episode_seed, run_episode
from physgym.errors import ConfigError, DatasetError, SampleError, WorkerError
from physgym.generation.stream import SampleStream
from physgym.sample import SampleSpec
from physgym.samplers import Gaussian, Grid, LatinHypercube, NetworkPolicy, Sobol, Uniform
from physgym.vector.episode_schedule import CHUNKS_AHEAD
from physgym.vector.quota import LARGEST_CHUNK
from tests.generation.test_kill_generation import committed
from tests.support import toys
from tests.support.watching import until


def content(dataset) -> dict[str, bytes]:
    data = {name: value.tobytes() for name, value in dataset[:].items()}
    return data | {name: dataset.index(name).tobytes() for name in ("episode", "step", "seed")}


@pytest.mark.slow
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


def test_the_samples_are_those_of_the_seeded_episodes(tmp_path, fresh_workers):
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_parent_loses_nothing_that_was_committed(tmp_path):
    code = (
        "import sys; from physgym import generate; from tests.support.toys import Slow\n"
        "generate(Slow, sys.argv[1], samples=1000, num_workers=2, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "d")])
    until(lambda: committed(tmp_path / "d"))
    time.sleep(0.5)
    process.kill()
    process.wait()
    kept = len(physgym.SampleDataset(tmp_path / "d"))
    assert kept > 0
    dataset = generate(toys.Slow, tmp_path / "d", samples=kept + 5, num_workers=2, resume=True, progress=False)
    want = generate(toys.Slow, tmp_path / "want", samples=kept + 5, num_workers=2, progress=False)
    assert content(dataset) == content(want)


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_keeps_what_is_complete_and_ends_within_two_seconds(tmp_path):
    code = (
        "import sys; from physgym import generate; from tests.support.toys import Slow\n"
        "generate(Slow, sys.argv[1], samples=1000, num_workers=2)"
    )
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "d")], stderr=subprocess.PIPE, start_new_session=True
    )
    until(lambda: committed(tmp_path / "d"))
    begun = time.monotonic() - start  # seconds, of which a machine that is slow needs more for all
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    start = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < max(2.0, begun)
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
        ({"max_steps": 0}, "max_steps must be at least 1, not 0"),
        ({"num_workers": "2"}, "num_workers must be an integer, not '2'"),
        ({"num_envs": 1.5}, "num_envs must be an integer, not 1.5"),
        ({"env": "physgym/Nothing-v0"}, "no environment"),
        ({"env": None}, "an id, an EnvSpec, or a callable that makes one, not None"),
        ({"env_kwargs": {"stiffness_of_the_moon": 1}}, "stiffness_of_the_moon"),
    ],
)
def test_bad_arguments_leave_nothing(tmp_path, kwargs, text):
    arguments = {"env": "physgym/Spring-v0", "samples": 5, "progress": False, **kwargs}
    with pytest.raises((ConfigError, WorkerError), match=text):
        generate(path=tmp_path / "d", **arguments)
    assert not (tmp_path / "d").exists()


def test_generate_needs_a_folder():
    with pytest.raises(ConfigError, match="path must be a folder"):
        generate(toys.Line, None, samples=5)


class OtherShape(toys.Tuned):
    def sample(self):
        return {**super().sample(), "y": np.zeros(3)} if self.left == 1 else super().sample()


def test_a_wrong_sample_of_a_simulation_is_named_with_episode_and_step(tmp_path):
    with pytest.raises(SampleError, match=r"episode 0, step \d: OtherShape: info\[.sample.\]\['y'\] has shape \(3,\)"):
        generate(OtherShape, tmp_path / "d", samples=9, env_kwargs={"reject_above": 2}, num_workers=1, progress=False)


class Nothing(toys.Line):
    def make_sample(self, action):
        return None


class NothingDeclared(toys.Line):
    parameter_space = toys.spaces.Dict({})


def test_nothing_as_a_sample_or_as_parameters_is_said(tmp_path):
    with pytest.raises(SampleError, match="parameter_space needs at least one field"):
        generate(NothingDeclared, tmp_path / "d", samples=5, num_workers=1, progress=False)
    with pytest.raises(SampleError, match="the last reason: the step returned no sample"):
        generate(Nothing, tmp_path / "d", samples=5, num_workers=1, progress=False)


class OneSlowEpisode(toys.Line):
    def reset(self, *, seed=None, options=None):
        if seed == episode_seed(0, 0):
            time.sleep(2)
        return super().reset(seed=seed, options=options)


@pytest.mark.slow
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
    with pytest.raises(ConfigError, match="seed must be an integer"):
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


# --- samplers, parameters, rejected samples


def follow(observation, rng):
    return np.clip(observation + rng.uniform(-0.5, 0.5, 2), -1, 1).astype(np.float32)


def network():
    import torch

    from physgym.nn import MLP, Predictor
    from physgym.sample import Field

    torch.manual_seed(0)  # not every network's actions are accepted
    f4 = np.dtype("f4")
    return Predictor(
        MLP((2,), (2,), hidden=[3]), SampleSpec([Field("o", (2,), f4, "input"), Field("a", (2,), f4, "target")])
    )


def everything(dataset) -> dict[str, bytes]:
    """What a dataset holds, whatever the partitions."""
    found = content(dataset)
    if dataset.parameters is not None:
        found |= {f"parameters/{name}": value.tobytes() for name, value in dataset.parameters.items()}
        found["episodes"] = dataset.parameter_episodes.tobytes()
    if (apart := dataset.rejected) is not None:
        found |= {f"rejected/{name}": value.tobytes() for name, value in apart.samples.items()}
        found |= {f"rejected/{name}": getattr(apart, name).tobytes() for name in ("episode", "step", "seed")}
        found["reasons"] = repr(list(apart.reasons)).encode()
    return found


SAMPLERS = {
    "default": (None, None),
    "uniform": (Uniform(), "uniform"),
    "gaussian": (Gaussian(std=0.4), Gaussian()),
    "sobol": ("sobol", "sobol"),
    "lhs": (LatinHypercube(8), "lhs:8"),
    "grid": (Grid(4), "grid:2"),
    "policy": (follow, "uniform"),
    "network": (network, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_parameters_and_rejects_do_not_depend_on_the_workers(tmp_path, name):
    actions, parameters = SAMPLERS[name]
    if actions is network:
        actions = NetworkPolicy(network())
    found = []
    for workers, envs in ((1, 1), (2, 32), (5, 5)):
        path = tmp_path / f"{workers}-{envs}"
        # a grid does not begin again to make up for what is rejected
        said = pytest.warns(UserWarning, match="went through all points") if name == "grid" else nullcontext()
        with said:
            dataset = generate(
                toys.Tuned,
                path,
                samples=60,
                num_workers=workers,
                num_envs=envs,
                seed=5,
                env_kwargs={"nan_below": -0.8},
                actions=actions,
                parameters=parameters,
                nonfinite="reject",
                keep_rejected=True,
                progress=False,
            )
        found.append(everything(dataset))
    assert found[0] == found[1] == found[2]
    episodes = np.unique(dataset.index("episode"))
    assert set(episodes) <= set(dataset.parameter_episodes)
    assert dataset.parameter_episodes.tolist() == list(range(episodes.max() + 1))
    kinds = dict(zip(dataset.parameter_episodes, dataset.parameters["shape/kind"], strict=True))
    steps = dataset.index("step")
    assert all(step < 2 + kinds[episode] for episode, step in zip(dataset.index("episode"), steps, strict=True))
    if name not in ("network", "grid"):
        assert len(dataset.rejected.reasons) > 5


@pytest.mark.slow
def test_parameters_reach_the_simulation(tmp_path):
    dataset = generate(
        toys.Tuned, tmp_path / "d", samples=40, parameters="sobol", seed=2, num_workers=2, progress=False
    )
    draw = Sobol().parameters(toys.Tuned.parameter_space, 2)
    gains = {episode: draw(int(episode))["gain"] for episode in dataset.parameter_episodes}
    np.testing.assert_array_equal(dataset.parameters["gain"], list(gains.values()))
    of_sample = np.array([gains[episode] for episode in dataset.index("episode")])
    np.testing.assert_allclose(dataset[:]["y"], of_sample * dataset[:]["x"][:, 1], rtol=1e-6)
    assert dataset.source["parameters"] == {"sampler": "sobol"}
    with pytest.raises(DatasetError, match="resume with the same environment"):
        generate(toys.Tuned, tmp_path / "d", samples=50, parameters="lhs", seed=2, resume=True, progress=False)
    with pytest.raises(ConfigError, match="declares no parameter_space, so there are no parameters to sample"):
        generate(toys.Line, tmp_path / "e", samples=5, parameters="sobol", progress=False)
    assert not (tmp_path / "e").exists()


OPTIONS = {
    "seed": 7,
    "env_kwargs": {"nan_below": -0.8},
    "parameters": "sobol",
    "actions": "lhs:8",
    "nonfinite": "reject",
    "keep_rejected": True,
    "progress": False,
}


@pytest.mark.slow
def test_stored_rejects_and_parameters_follow_from_the_number_of_samples(tmp_path):
    whole = generate(toys.Tuned, tmp_path / "whole", samples=80, num_workers=2, num_envs=3, **OPTIONS)
    names = list(zip(whole.rejected.episode.tolist(), whole.rejected.step.tolist(), strict=True))
    assert names == sorted(set(names))
    assert not np.isfinite(whole.rejected.samples["y"]).all()
    for reason, sample in zip(whole.rejected.reasons, whole.rejected.samples["x"], strict=True):
        assert f"x is {sample[0]:.3f}" in reason or reason == "y not finite"
    for samples in (1, 2, 3, 30):
        part = generate(toys.Tuned, tmp_path / "part", samples=samples, resume=True, num_workers=1, **OPTIONS)
        last = int(part.index("episode")[-1]), int(part.index("step")[-1])
        stored = list(zip(part.rejected.episode.tolist(), part.rejected.step.tolist(), strict=True))
        assert stored == [name for name in names if name < last]
        assert part.parameter_episodes.tolist() == list(range(last[0] + 1))
    part = generate(toys.Tuned, tmp_path / "part", samples=80, resume=True, num_workers=2, **OPTIONS)
    assert everything(part) == everything(whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_changes_neither_parameters_nor_rejects(tmp_path, workers, caplog):
    want = everything(generate(toys.Tuned, tmp_path / "want", samples=200, num_workers=1, **OPTIONS))
    switch = tmp_path / "switch"
    options = {**OPTIONS, "env_kwargs": {**OPTIONS["env_kwargs"], "kill_switch": str(switch)}}
    switch.touch()
    path = tmp_path / "restarted"
    restarted = generate(toys.Tuned, path, samples=200, num_workers=workers, on_error="restart", **options)
    assert not switch.exists()
    assert everything(restarted) == want
    assert re.search(r"restart 1: .* of environment \d, in episode \d+ \(seed \d+\)", caplog.text)
    switch.touch()
    path = tmp_path / "resumed"
    with pytest.raises(WorkerError, match=r"killed by SIGKILL.*in episode \d+ \(seed \d+\).*\n\d+ samples .* --resume"):
        generate(toys.Tuned, path, samples=200, num_workers=workers, **options)
    assert everything(generate(toys.Tuned, path, samples=200, num_workers=workers, resume=True, **options)) == want


class Broken(toys.Line):
    """Has a fault in the fourth sample of its third episode, of one kind or another."""

    def __init__(self, fault="raise", render_mode=None):
        super().__init__(render_mode)
        self.fault, self.episode = fault, -1

    def reset(self, *, seed=None, options=None):
        self.broken = seed == episode_seed(0, 2)
        return super().reset(seed=seed, options=options)

    def make_sample(self, action):
        sample = super().make_sample(action)
        if self.broken and self.count == 4:
            if self.fault == "raise":
                raise ValueError("the solver broke")
            sample["y"] = np.full(3, np.nan) if self.fault == "nan" else np.zeros(2)
        return sample


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ("raise", ValueError, "the solver broke"),
        ("nan", SampleError, "episode 2, step 3: .*'y'.* holds 3 non-finite values"),
        ("shape", SampleError, r"episode 2, step 3: .*'y'.* has shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_keeps_all_samples_before_it(tmp_path, fault, error, text, workers):
    with pytest.raises(error, match=text):
        generate(Broken, tmp_path / "d", samples=100, num_workers=workers, env_kwargs={"fault": fault}, progress=False)
    dataset = physgym.SampleDataset(tmp_path / "d")
    reference = generate(toys.Line, tmp_path / "r", samples=11, num_workers=1, progress=False)
    assert content(dataset) == content(reference)


@pytest.mark.slow
@pytest.mark.parametrize("make", [toys.NotANumber, toys.Tuned])
def test_what_is_not_finite_is_an_error_or_rejected_or_stored(tmp_path, make):
    options = {"samples": 30, "num_workers": 2, "progress": False}
    if make is toys.Tuned:
        options["env_kwargs"] = {"nan_below": -0.5, "reject_above": 2.0}
    with pytest.raises(SampleError, match=r"episode \d, step \d+: info\[.sample.\]\['y'\] holds . non-finite"):
        generate(make, tmp_path / "error", **options)
    allowed = generate(make, tmp_path / "allowed", nonfinite="allow", **options)
    assert len(allowed) == 30
    assert np.isnan(allowed[:]["y"]).any()
    if make is toys.NotANumber:
        with pytest.raises(SampleError, match=r"12 steps in a row.*the last reason: y not finite"):
            generate(make, tmp_path / "rejected", nonfinite="reject", **options)
    else:
        rejected = generate(make, tmp_path / "rejected", nonfinite="reject", keep_rejected=True, **options)
        assert np.isfinite(rejected[:]["y"]).all()
        assert np.isnan(rejected.rejected.samples["y"]).all()
        assert set(rejected.rejected.reasons) == {"y not finite"}
    with pytest.raises(ConfigError, match="nonfinite must be one of"):
        generate(make, tmp_path / "wrong", nonfinite="ignore", **options)


def test_a_rejected_step_without_a_fitting_sample_is_just_not_kept(tmp_path):
    dataset = generate(toys.Tuned, tmp_path / "d", samples=60, num_workers=1, keep_rejected=True, progress=False)
    x = dataset.rejected.samples["x"][:, 0]
    assert (x > 0.5).all()
    assert (x <= 0.9).all()  # above, `sample` fails
    assert len(x) > 3
    plain = generate(toys.Tuned, tmp_path / "e", samples=60, num_workers=1, progress=False)
    assert plain.rejected is None
    assert content(plain) == content(dataset)


def test_the_progress_tells_rate_rest_and_rejects(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("physgym.progress.QUIET_INTERVAL", 0.0)
    generate(toys.Tuned, tmp_path / "d", samples=300, num_workers=1)
    lines = capsys.readouterr().err.strip().splitlines()
    assert re.fullmatch(r"generate: 300/300 in \d+ s, [\d.e+]+ sample/s, rejected \d+", lines[-2])
    assert re.fullmatch(r"(\d+) rejected steps: x is # \(\d+\)(; others \(\d+\))?", lines[-1])
    assert all(re.search(r"sample/s, \d+ s left, rejected \d+$", line) for line in lines[:-3])


class Forgetful(toys.Line):
    parameter_space = toys.Tuned.parameter_space


def test_declared_parameters_must_be_reported(tmp_path):
    with pytest.raises(SampleError, match='the info of its reset has no "parameters"'):
        generate(Forgetful, tmp_path / "d", samples=5, num_workers=1, progress=False)


class Ignorant(toys.Line):
    """Reports parameters, but its own; in another form from the third episode on."""

    parameter_space = toys.spaces.Dict({"gain": toys.spaces.Box(0, 1, (2,), np.float32)})
    form = np.float32

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        late = seed == episode_seed(0, 2)
        return observation, {"parameters": {"gain": np.full(3 if late else 2, 0.5, np.float32)}}


def test_parameters_that_an_environment_ignores_or_reports_in_another_form_are_named(tmp_path):
    with pytest.raises(SampleError, match=r"episode 0: parameter 'gain' was to be \[.*has \[0.5 0.5\]. Use options"):
        generate(Ignorant, tmp_path / "d", samples=5, parameters="sobol", num_workers=1, progress=False)
    assert not (tmp_path / "d").exists()
    with pytest.raises(
        SampleError, match=r'episode 2: info\["parameters"\]\[\'gain\'\] has shape \(3,\); parameter_space'
    ):
        generate(Ignorant, tmp_path / "d", samples=50, num_workers=2, progress=False)
    dataset = physgym.SampleDataset(tmp_path / "d")
    assert len(dataset) == 8
    assert dataset.parameter_episodes.tolist() == [0, 1]


def test_parameters_may_be_asked_for_as_plain_numbers():
    class Obedient(toys.Line):
        parameter_space = toys.spaces.Dict({"gain": toys.spaces.Box(0, 1, (), np.float32)})

        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], {"parameters": {"gain": np.float32(options["parameters"]["gain"])}}

    with SocketVectorEnv([Obedient], num_workers=1) as envs:
        parts = list(envs.rollout([(0, 1, {"parameters": {"gain": 0.1}})], max_steps=5, max_rejects=5))
    assert parts[0][1].parameters.values["gain"] == np.float32(0.1)


def test_actions_have_a_stream_of_their_own_for_every_seed():
    generators = ActionGenerator()
    drawn = {seed: generators.of(seed).random(4) for seed in (0, 1, 2**63, 0)}
    assert len({row.tobytes() for row in drawn.values()}) == 3
    half = generators.of(5)
    half.random(3, np.float32)  # leaves half a word in the buffer
    np.testing.assert_array_equal(generators.of(1).random(4), drawn[1])
    np.testing.assert_array_equal(ActionGenerator().of(2**63).random(4), drawn[2**63])
    assert not np.isin(drawn[0], np.random.default_rng(0).random(100)).any()


def test_a_sampler_that_does_not_fit_the_actions_is_named(tmp_path):
    class Free(toys.Line):
        action_space = toys.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    with pytest.raises(ConfigError, match="action_space is a Box without bounds, which a sobol sampler cannot fill"):
        generate(Free, tmp_path / "d", samples=5, actions="sobol", num_workers=1, progress=False)
    dataset = generate(
        Free, tmp_path / "d", samples=5, actions=Gaussian(2, 0.1), num_workers=1, progress=False, nonfinite="allow"
    )
    assert dataset[:]["x"].mean() == pytest.approx(2, abs=0.2)


def test_a_dataset_says_where_it_comes_from(tmp_path, monkeypatch):
    dataset = generate(
        "physgym/Spring-v0", tmp_path / "d", samples=5, num_workers=1, actions="sobol", progress=False,
        env_kwargs={"max_force": 2.0},
    )  # fmt: skip
    source, attributes = dataset.source, dataset.attributes
    assert source["actions"] == {"sampler": "sobol"}
    assert source["parameters"] is None
    assert source["nonfinite"] == "error"
    spec = gym.envs.registration.EnvSpec.from_json(attributes["env_spec"])
    assert (spec.id, spec.kwargs) == ("physgym/Spring-v0", {"max_force": 2.0})
    described = json.loads(attributes["spaces"])
    space = physgym.spaces.from_json(described["parameter_space"])
    assert list(space) == ["stiffness", "mass", "friction", "position", "velocity"]
    assert physgym.spaces.from_json(described["action_space"]).high == 2.0
    assert set(described) == {"observation_space", "action_space", "sample_space", "parameter_space"}
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere" / "own_line.py").write_text(
        "from tests.support.toys import Line\nclass OwnLine(Line):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path / "nowhere")
    monkeypatch.syspath_prepend(tmp_path / "nowhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    own = importlib.import_module("own_line").OwnLine
    plain = generate(own, tmp_path / "e", samples=5, num_workers=0, progress=False)
    assert plain.attributes["env_spec"] == plain.provenance["runs"][0]["code"]["commit"] == ""
    subprocess.run(
        "git init -q && git -c user.name=a -c user.email=b commit -q --allow-empty -m c", shell=True, check=True
    )
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    again = generate(own, tmp_path / "f", samples=5, num_workers=0, progress=False)
    assert again.provenance["runs"][0]["code"]["commit"] == commit
    assert "git_commit" not in again.attributes
    for folder in ("e", "f"):  # a commit changes no byte of the samples
        assert len(list((tmp_path / folder).glob("*.h5"))) == 1
    assert (tmp_path / "e" / "training-00000.h5").read_bytes() == (tmp_path / "f" / "training-00000.h5").read_bytes()


# --- places in a stream


STREAM = {key: value for key, value in OPTIONS.items() if key != "progress"}


def fields(*batches):
    return {name: np.concatenate([batch[name] for batch in batches]).tobytes() for name in batches[0]}


def names_of(*streams_drawn):
    return [pair for names in streams_drawn for pair in zip(names.episodes.tolist(), names.steps.tolist(), strict=True)]


@pytest.fixture(scope="module")
def hundred():
    """The first hundred samples, and their names."""
    with SampleStream(toys.Tuned, num_workers=0, **STREAM) as stream:
        batch = stream.draw(100)
        return batch, stream.drawn


@pytest.mark.parametrize(("workers", "sizes"), [(0, (7, 30)), (0, (32, 1, 4)), (1, (7, 30)), (2, (32, 1, 4))])
def test_a_stream_goes_on_at_a_saved_place(hundred, workers, sizes):
    want, names = hundred
    with SampleStream(toys.Tuned, num_workers=workers, num_envs=3, **STREAM) as stream:
        assert stream.state_dict()["position"] is None
        assert len(stream.drawn) == 0
        for size in sizes:
            stream.draw(size)
        begin, state = sum(sizes), json.loads(json.dumps(stream.state_dict()))
        assert names_of(stream.drawn) == names_of(names)[begin - sizes[-1] : begin]
        further = [stream.draw(20)]
        # also while it runs, forwards and backwards
        stream.load_state_dict(state)
        assert fields(stream.draw(9), stream.draw(11)) == fields(*further)
        stream.load_state_dict({})
        assert fields(stream.draw(50)) == fields({name: column[:50] for name, column in want.items()})
    with SampleStream(toys.Tuned, num_workers=workers, **STREAM) as stream:
        stream.load_state_dict(state)
        rows = stream.take(5)
        drawn = [stream.drawn]
        parts = [rows.samples]
        while (count := sum(map(len, drawn))) < 40:
            parts.append(stream.draw(min(13, 40 - count)))
            drawn.append(stream.drawn)
        assert fields(*parts) == fields({name: column[begin : begin + 40] for name, column in want.items()})
        assert names_of(*drawn) == names_of(names)[begin : begin + 40]
        assert stream.stored == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "stored", "begin"),
    [(0, 40, 16), (0, 40, 0), (0, 10, 25), (0, 0, 25), (0, 25, 25), (1, 40, 0), (1, 10, 25), (2, 40, 16), (2, 0, 25)],
)
def test_what_is_stored_does_not_change_what_comes_after_a_place(tmp_path, hundred, workers, stored, begin):
    want, _ = hundred
    with SampleStream(toys.Tuned, num_workers=0, **STREAM) as unstored:
        state = {} if not begin else (unstored.draw(begin), unstored.state_dict())[1]
    if stored:
        generate(toys.Tuned, tmp_path / "d", samples=stored, num_workers=0, **OPTIONS)
    with SampleStream(toys.Tuned, path=tmp_path / "d", resume=True, num_workers=workers, **STREAM) as stream:
        assert stream.stored == stored
        assert stream.position == (None if not stored else stream.writer.last)
        stream.load_state_dict(state)
        batches = [stream.draw(size) for size in (3, 20, 9, 18)]
        end = begin + 50
        assert stream.stored == end == len(stream.dataset())
    assert fields(*batches) == fields({name: column[begin:end] for name, column in want.items()})
    whole = generate(toys.Tuned, tmp_path / "whole", samples=end, num_workers=0, **OPTIONS)
    assert everything(physgym.SampleDataset(tmp_path / "d")) == everything(whole)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"position": [1, 2]}, "not the state of a SampleStream: KeyError"),
        ({"position": [1.5, 2], "source": {}}, "not the state of a SampleStream.*episode must be an integer, not 1.5"),
        ({"position": 3, "source": {}}, "not the state of a SampleStream: TypeError"),
        ({"position": [1, 2], "source": {"env": "Other"}}, "'Other'}, this stream produces {'env': 'tests.support.t"),
    ],
)  # fmt: skip
def test_the_state_of_another_stream_is_refused(state, text):
    with SampleStream(toys.Tuned, num_workers=0, **STREAM) as stream, pytest.raises(ConfigError, match=text):
        stream.load_state_dict(state)


class RaisesOnce(toys.Line):
    def __init__(self, switch, render_mode=None):
        super().__init__(render_mode)
        self.switch = switch

    def make_sample(self, action):
        if self.count == 3 and os.path.exists(self.switch):  # noqa: PTH110
            os.unlink(self.switch)  # noqa: PTH108
            raise ValueError("the solver broke")
        return super().make_sample(action)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("store", [False, True])
def test_a_draw_that_failed_loses_nothing(tmp_path, workers, store):
    with SampleStream(toys.Line, num_workers=0) as stream:
        want = fields(stream.draw(60))
    (tmp_path / "switch").touch()
    path = tmp_path / "d" if store else None
    with SampleStream(RaisesOnce, env_kwargs={"switch": str(tmp_path / "switch")}, path=path, num_workers=workers) as s:
        with pytest.raises(ValueError, match="the solver broke"):
            s.draw(30)
        assert s.position is None
        assert fields(s.draw(30), s.draw(30)) == want


@pytest.mark.slow
def test_a_killed_training_that_always_produces_sees_the_same_batches(tmp_path):
    code = (
        "import json, sys; from pathlib import Path; from physgym.generation.stream import SampleStream\n"
        "from tests.support.toys import Slow\n"
        "folder = Path(sys.argv[1])\n"
        "with SampleStream(Slow, path=folder / 'd', num_workers=2, num_envs=2) as stream:\n"
        "    for count in range(1000):\n"
        "        stream.draw(6)\n"
        "        (folder / 'new').write_text(json.dumps([count + 1, stream.state_dict()]))\n"
        "        (folder / 'new').rename(folder / 'state')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    count, deadline = 0, time.monotonic() + 60
    while count < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
        if (tmp_path / "state").exists():
            count = json.loads((tmp_path / "state").read_text())[0]
    process.kill()
    process.wait()
    count, state = json.loads((tmp_path / "state").read_text())
    assert count >= 5
    with SampleStream(toys.Line, num_workers=0) as stream:
        stream.draw(6 * count)
        want = fields(stream.draw(30))
    with SampleStream(toys.Slow, path=tmp_path / "d", resume=True, num_workers=2) as stream:
        stream.load_state_dict(state)
        assert fields(*(stream.draw(10) for _ in range(3))) == want
        assert len(stream.dataset()) == stream.stored == max(stream.stored, 6 * count + 30)
