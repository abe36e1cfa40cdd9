"""`WorkerSteps`: the steps of a run by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from physgym.code.record import Code
from physgym.code.search import code_of
from physgym.errors import ConfigError
from physgym.generation.named_samples import NamedSamples
from physgym.generation.stream import SampleStream
from physgym.registration import env_maker
from physgym.running.field_checks import check_network_fields
from physgym.running.run_plan import RunPlan
from physgym.running.run_record import RunRecord
from physgym.running.run_step import RunStep
from physgym.running.step_source import SimulationSteps
from physgym.running.timed_predictor import TimedPredictor
from physgym.running.worker_report import (
    SURROGATE,
    ReportedStep,
    ReportStepsFactory,
    read_reported_steps,
    without_predictions,
)
from physgym.sample import SampleSpec
from physgym.scene.inputs import SceneInput
from physgym.step_fields import step_fields
from physgym.vector.make import env_factories

ROWS = 256  # steps that are taken at once
ENDLESS = 1 << 40  # steps that nobody makes


class WorkerSteps(SimulationSteps):
    """Gives steps that workers make, in the order of their names.

    Args:
        plan: The episodes.
        predictor: The network.
        record: Gets the parameters of episodes.
        learned: Record of the code from whose samples the network has learned.
        workers: Arguments of `SampleStream` that say how many environments and workers there are, how long to wait for
            one, and what to do where it fails.

    Raises:
        ConfigError: An argument is wrong, or the network does not fit the simulation.
        SampleError: The environment declares no samples.
        WorkerError: An environment's constructor raised.
    """

    def __init__(
        self,
        plan: RunPlan,
        predictor: TimedPredictor,
        record: RunRecord,
        learned: Mapping[str, Any] | None,
        workers: Mapping[str, Any],
    ) -> None:
        super().__init__(plan)
        if predictor.predictor.recurrent:
            raise ConfigError(
                "a recurrent network remembers the steps of one environment, and workers ask it for several; run it in "
                "this process: leave num_envs and num_workers out"
            )
        self._predictor, self._record, self._workers = predictor, record, workers
        self._outputs = [predictor.predictor.spec[name] for name in predictor.predictor.outputs]
        self._running: Iterator[RunStep] | None = None
        self._wanted: int | None = None  # steps, so that workers are not waited for in vain
        self._stream: SampleStream | None = None
        stream = self._opened()
        self.spec, self.surrogate = without_predictions(stream.spec), bool(stream.metadata[SURROGATE])
        self.parameter_spec = stream.parameter_spec
        fields = step_fields(self.spec)
        if self.surrogate:  # fields of the simulation that steps do not have
            fields = SampleSpec([*fields.values(), *(field for field in self._outputs if field.name not in fields)])
        try:
            check_network_fields(predictor.predictor, fields)
            self.check_learned(learned)
        except ConfigError as error:
            self.close(type(error))
            raise

    def _opened(self) -> SampleStream:
        """Return the stream of rows, which is opened where it is not."""
        if self._stream is not None:
            return self._stream
        plan = self.plan
        env_factories(plan.env, plan.env_kwargs)  # raises where an argument is wrong
        factory = ReportStepsFactory(
            env_maker(plan.env),
            plan.surrogate,
            {
                "inputs": self._predictor.predictor.inputs,
                "outputs": self._outputs,
                "apply": plan.apply,
            },
            self._predictor.predictor.feedback or None,
            given=plan.inputs is not None,
        )
        self._stream = SampleStream(
            factory,
            env_kwargs=plan.env_kwargs,
            seed=plan.seed,
            seeds=plan.part,
            reports=True,
            predictor=self._predictor,
            actions=plan.actions,
            parameters=plan.parameters,
            nonfinite="allow",  # workers check samples; a prediction need not be finite
            load=plan.load,
            inputs=plan.inputs,
            **plan.limits,
            **self._workers,
        )
        return self._stream

    @property
    def constants(self) -> Mapping[str, Any]:
        """Return the simulation's constants."""
        return self._opened().constants

    @property
    def scene(self) -> str | None:
        """Return the scene that the simulation declares."""
        return self._opened().scene

    @property
    def inputs(self) -> Mapping[str, SceneInput]:
        """Return the inputs of a person that the simulation declares, by name."""
        return self._opened().inputs

    @property
    def time_step(self) -> float | None:
        """Return the time of a step of the simulation in s; None where it is not declared."""
        return self._opened().time_step

    @cached_property
    def code(self) -> Code:
        """Return the code of the simulation."""
        return code_of(self.plan.env, self.plan.env_kwargs, None if self._stream is None else self._stream.made)

    def steps(self, after: tuple[int, int] | None, limit: int | None) -> Iterator[RunStep]:
        """Return the iterator over the steps under way, or a new one."""
        if self._running is None:
            self._running = self._work(after)
        self._wanted = limit
        return self._running

    def stop(self, error: type[BaseException]) -> None:
        """Close the workers, which are in the middle of something."""
        self.close(error)

    def close(self, error: type[BaseException] | None) -> None:
        """Close the workers; at once where there was an error."""
        stream, self._stream = self._stream, None
        self._running = None
        if stream is None:
            return
        if error is not None:
            stream.hurry()
        stream.close()

    def _work(self, after: tuple[int, int] | None) -> Iterator[RunStep]:
        """Yield the steps after one of them."""
        stream = self._opened()
        if after is not None:
            stream.load_state_dict({**stream.state_dict(), "position": after})
        batch = self._predictor.batch_size
        most = ROWS if batch == 1 else batch
        fault: Exception | None = None
        while fault is None:
            if self._wanted is not None:
                stream.want(self._wanted)  # no step is made beyond these
            elif stream.begun:
                stream.want(ENDLESS)
            wanted = most if self._wanted is None else max(1, min(most, self._wanted))
            least = 1 if batch == 1 else wanted
            reported: list[ReportedStep] = []
            while len(reported) < least and fault is None:
                try:
                    reported += self._read(stream.take(wanted - len(reported)))
                except Exception as error:  # noqa: BLE001 - raised below, after the steps before it
                    fault = error
            # of the steps that have no prediction yet
            samples = [None if step.prediction else step.transition.sample for step in reported]
            for step, late in zip(reported, self._predictor.several(samples), strict=True):
                found, seconds = (step.prediction, step.network_seconds) if step.prediction else late
                self._wanted = None if self._wanted is None else self._wanted - 1
                yield RunStep(
                    step.episode,
                    step.transition,
                    found,
                    step.solver_seconds,
                    seconds,
                    step.seed,
                    0,
                    self.plan.compare,
                    self.spec,
                )
        raise fault

    def _read(self, rows: NamedSamples) -> Iterator[ReportedStep]:
        """Return what workers report of steps; parameters of their episodes are recorded."""
        if len(rows.parameter_names):
            self._record.add_parameters(
                rows.parameters, episode=rows.parameter_names.episodes, seed=rows.parameter_names.seeds
            )
        return read_reported_steps(rows)
