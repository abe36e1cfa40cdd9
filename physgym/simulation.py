"""`Simulation`: an optional base class that makes a numerical simulation a Gymnasium environment with samples.

A plain `gymnasium.Env` that follows the convention of `physgym.sample` works as well. The base class splits a step into
the parts that a simulation has: draw parameters, advance the solver, observe, hand out the sample.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces

from physgym import placement
from physgym import spaces as walk
from physgym.casting import CastError, as_arrays, as_dtype
from physgym.checks import integer, positive
from physgym.cube import Cube
from physgym.errors import ConfigError, PhysGymError, RejectSample, SampleError, WrongValue
from physgym.feedback import Declaration
from physgym.generator_state import generator_from, generator_words
from physgym.sample import FieldKind, FieldRole, Sample, SampleSpec, flat_items
from physgym.scene.default import add_default
from physgym.scene.frames import draw
from physgym.scene.live import LiveScene
from physgym.scene.objects import Scene
from physgym.spaces import Array

STEP = "time_step"  # entry of a state: seconds by which a simulation moves on, which is not to change
TIME = "time"  # field of a sample, or entry of an info: seconds since the reset, where steps differ
ObsType = TypeVar("ObsType")
ActType = TypeVar("ActType")
PredictFunction = Callable[[Sample], Sample]
NonFinite = Literal["error", "reject", "allow"]  # what a value that is not finite is, in every part of physgym

NO_HOOK = (
    "{env} does not implement {hook}, so that no network can stand in for its solver. Implement inputs(action) and "
    "adopt(action, prediction); see docs/howto/running.md"
)
NO_STATE = (
    "{env} has no {hook}, so its state can be neither kept nor restored. Implement state() and set_state(state); see "
    "docs/howto/simulation.md"
)
NO_INPUTS = (
    "{env} has no take_input, so a person's inputs that its scene declares lead nowhere. Implement take_input(name, "
    "value); see docs/howto/watching.md"
)
NO_LOAD_SAMPLE = (
    "{env} has no load_sample, so stored samples cannot drive it. Give it `load_sample(sample)`, which takes the state "
    "that it needs from a stored sample and returns the action for the next step; see docs/howto/simulation.md"
)


# spaces whose elements are arrays of one shape
ARRAYS = spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete


class Simulation(gymnasium.Env[ObsType, ActType], ABC, Generic[ObsType, ActType]):
    """A numerical simulation as a Gymnasium environment with training samples.

    Subclasses set ``action_space``, ``observation_space``, ``sample_space`` (with ``sample_roles``, ``sample_units``
    and what else `physgym.sample` knows) and implement `begin`, `advance`, `observation` and `sample`. Random numbers
    come from ``self.np_random`` alone, so that a seed names an episode.

    Args:
        simulations_per_step: Solver steps per environment step.
        render_mode: One of ``metadata["render_modes"]``, or None.

    A simulation whose episodes differ in parameters declares them in ``parameter_space`` (with ``parameter_units``). At
    a reset `draw_parameters` draws them, ``reset(options={"parameters": {...}})`` replaces those that it names, and
    ``self.parameters`` and the info of the reset have them.

    Attributes:
        env_index: Which of the parallel environments this is, from 0; known in the constructor. A sample must not
            depend on it.
        env_count: Number of environments; the same holds.
        predictor: What `predict` asks, set by a pipeline that has a network.
        shown_prediction: Predicted fields by name that pictures show, see `scene`; for `apply_prediction` to set. A
            reset forgets them.
        files_read: Files that the simulation reads, such as a mesh or an executable: what is in them belongs to its
            code, which datasets and sessions record.
        parameters: The parameters of the episode, nested as ``parameter_space``; empty without one.
        time_step: Seconds by which `advance` moves on, the same in all episodes; None where steps have no time, or
            where they differ: then the sample has a field ``time``, the seconds since the reset, which `info` may give.
        keeps_state: Whether `state` and `set_state`, where the class implements them, work for this instance.
        nonfinite: Whether a sample with a value that is not finite is an "error" of the step; if not, it is for
            the caller of the simulation to decide.

    Raises:
        ConfigError: An argument is out of range.
    """

    sample_space: spaces.Dict
    sample_roles: ClassVar[dict[str, FieldRole]] = {}
    sample_units: ClassVar[dict[str, str]] = {}
    sample_dimensions: ClassVar[dict[str, int]] = {}
    sample_kinds: ClassVar[dict[str, FieldKind]] = {}
    sample_masks: ClassVar[dict[str, str]] = {}
    sample_feedback: ClassVar[Declaration] = {}
    parameter_space: spaces.Dict | None = None
    parameter_units: ClassVar[dict[str, str]] = {}
    parameters: Mapping[str, Any] = {}
    files_read: Sequence[str | os.PathLike[str]] = ()
    time_step: float | None = None
    keeps_state: bool = True
    nonfinite: NonFinite = "error"
    env_index: int = 0
    env_count: int = 1
    predictor: PredictFunction | None = None
    shown_prediction: Mapping[str, Any] = {}
    _pictures: LiveScene | None = None  # made by the first picture
    _seconds_before: float | None = None  # what `step_seconds` was, where somebody asked

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a wrong time step where it is declared; an instance's own, or a property, where it is asked for."""
        super().__init_subclass__(**kwargs)
        said = vars(cls).get("time_step")
        if said is not None and not hasattr(said, "__get__"):
            _seconds(cls, said)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make one that knows its placement before its constructor runs."""
        instance = super().__new__(cls)
        for name, value in placement.current()._asdict().items():
            with contextlib.suppress(AttributeError):  # a property of the subclass's own
                setattr(instance, name, value)
        return instance

    def __init__(self, *, simulations_per_step: int = 1, render_mode: str | None = None) -> None:
        simulations_per_step = integer("simulations_per_step", simulations_per_step, 1)
        modes = self.metadata.get("render_modes", [])
        if render_mode is not None and render_mode not in modes:
            say = (
                f'; declare metadata = {{"render_modes": [{render_mode!r}], "render_fps": 10}} in {type(self).__name__}'
            )
            raise ConfigError(f"render_mode {render_mode!r} is none of {modes}{'' if modes else say}")
        self.simulations_per_step = simulations_per_step
        self.render_mode = render_mode

    @property
    def step_seconds(self) -> float | None:
        """Return the time of a step in s, of all its solver steps together; None where `time_step` is not declared.

        It is not known either where it depends on the parameters of an episode, and there was no reset.

        Raises:
            ConfigError: `time_step` is no positive number.
        """
        try:
            declared = self.time_step
        except KeyError:
            if self.parameter_space is None or self.parameters:
                raise
            return None
        if declared is not None:
            self._seconds_before = _seconds(type(self), declared) * self.simulations_per_step
        return None if declared is None else self._seconds_before

    def _check_seconds(self) -> None:
        """Check, at the beginning of an episode, that the time of a step is the one that was asked before.

        Raises:
            ConfigError: It is another one.
        """
        before = self._seconds_before
        if before is not None and (now := self.step_seconds) != before:
            raise ConfigError(
                f"{type(self).__name__}: a step takes {now} s in this episode, and took {before} s before; time_step "
                "is the same in all episodes. Leave it None where it differs, and give the sample a field 'time'"
            )

    @abstractmethod
    def begin(self, options: dict[str, Any]) -> None:
        """Start an episode: set the initial state from ``self.parameters`` and ``self.np_random``.

        Args:
            options: Those of the reset but for the parameters.
        """

    @abstractmethod
    def advance(self, action: ActType) -> None:
        """Advance the solver once under an action; raise `RejectSample` where it did not converge."""

    @abstractmethod
    def observation(self) -> ObsType:
        """Return the observation of the present state, as an element of `observation_space`."""

    @abstractmethod
    def sample(self) -> Mapping[str, Any]:
        """Return the fields of the sample of the step just made, as declared in `sample_space`."""

    def outcome(self) -> tuple[float, bool]:
        """Return the reward of the step just made, and whether the episode has reached a terminal state."""
        return 0.0, False

    def info(self) -> dict[str, Any]:
        """Return further entries of the info dictionary: numbers, strings, arrays."""
        return {}

    def constants(self) -> Mapping[str, Any]:
        """Return the values that a dataset stores once, such as a mesh or a material: arrays by name.

        Asked of every environment before its first episode, and equal in all of them, in every run and every resume;
        ``dataset.constants`` has them. A plain environment may have this method too.
        """
        return {}

    def scene(self, scene: Scene) -> None:
        """Declare the objects that pictures show; by default those that follow from the fields of a sample.

        Asked once, when somebody looks first, perhaps before the first reset. Objects that fields and constants move
        (`physgym.scene.field`, `physgym.scene.constant`) need no more code, and are stored with a dataset; others are
        moved in ``update_scene(self, scene)``, which is asked before each picture. Wrappers and plain environments may
        have both methods too.

        Args:
            scene: Takes the objects.
        """
        add_default(scene, self._spec, {name: np.asarray(value) for name, value in self.constants().items()})

    def take_input(self, name: str, value: Any) -> None:
        """Take an input that a person has changed, of those that `scene` declares; asked before its step.

        In a run alone, see docs/howto/watching.md. What it changes, `begin` brings back to the default.

        Args:
            name: Its name.
            value: The number of a slider, True for a button that was pressed, the vector of a pull, a list of 3.

        Raises:
            ConfigError: This simulation does not implement it.
        """
        raise ConfigError(NO_INPUTS.format(env=type(self).__name__))

    def shown_sample(self) -> Mapping[str, Array]:
        """Return the fields of the sample now, for pictures; empty where there is none yet."""
        try:
            return self._spec.check(self._timed_sample(), type(self).__name__, finite=False)
        except Exception:  # noqa: BLE001 - before the first step, or after a solver that failed, there need not be one
            return {}

    def sample_action(self, rng: np.random.Generator) -> ActType:
        """Return a random action for data generation; override it where useful actions have structure.

        Args:
            rng: Derived from the episode's seed; the only source of randomness to use.
        """
        self.action_space.seed(int(rng.integers(2**31)))
        return self.action_space.sample()

    def load_sample(self, sample: Mapping[str, Array]) -> ActType:
        """Return the action that repeats a stored sample; for simulations that stored samples can drive (`load=`).

        Called before each step in place of a sampler of actions. An implementation takes what it needs of the state
        from the sample and returns the action for the step, which computes the new sample.

        Args:
            sample: The fields of the stored sample by name (path), each with the shape with which it was stored.

        Raises:
            RejectSample: The sample cannot be repeated; the step counts as rejected.
            SampleError: This simulation does not implement it.
        """
        raise SampleError(NO_LOAD_SAMPLE.format(env=type(self).__name__))

    def draw_parameters(self) -> Mapping[str, Any]:
        """Return the parameters of an episode, drawn from ``self.np_random``: uniform within the bounds by default.

        Raises:
            ConfigError: A parameter has no bounds; override this then.
        """
        assert self.parameter_space is not None
        cube = self._cube
        drawn: Mapping[str, Any] = cube.value(cube.columns(self.np_random.random((1, cube.size))), 0)
        return drawn

    def apply_prediction(self, prediction: Mapping[str, Array]) -> None:
        """Use a network's prediction: a correction, an initial guess, a displayed ghost. Ignored by default.

        Args:
            prediction: Predicted fields by name, each with the shape and unit of the field in `sample_space`.
        """

    def inputs(self, action: ActType) -> Mapping[str, Any]:
        """Return the network's inputs for a step under an action, before the step is made; a `SurrogateEnv` needs them.

        Args:
            action: That of the step.

        Returns:
            At least the fields that feed the network, as `sample` would give them after the step.
        """
        raise ConfigError(NO_HOOK.format(env=type(self).__name__, hook="inputs(action)"))

    def adopt(self, action: ActType, prediction: Mapping[str, Array]) -> None:
        """Take a prediction as the state after a step, in place of `advance`; needed by a `SurrogateEnv`.

        Afterwards `observation`, `sample`, `outcome`, `info` and `render` are those of the step, for any
        ``simulations_per_step``.

        Args:
            action: That of the step.
            prediction: Predicted fields by name, each with the shape and unit of the field in `sample_space`; finite.
        """
        raise ConfigError(NO_HOOK.format(env=type(self).__name__, hook="adopt(action, prediction)"))

    def render(self) -> Any:
        """Return the picture of the scene, shape (480, 640, 3), uint8; None where no ``render_mode`` asks for it."""
        if self.render_mode is None:
            return None
        if self._pictures is None:
            self._pictures = LiveScene(self, type(self).__name__)
        self._pictures.frame()
        return draw([self._pictures.snapshot or {}])

    def state(self) -> Mapping[str, Any]:
        """Return all that the steps to come depend on, by name: arrays and numbers; optional, with `set_state`.

        Asked after a reset or a step. Random numbers that steps draw depend on `generator_state`.

        Raises:
            ConfigError: This simulation does not implement it.
        """
        raise ConfigError(NO_STATE.format(env=type(self).__name__, hook="state()"))

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take a state that `state` gave, here or in another environment with the same arguments.

        The environment was reset before. The steps to come, and `observation`, are then those that would have followed.
        An implementation takes its values from `checked_state`.

        Args:
            state: The state.

        Raises:
            ConfigError: It is none of this simulation, or this simulation does not implement it.
        """
        raise ConfigError(NO_STATE.format(env=type(self).__name__, hook="set_state(state)"))

    def checked_state(self, state: Mapping[str, Any]) -> dict[str, Array]:
        """Return copies of the values of a state, whose names, shapes and dtypes are as in `state()`; for `set_state`.

        Raises:
            ConfigError: A name, a shape or a dtype differs, as in a state of another version, or the value of an entry
                ``time_step``; or there was no reset.
        """
        env = type(self).__name__
        try:
            now = {name: np.asarray(value) for name, value in self.state().items()}
        except AttributeError as error:
            raise ConfigError(f"{env}: reset the environment before its state is set ({error})") from error
        given = {name: np.array(value) for name, value in state.items()}
        if given.keys() != now.keys():
            raise ConfigError(
                f"{env}: the state has {sorted(given)}, this version of the simulation has {sorted(now)}; take a state "
                "of this one"
            )
        if STEP in now and given[STEP].shape == () and given[STEP] != now[STEP]:
            raise ConfigError(
                f"{env}: the state is one of steps of {given[STEP]} s, and this environment takes steps of "
                f"{now[STEP]} s; take a state of one with the same time step"
            )
        for name, value in given.items():
            of = now[name]
            texts = value.dtype.kind == of.dtype.kind and of.dtype.kind in "US"  # may be longer or shorter
            if value.shape != of.shape or not (value.dtype == of.dtype or texts):
                raise ConfigError(
                    f"{env}: {name!r} of the state is {value.dtype} {value.shape}, this environment has "
                    f"{of.dtype} {of.shape}; take a state of one with the same arguments"
                )
        return given

    @property
    def parameter_state(self) -> dict[str, Array]:
        """Return the parameters of the episode as entries of a state, ``parameters/NAME``; may be set to any state."""
        if self.parameter_space is None:
            return {}
        known = walk.leaf_spaces(self.parameter_space)
        values = zip(known.items(), walk.flatten(self.parameter_space, self.parameters), strict=True)
        return {f"parameters/{name}": np.array(value, space.dtype) for (name, space), value in values}

    @parameter_state.setter
    def parameter_state(self, state: Mapping[str, Any]) -> None:
        if self.parameter_space is not None:
            values = [np.array(state[f"parameters/{name}"])[()] for name in walk.leaf_spaces(self.parameter_space)]
            self.parameters = walk.unflatten(self.parameter_space, iter(values))

    @property
    def generator_state(self) -> Array:
        """Return the state of ``self.np_random``, shape (6,), uint64; may be set."""
        return generator_words(self.np_random)

    @generator_state.setter
    def generator_state(self, words: Array) -> None:
        self.np_random = generator_from(words)

    def predict(self, inputs: Mapping[str, Any]) -> Sample:
        """Ask the network for a prediction in the middle of a step.

        Args:
            inputs: Input fields by name, one sample each, without a batch axis.

        Returns:
            Predicted fields by name.

        Raises:
            SampleError: The pipeline has no network, or values of a masked array are missing.
        """
        if self.predictor is None:
            raise SampleError(
                "the simulation asked for a prediction, but this pipeline has no network. Run it in a Runner, set "
                "`env.unwrapped.predictor`, or do not ask during generation."
            )
        return self.predictor(as_arrays(inputs, "predict"))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`.

        Args:
            seed: Of the episode's random numbers.
            options: What `begin` gets. ``options["parameters"]`` are parameters to use instead of drawn ones, in a
                dictionary nested as ``parameter_space``; the rest of the episode's numbers does not change by that.

        Raises:
            ConfigError: A given parameter is unknown or not in its space; or a step takes another time than before.
        """
        super().reset(seed=seed)
        self.shown_prediction = {}
        options = dict(options or {})
        given = options.pop("parameters", {})
        if self.parameter_space is None:
            if given:
                raise ConfigError(
                    f"{type(self).__name__} declares no parameter_space, so reset takes no parameters. Set "
                    "`parameter_space` (a gymnasium.spaces.Dict)"
                )
            self.begin(options)
            self._check_seconds()
            return self.observation(), self.info()
        self.parameters = self._given_parameters(given, self.draw_parameters())
        self.begin(options)
        self._check_seconds()
        return self.observation(), {**self.info(), "parameters": self.parameters}

    def _given_parameters(self, given: Any, drawn: Mapping[str, Any]) -> Any:
        """Return the drawn parameters with the given ones in their place."""
        assert self.parameter_space is not None
        if given == {}:
            return drawn
        env, known = type(self).__name__, walk.leaf_spaces(self.parameter_space)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{env}: options['parameters'] must be a dictionary by name, not {given!r}")
        values = dict(zip(known, walk.flatten(self.parameter_space, drawn), strict=True))
        for name, value in dict(flat_items(given)).items():
            if name not in known:
                raise ConfigError(f"{env}: there is no parameter {name!r}; parameter_space has {list(known)}")
            space, wrong = known[name], ""
            try:
                values[name] = as_dtype(value, np.dtype(space.dtype))[()]
            except CastError as error:
                wrong = f"give numbers of dtype {space.dtype}; the value {error}"
            found = walk.value_range(space)
            array = found is not None and not found.single  # a Box without axes takes no scalar
            if not wrong and not space.contains(np.asarray(values[name]) if array else values[name]):
                wrong = "give a value within it, or widen it"
            if wrong:
                text = f"{env}: parameter {name!r} = {value} is not in {space}; {wrong}"
                raise ConfigError(text)
        return walk.unflatten(self.parameter_space, iter(values.values()))

    def step(self, action: ActType) -> tuple[ObsType, float, bool, bool, dict[str, Any]]:
        """Advance the solver; see `gymnasium.Env.step`.

        Returns:
            Observation, reward, terminated, False, info. ``info["sample"]`` holds the sample; where the step was
            rejected it is absent, ``info["rejected"]`` says why, and ``info["rejected_sample"]`` is what `sample` gives
            then, if it gives anything that fits.

        Raises:
            WrongValue: The action is a number, or an array of another shape than `action_space` says.
            SampleError: The sample does not fit `sample_space`.
            gymnasium.error.ResetNeeded: The solver failed, and there was no reset before.
        """
        finite = self.nonfinite == "error"
        try:
            for _ in range(self.simulations_per_step):
                self.advance(action)
            self._check_action(action)
            sample = self._spec.check(self._timed_sample(), type(self).__name__, finite=finite)
        except RejectSample as rejection:
            extra: dict[str, Any] = {"rejected": str(rejection)}
            if shown := self.shown_sample():
                extra["rejected_sample"] = shown
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, PhysGymError):
                raise
            if "shown_prediction" not in vars(self) and not isinstance(error, (IndexError, ValueError)):
                name = type(self).__name__  # a reset has not set what is not there
                raise gymnasium.error.ResetNeeded(
                    f"{name}: there was no reset before this step; call reset first"
                ) from error
            self._check_action(action, error)
            raise
        else:
            extra = {"sample": sample}
        reward, terminated = self.outcome()
        return self.observation(), reward, terminated, False, {**self.info(), **extra}

    def _check_action(self, action: Any, cause: Exception | None = None) -> None:
        """Raise WrongValue where an action has not the shape of its space: a solver fails, or takes a part of it."""
        space = self.action_space
        if not isinstance(space, ARRAYS) or (action.__class__ is np.ndarray and action.shape == space.shape):
            return
        try:
            got: Any = np.shape(action)
        except ValueError:  # of lists of unequal lengths
            got = "unequal rows"
        if got == space.shape:
            return
        what, values = f"an action of shape {got}", f"np.zeros({space.shape}"
        if isinstance(action, (int, float, np.number)):
            what = f"the number {action}"
            values = f"np.array([{action}]" if space.shape == (1,) else values
        raise WrongValue(
            f"{type(self).__name__}: step takes an action of shape {space.shape}, and got {what}; pass {values}, "
            f"np.{space.dtype}), or another element of action_space"
        ) from cause

    def _timed_sample(self) -> Mapping[str, Any]:
        """Return the sample, with the time of the info where it declares one and does not give it."""
        sample = self.sample()
        if TIME not in self._spec or TIME in sample:
            return sample
        info = self.info()
        return {**sample, TIME: info[TIME]} if TIME in info else sample

    @cached_property
    def _cube(self) -> Cube:
        assert self.parameter_space is not None
        return Cube(self.parameter_space, "parameter_space", "uniform")

    @cached_property
    def _spec(self) -> SampleSpec:
        spec = SampleSpec.from_env(self)
        if spec is None:
            raise SampleError(f"{type(self).__name__} sets no sample_space; a Simulation declares its sample fields")
        return spec


def lacking_state_hooks(env: gymnasium.Env[Any, Any]) -> list[str]:
    """Return which of `Simulation.state` and `Simulation.set_state` an environment does not implement.

    An attribute or a property of that name is no hook. An instance that says so has neither.
    """
    kind, hooks = type(env.unwrapped), ("state", "set_state")
    if not issubclass(kind, Simulation) or not env.unwrapped.keeps_state:  # type: ignore[attr-defined]
        return list(hooks)
    return [
        name for name in hooks if not callable(getattr(kind, name)) or getattr(kind, name) is getattr(Simulation, name)
    ]


def _seconds(kind: type, value: Any) -> float:
    """Return a time step in s.

    Raises:
        ConfigError: It is no positive number.
    """
    return float(positive(f"{kind.__name__}.time_step (seconds by which `advance` moves on)", value))
