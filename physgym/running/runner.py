"""`Runner`: a trained network inside its simulation, next to the solver or in its place."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Unpack

from physgym.checks import integer
from physgym.code.record import Code
from physgym.data.dataset import SampleDataset
from physgym.data.origins import SURGERY
from physgym.episode import SEED_RULE, part_seed, seeds_of
from physgym.errors import ConfigError
from physgym.events import Callback, Callbacks
from physgym.generation.stored_episodes import StoredEpisodes
from physgym.interrupt import Interrupt
from physgym.nn import Predictor
from physgym.options import complete, takes
from physgym.placement import Env
from physgym.progress import Progress
from physgym.registration import EnvLike
from physgym.running.overlap import LearnedEpisodes
from physgym.running.replayed_steps import ReplayedSteps
from physgym.running.run_inputs import RunnerInputs
from physgym.running.run_options import RunOptions
from physgym.running.run_plan import RunPlan
from physgym.running.run_record import RunRecord
from physgym.running.run_report import RunReport
from physgym.running.run_step import RunStep
from physgym.running.run_view import RunView
from physgym.running.solver_steps import SolverSteps
from physgym.running.step_blocks import StepBlocks
from physgym.running.step_source import SimulationSteps, StepSource
from physgym.running.stored_steps import StoredSteps
from physgym.running.timed_predictor import TimedPredictor
from physgym.running.worker_steps import WorkerSteps
from physgym.sample import SampleSpec
from physgym.samplers import NetworkPolicy, find_sampler
from physgym.step_fields import step_fields
from physgym.system.waiting import CoreWaiting
from physgym.training.checkpoint_files import load_checkpoint
from physgym.vector.arguments import check_arguments
from physgym.viewing.shown import view_of

WORKERS: Final = ("num_envs", "num_workers", "timeout", "on_error", "view")
WINDOW = 100_000  # steps of which a run without end keeps the figures


@takes(RunOptions)
class Runner:
    """Runs a trained network next to the solver, in its place, or on stored samples.

    After each step the network predicts from the step's inputs, and the simulation gets the prediction through
    ``apply_prediction`` (a ghost to display, a correction, an initial guess), unless it is not finite. A `Simulation`
    may also ask for one in the middle of a step.

    Steps are made in this process, or by workers as `physgym.generate` has them: names, samples, predictions and the
    record are the same, for any number of them. Steps come in the order of their names, and a further run continues
    where the last one ended.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment; None to replay stored samples alone.
        predictor: A trained network, or the folder of its session or checkpoint.
        **options: See `physgym.running.run_options.RunOptions`.

    Attributes:
        env: The environment, None where it is in workers or there is none.
        predictor: The network.
        spec: The fields of a step's sample; those of the network where there is no environment. A step that the network
            makes has none of its outputs.
        last: The last step, None before the first.
        stepping: Whether the run under way steps `env`.

    Raises:
        ConfigError: The id is unknown, an argument is out of range, or the network does not fit the simulation.
        CheckpointError: There is no usable checkpoint.
        SampleError: The environment declares no samples.
        DatasetError: The record exists already.
        WorkerError: An environment's constructor raised in a worker.
    """

    def __init__(
        self,
        env: EnvLike | None,
        predictor: Predictor | str | Path,
        **options: Unpack[RunOptions],
    ) -> None:
        options = complete(RunOptions, options, "Runner.__init__")
        compare, load, learned = options["compare"], options["load"], options["learned"]
        actions, num_envs, num_workers = options["actions"], options["num_envs"], options["num_workers"]
        max_steps, max_rejects = (integer(name, options[name], 1) for name in ("max_steps", "max_rejects"))
        seed, batch_size = integer("seed", options["seed"], 0), integer("batch_size", options["batch_size"], 1)
        if not isinstance(predictor, (Predictor, str, Path)):
            raise ConfigError(
                f"a Runner takes a physgym.nn.Predictor or the folder of a session or checkpoint, not {predictor!r}: "
                "it needs to know which fields feed the network and which it predicts: Predictor(module, spec, "
                "inputs=[...], outputs=[...]). A function of fields alone is for SocketVectorEnv(predictor=...) and "
                "SurrogateEnv"
            )
        self.predictor = predictor if isinstance(predictor, Predictor) else load_checkpoint(predictor)
        if learned is None and self.predictor.learned is not None:
            learned = self.predictor.learned.code
        self._timed, self._compare = TimedPredictor(self.predictor, batch_size, options["engine"]), compare
        acting, drawing = find_sampler(actions, "actions"), find_sampler(options["parameters"], "parameters")
        kwargs = check_arguments(options["env_kwargs"])
        outputs = [self.predictor.spec[name] for name in self.predictor.outputs]
        self._units = {f.name: f.unit for f in outputs}
        self._record = RunRecord(options["record"], outputs, compare=compare, resume=options["resume"])
        part, recorded = options["part"], self._record.source
        seeds = (part, SEED_RULE) if recorded is None else seeds_of(recorded, part)
        drawn = part_seed(seed, *seeds)
        stored_episodes = None if load is None else StoredEpisodes(load, seed=drawn, passes=None)
        if stored_episodes is not None:
            stored_episodes.check(max_steps, actions, len(kwargs))
        self._learned_episodes = LearnedEpisodes(options["trained_on"], self.predictor)
        self._overlap_checked = False
        self._after: tuple[int, int] | None = None  # episode and step of the last one of a run
        self._view = view_of(options["view"])
        if env is None and options["inputs"] is not None:
            raise ConfigError("inputs= repeats what a person changed in a simulation, and there is none")
        self._inputs = RunnerInputs(
            options["inputs"],
            options["record_inputs"],
            options["record"],
            resume=options["resume"],
            view=self._view.sink is not None,
        )
        self.seed, self.stepping = seed, False
        self.last: RunStep | None = None
        self._simulation: SimulationSteps | None = None
        if env is None:
            if load is not None:
                raise ConfigError(
                    "load= drives a simulation, and there is none; to replay stored samples: run(replay=)"
                )
            return
        plan = RunPlan(
            env=env,
            env_kwargs=kwargs,
            seed=seed,
            part=seeds,
            actions=acting,
            parameters=drawing,
            max_steps=max_steps,
            max_rejects=max_rejects,
            load=load,
            stored_episodes=stored_episodes,
            apply=options["apply"],
            surrogate=options["surrogate"],
            compare=compare,
            inputs=self._inputs.plan,
            allow_changed_code=options["allow_changed_code"],
        )
        if num_envs is None and num_workers is None:
            self._simulation = SolverSteps(plan, self._timed, self._record, learned)
        else:
            workers = {name: options[name] for name in WORKERS}
            self._simulation = WorkerSteps(plan, self._timed, self._record, learned, workers)
        try:
            self._inputs.check(self._simulation)
        except BaseException as error:
            self._simulation.close(type(error))
            raise

    @property
    def env(self) -> Env | None:
        """Return the environment that steps in this process; None where it is in workers or there is none."""
        return None if self._simulation is None else self._simulation.env

    @property
    def spec(self) -> SampleSpec:
        """Return the fields of a step's sample; those of the network where there is no environment."""
        return self.predictor.spec if self._simulation is None else self._simulation.spec

    @property
    def code(self) -> Code:
        """Return the code of the simulation, see `physgym.code.record`.

        Raises:
            ConfigError: There is no environment.
        """
        return self._with_env().code

    @property
    def kept_inputs(self) -> Path | None:
        """Return the file with the inputs that a person has given in the runs until now; None where there are none."""
        return self._inputs.path if self._inputs.written else None

    def options(self, episode: int) -> dict[str, Any] | None:
        """Return what the reset of an episode of a run in this process gets, by its index."""
        return None if self._simulation is None else self._simulation.options(episode)

    def _with_env(self) -> SimulationSteps:
        if self._simulation is None:
            raise ConfigError(
                "this runner has no environment: pass one to Runner, or stored samples (replay=) without solver=True"
            )
        return self._simulation

    # --- steps one by one

    def steps(self) -> Iterator[RunStep]:
        """Return an iterator over the steps of the run, from where it stands, without end."""
        simulation = self._with_env()
        self._warn_of_overlap(None)
        self._open(simulation)
        blocks = self._blocks(simulation, window=1)
        return self._kept(simulation.steps(self._after, None), blocks, advance=True)

    def replay(self, dataset: SampleDataset, *, solver: bool = False) -> Iterator[RunStep]:
        """Return an iterator over the stored steps of a dataset again.

        Without the solver the network predicts from what is stored, and is compared with what is stored. With it the
        episodes are run again from their seeds: parameters, the sampler of actions and limits are those of the dataset;
        a function or a network that gave its actions is to be given to the runner again.

        Args:
            dataset: Has the fields that feed the network; for the solver, made by the same simulation with the same
                arguments.
            solver: Whether to run the solver too.

        Raises:
            ConfigError: What gave the actions of the dataset cannot be rebuilt and was not given, or there is no
                environment in this process, or the fields do not fit.
            DatasetError: The simulation does not give what is stored, or takes no such actions.
        """
        self._warn_of_overlap(dataset)
        source = self._replayed(dataset, solver)
        self._open_replay(source, dataset, solver)
        blocks = self._blocks(source, window=1)
        return self._kept(source.steps(None, len(dataset)), blocks, advance=False)

    def _kept(self, steps: Iterator[RunStep], blocks: StepBlocks, *, advance: bool) -> Iterator[RunStep]:
        try:
            while (step := self._next(steps)) is not None:
                self._take(step, blocks, advance)
                yield step
        finally:
            blocks.flush()

    def _next(self, steps: Iterator[RunStep]) -> RunStep | None:
        try:
            return next(steps, None)
        except BaseException as error:
            if self._simulation is not None:
                self._simulation.stop(type(error))  # an iterator that raised is at its end
            raise

    def _take(self, step: RunStep, blocks: StepBlocks, advance: bool) -> None:
        self.last = step
        if advance:
            self._after = step.episode, step.transition.step
            self._inputs.take(step)
        blocks.add(step)

    # --- where steps come from

    def _open(self, simulation: SimulationSteps) -> None:
        """Open the record of a run; one that is continued says after which step."""
        self._timed.prepared.refresh()
        source: Mapping[str, Any] = {}
        if self._record.wanted:
            source = simulation.plan.source(self._weights(), simulation.surrogate, self._record.source) | self._engine()
        self._after = self._record.open("run", simulation, source, simulation) or self._after
        self._inputs.open(simulation, self._weights(), self._after)

    def _replayed(self, dataset: SampleDataset, solver: bool) -> StepSource:
        """Return the steps of a replay."""
        if not solver:
            return StoredSteps(dataset, self._timed, compare=self._compare)
        simulation = self._with_env()
        if not isinstance(simulation, SolverSteps):
            raise ConfigError(
                "a replay with the solver runs in this process: make the Runner without num_envs and num_workers"
            )
        if simulation.surrogate or dataset.source.get("surrogate"):
            raise ConfigError(
                "the dataset was recorded with a network in place of the solver, which cannot be compared with the "
                "solver"
            )
        simulation.stop()  # the environment leaves the episode that it is in
        return ReplayedSteps(dataset, simulation)

    def _open_replay(self, steps: StepSource, dataset: SampleDataset, solver: bool) -> None:
        """Open the record of a replay."""
        self._timed.prepared.refresh()
        source: dict[str, Any] = {}
        if self._record.wanted:
            paths = [str(path) for path in dataset.paths]
            source = {**dataset.source, "replay": paths, "network": self._weights()}
            for key in (SURGERY, "engine"):  # a replay goes on after its last step, whatever it replays
                source.pop(key, None)
            source |= self._engine()
            source |= {"solver": True} if solver else {}
        self._record.open("replay", steps, source, self._simulation)

    def _blocks(self, steps: StepSource, window: int | None = None) -> StepBlocks:
        """Return what takes the steps of a run from now on; outputs that samples hold once are compared as well."""
        following: dict[str, str] = {}
        if self._compare and steps.solved:
            feedback = self.predictor.feedback or step_fields(steps.spec).feedback
            fed = {name: feedback[name] for name in self.predictor.outputs if name in feedback}
            following = {
                output: name for output, name in fed.items() if output not in steps.spec and name in steps.spec
            }
        return self._record.blocks(steps, following, window)

    def _engine(self) -> dict[str, str]:
        """Return what a record says of an engine that rounds otherwise than torch."""
        engine = self._timed.prepared.engine
        return {} if engine == "torch" else {"engine": engine}

    def _weights(self) -> Any:
        """Return the digest of the network's weights."""
        return NetworkPolicy(self.predictor).describe()["weights"]

    def _warn_of_overlap(self, replay: SampleDataset | None) -> None:
        """Warn where the network has learned from the episodes that are replayed, or, once, from those of the run."""
        if replay is not None:
            text = self._learned_episodes.among_replayed(replay)
        elif self._overlap_checked:
            return
        else:
            text = self._learned_episodes.among(self._with_env().plan)
            self._overlap_checked = text is not None
        if text:
            warnings.warn(text, UserWarning, stacklevel=3)

    # --- the run

    def run(
        self,
        steps: int | None = None,
        *,
        replay: SampleDataset | None = None,
        solver: bool = False,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> RunReport:
        """Run a number of steps, or until Ctrl-C, which ends the run and keeps what was done.

        Where steps are recorded, those of the run are readable when it returns.

        Args:
            steps: How many; None continues until Ctrl-C, or to the end of a replay.
            replay: Replay these samples instead of new episodes; see `replay`.
            solver: Whether to run the solver too in a replay, and to compare it with what is stored.
            callbacks: Get the events of a prediction run; `Runner.last` holds the step.
            progress: Whether to show a progress bar.

        Raises:
            ConfigError: The number of steps is not positive, or there is no environment; also as `replay`.
            SampleError: A sample or a prediction does not fit its fields, or too many steps in a row were rejected.
            WorkerError: A worker died or did not answer, or an environment raised.
            DatasetError: The disk refuses a write; also as `replay`.
        """
        if steps is not None:
            steps = integer("steps", steps, 1, hint="; None runs until Ctrl-C")
        if replay is None:
            simulation = self._with_env()
            if steps is None and simulation.plan.load is not None:
                steps = len(simulation.plan.load)  # once through
            self._warn_of_overlap(None)
            if solver:
                raise ConfigError("solver=True is for a replay: pass replay=, or leave it out")
            self._open(simulation)
            blocks = self._blocks(simulation, window=None if steps else WINDOW)
            if steps is not None:
                self._record.check_room(steps)
            made = simulation.steps(self._after, steps)
        else:
            self._warn_of_overlap(replay)
            steps = min(steps or len(replay), len(replay))
            source = self._replayed(replay, solver)
            self._open_replay(source, replay, solver)
            blocks = self._blocks(source)
            made = source.steps(None, steps)
        self.stepping = self.env is not None and (replay is None or solver)
        prepared = self._timed.prepared
        report = RunReport(units=dict(self._units), alone_seconds=prepared.seconds, computing=prepared.choice.reason)
        events, view, waiting = Callbacks(callbacks), self._shown(replay, solver), CoreWaiting()
        try:
            with Interrupt() as interrupt, Progress(steps, "run", "step", enabled=progress) as bar:
                events.emit("prediction_begin", self)
                while steps is None or report.steps < steps:
                    events.emit("sample_begin", self)
                    view.attend()
                    step = self._next(made)
                    if step is None:
                        break
                    with interrupt.held():
                        self._take(step, blocks, replay is None)
                        report.steps += 1
                        report.rejected += step.prediction is None
                    view.made(step)
                    if callbacks:
                        events.emit("sample_end", self, step.fields)
                    bar.update()
        except KeyboardInterrupt:
            report.interrupted = True
        finally:
            self.stepping = False
            view.close()
            blocks.flush()
            events.emit("prediction_end", self)
            events.close()
        self._record.commit()
        if replay is None and not report.interrupted:
            self._inputs.warn_of_rest(self._after)
        blocks.summarize(report)
        report.waiting = waiting.share
        return report

    def _shown(self, replay: SampleDataset | None, solver: bool) -> RunView:
        """Return the pictures of a run whose steps are made or read in this process, which viewers may ask for."""
        if replay is not None and not solver:
            return RunView.of_samples(replay, self._view)
        simulation = self._with_env()
        if isinstance(simulation, SolverSteps):
            return RunView.of_simulation(simulation, self._view, self._record.place)
        return RunView()  # workers have their own

    def close(self) -> None:
        """Close the environment or the workers and complete the record; calling it again does no harm."""
        self._close(None)

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._close(kind)

    def _close(self, error: type[BaseException] | None) -> None:
        try:
            if self._simulation is not None:
                self._simulation.close(error)
        finally:
            self._inputs.close()
            self._record.close(error)
