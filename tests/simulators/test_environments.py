"""Environments whose simulators are lent by services: the simulator of DonkeyCar that ships for tests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

import physgym
from physgym.adapters.donkeycar import DonkeyCarEnv
from physgym.errors import ConfigError, SimulatorError
from physgym.simulators.client import ServiceClient
from physgym.system.ports import holders
from tests.simulators.test_service import listed, soon
from tests.support.simulators import lending, reaching

DONKEY = [sys.executable, "-m", "physgym.testing.fake_donkey", "--port", "{port}", "--period", "0.02"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def token(tmp_path):
    file = tmp_path / "token"
    file.write_text(bytes(range(32)).hex())
    file.chmod(0o600)
    return str(file)


def described(service, token):
    return {"address": str(service.address), "token_file": token, "plain": True}


@pytest.fixture(autouse=True)
def found_by_simulators(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("physgym.simulators.program.GRACE", 0.3)


@pytest.mark.slow
def test_an_environment_borrows_its_simulator_and_gives_it_back(tmp_path, token):
    with lending(tmp_path, command=DONKEY) as service, ServiceClient(reaching(service)) as client:
        env = DonkeyCarEnv(simulators=[described(service, token)], timeout=30)
        env.reset(seed=0)
        (there,) = listed(client)
        assert there["state"] == "lent"
        env.close()
        assert [one["state"] for one in listed(client)] == ["free"]
        env = DonkeyCarEnv(simulators=[described(service, token)], timeout=30)
        assert listed(client)[0]["used"] == 2
        env.reset(seed=0)
        (pid,) = holders(there["port"])
        os.kill(pid, signal.SIGSTOP)  # it hangs
        env.close()
        env.close()
        soon(lambda: listed(client) == [])
        env = DonkeyCarEnv(simulators=[described(service, token)], timeout=30)
        env.quit()
        soon(lambda: listed(client) == [])


def test_what_cannot_be_driven_is_ended(tmp_path, token):
    with lending(tmp_path) as service, ServiceClient(reaching(service)) as client:  # no DonkeyCar
        with pytest.raises(SimulatorError):
            DonkeyCarEnv(simulators=[described(service, token)], timeout=5)
        soon(lambda: listed(client) == [])
        assert "killed by a client" in service.said[-1]
        with pytest.raises(ConfigError, match="leave one of both out"):
            DonkeyCarEnv(simulators=[described(service, token)], command=["sim"])
        for wrong in ([], "127.0.0.1:1", {"address": "127.0.0.1:1"}):
            with pytest.raises(ConfigError, match="simulators is a list of services"):
                DonkeyCarEnv(simulators=wrong)
    with pytest.raises(SimulatorError, match="no simulator service answers"):
        DonkeyCarEnv(simulators=[described(service, token)], timeout=0.2)


@pytest.mark.slow
def test_a_vector_env_over_two_services_goes_on_where_one_is_killed(tmp_path, token):
    with (
        lending(tmp_path, command=DONKEY, most=2) as first,
        lending(tmp_path, command=DONKEY, most=2) as second,
    ):
        services = [described(first, token), described(second, token)]
        envs = physgym.SocketVectorEnv(
            [lambda: DonkeyCarEnv(simulators=services, timeout=30)] * 2, num_workers=2, on_error="restart", timeout=60
        )
        with envs, ServiceClient(reaching(second)) as client:
            envs.reset(seed=0)
            assert [len(service.state) for service in (first, second)] == [1, 1]  # each begins with another one
            ended = np.zeros(2, int)
            for step in range(40):
                if step == 10:
                    first.close()
                _, _, terminated, truncated, _ = envs.step(np.array([[0.0, 0.4]] * 2, np.float32))
                ended += terminated | truncated
            assert ended[0] >= 1
            assert [one["state"] for one in listed(client)] == ["lent", "lent"]


TRAINER = """
import json, sys, time, physgym
from physgym.adapters.donkeycar import DonkeyCarEnv
services = json.loads(sys.argv[1])
envs = physgym.SocketVectorEnv([lambda: DonkeyCarEnv(simulators=services, timeout=30)], num_workers=1)
envs.reset(seed=0)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_all_are_free_after_a_crash_of_the_trainer(tmp_path, token, monkeypatch):
    monkeypatch.setattr("physgym.simulators.pool.LEFT", 0.5)
    with lending(tmp_path, command=DONKEY) as service, contextlib.ExitStack() as stack:
        services = json.dumps([described(service, token)])
        trainer = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", TRAINER, services], stdout=subprocess.PIPE, text=True)
        )
        assert trainer.stdout.readline() == "ready\n"
        (pid,) = holders(service.state[0]["port"])
        trainer.kill()
        soon(lambda: service.state == [])
        assert not psutil.pid_exists(pid)
