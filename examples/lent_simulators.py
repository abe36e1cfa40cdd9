"""Simulators that a service lends.

Two cars drive in simulators that a service starts and lends. Here it runs on this machine; on another one it is started
by ``physgym simulators serve``.
"""

import json
import shlex
import subprocess
import sys
import tempfile

import numpy as np

import physgym
from physgym.adapters.donkeycar import DonkeyCarEnv

SIMULATOR = f"{sys.executable} -m physgym.testing.fake_donkey --port {{port}}"


def main(steps=100):
    serve = [sys.executable, "-m", "physgym", "simulators", "serve", "--command", SIMULATOR, "--max", "2", "--plain"]
    with tempfile.TemporaryDirectory() as folder:
        listen = ["--listen", "127.0.0.1:0", "--token-file", f"{folder}/token"]
        with subprocess.Popen([*serve, *listen], stderr=subprocess.PIPE, text=True) as service:
            line = next(line for line in service.stderr if "simulators=" in line)  # what it prints for others
            drive(json.loads(shlex.split(line)[1].removeprefix("simulators=")), steps)
            service.terminate()


def drive(simulators, steps):
    make = [lambda: DonkeyCarEnv(simulators=simulators, timeout=60)] * 2
    with physgym.SocketVectorEnv(make, num_workers=2, on_error="restart") as envs:
        _, infos = envs.reset(seed=0)
        for _ in range(steps):
            steering = np.clip(-0.3 * infos["cte"], -1, 1)  # back to the middle, in place of an agent
            actions = np.stack([steering, np.full(2, 0.4)], axis=1).astype(np.float32)
            infos = envs.step(actions)[-1]
        print("driven:", infos["distance"].round(1))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
