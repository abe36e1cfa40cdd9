"""Options of generation that functions, the section ``dataset`` of the configuration and the command line have alike.

This module imports nothing that takes time: the command line reads it before it knows what to do. Options of the
functions alone stand in `generation.stream_options`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Required, TypedDict

from physgym import limits
from physgym.options import REQUIRED, Flag, Option
from physgym.simulation import NonFinite

SeedOption = Annotated[int, Option(0, "seed of the run", at_least=0)]
EpisodesOption = Annotated[
    int | None,
    Option(
        None,
        "how many episodes there shall be, from beginning to end, those of a resumed dataset included; with `samples` "
        "too, it ends with what comes first",
        at_least=1,
    ),
]
MaxSteps = Annotated[int, Option(limits.MAX_STEPS, "end an episode after so many steps", at_least=1)]
MaxRejects = Annotated[int, Option(limits.MAX_REJECTS, "give up after so many rejected steps in a row", at_least=1)]
Timeout = Annotated[float, Option(limits.TIMEOUT, "seconds to wait for a worker", above=0)]
OnError = Annotated[
    Literal["raise", "restart"],
    Option(
        "raise",
        "what happens when a worker dies or hangs: raise, or restart: it is started again and runs its episodes again "
        "from their seeds, with the same results",
    ),
]

Recycle = Annotated[
    int | None,
    Option(
        None,
        "renew each worker process after so many episodes, for simulations that leak memory; the samples are the same",
        at_least=1,
    ),
]


class GenerationOptions(TypedDict, total=False):
    """Options of how samples are made and stored, each a key of the section ``dataset``."""

    num_workers: Annotated[
        int | None,
        Option(None, "worker processes; by default one per usable core, 0 for none", at_least=0),
        Flag("workers"),
    ]
    num_envs: Annotated[int | None, Option(None, "environments; by default one per worker", at_least=1), Flag("envs")]
    max_steps: Annotated[MaxSteps, Flag("max_steps")]
    max_rejects: Annotated[MaxRejects, Flag("max_rejects")]
    nonfinite: Annotated[
        NonFinite,
        Option("error", "what a sample with NaN or infinity is: error, reject (a rejected step) or allow (stored)"),
        Flag("nonfinite"),
    ]
    keep_rejected: Annotated[
        bool, Option(False, "keep the samples of rejected steps separately, with the reasons"), Flag("keep_rejected")
    ]
    snapshots: Annotated[
        int | None,
        Option(
            None,
            "store the state of the simulation after every so many steps, from which `physgym.reopen` starts; samples "
            "do not depend on it",
            at_least=1,
        ),
        Flag("snapshots"),
    ]
    timeout: Annotated[Timeout, Flag("timeout")]
    max_file_size: Annotated[
        int, Option(limits.MAX_FILE_SIZE, "largest size of a file of the dataset, in bytes", at_least=1)
    ]
    on_error: Annotated[
        OnError,
        Flag(
            "restart",
            "Restart a worker that dies or hangs; the samples are the same, but for a simulator in real time.",
            stands_for="restart",
        ),
    ]
    recycle: Annotated[Recycle, Flag("recycle")]


class OnlineOptions(TypedDict, total=False):
    """Options of the buffer between running simulators and the training, each a key of ``dataset.online``."""

    capacity: Required[Annotated[int, Option(REQUIRED, "samples that it holds", at_least=1, configured=4096)]]
    minimum: Required[
        Annotated[
            int,
            Option(REQUIRED, "samples that must be there before the training draws", at_least=1, configured=512),
        ]
    ]
    rule: Annotated[
        Literal["reservoir", "fifo", "firo"], Option("reservoir", "what leaves the buffer: reservoir, fifo or firo")
    ]
    samples: Annotated[
        int | None,
        Option(
            None,
            "end the production after so many samples, those of a continued dataset included; by default it continues. "
            "Draws from a reservoir continue all the same; from the others until all are drawn",
            at_least=1,
        ),
    ]
