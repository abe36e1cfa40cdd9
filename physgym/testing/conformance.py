"""The rules that an environment has to follow so that every part of physgym works with it, as a test suite.

Subclass `EnvConformance` in a test file and say how to make the environment::

    class TestMySimulation(EnvConformance):
        def make_env(self, **kwargs):
            return MySimulation(**kwargs)
"""

from __future__ import annotations

import contextlib
import unittest
import warnings
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from physgym.checks import integer
from physgym.episode import Transition, run_episode, sampler
from physgym.errors import ProtocolError, SampleError
from physgym.placement import Env, build
from physgym.protocol.msgpack_values import encode_value
from physgym.real_time import runs_in_real_time
from physgym.registration import TRANSITIONS, env_maker
from physgym.returned import returned
from physgym.running.surrogate_state import lacking_hooks
from physgym.sample import RecordTransition, SampleSpec, declaration
from physgym.scene.declared import declared_inputs, declared_scene
from physgym.scene.live import LiveScene
from physgym.single import single_of
from physgym.spaces import flatten, leaf_spaces, unflatten
from physgym.testing.comparing import require as _require
from physgym.testing.comparing import same_bits as _bits
from physgym.testing.declared_values import cast_numbers, observation_fault, values_beyond, values_outside
from physgym.testing.fed_back import check_feedback, check_stand_in
from physgym.testing.isolation import ConformanceNote, find_influence
from physgym.testing.restoring import check_restored, keeps_states
from physgym.testing.rules import NothingToCheck, RuleReport, broken_rules, fault_text, listed
from physgym.vector import SocketVectorEnv
from physgym.vector.make import NamedFactory, env_factory
from physgym.worker.folders import OwnFolder
from physgym.worker.given_inputs import GIVEN, GivenInputs

STEPS = 5  # per episode: rules show in a few steps, and a simulation may be slow
SEED = 20

REPORTED = 'reset must report the parameters of the episode in info["parameters"], as parameter_space declares: {error}'
SKIPPED = 'not checked, since the environment runs in real time (metadata["physgym.real_time"]): no episode comes twice'
NO_SAMPLES = (
    "the environment must declare sample_space, see docs/howto/simulation.md; or its transitions are its samples, as "
    "of {transitions}"
)
NO_PARAMETERS = "no parameters are declared (parameter_space)"


