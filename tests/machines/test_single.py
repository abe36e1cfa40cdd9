"""Workers that dial in host one of the simulators that a process or a machine holds once."""

from __future__ import annotations

import os

import numpy as np
import pytest

import physgym
from tests.support.commands import ROOT, run_command
from tests.support.machines import listening, settings_for, workers

LICENSED, ALONE = "tests.support.licensed:Licensed", "tests.support.licensed:PerProcess"


@pytest.mark.slow
def test_a_worker_offers_three_and_hosts_one(tmp_path):
    with listening(tmp_path, plain=True, envs=[ALONE]) as reception:
        settings = settings_for(reception, tmp_path, envs=[ALONE], count=3)
        with workers(settings, 2):
            made = physgym.generate(ALONE, tmp_path / "made", samples=40, max_steps=5, launcher=reception)
    here = physgym.generate(ALONE, tmp_path / "here", samples=40, max_steps=5, num_workers=0, num_envs=1)
    for name, column in here.read(0, 40).items():
        assert np.array_equal(column, made.read(0, 40)[name])


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--workers", "2"], ["--envs", "2"]])
def test_a_machine_starts_one_worker(tmp_path, option):
    token = tmp_path / "token"
    token.write_text(os.urandom(32).hex())
    token.chmod(0o600)
    words = ("worker", "127.0.0.1:1", "--token-file", token, "--plain", "--env", LICENSED)
    done = run_command(tmp_path, *words, *option, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "holds one tests.support.licensed:Licensed alone" in " ".join(done.stderr.split())
