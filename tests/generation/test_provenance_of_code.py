"""Resumes, runs and appends compare the code of the simulation with what is recorded; no partition changes by it."""

from __future__ import annotations

import importlib
import json
import sys

import pytest

from physgym import SampleDataset, generate
from physgym.data.summary import summarize
from physgym.errors import ChangedCode
from physgym.generation.stream import SampleStream
from physgym.nn import MLP, Predictor
from physgym.runner import Runner
from tests.support.repositories import git

SOLVER = "STIFFNESS = {value}\n"
SIM = """
import numpy as np
from gymnasium import spaces
import gymnasium as gym
from psolver import STIFFNESS

class Sim(gym.Env):
    observation_space = action_space = spaces.Box(-1, 1, (1,), np.float32)
    sample_space = spaces.Dict({"x": spaces.Box(-9, 9, (1,), np.float32), "y": spaces.Box(-99, 99, (1,), np.float32)})
    sample_roles = {"x": "input", "y": "target"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        sample = {"x": action, "y": STIFFNESS * action}
        return action, 0.0, False, self.count == 4, {"sample": sample}
"""


@pytest.fixture
def solver(repository, monkeypatch):
    """Writes the solver of a simulation anew, and commits it."""
    monkeypatch.syspath_prepend(repository)
    monkeypatch.chdir(repository)
    (repository / "psim.py").write_text(SIM)

    def write(value):
        (repository / "psolver.py").write_text(SOLVER.format(value=value))
        git(repository, "add", "-A")
        git(repository, "commit", "-q", "--allow-empty", "-m", "solver")
        for name in ("psim", "psolver"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return git(repository, "rev-parse", "HEAD")

    yield write
    for name in ("psim", "psolver"):
        sys.modules.pop(name, None)


def make(folder, samples, **more):
    return generate("psim:Sim", folder, samples=samples, num_workers=1, progress=False, **more)


@pytest.mark.slow
def test_a_resume_refuses_another_solver_and_records_it_where_it_is_allowed(solver, tmp_path):
    first = solver(1.0)
    dataset = make(tmp_path / "d", 8)
    described = json.loads((tmp_path / "d" / "dataset.json").read_text())
    (run,) = described["modes"]["training"]["provenance"]["runs"]
    assert run["code"]["commit"] == first
    assert {"psim", "psolver"} <= set(run["code"]["modules"])
    second = solver(22.0)
    with pytest.raises(ChangedCode, match=r"psolver has changed") as caught:
        make(tmp_path / "d", 12, resume=True)
    assert first[:12] in str(caught.value)
    assert second[:12] in str(caught.value)
    assert len(SampleDataset(tmp_path / "d")) == 8
    dataset = make(tmp_path / "d", 12, resume=True, allow_changed_code=True)
    assert [run["samples"] for run in dataset.provenance["runs"]] == [0, 8]
    text = "\n".join(summarize(tmp_path / "d"))
    assert first in text
    assert second in text
    assert "module psolver has changed" in text
    assert len(make(tmp_path / "d", 16, resume=True)) == 16  # with the last one it goes on


@pytest.mark.slow
def test_a_commit_between_two_parts_changes_no_byte(solver, tmp_path, repository):
    solver(1.0)
    make(tmp_path / "whole", 12)
    make(tmp_path / "parts", 5)
    (repository / "README").write_text("other")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "unrelated")
    make(tmp_path / "parts", 12, resume=True)
    whole, parts = (next((tmp_path / name).glob("*.h5")).read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    assert len(SampleDataset(tmp_path / "parts").provenance["runs"]) == 2  # of two commits


def test_a_dataset_from_before_the_record_goes_on_with_a_warning(solver, tmp_path):
    solver(1.0)
    make(tmp_path / "d", 4)
    file = tmp_path / "d" / "dataset.json"
    described = json.loads(file.read_text())
    del described["modes"]["training"]["provenance"]
    file.write_text(json.dumps(described))
    with pytest.warns(UserWarning, match="does not say which code"):
        make(tmp_path / "d", 8, resume=True)
    assert "psim" in SampleDataset(tmp_path / "d").provenance["runs"][0]["code"]["modules"]
    described["modes"]["training"]["provenance"] = "unknown"


@pytest.mark.slow
def test_unknown_provenance_is_refused_like_a_change(solver, tmp_path):
    solver(1.0)
    make(tmp_path / "d", 4)
    file = tmp_path / "d" / "dataset.json"
    described = json.loads(file.read_text())
    described["modes"]["training"]["provenance"] = "unknown"
    file.write_text(json.dumps(described))
    with pytest.raises(ChangedCode, match="unknown"):
        make(tmp_path / "d", 8, resume=True)
    make(tmp_path / "d", 8, resume=True, allow_changed_code=True)


def test_a_saved_place_of_a_stream_is_of_its_code(solver):
    solver(1.0)
    with SampleStream("psim:Sim", num_workers=1) as stream:
        stream.draw(4)
        state = json.loads(json.dumps(stream.state_dict()))
    solver(22.0)
    with SampleStream("psim:Sim", num_workers=1) as stream, pytest.raises(ChangedCode, match="psolver"):
        stream.load_state_dict(state)
    with SampleStream("psim:Sim", num_workers=1, allow_changed_code=True) as stream:
        stream.load_state_dict(state)


@pytest.mark.slow
def test_a_record_of_a_run_and_a_replay_compare_it(solver, tmp_path):
    solver(1.0)
    dataset = make(tmp_path / "d", 8)
    network = Predictor(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.spec)
    for workers in (None, 1):
        solver(1.0)
        record = tmp_path / f"r{workers}"
        with Runner("psim:Sim", network, record=record, num_workers=workers) as runner:
            runner.run(4, progress=False)
        solver(22.0)
        with (
            pytest.raises(ChangedCode, match="psolver"),
            Runner("psim:Sim", network, record=record, resume=True, num_workers=workers) as runner,
        ):
            runner.run(4, progress=False)
        options = {"record": record, "resume": True, "num_workers": workers, "allow_changed_code": True}
        with Runner("psim:Sim", network, **options) as runner:
            runner.run(4, progress=False)
        assert len(SampleDataset(record, "prediction").provenance["runs"]) == 2
    with Runner("psim:Sim", network) as runner, pytest.raises(ChangedCode, match="psolver"):
        runner.run(replay=dataset, solver=True, progress=False)


def test_what_a_network_learned_from_is_compared(solver, tmp_path):
    solver(1.0)
    dataset = make(tmp_path / "d", 8)
    network = Predictor(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.spec)
    learned = dataset.provenance["runs"][-1]["code"]
    Runner("psim:Sim", network, learned=learned).close()
    solver(22.0)
    with pytest.raises(ChangedCode, match="what the network was trained on"):
        Runner("psim:Sim", network, learned=learned)
    Runner("psim:Sim", network, learned=learned, allow_changed_code=True).close()


@pytest.mark.slow
def test_seeds_of_parts_are_their_own(tmp_path, solver):
    solver(1.0)
    seeds = {}
    for mode in ("training", "validation", "test"):
        dataset = make(tmp_path / "d", 20, mode=mode)
        assert dataset.source["seeds"] == {"part": mode, "rule": 2}
        seeds[mode] = set(dataset.index("seed").tolist())
    network = Predictor(MLP.from_spec(dataset.spec, hidden=(4,)), dataset.spec)
    with Runner("psim:Sim", network, record=tmp_path / "r") as runner:
        runner.run(20, progress=False)
    seeds["prediction"] = set(SampleDataset(tmp_path / "r", "prediction").index("seed").tolist())
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values())) == 20
