"""`generate`: a dataset from a simulation, in one call."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from physgym.checks import is_integer
from physgym.data.dataset import SampleDataset
from physgym.data.declared_bounds import lines_beyond
from physgym.errors import ConfigError, SampleError, WorkerError, WorkerLost
from physgym.events import Callback
from physgym.files import short
from physgym.generation.generation_callbacks import GenerationCallbacks
from physgym.generation.stream import SampleStream
from physgym.generation.stream_options import StreamOptions
from physgym.interrupt import Interrupt
from physgym.options import complete, takes
from physgym.progress import Progress, say
from physgym.registration import EnvLike
from physgym.samplers import Breed, find_sampler
from physgym.storage.location import Location, place

BREED_ALONE = (
    "parameters: breed chooses parameters by the losses of a training, and there are none here. Use it in online "
    "training (Online, dataset.produce: online), or another sampler, such as sobol"
)

log = logging.getLogger(__name__)


@takes(StreamOptions)
def generate(
    env: EnvLike,
    path: str | Path,
    *,
    samples: int | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    **options: Unpack[StreamOptions],
) -> SampleDataset:
    """Generate samples of a simulation into a dataset.

    The dataset is a function of (env, env_kwargs, seed, max_steps, actions, parameters, nonfinite, load, samples,
    episodes): the number of workers, crashes and resumes do not change it. One of 50 samples that is continued to 100
    is equal to one of 100 samples, and the same holds for episodes. What a simulator in real time gives
    (`physgym.real_time`) is complete as well, and is not the same twice.

    Simulations make no steps beyond the last sample that is wanted. An episode is sequential: where one can give all
    the samples, other workers have nothing to do, and a warning says so; set `max_steps` then.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one environment.
        path: Dataset folder, or ``s3://bucket/prefix``; must not hold samples of this mode unless `resume` is set.
        samples: How many samples the dataset shall have, those of a resumed one included. With `load` it may be left
            out: then those that one pass over the stored samples gives; and with `episodes`.
        callbacks: Their ``data_generation_begin(stream)``, then for each batch as it was stored
            ``sample_begin(stream)`` and ``sample_end(stream, sample)`` for each of its samples and
            ``data_generation_batch_end(stream, samples)``, then ``data_generation_end(stream)`` (also after Ctrl-C, not
            after an error), and ``close()`` are called, with the `SampleStream`. ``stream.stop(reason)`` ends it.
        progress: Whether to show a progress bar.
        **options: See `physgym.generation.stream_options.StreamOptions`.

    Returns:
        The dataset.

    Raises:
        ConfigError: An argument is wrong.
        SampleError: The environment declares no samples, a sample does not fit, or too many were rejected.
        WorkerError: A worker died or did not answer, or an environment raised.
        ChangedCode: The stored samples were made by other code of the simulation, or it is unknown.
        DatasetError: The folder holds samples already, the samples do not fit on the disk, or it refuses a write.
        KeyboardInterrupt: Ctrl-C; what was generated stays, and `resume` continues it.
    """
    options = complete(StreamOptions, options, "generate")
    load, episodes, drawing = options["load"], options["episodes"], find_sampler(options["parameters"], "parameters")
    limit = None if drawing is None or load is not None else drawing.episodes
    if samples is None and episodes is None:
        episodes = limit
    options |= {"parameters": drawing, "episodes": episodes}
    once = samples is None and episodes is None and load is not None
    uncounted = samples is None and (episodes is not None or load is not None)
    if not uncounted and not is_integer(samples, 1):
        raise ConfigError(f"samples must be at least 1 and an integer, not {samples}; or say how many episodes=")
    if isinstance(drawing, Breed):
        raise ConfigError(BREED_ALONE)
    if path is None:
        raise ConfigError("path must be a folder for the dataset; a SampleStream without one stores nothing")
    folder = place(path)  # before a simulation changes the folder that the process is in
    stream = SampleStream(env, path=folder, passes=1 if once else None, **options)
    wanted = sys.maxsize if samples is None else samples
    with stream, GenerationCallbacks(callbacks, stream) as events:
        total = samples if load is None or samples is not None else len(load)
        if samples is not None:
            stream.expect(max(0, samples - stream.stored))
        elif episodes is not None and load is None and stream.writer is not None and not stream.stored:
            stream.writer.check_room(episodes)  # an episode gives at least one sample, unless all are rejected
        with (
            Interrupt() as interrupt,
            Progress(total, "generate", "sample", initial=stream.stored, enabled=progress) as bar,
        ):
            events.begin()
            try:
                while (
                    stream.stored < wanted and not stream.stopped and len(rows := stream.take(wanted - stream.stored))
                ):
                    bar.update(len(rows), f"rejected {stream.rejected}")
                    events.batch(rows)
                    interrupt.check()
                bar.update(0, f"rejected {stream.rejected}")  # those after the last sample too
            except WorkerError as error:
                if error.remote_traceback and not isinstance(error, SampleError):
                    error.args = (f"{error}\n{_what_is_left(stream, folder)}",)
                elif isinstance(error, WorkerLost):
                    error.args = (f"{error}\n{_after_a_loss(stream, folder, options['on_error'])}",)
                raise
            events.end()
        if progress and stream.rejected:
            say(str(stream.rejections))
        if episodes is None and limit is not None and stream.stored < wanted and not stream.stopped:
            raise SampleError(
                f"the sampler of parameters has values for {limit} episodes, which gave {stream.stored} of "
                f"{samples} samples; leave the number of samples out for all of them. What was generated stays"
            )
        if not stream.stored and not stream.stopped:
            whose = "" if load is None else " that the stored samples asked for"
            raise SampleError(f"all {stream.rejected} steps{whose} were rejected")
    dataset = SampleDataset(folder, mode=options["mode"])
    for line in lines_beyond(dataset.attributes, dataset.statistics):
        log.warning("%s", line)
    return dataset


def _what_is_left(stream: SampleStream, folder: Path | Location) -> str:
    """Say what is intact after an environment has raised, and what leaves its step out."""
    return (
        f"{stream.stored} samples before it are complete in {short(str(folder))}. Where the simulation cannot make "
        'such a step, raise physgym.RejectSample("why") in it: the step is counted, and adds no sample. Then generate '
        "into a new folder; or continue here with the changed code: --resume --allow-changed-code (resume=True, "
        "allow_changed_code=True)"
    )


def _after_a_loss(stream: SampleStream, folder: Path | Location, on_error: str) -> str:
    """Say what is intact after a worker has died or hung, and how to continue."""
    again = "" if on_error == "restart" else "; with --restart (on_error='restart') such a worker is started again"
    return (
        f"{stream.stored} samples before it are complete in {short(str(folder))}. Continue with the same command and "
        f"--resume (resume=True){again}"
    )
