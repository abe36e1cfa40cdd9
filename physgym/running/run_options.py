"""Options of the functions that run a network in its simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict

from physgym.data.dataset import SampleDataset
from physgym.feedback import Declaration
from physgym.generation.options import MaxRejects, MaxSteps, OnError, SeedOption, Timeout
from physgym.generation.stream_options import Actions, EnvKwargs, ParametersOption, ViewOption
from physgym.nn.metrics import MetricName
from physgym.options import Option
from physgym.running.options import BatchSize, RunnerOptions


class RunOptions(RunnerOptions, total=False):
    """Options of a `Runner`."""

    env_kwargs: EnvKwargs
    actions: Actions
    parameters: ParametersOption
    resume: Annotated[bool, Option(False, "continue the record after its last sample")]
    max_steps: MaxSteps
    max_rejects: MaxRejects
    compare: Annotated[bool, Option(True, "whether to compare predictions with what the solver, or the dataset, gives")]
    apply: Annotated[
        bool,
        Option(True, "whether the simulation gets the predictions; without, workers need not wait for the network"),
    ]
    on_error: OnError
    view: ViewOption
    inputs: Annotated[
        str | Path | None,
        Option(
            None,
            "record of a person's inputs, a file or the folder of samples next to which it lies, whose changes are "
            "made again at the beginning of the same steps",
        ),
    ]
    record_inputs: Annotated[
        str | Path | None,
        Option(
            None,
            "new file for the inputs that a person gives in the window or page of `view`; by default ``inputs.jsonl`` "
            "next to the samples of `record`. Where nothing keeps them none are offered",
        ),
    ]
    load: Annotated[
        SampleDataset | None,
        Option(
            None,
            "stored samples that drive the simulation in place of a sampler of actions, as in `physgym.generate`: each "
            "gives one step, through the environment's ``load_sample(sample)``. A run without a number of steps goes "
            "through them once; a longer one continues with shuffled episodes",
        ),
    ]
    part: Annotated[
        str,
        Option(
            "prediction",
            'whose seeds the episodes have: "prediction" has its own, as has "evaluation"; with "training" episodes '
            'are those that generation with this seed gives, with "validation" and "test" those of such parts',
        ),
    ]
    trained_on: Annotated[
        SampleDataset | None,
        Option(
            None,
            "the samples that the network was trained on: a run or a replay of the same episodes is warned of; by "
            "default those that `predictor` remembers (``predictor.learned``), as one does that a `Trainer` has "
            "trained here, or that was loaded from a session whose dataset is still there",
        ),
    ]
    learned: Annotated[
        Mapping[str, Any] | None,
        Option(
            None,
            "record of the code of the simulation whose samples the network was trained on, see `physgym.code`; by "
            "default the record that `predictor` has from its checkpoint or session. An empty one compares nothing",
        ),
    ]
    allow_changed_code: Annotated[
        bool,
        Option(
            False,
            "whether to continue where the simulation has other code than that, than a record that is resumed, or than "
            "a dataset that is replayed with the solver",
        ),
    ]


class MeasureOptions(TypedDict, total=False):
    """Options of `RolloutEvaluation.measure`."""

    episodes: Annotated[
        int | Sequence[int] | None,
        Option(
            None,
            "how many episodes, the first ones; of a dataset also which ones, by their numbers. By default all of a "
            "dataset, or 10 fresh ones",
        ),
    ]
    metrics: Annotated[
        Sequence[MetricName],
        Option(
            ("relative_l2",),
            "names of `physgym.nn.metrics.METRICS` that a single step has, such as rmse or mae, and functions of "
            "(prediction, target), float64 of shape (steps, *field shape), that return shape (steps,)",
        ),
    ]
    thresholds: Annotated[
        Sequence[float],
        Option((), "values of the first metric, for each of which the time is given until the error exceeds it"),
    ]
    quantiles: Annotated[
        Sequence[float], Option((0.1, 0.5, 0.9), "parts of the episodes, whose largest error is shown")
    ]
    record: Annotated[
        str | Path | None,
        Option(None, "dataset folder, or s3://bucket/prefix, for the predictions next to what is true"),
    ]
    examples: Annotated[int, Option(1, "number of rollouts that the report keeps for animations", at_least=0)]
    batch_size: BatchSize
    num_envs: Annotated[int | None, Option(None, "environments for fresh episodes; by default one per worker")]
    num_workers: Annotated[
        int | None,
        Option(0, "worker processes for fresh episodes; 0 makes them in this process, None takes one per usable core"),
    ]
    timeout: Timeout
    progress: Annotated[bool, Option(False, "whether to show how far it is")]


class RolloutOptions(TypedDict, total=False):
    """Options of a `RolloutEvaluation`."""

    feedback: Annotated[
        Declaration | None,
        Option(
            None,
            "which output feeds which input of the next step, such as 'next_state -> state', see `physgym.feedback`; "
            "by default what the samples declare",
        ),
    ]
    seed: SeedOption
    env_kwargs: EnvKwargs
    actions: Actions
    parameters: ParametersOption
    max_steps: MaxSteps
