"""`SampleStream`: episodes run in parallel workers, samples arrive in the order of their names.

A place in a stream is the
name of the sample that was handed out last: independent of what is stored, what comes after it is always the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np

from physgym.batched.env import BATCHED
from physgym.checks import integer, is_integer, one_of
from physgym.code.record import Code, check_same
from physgym.code.search import code_of
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import begun, continued, warn_of_parts
from physgym.data.snapshots import SnapshotWriter, check_snapshots
from physgym.data.writer import SampleWriter, close_after
from physgym.episode import NO_SAMPLE_SPACE, episode_seed
from physgym.errors import ConfigError, DatasetError, SampleError, UnequalSpaces
from physgym.generation.arrivals import OrderedArrivals
from physgym.generation.declarations import Declarations
from physgym.generation.episode_plan import EpisodePlan, Episodes
from physgym.generation.fed_back_pairs import FedBackPairs
from physgym.generation.first_worker import with_first_worker
from physgym.generation.named_samples import Name, NamedSamples, SampleNames, join_names
from physgym.generation.reading import Reading
from physgym.generation.rejections import Rejections
from physgym.generation.sample_source import SampleSource
from physgym.generation.source import is_same_source, origin_attributes, rows_attribute
from physgym.generation.store import Store
from physgym.generation.stream_options import StreamOptions
from physgym.launch.base import DialInLauncher
from physgym.naming import env_name
from physgym.options import complete, takes
from physgym.placement import declared_metadata, described, makes_batch
from physgym.real_time import runs_in_real_time
from physgym.registration import EnvLike
from physgym.sample import Sample, SampleSpec
from physgym.samplers import Breed
from physgym.scene.inputs import SceneInput
from physgym.simulation import NonFinite
from physgym.single import MACHINE, single_of
from physgym.spaces import Array
from physgym.storage.location import Location
from physgym.system.cores import usable_cores
from physgym.vector.predictions import AnyPredictor
from physgym.vector.vector_env import SocketVectorEnv
from physgym.viewing.shown import show, view_of
from physgym.worker.given_inputs import RunInputs, inputs_of

BATCH = 64  # rows of a simulator that computes many environments at once, by default
INTERRUPT_PATIENCE = 0.5  # seconds that workers get to close their environments after Ctrl-C or a fault


@takes(StreamOptions)
class SampleStream(SampleSource):
    """Fresh samples from parallel simulations, in an order that depends on the seed alone.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes one environment.
        path: Dataset folder, or ``s3://bucket/prefix``, in which everything drawn is stored; None stores nothing.
        passes: How often `load` is run through; None for ever.
        seeds: Part and rule from which seeds are derived, as `physgym.episode.part_seed` has them; those of `mode` by
            default.
        reports: Whether `take` gives every step, rejected ones included, with its reward and times; without `path`.
        inputs: Inputs of a person, of environments made by `physgym.worker.given_inputs.with_inputs`; only where steps
            are reported, since looking never changes samples.
        **options: See `physgym.generation.stream_options.StreamOptions`.

    Attributes:
        spec: The sample fields.
        parameter_spec: Parameters of an episode, None if the environment declares none.
        rejections: Rejected steps up to the samples that were handed out last, those of a resumed dataset included.
        writer: Writes to `path`; None without one.
        position: Episode and step of the sample that was handed out last, or, of a resumed dataset, stored last; None
            at the beginning.
        drawn: Names of the samples that were handed out last.
        stopped: Why `stop` was called; empty where it was not.

    Raises:
        ConfigError: An argument is wrong, or the environment has no ``load_sample``.
        SampleError: The environment declares no samples.
        WorkerError: An environment's constructor raised.
        DatasetError: The folder holds samples already and `resume` is off; or the samples to load do not fit.
    """

    def __init__(
        self,
        env: EnvLike,
        *,
        path: str | Path | Location | None = None,
        passes: int | None = None,
        seeds: tuple[str, int] | None = None,
        reports: bool = False,
        inputs: RunInputs | None = None,
        **options: Unpack[StreamOptions],
    ) -> None:
        options = complete(StreamOptions, options, "SampleStream.__init__")
        episodes, nonfinite, env_kwargs = options["episodes"], options["nonfinite"], options["env_kwargs"]
        mode, resume, keep_rejected = options["mode"], options["resume"], options["keep_rejected"]
        num_envs, num_workers = options["num_envs"], options["num_workers"]
        seed, view = integer("seed", options["seed"], 0), view_of(options["view"])
        max_steps, max_rejects = (integer(name, options[name], 1) for name in ("max_steps", "max_rejects"))
        if num_workers is not None:
            num_workers = integer("num_workers", num_workers)
        launcher, timeout = options["launcher"], options["timeout"]
        if isinstance(launcher, DialInLauncher):
            num_workers = num_envs = 1  # the first one that comes; others join it
        if num_envs is None:
            num_envs = max(1, usable_cores() if num_workers is None else num_workers)
        num_envs = integer("num_envs", num_envs, 1, hint="; leave it out for one per worker")
        if episodes is not None and not is_integer(episodes, 1):
            raise ConfigError(f"episodes must be at least 1 and an integer, or None for no end, not {episodes!r}")
        one_of("nonfinite", nonfinite, get_args(NonFinite))
        limits: dict[str, Any] = {"max_steps": max_steps, "max_rejects": max_rejects}
        limits |= {"nonfinite": nonfinite, "keep_rejected": bool(keep_rejected and path is not None)}
        if reports and path is not None:
            raise ConfigError("a dataset stores samples, and no reports of steps; leave path or reports out")
        if inputs is not None and not reports:
            raise ConfigError("inputs of a person change samples, and belong to a run: Runner(inputs=...)")
        limits["reports"] = reports
        snapshots = check_snapshots(options["snapshots"], path)
        self._plan = plan = EpisodePlan(
            env,
            env_kwargs,
            seed=seed,
            mode=mode,
            seeds=seeds,
            continued=path if resume else None,
            actions=options["actions"],
            parameters=options["parameters"],
            limits=limits,
            load=options["load"],
            passes=passes,
            episodes=episodes,
            snapshots=snapshots,
        )
        self.stopped = ""
        self._allow_changed_code = options["allow_changed_code"]
        self._store: Store | None = None
        self._patience: float | None = None  # the environments' own
        factory = plan.factory()
        single = single_of(declared_metadata(factory))
        if options["num_envs"] is None and declared_metadata(factory).get(BATCHED) and makes_batch([factory]):
            num_envs = max(BATCH, num_workers or 1)
        elif single == MACHINE and options["num_envs"] is None and num_workers is None:
            num_envs = 1
        if num_workers is None:  # episodes run in them by themselves, so that messages cost nothing
            num_workers = 1 if makes_batch([factory]) else usable_cores()

        def opened(count: int) -> Declarations:
            envs = SocketVectorEnv(
                [factory] * (count if single is None or not isinstance(launcher, DialInLauncher) else 1),
                num_workers=num_workers,
                timeout=timeout,
                on_error=options["on_error"],
                recycle=options["recycle"],
                predictor=options["predictor"],
                launcher=launcher,
            )
            found = Declarations(envs)
            if isinstance(launcher, DialInLauncher):
                try:
                    found.ask()
                except BaseException:
                    envs.close(terminate=True)
                    raise
            return found

        try:
            if isinstance(launcher, DialInLauncher):
                described(factory)  # what cannot be described is an error before anybody comes
                self._declared = with_first_worker(launcher, timeout, opened)
            else:
                self._declared = opened(num_envs)
        except UnequalSpaces as error:
            if len(plan.arguments) == 1:
                raise
            raise UnequalSpaces(
                "a list of arguments (env_kwargs) belongs to the episodes of one dataset, and must not change its "
                f"spaces and fields; make a dataset for each instead. {error}"
            ) from error
        try:
            spec = self._envs.sample_spec
            if spec is None:
                raise SampleError(NO_SAMPLE_SPACE.format(env=env_name(env)))
            self.spec: SampleSpec = spec
            plan.real_time = runs_in_real_time(self._envs.description["metadata"])
            self.parameter_spec = self._envs.parameter_spec
            self._episodes = Episodes(plan, self._envs.parameter_space, self.parameter_spec, inputs)
            if path is not None:
                writer = SampleWriter(
                    path,
                    spec,
                    mode=mode,
                    source=plan.source,
                    resume=resume,
                    max_file_size=options["max_file_size"],
                    parameters=self.parameter_spec,
                    rejected=keep_rejected,
                    endings=True,
                    nonfinite="allow",  # the workers have decided
                    attributes=origin_attributes(env, plan.arguments, self._declared)
                    | rows_attribute(self._declared, path if resume else None, mode),
                )
                pairs = None if plan.real_time or plan.loaded is not None else FedBackPairs(spec)
                self._store = Store(writer, None, pairs)
                self._record_code(writer)
                if snapshots is not None:
                    kept = SnapshotWriter(writer.path, mode, self.code.hash or "", self.time_step)
                    self._store = Store(writer, kept, pairs)
                warn_of_parts(self, writer)
                if (constants := self.constants) or writer.constants:
                    writer.set_constants(constants)
                if (scene := self.scene) is not None:
                    writer.set_scene(scene)
            if inputs is not None and inputs.live:
                self._envs.views.accept(self.inputs)
            show(self._envs.views, view, env_name(env), [] if path is None else [str(path)])
        except BaseException as error:
            self._close(type(error))
            raise
        self.position: Name | None = None if self.writer is None else self.writer.last
        self.rejections = Rejections() if self._store is None else self._store.rejections()
        if self.breed is not None and self.position is not None:
            self._recall(self.breed)
        self.drawn = SampleNames()
        self._reading: Reading | None = None  # None: to begin after the position
        self._expected: int | None = None  # how many samples are wanted after the position
        self._due = 0  # how many of them have not been handed out

    @property
    def _envs(self) -> SocketVectorEnv:
        return self._declared.envs

    @property
    def seed(self) -> int:
        """Return the seed of the run."""
        return self._plan.seed

    @property
    def writer(self) -> SampleWriter | None:
        """Return the writer of the dataset; None where nothing is stored."""
        return None if self._store is None else self._store.writer

    @cached_property
    def code(self) -> Code:
        """Return the code of the simulation."""
        return code_of(self._plan.env, self._plan.arguments, self.made)

    @property
    def made(self) -> Mapping[str, Any] | None:
        """Return the classes and files of the environments, as these describe them."""
        found: Mapping[str, Any] | None = self._envs.description.get("code")
        return found

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of the environments, as far as it is JSON data."""
        found: Mapping[str, Any] = self._envs.description["metadata"]
        return found

    @property
    def constants(self) -> dict[str, Array]:
        """Return the arrays that the simulation gives once."""
        return self._declared.constants

    @property
    def scene(self) -> str | None:
        """Return the scene that the simulation declares, see `physgym.scene.declared`; None where it declares none."""
        return self._declared.scene

    @cached_property
    def inputs(self) -> dict[str, SceneInput]:
        """Return the inputs of a person that the simulation declares, by name; none where it is given none."""
        return {} if self._episodes.inputs is None else inputs_of(self._envs.call_envs([0], "described_inputs")[0])

    @property
    def time_step(self) -> float | None:
        """Return the time of a step in s, as the simulation declares it; None where it does not."""
        return self._declared.time_step

    @property
    def defaults(self) -> Any:
        """Return the arguments of the constructor where none are given, as JSON data."""
        return self._plan.defaults

    @property
    def loaded(self) -> SampleDataset | None:
        """Return the samples whose episodes are run again; None where episodes are drawn."""
        return self._plan.loaded

    def episode_seed(self, episode: int) -> int:
        """Return the seed of an episode, by its index; stored samples that are loaded have their own."""
        return episode_seed(self._plan.part_seed, episode)

    @property
    def origin(self) -> SampleStream:
        """Return itself, which knows where its samples come from."""
        return self

    def _record_code(self, writer: SampleWriter) -> None:
        """Note which code makes the samples, in the description of the dataset.

        Raises:
            ChangedCode: The stored samples were made by another code.
        """
        if writer.count == 0:
            writer.provenance = begun(self.code, self.defaults)
            return
        where, allow = f"the part {writer.mode} of {writer.path}", self._allow_changed_code
        writer.provenance = continued(
            writer.provenance, self.code, writer.count, where, allow=allow, defaults=self.defaults
        )

    @property
    def source(self) -> dict[str, Any]:
        """Return the function that the samples are of, as JSON data, which a dataset stores."""
        return self._plan.source

    def _recall(self, breed: Breed) -> None:
        """Let episodes that are stored have the parameters that they had."""
        stored = self.dataset()
        if stored is not None and stored.parameters is not None and stored.parameter_episodes is not None:
            breed.recall(stored.parameter_episodes, stored.parameters)

    @property
    def breed(self) -> Breed | None:
        """Return the sampler of parameters, where it is one that losses drive."""
        return self._plan.breed

    @property
    def stored(self) -> int:
        """Return the number of samples of the dataset, those that it had at first included; 0 without one."""
        return 0 if self.writer is None else self.writer.count

    @property
    def begun(self) -> bool:
        """Return whether samples were taken, since it was made or its state was loaded."""
        return self._reading is not None

    def expect(self, samples: int) -> None:
        """Say that only so many samples more will be taken: simulations make no steps beyond them.

        Without it they run ahead, so that `take` need not wait. More may be taken all the same; what was
        saved then takes time.

        Args:
            samples: How many.

        Raises:
            ConfigError: Samples were taken already; `load_state_dict` starts again.
            DatasetError: They do not fit on the disk.
        """
        if self._reading is not None:
            raise ConfigError("say how many samples are expected before the first one is taken")
        if self.writer is not None and self._plan.passes is None:
            episodes = self._plan.episodes
            self.writer.check_room(samples if episodes is None else min(samples, episodes))
        self._expected = self._due = samples

    def want(self, samples: int) -> None:
        """Say that so many samples are wanted next, at least; other than `expect` at any time.

        What was expected before and was not taken counts. Where nothing was expected there is no end.

        Args:
            samples: How many.
        """
        if self._reading is None:
            self.expect(samples)
            return
        more = samples - self._due
        if self._expected is not None and more > 0 and self._reading.want(more):
            self._expected, self._due = self._expected + more, samples

    def stop(self, reason: str = "") -> None:
        """End the generation that `generate` is at, after the event that calls this.

        Args:
            reason: Why, for readers of `stopped`.
        """
        self.stopped = reason or "a callback asked for it"

    @property
    def predictor(self) -> AnyPredictor:
        """Return the network that answers simulations in the middle of a step; may be set at any time."""
        return self._envs.predictor

    @predictor.setter
    def predictor(self, predictor: AnyPredictor) -> None:
        self._envs.predictor = predictor

    @property
    def paused(self) -> bool:
        """Return whether somebody who looks at the simulations has them pause."""
        return self._envs.views.paused

    @property
    def lacks_predictor(self) -> bool:
        """Return whether nothing answers simulations that ask for a prediction."""
        return self.predictor is None

    def answer_with(self, predictor: AnyPredictor) -> None:
        """Let a network answer simulations that ask for a prediction."""
        self._envs.predictor = predictor

    def take(self, limit: int) -> NamedSamples:
        """Take the next samples, at least one and at most `limit`; stored if there is a dataset.

        Returns:
            The samples and their names. None of them once stored samples were loaded as often as `passes` says, or the
            last of `episodes` has ended.

        Raises:
            SampleError: A sample does not fit its declaration, or too many in a row were rejected.
            WorkerError: A worker died or did not answer, or an environment raised.
            DatasetError: The disk refuses the write.
        """
        parts = self._hand_out(1, limit)
        return parts[0] if parts else NamedSamples({})

    def draw(self, batch_size: int) -> Sample:
        """Draw the next samples: fields of shape (batch_size, *field shape); fewer at the end of the last pass.

        Raises:
            SampleError: As `take`.
            WorkerError: As `take`.
            DatasetError: As `take`; or stored samples were loaded as often as `passes` says, or all `episodes` ended.
        """
        parts = self._hand_out(batch_size, batch_size)
        if not parts:
            plan = self._plan
            if plan.passes is None:
                raise DatasetError(
                    f"all episodes={plan.episodes} have ended, and there are no more samples; raise episodes, or leave "
                    "it out"
                )
            raise DatasetError(
                f"all stored samples were loaded {plan.passes} times; load them more often (passes), or for ever "
                "(passes=None)"
            )
        # also of one part: what arrived need not be aligned in memory
        return {name: np.concatenate([part.samples[name] for part in parts]) for name in self.spec}

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the samples that were handed out last, as JSON data."""
        position = None if self.position is None else list(self.position)
        return {"position": position, "source": self.source, "code": self.code.to_json()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a place: the next samples are those that came after it, to the bit, independent of what is stored.

        Samples that are stored already are read; what a killed process could not store is produced and stored again.

        Args:
            state: What `state_dict` gave; empty for the beginning.

        Raises:
            ConfigError: It is the state of another stream.
            ChangedCode: The simulation has other code than when it was saved.
        """
        position: Name | None = None
        try:
            if state and state["position"] is not None:
                episode, step = state["position"]
                position = integer("episode", episode), integer("step", step)
            source = state["source"] if state else None
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not the state of a SampleStream: {error!r}") from error
        if source is not None and not is_same_source(source, self.source):
            raise ConfigError(
                f"the saved position is one of {source}, this stream produces {self.source}. Continue with the same "
                "environment, arguments, samplers and seed"
            )
        if position is not None:
            check_same(state.get("code"), self.code, "what was saved", allow=self._allow_changed_code)
        self.position, self.drawn, self._reading, self._expected = position, SampleNames(), None, None
        self.rejections = Rejections(position) if self._store is None else self.rejections

    def _hand_out(self, least: int, most: int) -> list[NamedSamples]:
        """Return the next samples, fewer than `least` only at the end."""
        parts: list[NamedSamples] = []
        before = self.position
        try:
            while (count := sum(map(len, parts))) < least and (part := self._next(most - count)) is not None:
                parts.append(part)
        except BaseException as error:
            if self._reading is not None:
                self._reading.close()  # the error that is raised may keep it alive
            self._reading, self.position = None, before  # what was not handed out is not lost
            if isinstance(error, KeyboardInterrupt):
                self._close(KeyboardInterrupt)  # a cell of a notebook keeps what it has made, and closes nothing
            raise
        for part in parts if self._store is None else ():
            self.rejections.add(part)
        if parts:
            self._due -= sum(map(len, parts))
            self.drawn = join_names(*(part.names for part in parts))
            self.position = self.drawn.last
        return parts

    def _next(self, limit: int) -> NamedSamples | None:
        """Return the next samples after the position; they and any before them are stored."""
        reading = self._reading or self._begin()
        while True:
            samples = reading.next(limit)
            if samples is None and self._expected is not None and not reading.round_over:
                self._expected = None  # there may be more than that
                self.position = reading.behind or self.position
                reading = self._begin()
                continue
            if samples is None:
                if (rest := reading.rest()) is not None:
                    self.rejections.add(rest)
                    if self.stored and self._store is not None:
                        self._store.write(rest)
                return None
            if self._store is not None and reading.is_new(samples):
                self._store.write(samples)
                self.rejections.add(samples)
                if self._expected is None:
                    self._episodes.warn_of_repeats(samples, self.rejected)
            if self.position is None or samples.names.first > self.position:
                return samples
            if samples.names.last > self.position:
                return samples.cut(samples.names.after(*self.position))

    def _begin(self) -> Reading:
        """Begin after the position: with the stored samples, then with the production."""
        if self.breed is not None:
            self.breed.keep()  # an episode that was begun has its parameters
        store, expected = self._store, self._expected
        stored = None if store is None else store.writer.last
        again: Iterator[NamedSamples] = iter(())
        if store is not None and stored is not None and (self.position is None or self.position < stored):
            again = store.after(self.position)
            if expected is not None:
                expected -= store.count_after(self.position)
        arrivals = OrderedArrivals(
            self._envs,
            self._episodes,
            self._plan.limits,
            last=self.position if store is None else stored,
            expected=expected,
            store=store,
            wanted=self.stored + (self._expected or 0),
        )
        self._reading = Reading(again, arrivals, stored, self.position)
        return self._reading

    @property
    def rejected(self) -> int:
        """Return the number of rejected steps so far, see `rejections`."""
        return self.rejections.count

    def dataset(self) -> SampleDataset | None:
        """Return everything stored so far, None where nothing is."""
        return None if self._store is None else self._store.dataset(self.spec.feedback.declaration or None)

    def cancel(self) -> None:
        """Let a call of another thread that waits for samples raise `ClosedError`, and all later ones.

        It ends within a second where simulations are in workers, else with the episode that is under way.
        """
        self._envs.cancel_rollout()

    def kill(self) -> None:
        """End the workers at once; `close` is still needed to complete the dataset."""
        self._envs.close(terminate=True)

    def hurry(self) -> None:
        """Let `close` not wait for what takes long, as after Ctrl-C."""
        self._patience = INTERRUPT_PATIENCE

    def close(self) -> None:
        """End the workers and complete the dataset; calling it again does no harm."""
        self._close(None)

    def _close(self, error: type[BaseException] | None) -> None:
        try:
            if error is not None:
                self.hurry()
            if not self._envs.closed:
                self._envs.close(timeout=self._patience)
        finally:
            if self.writer is not None:
                close_after(self.writer, error)

    def __enter__(self) -> SampleStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close(kind)