class EnvConformance:
    """Base class of a conformance test; subclasses implement `make_env`.

    Attributes:
        steps: Steps of an episode at most.
    """

    steps = STEPS

    def make_env(self, **kwargs: Any) -> Env:
        """Make a new environment; must pass ``render_mode`` on to it."""
        raise NotImplementedError("return a new environment here")

    def test_gymnasium_accepts_it(self) -> None:
        """Check that Gymnasium's checker passes, after what says more of an observation that does not fit."""
        self._check_observations()
        env = self.make_env()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice to RL agents, such as to bound every observation
                if runs_in_real_time(env.metadata):
                    self._declare_nondeterministic(env.unwrapped)
                if single_of(env.metadata) is not None:
                    env.unwrapped.spec = None  # of which the checker would make another one
                gymnasium_check_env(env.unwrapped, skip_render_check=True)
        except Exception as error:
            text = f"Gymnasium's own checker must accept the environment: {fault_text(error)}"
            raise AssertionError(text) from error
        finally:
            env.close()

    def test_results_can_travel(self) -> None:
        """Check that the results of reset and step can be sent to another process."""
        env = self.make_env()
        try:
            returned: tuple[Any, ...] = env.reset(seed=SEED)
            action = sampler(env)(returned[0], np.random.default_rng(SEED))
            for values in (returned, env.step(action)):
                encode_value([values[0], values[-1]])
        except ProtocolError as error:
            raise AssertionError(
                f"observations and infos must be such that processes can send them: {error}"
            ) from error
        finally:
            env.close()
        if text := cast_numbers(env.observation_space, returned[0]):
            warnings.warn(text, ConformanceNote, stacklevel=2)

    def test_sample_space_is_consistent(self) -> None:
        """Check that fields, roles and units fit together, with something to learn from and something to learn."""
        spec = self._spec()
        for role in ("input", "target"):
            _require(
                bool(spec.names(role)),
                f"sample_space needs at least one field of role {role!r} in sample_roles, for a network to train on",
            )

    def test_sampler_gives_valid_actions(self) -> None:
        """Check that sampled actions are in the action space and depend on the generator alone."""
        env = self.make_env()
        draw = sampler(env)
        observation, _ = env.reset(seed=SEED)
        for seed in range(10):
            action = draw(observation, np.random.default_rng(seed))
            _require(
                env.action_space.contains(action),
                f"sample_action(rng) must return elements of action_space; {action!r} is not in {env.action_space}",
            )
            again = draw(observation, np.random.default_rng(seed))
            _require(
                _equal(env.action_space, action, again),
                "sample_action(rng) must take all randomness from rng: equal generators gave different actions",
            )
        env.close()

    def test_samples_fit_the_declaration(self) -> None:
        """Check that steps give samples, each with the declared fields, shapes and dtypes, all finite.

        Outputs that are fed back have to be the inputs of the next step. Values beyond declared bounds are a note.
        """
        spec = self._spec()
        transitions = self._episode(spec, SEED)  # checks every sample
        _require(
            any(t.sample is not None for t in transitions),
            (
                f"at least one of {len(transitions)} steps under sampled actions must give a sample; all were "
                f"rejected, the last: {transitions[-1].rejected}"
            ),
        )
        env = self.make_env()
        env.close()
        if not runs_in_real_time(env.metadata):
            check_feedback(spec, transitions)
        if text := values_beyond(env, transitions):
            warnings.warn(text, ConformanceNote, stacklevel=2)

    def test_same_seed_same_episode(self) -> None:
        """Check that a seed names an episode."""
        self._skip_in_real_time()
        spec, space = self._spec(), self.make_env().observation_space
        if difference := _difference(space, self._episode(spec, SEED), self._episode(spec, SEED)):
            raise AssertionError(
                f"equal seeds must give equal episodes to the bit; {difference[0]} differs at step {difference[1]}. "
                "Use self.np_random alone"
            )

    def test_episodes_are_the_same_in_every_environment(self) -> None:
        """Check that an episode depends on its seed, not on ``env_index`` and ``env_count``."""
        self._skip_in_real_time()
        spec, space = self._spec(), self.make_env().observation_space
        first = self._episode(spec, SEED)
        for name, place in (("env_count", (0, 7)), ("env_index", (3, 7))):
            if difference := _difference(space, first, self._episode(spec, SEED, place=place)):
                raise AssertionError(
                    f"equal seeds must give equal episodes in every environment; {difference[0]} differs at step "
                    f"{difference[1]} with another {name}. Which environment runs an episode, and how many there are, "
                    "depends on the number of workers, and so would a dataset. Use it for ports and file names alone; "
                    "what differs between episodes is a parameter"
                )

    def test_an_episode_does_not_depend_on_those_before(self) -> None:
        """Check that an episode of an instance that has run others is that of a new one."""
        self._skip_in_real_time()
        spec, space = self._spec(), self.make_env().observation_space
        env = build(self.make_env, 0, 1)
        for seed in (SEED + 1, SEED + 2):
            list(run_episode(env, spec, seed=seed, max_steps=self.steps))
        again = list(run_episode(env, spec, seed=SEED, max_steps=self.steps))
        env.close()
        if difference := _difference(space, self._episode(spec, SEED), again):
            raise AssertionError(
                "equal seeds must give equal episodes, after any other ones; in an instance that has run other "
                f"episodes {difference[0]} differs at step {difference[1]}. Which episodes an instance runs depends on "
                "the number of workers, and so would a dataset. Begin again at each reset: clear there what is left of "
                "the last episode"
            )

    def test_instances_do_not_influence_each_other(self) -> None:
        """Check that two instances in a process, stepped in turn, give what each gives alone."""
        env = self.make_env()
        env.close()
        if single_of(env.metadata) is not None:
            raise NothingToCheck("there is one instance per process or machine, as metadata['physgym.single'] says")
        self._skip_in_real_time()
        if (found := find_influence(self.make_env, (SEED, SEED + 1), self.steps)) is not None:
            step = "the reset" if found.step < 0 else f"step {found.step}"
            raise AssertionError(
                f"instances in one process must not influence each other: next to another one, {found.what} differs at "
                f"{step} from what the instance gives alone. They share {found.cause}. {found.cure}; or declare "
                "metadata['physgym.single'] = 'process', for one environment per worker process"
            )

    def test_parameters_are_reported(self) -> None:
        """Check that a reset reports the parameters of its episode, if the environment declares some."""
        env = self.make_env()
        declared = declaration(env, "parameter_space")
        if declared is not None:
            _reset_parameters(env, SEED)
        env.close()
        if declared is None:
            raise NothingToCheck(NO_PARAMETERS)

    def test_parameters_can_be_set(self) -> None:
        """Check that a reset takes parameters and uses them; given those of its own seed, nothing changes."""
        env = self.make_env()
        space = declaration(env, "parameter_space")
        if space is None:
            env.close()
            raise NothingToCheck(NO_PARAMETERS)
        for seed in range(SEED + 1, SEED + 1 + STEPS):
            asked = _reset_parameters(env, seed)
            got = _reset_parameters(env, SEED, asked)
            for name, a, b in zip(leaf_spaces(space), flatten(space, asked), flatten(space, got), strict=True):
                _require(
                    _bits(a, b),
                    (
                        f'reset(options={{"parameters": ...}}) must set them: asked for {name!r} = {a}, '
                        f'info["parameters"] has {b}. Use them, and report what is used'
                    ),
                )
        options = {"parameters": _reset_parameters(env, SEED)}
        env.close()
        self._skip_in_real_time()
        spec = self._spec()
        first, second = self._episode(spec, SEED), self._episode(spec, SEED, options)
        if difference := _difference(env.observation_space, first, second):
            raise AssertionError(
                'reset(options={"parameters": ...}) with what the same seed reports must give the same episode; '
                f"{difference[0]} differs at step {difference[1]}. Draw as many random numbers where parameters are "
                "given as where they are not"
            )

    def test_parameters_out_of_bounds_are_refused(self) -> None:
        """Check that a reset raises for parameters that are not in their space."""
        env = self.make_env()
        space = declaration(env, "parameter_space")
        if space is None:
            env.close()
            raise NothingToCheck(NO_PARAMETERS)
        good = flatten(space, _reset_parameters(env, SEED))
        for row, (name, leaf) in enumerate(leaf_spaces(space).items()):
            for wrong in values_outside(leaf):
                given = unflatten(space, iter([*good[:row], wrong, *good[row + 1 :]]))
                try:
                    env.reset(seed=SEED, options={"parameters": given})
                except Exception:  # noqa: BLE001 - which one is for the environment to choose
                    continue
                raise AssertionError(
                    f'reset must refuse options["parameters"] with {name!r} = {wrong}, which parameter_space does '
                    "not allow"
                )
        env.close()

    def test_observations_are_not_changed_later(self) -> None:
        """Check that returned values stay as they were."""
        env = self.make_env()
        draw, rng = sampler(env), np.random.default_rng(SEED)
        observation, _ = env.reset(seed=SEED)
        for step in range(self.steps):
            before = [np.copy(leaf) for leaf in flatten(env.observation_space, observation)]
            following, _, terminated, truncated, _ = env.step(draw(observation, rng))
            if terminated or truncated:
                env.reset()
            after = flatten(env.observation_space, observation)
            _require(
                all(map(_bits, before, after)),
                f"an observation must not change after it was returned; the one of step {step} did. Return a copy",
            )
            observation = following if not (terminated or truncated) else env.reset()[0]
        env.close()

    def test_equal_through_a_worker(self) -> None:
        """Check that a socket vector env gives what Gymnasium's own in-process one gives."""
        self._skip_in_real_time()
        self._check_observations()  # which the one in process would not name
        mode = AutoresetMode.SAME_STEP
        made = self.make_env()
        made.close()
        count = 2 if single_of(made.metadata) is None else 1
        reference = SyncVectorEnv([self._in_own_folder] * count, autoreset_mode=mode)
        ours = SocketVectorEnv([self.make_env] * count, num_workers=1, autoreset_mode=mode)
        try:
            sampling = self.make_env() if count == 2 else reference.envs[0]  # this process may hold no other one
            sampling.reset(seed=SEED)
            draw, rng = sampler(sampling), np.random.default_rng(SEED)
            single = reference.single_action_space
            results = [env.reset(seed=SEED)[:1] for env in (reference, ours)]
            for step in range(self.steps):
                for what, a, b in zip(("observation", "reward", "terminated", "truncated"), *results, strict=False):
                    space = reference.observation_space if what == "observation" else None
                    same = _bits(a, b) if space is None else _equal(space, a, b)
                    _require(same, f"through a worker process the {what} must equal the one in process, at step {step}")
                empty: Any = create_empty_array(single, count)
                actions = concatenate(single, [draw(None, rng) for _ in range(count)], empty)
                results = [env.step(actions)[:4] for env in (reference, ours)]  # type: ignore[misc]
        finally:
            reference.close()
            ours.close()

    def test_a_network_can_stand_in_for_the_solver(self) -> None:
        """Check that an exact prediction gives the solver's observation, if the hooks of a `SurrogateEnv` are there."""
        self._skip_in_real_time()
        made = self.make_env()
        made.close()
        if lacking := lacking_hooks(made.unwrapped):
            raise NothingToCheck(f"the class lacks {', '.join(lacking)}, by which a network stands in for the solver")
        if single_of(made.metadata) is not None:
            raise unittest.SkipTest(
                "a prediction is compared with the solver in one process, which may hold one of both"
            )
        check_stand_in(self.make_env, self._spec(), self.steps, SEED)

    def test_a_restored_state_continues(self) -> None:
        """Continuing from a restored state equals continuing, to the bit, also in a new environment; if implemented."""
        env = self.make_env()
        keeps = keeps_states(env)
        env.close()
        if not keeps:
            raise NothingToCheck("the class does not define state() and set_state()")
        self._skip_in_real_time()
        check_restored(self.make_env, self._spec(), self.steps, SEED)

    def test_inputs_of_a_person_end_with_their_episode(self) -> None:
        """Check that a step takes each input that the scene declares, and the next episode begins without them."""
        made = self.make_env()
        declared = declared_inputs(made)
        made.close()
        if not declared:
            raise NothingToCheck("the scene declares no inputs of a person")
        self._skip_in_real_time()
        spec, space = self._spec(), self.make_env().observation_space
        env = GivenInputs(self.make_env())
        changes = [[1, name, one.farthest] for name, one in declared.items()]
        options = {GIVEN: {"changes": changes, "made": 0}}
        list(run_episode(env, spec, seed=SEED, max_steps=self.steps, options=options, nonfinite="allow"))
        again = list(run_episode(env, spec, seed=SEED, max_steps=self.steps))
        env.close()
        if difference := _difference(space, self._episode(spec, SEED), again):
            raise AssertionError(
                "inputs of a person end with their episode; after one with inputs "
                f"{difference[0]} differs at step {difference[1]}. Bring back at each reset what take_input has changed"
            )

    def test_renders(self) -> None:
        """Check that the scene fits the samples, and that frames have the usual form, if it renders off screen.

        Skipped after the scene where it does not.
        """
        self._check_scene()
        env = self.make_env()
        env.close()
        if "rgb_array" not in (modes := env.metadata.get("render_modes", [])):
            raise NothingToCheck(
                f'nothing is rendered: metadata["render_modes"] is {modes}, without "rgb_array"; declare it where '
                "render() makes pictures. What the scene shows fits the samples"
            )
        env = self.make_env(render_mode="rgb_array")
        env.reset(seed=SEED)
        frame: Any = env.render()
        env.close()
        good = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        _require(
            good, f"render() with render_mode='rgb_array' must return uint8 of shape (height, width, 3), not {got}"
        )

    def test_closes_twice(self) -> None:
        """Check that closing again does no harm."""
        env = self.make_env()
        env.reset(seed=SEED)
        env.close()
        env.close()

    def _declare_nondeterministic(self, env: Env) -> None:
        """Have Gymnasium's checker compare no episodes of an environment in real time."""
        if env.spec is None:
            env.spec = EnvSpec("unregistered-v0", entry_point=self.make_env, nondeterministic=True)
        _require(
            env.spec.nondeterministic,
            "an environment in real time is registered with nondeterministic=True, by which Gymnasium knows it",
        )

    def _check_observations(self) -> None:
        """Check that a reset and a step give elements of the observation space.

        Raises:
            AssertionError: They do not; the text names part, shape and dtype.
        """
        env = self.make_env()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Gymnasium's, which say less
                observation, _ = returned("reset", env.reset(seed=SEED), 2)
                texts = [observation_fault(env.observation_space, observation)]
                action = sampler(env)(observation, np.random.default_rng(SEED))
                texts.append(observation_fault(env.observation_space, returned("step", env.step(action), 5)[0]))
        finally:
            env.close()
        for what, text in zip(("reset", "step"), texts, strict=True):
            _require(not text, f"{what}: {text}")

    def _skip_in_real_time(self) -> None:
        """Skip the rest of a rule where the environment runs in real time, and no episode is like another one."""
        env = self.make_env()
        env.close()
        if runs_in_real_time(env.metadata):
            raise unittest.SkipTest(SKIPPED)

    def _spec(self) -> SampleSpec:
        env = self.make_env()
        spec = SampleSpec.from_env(env)
        env.close()
        _require(spec is not None, NO_SAMPLES.format(transitions="transitions:module:id"))
        assert spec is not None
        return spec

    def _check_scene(self) -> None:
        """Check that what pictures show fits the samples, after a reset and after steps; see `physgym.scene`."""
        spec = self._spec()
        env = self.make_env()
        declared_scene(env)
        live = LiveScene(env, type(env.unwrapped).__name__)
        env.reset(seed=SEED)
        live.frame()
        for transition in run_episode(env, spec, seed=SEED, max_steps=self.steps):
            live.frame(transition.sample)
        env.close()

    def _in_own_folder(self) -> Env:
        """Return an environment that leaves the process where it was, as one of several in a worker does."""
        return OwnFolder(self.make_env)

    def _episode(
        self, spec: SampleSpec, seed: int, options: dict[str, Any] | None = None, place: tuple[int, int] = (0, 1)
    ) -> list[Transition]:
        env = build(self.make_env, *place)
        transitions = list(run_episode(env, spec, seed=seed, max_steps=self.steps, options=options))
        env.close()
        return transitions


