"""How the code of the pages of docs/start is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import Guide

GUIDES = {
    "contributing": Guide(),
    "start/installation": Guide(),
    "start/first_ten_minutes": Guide(
        smaller={
            "physgym train config.yaml": "physgym train config.yaml dataset.samples=300 training.epochs=2",
            "--steps 30": "--steps 2",
            "--rollout 30 --episodes 3": "--rollout 3 --episodes 1",
            "python -m pytest -q": "python -m pytest -q --collect-only",  # tests/experiment/test_new.py runs them
        },
        prepared=False,
        commands=True,
    ),
    "start/your_simulation": Guide(
        smaller={
            "--samples 2000": "--samples 200",
            "samples: 5000": "samples: 400",
            "epochs: 40": "epochs: 2",
            "--rollout 50": "--rollout 5 --episodes 2",
        },
        prepared=False,
        commands=True,
    ),
}
