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
}