class _Given(EnvConformance):
    """The suite on an environment that is given by its id, or by what makes it.

    One that declares no samples breaks the rule on them alone: the other rules are tried with its transitions.
    """

    def __init__(self, env: str | Callable[..., Env], arguments: Mapping[str, Any]) -> None:
        env_factory(env, arguments)  # which finds what is misspelled
        self._env, self._arguments = env, arguments
        self.made: list[int] = []  # steps of the episodes whose samples were checked
        self._maker = env_maker(env)  # a worker need not know the registration

    def make_env(self, **kwargs: Any) -> Env:
        wrapped = self._has_transitions  # before there is another one, which may have to be the only one
        made = self._make(kwargs)
        return RecordTransition(made) if wrapped else made

    def _make(self, kwargs: Mapping[str, Any]) -> Env:
        return NamedFactory(self._env, self._maker, {**self._arguments, **kwargs})()

    @cached_property
    def _lacks_samples(self) -> bool:
        with contextlib.closing(self._make({})) as env:
            return declaration(env, "sample_space") is None

    @cached_property
    def _has_transitions(self) -> bool:
        """Return whether transitions stand in for the samples that are missing: the environment begins an episode."""
        if not self._lacks_samples:
            return False
        with contextlib.closing(self._make({})) as env, contextlib.suppress(Exception):  # which the rules find
            RecordTransition(env).reset(seed=SEED)
            return True
        return False

    def test_sample_space_is_consistent(self) -> None:
        name = TRANSITIONS + (self._env if isinstance(self._env, str) else "module:id")
        _require(not self._lacks_samples, NO_SAMPLES.format(transitions=name))
        super().test_sample_space_is_consistent()

    def _episode(
        self, spec: SampleSpec, seed: int, options: dict[str, Any] | None = None, place: tuple[int, int] = (0, 1)
    ) -> list[Transition]:
        transitions = super()._episode(spec, seed, options, place)
        self.made.append(len(transitions))
        return transitions


