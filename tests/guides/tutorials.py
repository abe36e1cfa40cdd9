"""How the code of the pages of docs/tutorials is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import Guide

GUIDES = {
    "tutorials/time_series": Guide(
        smaller={
            '{"training": 60, "validation": 10, "test": 20}': '{"training": 4, "validation": 1, "test": 2}',
            "optimizer, 40": "optimizer, 4",
            "epochs=40": "epochs=4",
            "{0: 1, 10: 2, 20: 4, 30: 8}": "{0: 1, 1: 2, 2: 4, 3: 8}",
        },
        files={0: "pendulum.py"},
        prepared=False,
    ),
    "tutorials/robot_arm": Guide(
        smaller={
            '{"training": 400, "validation": 20, "test": 20}': '{"training": 8, "validation": 1, "test": 2}',
            "EPOCHS = 40": "EPOCHS = 2",
            "KEPT = 12, 200, 4, 20": "KEPT = 2, 6, 2, 2",
            "SEEDS = range(3)": "SEEDS = range(1)",
            "episodes=10": "episodes=1",
        },
        prepared=False,
        packages=("mujoco", "imageio"),
    ),
    "tutorials/car": Guide(
        smaller={
            "steps=10_000": "steps=1_200",
            "evaluate_every=1_000": "evaluate_every=600",
            "evaluate_episodes=10": "evaluate_episodes=2",
            "episodes=20": "episodes=2",
            "epochs=100": "epochs=2",
        },
        prepared=False,
    ),
    "tutorials/slow_simulation": Guide(
        smaller={
            "SECONDS = 12": "SECONDS = 0",
            "samples=400": "samples=20",
            "minimum=200": "minimum=20",
            "(500, 1000, 1500)": "(40,)",
            "samples=4000": "samples=40",
        },
        prepared=False,
    ),
    "tutorials/many_machines": Guide(
        smaller={
            "samples: 2000": "samples: 40",
            "epochs: 30": "epochs: 2",
            "rehearse.sh 2 2 train config.yaml": "rehearse.sh 2 1 train config.yaml --no-report",
            "--rollout 20": "--rollout 3 --episodes 2",
            "(1, 2, 4, 8)": "(1,)",
            "200 * workers": "20 * workers",
        },
        prepared=False,
        commands=True,
    ),
    "tutorials/pde_grid": Guide(
        smaller={
            "def __init__(self, size=32": "def __init__(self, size=16",
            '{"training": 400, "test": 100}': '{"training": 12, "test": 4}',
            "epochs = 25": "epochs = 1",
            '"size": 64': '"size": 32',
            "samples=100, max_steps=1": "samples=4, max_steps=1",
        },
        prepared=False,
        commands=True,
    ),
    "tutorials/finite_elements": Guide(
        smaller={
            '{"training": 1000, "test": 100}': '{"training": 30, "test": 6}',
            "epochs = 250": "epochs = 2",
            "test[:40]": "test[:2]",
            "runner.run(30)": "runner.run(8)",
        },
        prepared=False,
        commands=True,
    ),
    "tutorials/external_program": Guide(
        smaller={'{"training": 400, "test": 100}': '{"training": 40, "test": 8}', "epochs = 200": "epochs = 2"},
        prepared=False,
        commands=True,
    ),
}
