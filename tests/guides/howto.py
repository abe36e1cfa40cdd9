"""How the code of the pages of docs/howto is run; a page that has no row here is run whole.

The commands of those that have one do not run unless it says so."""

from __future__ import annotations

from tests.guides.guide import BEAM, DOCS, IMPORTS, METHODS, Guide

GUIDES = {
    "howto/c_client": Guide(),
    "howto/cluster": Guide(),
    "howto/command_line": Guide(sketches={0: "changes what is logged in the whole program"}),
    "howto/mujoco": Guide(),
    "howto/short/other_machine": Guide(),
    "howto/reports": Guide(),
    "howto/command": Guide(sketches={3: "needs OpenFOAM"}, prepared=False),
    "howto/line_program": Guide(
        smaller={"--samples 2000 --max-steps 100": "--samples 200 --max-steps 20", "epochs=20": "epochs=2"},
        prepared=False,
        commands=True,
    ),
    "howto/batched": Guide(
        IMPORTS + "from physgym.batched.simulation import BatchedSimulation\n",
        smaller={
            "samples=100_000, num_envs=256": "samples=40, num_envs=3",
            "epochs=10, batches_per_epoch=100": "epochs=1, batches_per_epoch=2",
            'num_envs=64, env_kwargs={"size": 32': 'num_envs=4, env_kwargs={"size": 8',
        },
        sketches={1: "a test that the reader writes"},
        prepared=False,
    ),
    "howto/dynamics": Guide(
        smaller={
            "range(200)": "range(20)",
            "epochs=20": "epochs=1",
            "epochs: 20": "epochs: 1",
            "20, episodes=20": "4, episodes=2",
            "--rollout 20": "--rollout 4",
        },
        prepared=False,
        commands=True,
    ),
    "howto/fmu": Guide(
        "from pathlib import Path\nfrom tests.support.fmus import make_fmu\nmake_fmu(Path('springs.fmu'), 2)\n",
        {"samples=200": "samples=8"},
        prepared=False,
    ),
    "howto/generation": Guide(
        IMPORTS + "env = gymnasium.make('physgym/Spring-v0').unwrapped\n",
        {"10_000": "50", "3000": "30", "6400": "640", "LatinHypercube(64)": "LatinHypercube(8)"},
        {7: METHODS, 8: "attributes of several datasets"},
        prepared=False,
    ),
    "howto/hyperparameters": Guide(
        f"import shutil\nshutil.copytree({str(DOCS.parent / 'examples')!r}, 'examples')\n",
        {"trials=3": "trials=2", "epochs=2": "epochs=1"},
        prepared=False,
    ),
    "howto/agents": Guide(smaller={"episodes=20, max_steps=1000": "episodes=2, max_steps=30"}, prepared=False),
    "howto/driving": Guide(sketches={2: "needs the simulator of DonkeyCar"}, prepared=False),
    "howto/interop": Guide(
        smaller={"20_000)\n": "1_024)\n", "n_step=1000": "n_step=80", "samples=1000": "samples=200"},
        sketches={5: "ray starts a cluster", 6: "takes a script of CleanRL"},
        optional=True,
    ),
    "howto/loading": Guide(IMPORTS + BEAM, {"range(10)": "range(2)", "< 10": "< 3"}),
    "howto/machines": Guide(sketches={1: "Ray starts a cluster"}, prepared=False),
    "howto/mpi": Guide(sketches={1: "runs in the ranks"}, prepared=False),
    "howto/online": Guide(
        IMPORTS + "test = physgym.generate('physgym/Heat-v0', 'data/test', samples=20, seed=7, progress=False)\n",
        {
            "capacity=6000, minimum=1000": "capacity=60, minimum=20",
            "epochs=20, batches_per_epoch=500": "epochs=1, batches_per_epoch=3",
        },
        {2: "arguments are left out"},
    ),
    "howto/paraview": Guide(prepared=False),
    "howto/running": Guide(
        IMPORTS,
        {
            "2000": "30",
            "10_000": "3",
            "samples=20_000": "samples=50",
            "steps=200": "steps=5",
            "episodes=20": "episodes=2",
            "frames=50": "frames=2",
        },
        {
            6: METHODS,
            7: "arguments are left out",
            9: "arguments are left out",
            13: "takes a file of ONNX; tests/nn/test_export.py runs such files",
        },
    ),
    "howto/scene": Guide(prepared=False),
    "howto/simulators": Guide(prepared=False),
    "howto/sofa": Guide(sketches={0: "needs SOFA"}, prepared=False),
    "howto/simulation": Guide(
        IMPORTS,
        sketches={
            0: "a class with values left out",
            1: "attributes of a class that the reader writes",
            2: METHODS,
            3: METHODS,
            4: "of the environment of the block before it",
            5: "a class with values left out",
            7: METHODS,
            8: METHODS,
            10: "of the environment of the block before it",
            11: "an attribute of a class that the reader writes",
        },
        prepared=False,
    ),
    "howto/storage": Guide(sketches={0: "takes a bucket; tests/storage runs the same on a server of this machine"}),
    "howto/view": Guide(),
    "howto/watching": Guide(prepared=False),
    "howto/umbridge": Guide(
        "from tests.support.umbridge_models import FakeServer\n"
        "server = FakeServer()\n"
        "server.answers |= {'/InputSizes': {'inputSizes': [1]}, '/OutputSizes': {'outputSizes': [1]}}\n"
        "server.__enter__()\n",
        {'"http://127.0.0.1:4242"': "server.url"},
        {2: "takes a server of a session; tests/adapters/test_umbridge.py asks one by this package"},
        prepared=False,
    ),
}