def check_env(
    env: str | Callable[..., Env],
    report: RuleReport | None = None,
    note: RuleReport | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    skip: RuleReport | None = None,
) -> tuple[int, int]:
    """Check an environment against all rules.

    Args:
        env: Registered id, or a callable that makes one and accepts ``render_mode``.
        report: Called for each rule with its name and the broken rule's text, empty if it holds.
        note: Called with the name of a rule that holds only nearly, or is not checked in real time, and what there is
            to say; by default a warning.
        arguments: Arguments of its constructor.
        steps: Steps of an episode at most. What fails later in an episode needs more of them.
        skip: Called in place of `note` with the name of a rule that does not apply, or is not tried, and why.

    Returns:
        Number of episodes whose samples were checked, and of their steps.

    Raises:
        AssertionError: Rules are broken; the text lists all of them.
        ConfigError: The id is not registered, or the constructor lacks an argument.
    """
    suite = _Given(env, arguments or {})
    suite.steps = integer("steps", steps, 1)
    broken = broken_rules(suite, report, note, skip)
    if broken:
        raise AssertionError(f"the environment breaks rules:\n{listed(broken)}")
    return len(suite.made), sum(suite.made)


def _difference(
    space: gymnasium.Space[Any], first: list[Transition], second: list[Transition]
) -> tuple[str, int] | None:
    """Say what differs first between two episodes, and at which step."""
    for a, b in zip(first, second, strict=False):
        if not _equal(space, a.observation, b.observation):
            return "the observation", a.step
        if a.reward != b.reward:
            return "the reward", a.step
        if (a.sample is None) != (b.sample is None):
            return "rejection", a.step
        if a.sample is not None and b.sample is not None:
            for name, value in a.sample.items():
                if not _bits(value, b.sample[name]):
                    return f"sample field {name!r}", a.step
    return None if len(first) == len(second) else ("the length", min(len(first), len(second)))


def _reset_parameters(env: Env, seed: int, given: Any = None) -> Any:
    """Return the parameters that a reset reports, as copies; checked against their space."""
    space = declaration(env, "parameter_space")
    _, info = env.reset(seed=seed, options=None if given is None else {"parameters": given})
    spec = SampleSpec.parameters_of(env)
    assert spec is not None
    try:
        values = spec.check(info["parameters"], "the reset", finite=False)
    except KeyError as error:
        raise AssertionError(REPORTED.format(error="it is not there")) from error
    except SampleError as error:
        raise AssertionError(REPORTED.format(error=error)) from error
    for name, leaf in leaf_spaces(space).items():
        _require(leaf.contains(values[name]), REPORTED.format(error=f"{name!r} = {values[name]} is not in {leaf}"))
    return unflatten(space, iter([value.copy()[()] for value in values.values()]))


def _equal(space: gymnasium.Space[Any], a: Any, b: Any) -> bool:
    return all(map(_bits, flatten(space, a), flatten(space, b)))
