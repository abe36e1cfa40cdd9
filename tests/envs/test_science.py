"""The yardsticks: simulations against exact or refined solutions, measures, and a tiny run of each problem."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from physgym.envs.darcy import Darcy
from physgym.sample import SampleSpec
from tests.support.commands import run_program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "science.py"
BASELINES = {
    "burgers": {"mean of the initial field", "linear map"},
    "darcy": {"mean of the training", "linear map"},
    "navier_stokes": {"no change", "linear map"},
    "pdebench": {"no change", "linear map"},
    "apebench": {"no change", "linear map"},
    "beam": {"rest", "linear map"},
}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def run(*arguments):
    return run_program(ROOT, SCRIPT, *arguments)


def after(env, steps, *, seed=0):
    """Return the field of an episode after so many steps, float64, and the one at its beginning."""
    env.reset(seed=seed)
    start = env.state()["field"]
    for _ in range(steps):
        assert "rejected" not in env.step(0)[4]
    return env.state()["field"], start


def test_advection_moves_the_field_exactly():
    from yardsticks.equations import Advection

    size, beta, step = 64, 0.3, 0.05
    field, start = after(Advection(size=size, beta=beta, time_step=step), 7)
    x = np.arange(size) / size - beta * step * 7
    waves = np.fft.rfft(start) / size
    exact = waves[0].real + 2 * sum((waves[k] * np.exp(2j * np.pi * k * x)).real for k in range(1, size // 2))
    assert np.abs(field - exact).max() < 1e-9  # the last mode of float32 noise moves by no whole angle
    assert np.abs(field - start).max() > 0.1


def test_diffusion_and_reaction_converge_with_the_second_order_of_the_splitting():
    from yardsticks.equations import DiffusionReaction

    def field(substeps):
        # slow enough diffusion for both to matter
        return after(DiffusionReaction(size=64, nu=0.01, rho=8.0, time_step=0.1, substeps=substeps), 3)[0]

    refined = field(256)
    errors = [np.linalg.norm(field(substeps) - refined) / np.linalg.norm(refined) for substeps in (2, 4, 8)]
    assert errors[2] < 1e-3
    assert all(3.5 < coarse / fine < 4.5 for coarse, fine in itertools.pairwise(errors))


def test_without_diffusion_the_reaction_is_the_logistic_function_and_without_reaction_a_wave_decays():
    from yardsticks.equations import DiffusionReaction

    field, start = after(DiffusionReaction(size=32, nu=0.0, rho=2.0, time_step=0.25), 4)
    assert np.abs(field - start * math.exp(2) / (1 - start + start * math.exp(2))).max() < 1e-12
    env = DiffusionReaction(size=32, nu=0.3, rho=0.0, time_step=0.05)
    wave = 0.5 + 0.4 * np.sin(2 * np.pi * np.arange(32) / 32)
    env.reset(options={"parameters": {"initial": wave.astype(np.float32)}})
    env.step(0)
    assert env.state()["field"] == pytest.approx(0.5 + (wave - 0.5) * math.exp(-0.3 * 4 * np.pi**2 * 0.05), abs=1e-6)


def test_a_thinned_simulation_shows_points_of_the_fine_solution():
    from yardsticks.equations import ThinnedDarcy

    thinned, whole = ThinnedDarcy(size=25, every=4), Darcy(size=25)
    action = whole.sample_action(np.random.default_rng(3))
    for env in (thinned, whole):
        env.reset(seed=0)
        env.step(action)
    for name, values in thinned.sample().items():
        assert values.shape == thinned.sample_space[name].shape == (7, 7)
        assert np.array_equal(values, whole.sample()[name][::4, ::4])


def test_initial_fields_are_those_of_the_papers():
    from yardsticks.equations import fourier_series, sine_waves

    rng = np.random.default_rng(0)
    for _ in range(20):
        spectrum = np.abs(np.fft.rfft(sine_waves(rng, 64)))
        assert 1 <= (spectrum > 1e-9).sum() <= 2
        assert spectrum[0] < 1e-9
        assert spectrum[9:].max() < 1e-9
        series = fourier_series(rng, 64)
        assert np.abs(series).max() == pytest.approx(1)
        assert abs(series.mean()) < 1e-12
        assert np.abs(np.fft.rfft(series))[6:].max() < 1e-9


class Stored:
    """Samples of three episodes of advection, and of one that ended early."""

    def __init__(self, env, steps):
        states, following, numbers = [], [], []
        for episode, count in ((0, steps), (1, steps), (2, 2), (3, steps)):
            env.reset(seed=episode)
            for _ in range(count):
                env.step(0)
                sample = env.sample()
                states.append(sample["state"])
                following.append(sample["next_state"])
                numbers.append(episode)
        self._samples = {"state": np.float32(states), "next_state": np.float32(following)}
        self.episodes = np.array(numbers)

    def __getitem__(self, key):
        return self._samples


def test_measures_of_rollouts():
    from yardsticks.equations import Advection
    from yardsticks.measures import normalized_errors, rollouts, trajectories

    test = Stored(Advection(size=32, beta=0.3), 6)
    shift = np.exp(-2j * np.pi * np.arange(17) * 0.3 * 0.05)

    def exact(fields):
        return {"next_state": np.fft.irfft(np.fft.rfft(fields["state"]) * shift, 32)}

    assert trajectories(test).shape == (3, 7, 32)
    figures = rollouts(2, 4, exact, test)
    assert max(figures.values()) < 1e-5
    doubled = rollouts(2, 4, lambda fields: {"next_state": 2 * exact(fields)["next_state"]}, test)
    assert doubled["one_step"] == pytest.approx(1, rel=1e-5)
    assert doubled["last"] == pytest.approx(15, rel=1e-5)
    assert doubled["rollout"] == pytest.approx((1 + 3 + 7 + 15) / 4, rel=1e-5)
    assert doubled["geometric"] == pytest.approx((1 * 3 * 7 * 15) ** 0.25, rel=1e-5)
    assert doubled["whole"] == pytest.approx(((1 + 9 + 49 + 225) / 4) ** 0.5, rel=1e-3)
    assert rollouts(2, 4, lambda fields: {"next_state": np.full_like(fields["state"], np.nan)}, test)["last"] > 1e5
    with pytest.raises(ValueError, match="test episodes have 6 steps, of which 7 are needed"):
        rollouts(3, 4, exact, test)
    assert normalized_errors(np.full((1, 1, 4), 3.0), np.full((1, 1, 4), 2.0)) == pytest.approx(0.5)


def test_rollouts_of_several_given_states_go_on_from_the_latest_ones():
    from yardsticks.equations import Advection
    from yardsticks.measures import rollouts

    test = Stored(Advection(size=32, beta=0.3), 6)
    three = np.exp(-2j * np.pi * np.arange(17) * 0.3 * 0.05) ** 3

    def after_the_first_of_three(fields):
        assert fields["state"].shape[1:] == (3, 32)
        return {"next_state": np.fft.irfft(np.fft.rfft(fields["state"][:, :1]) * three, 32)}

    assert max(rollouts(2, 4, after_the_first_of_three, test, given=3).values()) < 1e-5
    assert rollouts(2, 4, lambda fields: {"next_state": fields["state"][:, -1:]}, test, given=3)["one_step"] > 0.1
    with pytest.raises(ValueError, match="there are 2 states up to the one at which trajectories begin, not 3"):
        rollouts(1, 4, after_the_first_of_three, test, given=3)


def test_a_row_replaces_the_one_of_its_case_network_and_seed(tmp_path):
    from yardsticks.results import Results

    for command, seeds in (("first", (0, 1)), ("second", (1, 2))):
        results = Results(tmp_path, "burgers", "small")
        results.begin(command)
        for seed in seeds:
            results.put({"case": "a", "network": "FNO", "seed": seed, "error": 0.5})
    stored = json.loads((tmp_path / "burgers-small.json").read_text())
    said = {row["seed"]: stored["records"][row["record"]]["command"] for row in stored["rows"]}
    assert said == {0: "first", 1: "second", 2: "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["burgers-small.json"]
    assert set(stored["records"][0]) == {"command", "commit", "changed", "versions", "threads", "cores"}


@pytest.mark.slow
def test_every_problem_has_its_figures(tmp_path):
    done = run(
        *BASELINES, "--budget", "quick", "--seeds", "0", "--results", tmp_path, "--samples", tmp_path / "samples"
    )
    assert done.returncode == 0, done.stderr
    for problem, baselines in BASELINES.items():
        stored = json.loads((tmp_path / f"{problem}-quick.json").read_text())
        cases: dict[str, set[str]] = {}
        for row in stored["rows"]:
            cases.setdefault(row["case"], set()).add(row["network"])
            figures = [value for name, value in row.items() if isinstance(value, float) and "seconds" not in name]
            assert figures
            assert all(math.isfinite(value) and value > 0 for value in figures)
            assert f"{problem}, {row['case']}: {row['network']}, seed {row['seed']}: " in done.stdout
            assert ("cpu_seconds" in row) is (row["network"] not in baselines)
            assert (row["seed"] is None) is (row["network"] in baselines)
        assert all(len(networks) > 1 for networks in cases.values())
        assert baselines < next(iter(cases.values()))


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["small", "full"])
def test_networks_of_whole_budgets_fit_the_samples_and_are_those_of_the_stored_figures(budget):
    from science import PROBLEMS
    from yardsticks.results import FOLDER, Results

    checked = 0
    for problem, make in PROBLEMS.items():
        rows = Results(FOLDER, problem, budget).rows
        for case in (case for case in make(budget) if case.given == 1):  # windows of more states have other fields
            which, arguments = case.samples.env, case.samples.arguments
            env = gymnasium.make(which, **arguments) if isinstance(which, str) else which(**arguments)
            spec = SampleSpec.from_env(env)
            env.close()
            (target,) = spec.names("target")
            inputs = [torch.zeros(1, *spec[name].shape) for name in spec.names("input")]
            for name, network in case.networks.items():
                module = network.make(spec)
                with torch.no_grad():
                    assert module(*inputs).shape[1:] == spec[target].shape, (problem, case.name, name)
                parameters = sum(parameter.numel() for parameter in module.parameters())
                found = {row["parameters"] for row in rows if (row["case"], row["network"]) == (case.name, name)}
                assert found <= {parameters}, (problem, case.name, name)
                checked += len(found)
    assert checked > 1


@pytest.mark.slow
def test_samples_that_are_there_are_taken_and_networks_and_cases_chosen(tmp_path):
    samples, figures, written = tmp_path / "samples", [], []
    arguments = ("burgers", "--budget", "quick", "--networks", "MLP", "linear map", "--cases", "viscosity 0.1")
    for number in range(2):
        results = tmp_path / str(number)
        done = run(*arguments, "--seeds", "0", "3", "--results", results, "--samples", samples)
        assert done.returncode == 0, done.stderr
        stored = json.loads((results / "burgers-quick.json").read_text())
        figures.append([(row["case"], row["network"], row["seed"], row["relative_l2"]) for row in stored["rows"]])
        written.append({path: path.stat().st_mtime_ns for path in samples.rglob("*.h5")})
    wanted = [("linear map", None), ("MLP", 0), ("MLP", 3)]
    assert [row[:3] for row in figures[0]] == [("viscosity 0.1", *row) for row in wanted]
    assert figures[0] == figures[1]
    assert figures[0][1][3] != figures[0][2][3]
    assert len(written[0]) == 2
    assert written[0] == written[1]
    assert stored["records"][0]["command"] == (
        'python benchmarks/science.py burgers --budget quick --seeds 0 3 --networks MLP "linear map" '
        '--cases "viscosity 0.1"'
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["burger"], "invalid choice: 'burger'"),
        (["darcy", "--networks", "GAN"], "darcy has no network 'GAN' there; it has FNO, MLP, UNet, linear map, "),
        (["burgers", "--cases", "x"], "burgers has no such case; it has viscosity 0.1, viscosity 0.01"),
        (
            ["burgers", "darcy", "--budget", "quick", "--networks", "linear map", "mean of the initial field"],
            "darcy has no",
        ),
        (["burgers", "--seeds", "0", "-1"], "a seed is a number from 0 on, not -1"),
    ],
)
def test_what_is_unknown_is_named(tmp_path, capsys, arguments, text):
    from science import main

    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--results", str(tmp_path)])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
