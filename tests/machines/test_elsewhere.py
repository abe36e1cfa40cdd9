"""Environments that only workers know: the parent names them, records what the workers say, and makes nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

import physgym
from physgym import SocketVectorEnv
from physgym.code.search import code_of
from physgym.errors import ChangedCode, ConfigError, WorkerError
from physgym.machines.address import Address, worker_command
from physgym.machines.versions import Standard, versions_here
from physgym.placement import described
from physgym.vector.make import env_factory
from tests.support.machines import listening, settings_for, workers
from tests.support.programs import WORKER_JS, dialling, node
from tests.support.vectors import same

PENDULUM = "worker:Pendulum"
LINE = "tests.support.toys:Line"


def test_a_name_that_only_workers_know_travels_without_its_prefix():
    assert described(env_factory(PENDULUM, {"gravity": 1.5})) == {
        "make": "env",
        "env": "Pendulum",
        "arguments": {"gravity": 1.5},
    }


@pytest.mark.parametrize("name", ["worker:", "worker:a b", "worker:a/b/c"])
def test_what_is_no_name_is_an_error(name):
    with pytest.raises(ConfigError, match="names no environment; write worker:name"):
        env_factory(name, {})


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_this_process_does_not_make_it(tmp_path, num_workers):
    with pytest.raises(ConfigError, match="made by workers that connect, and nowhere else"):
        physgym.generate(PENDULUM, tmp_path / "data", samples=5, num_workers=num_workers)
    assert not (tmp_path / "data").exists()


def test_its_code_is_what_the_workers_say_of_their_program():
    one, other = (code_of(PENDULUM, {}, {"program": ["pendulum 1.0", text]}) for text in ("0a", "0b"))
    assert one.packages == {"program": "pendulum 1.0, 0a"}
    assert one.hash != other.hash
    assert not one.unknown
    assert code_of(PENDULUM, {}, {"classes": []}).hash is None
    assert code_of(PENDULUM).hash is not None  # nobody was asked


def test_workers_are_compared_with_the_first_one():
    standard = Standard([PENDULUM])
    first = {"packages": {"node": "v20"}, "codes": {"Pendulum": {"values": {"g": "9.81"}}}}
    assert standard.differences(first) == []
    assert standard.differences(first) == []
    assert standard.differences({**first, "packages": {"node": "v22"}}) == ["node v22 there, v20 at the first worker"]
    (text,) = standard.differences({**first, "codes": {"Pendulum": {"values": {"g": "1.6"}}}})
    assert text.startswith("the code of Pendulum: ")
    assert any("python" in text for text in standard.differences(versions_here()))
    assert any("python missing there" in text for text in Standard(["physgym/Spring-v0"]).differences(first))


def test_the_command_names_no_physgym():
    address = Address("127.0.0.1", 7000)
    assert worker_command(address, "token", None, [PENDULUM]) == "PROGRAM 127.0.0.1:7000 --token-file token"


def test_the_example_is_short_and_needs_nothing():
    lines = WORKER_JS.read_text().splitlines()
    assert len(lines) <= 300
    assert all("require(" not in line for line in lines)
    assert sum("node:" in line and "map(require)" in line for line in lines) == 1


@pytest.mark.slow
def test_a_python_worker_makes_what_its_parent_cannot(tmp_path):
    settings = {"samples": 40, "seed": 5, "max_steps": 7}
    physgym.generate(LINE, tmp_path / "here", num_workers=0, **settings)
    with (
        listening(tmp_path, plain=True, envs=[f"worker:{LINE}"]) as reception,
        workers(settings_for(reception, tmp_path, envs=[LINE], plain=True, fingerprint="")),
        pytest.warns(UserWarning, match="do not say which program"),
    ):
        physgym.generate(f"worker:{LINE}", tmp_path / "there", launcher=reception, **settings)
    datasets = [physgym.SampleDataset(tmp_path / name) for name in ("here", "there")]
    assert datasets[1].source["env"] == f"worker:{LINE}"
    here, there = (dataset.gather(np.arange(40)) for dataset in datasets)
    assert all(np.array_equal(here[name], there[name]) for name in datasets[0].spec)


def generated(folder, name, command, envs=1, count=1, **options):
    with (
        listening(folder, plain=True, envs=[PENDULUM]) as reception,
        dialling(command, reception, folder, envs, count) as programs,
    ):
        physgym.generate(PENDULUM, folder / name, seed=3, launcher=reception, **options)
        reception.close()
        assert [program.process.wait(60) for program in programs] == [0] * count
    return hashlib.sha256((folder / name / "training-00000.h5").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_dataset_of_a_program_in_javascript(tmp_path):
    command = node()
    options = {"samples": 203, "parameters": "sobol"}
    digest = generated(tmp_path, "one", command, **options)
    assert generated(tmp_path, "several", command, 3, 2, **options) == digest
    dataset = physgym.SampleDataset(tmp_path / "one")
    assert dataset.source["env"] == PENDULUM
    assert not np.array_equal(dataset[0]["torque"], dataset[1]["torque"])


@pytest.mark.slow
def test_a_dataset_of_one_program_is_not_continued_by_another(tmp_path):
    command = node()
    generated(tmp_path, "data", command, samples=20)
    other = tmp_path / "other.js"
    other.write_text(Path(command[1]).read_text().replace("9.81", "1.62"))
    with pytest.raises(ChangedCode, match="program"):
        generated(tmp_path, "data", [command[0], str(other)], samples=40, resume=True)
    generated(tmp_path, "data", command, samples=40, resume=True)
    assert len(physgym.SampleDataset(tmp_path / "data")) == 40


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_program_in_javascript_is_stepped(tmp_path, mode):
    command = node()
    factories = [env_factory(PENDULUM, {})] * 4
    found = []
    for count in (1, 2):
        with (
            listening(tmp_path, plain=True, envs=[PENDULUM]) as reception,
            dialling(command, reception, tmp_path, 4 // count, count),
            SocketVectorEnv(factories, num_workers=count, launcher=reception, timeout=20, autoreset_mode=mode) as envs,
        ):
            rows = [envs.reset(seed=7)]
            for step in range(60):
                actions = np.full((4, 1), np.sin(step), np.float32 if step % 2 else np.float64)
                rows.append(envs.step(actions))
                ended = rows[-1][2] | rows[-1][3]
                if mode == "Disabled" and ended.any():
                    rows.append(envs.reset(seed=9, options={"reset_mask": ended}))
            with pytest.raises(ValueError, match="no finite number"):
                envs.step(np.full((4, 1), np.nan))
            found.append(rows)
    for one, other in zip(*found, strict=True):
        same(one, other)
    assert any((row[2] | row[3]).any() for row in found[0] if len(row) == 5)


@pytest.mark.slow
def test_what_the_program_does_not_make_is_an_error(tmp_path):
    command = node()
    with (
        listening(tmp_path, plain=True, envs=["worker:Crane"]) as reception,
        dialling(command, reception, tmp_path),
        pytest.raises(ValueError, match="makes Pendulum alone, not Crane"),
    ):
        physgym.generate("worker:Crane", tmp_path / "data", samples=5, launcher=reception)
    with listening(tmp_path, plain=True) as reception, dialling(command, reception, tmp_path) as (program,):
        assert program.process.wait(60) == 1  # it was refused
        with pytest.raises(WorkerError, match=r"python missing there(.|\n)*It was refused"):
            physgym.generate("physgym/Spring-v0", tmp_path / "data", samples=5, launcher=reception, timeout=0.5)
