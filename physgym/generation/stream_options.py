"""Options of the functions that generate samples: those of a configuration, and those that only a program has."""

from __future__ import annotations

from typing import Annotated, Any

from physgym.data.dataset import SampleDataset
from physgym.data.description import Mode
from physgym.generation.options import EpisodesOption, GenerationOptions, SeedOption
from physgym.launch.base import Launcher
from physgym.options import Option
from physgym.samplers.base import SamplerLike
from physgym.vector.arguments import Arguments
from physgym.vector.predictions import AnyPredictor
from physgym.viewing.shown import ViewLike

EnvKwargs = Annotated[
    Arguments,
    Option(
        None,
        "arguments of the environment's constructor; of a list of k dictionaries, episode e has "
        "``env_kwargs[e % k]``, whichever worker runs it",
    ),
]
Actions = Annotated[
    SamplerLike,
    Option(
        None,
        'what draws the actions: one of `physgym.samplers`, its name such as "sobol", or a function of (observation, '
        "generator); None leaves it to the environment",
    ),
]
ParametersOption = Annotated[
    SamplerLike,
    Option(
        None,
        "what draws the parameters of episodes: one of `physgym.samplers`, or its name; None leaves it to the "
        "environment",
    ),
]


ViewOption = Annotated[
    ViewLike,
    Option(
        None,
        'what shows the simulations while they run: "vedo", a window, or "web", a page in a browser. Samples do not '
        "depend on it, and simulations do not wait for it",
    ),
]


LauncherOption = Annotated[
    Launcher[Any] | None,
    Option(
        None,
        "what brings workers from elsewhere, such as a `physgym.machines.reception.Reception`: these say how many "
        "environments there are, and `num_workers` and `num_envs` play no part",
    ),
]


class StreamOptions(GenerationOptions, total=False):
    """Options of `SampleStream` and of `physgym.generate`."""

    seed: SeedOption
    env_kwargs: EnvKwargs
    mode: Annotated[
        Mode,
        Option(
            "training",
            "which part of the dataset to write; episode i of a part has a seed derived from that of the run, the part "
            "and i",
        ),
    ]
    resume: Annotated[bool, Option(False, "continue the dataset at `path` after its last sample")]
    actions: Actions
    parameters: ParametersOption
    predictor: Annotated[
        AnyPredictor, Option(None, "answers simulations that ask for a prediction in the middle of a step")
    ]
    load: Annotated[
        SampleDataset | None,
        Option(
            None,
            "stored samples that drive the simulation in place of a sampler of actions: each stored episode is begun "
            "again with its seed and parameters, and each of its samples gives, through the environment's "
            "``load_sample(sample)``, the action of a step. Once in the order of the dataset; then again, shuffled",
        ),
    ]
    episodes: EpisodesOption
    view: ViewOption
    launcher: LauncherOption
    allow_changed_code: Annotated[
        bool,
        Option(
            False,
            "with `resume`: continue with another code of the simulation than that which made the samples; the dataset "
            "records both",
        ),
    ]
