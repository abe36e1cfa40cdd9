"""Options of running that `Runner`, the section ``runner`` of the configuration and ``physgym run`` have alike.

This module imports nothing that takes time: the command line reads it before it knows what to do. Options of the
functions alone stand in `running.run_options`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypedDict

from physgym.engine_names import Engine
from physgym.generation.options import Timeout
from physgym.options import Flag, Option

ROLLOUT_STEPS = 50  # of a rollout of the validation

BatchSize = Annotated[
    int,
    Option(
        1,
        "predict for so many samples at once, where nothing waits for a single prediction; 1 gives the bits of a "
        "single prediction, more is faster and equal to rounding",
        at_least=1,
    ),
    Flag("batch_size", checked=True),
]

EngineOption = Annotated[
    Engine,
    Option(
        "torch",
        "what computes predictions: torch; what its compiler makes of the network (compiled, needs a C++ compiler); or "
        "onnxruntime (onnx). The last two take a half to a fifth of the time, and are compared with torch at the start",
    ),
    Flag("engine"),
]


class RunnerOptions(TypedDict, total=False):
    """Options of a run, each a key of the section ``runner``."""

    seed: Annotated[
        int,
        Option(
            0, "seed of the run; another seed than that of the training gives unseen episodes", at_least=0, configured=1
        ),
        Flag("seed", checked=True),
    ]
    num_workers: Annotated[
        int | None,
        Option(
            None,
            "worker processes that run the simulation; by default it runs in this one, or, where the number of "
            "environments is given, in one per usable core",
            at_least=1,
        ),
        Flag("workers"),
    ]
    num_envs: Annotated[
        int | None, Option(None, "environments in workers; by default one per worker", at_least=1), Flag("envs")
    ]
    timeout: Annotated[Timeout, Flag("timeout")]
    surrogate: Annotated[bool, Option(False, "the network makes the steps, in place of the solver"), Flag("surrogate")]
    record: Annotated[
        str | Path | None,
        Option(None, "dataset folder, or s3://bucket/prefix, for samples, predictions and errors"),
        Flag("record"),
    ]
    batch_size: BatchSize
    engine: EngineOption
