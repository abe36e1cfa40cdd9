"""Options of the functions that run a network in its simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from physgym.data.dataset import SampleDataset
from physgym.generation.options import MaxRejects, MaxSteps, OnError, SeedOption, Timeout
from physgym.generation.stream_options import Actions, EnvKwargs, ParametersOption
from physgym.options import Option
from physgym.running.options import RunnerOptions


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
    timeout: Timeout
    on_error: OnError
    load: Annotated[
        SampleDataset | None,
        Option(
            None,
            "stored samples that drive the simulation in place of a sampler of actions, as in `physgym.generate`: each "
            "gives one step, through the environment's ``load_sample(sample)``. A run without a number of steps goes "
            "through them once; a longer one goes on with shuffled episodes",
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
            "whether to go on where the simulation has other code than that, than a record that is resumed, or than a "
            "dataset that is replayed with the solver",
        ),
    ]


class RolloutOptions(TypedDict, total=False):
    """Options of a `RolloutEvaluation`."""

    seed: SeedOption
    env_kwargs: EnvKwargs
    actions: Actions
    parameters: ParametersOption
    max_steps: MaxSteps
