"""The rules that an environment has to follow so that every part of physgym works with it, as a test suite.

Subclass `EnvConformance` in a test file and say how to make the environment::

    class TestMySimulation(EnvConformance):
        def make_env(self, **kwargs):
            return MySimulation(**kwargs)
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from physgym.errors import PhysGymError, ProtocolError
from physgym.rollout import Transition, run_episode, sampler
from physgym.sample import SampleSpec
from physgym.spaces import Array, flatten
from physgym.vector import SocketVectorEnv
from physgym.vector.entry import find_spec
from physgym.vector.values import encode_value

Env = gymnasium.Env[Any, Any]

STEPS = 5  # per episode: rules show in a few steps, and a simulation may be slow
SEED = 20

GYMNASIUM = "Gymnasium's own checker must accept the environment: {error}"
TRAVEL = "observations and infos must be able to travel between processes: {error}"
SAMPLER = "sample_action(rng) must return elements of action_space; {action!r} is not in {space}"
SAMPLER_SEED = "sample_action(rng) must take all randomness from rng: equal generators gave different actions"
SAME_SEED = "equal seeds must give equal episodes to the bit; {what} differs at step {step}. Use self.np_random alone"
SAMPLES = (
    "at least one of {steps} steps under sampled actions must give a sample; all were rejected, the last: {reason}"
)
ALIAS = "an observation must not change after it was returned; the one of step {step} did. Return a copy"
VECTOR = "through a worker process {what} must equal the one in process, at step {step}"
RENDER = "render() with render_mode='rgb_array' must return uint8 of shape (height, width, 3), not {got}"
ROLES = "sample_space needs at least one field of role {role!r} in sample_roles, for a network to train on"


class EnvConformance:
    """Base class of a conformance test; subclasses implement `make_env`."""

    def make_env(self, **kwargs: Any) -> Env:
        """Make a new environment; must pass ``render_mode`` on to it."""
        raise NotImplementedError("return a new environment here")

    def test_gymnasium_accepts_it(self) -> None:
        """Gymnasium's checker passes."""
        env = self.make_env()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice to RL agents, such as to bound every observation
                gymnasium_check_env(env.unwrapped, skip_render_check=True)
        except Exception as error:
            raise AssertionError(GYMNASIUM.format(error=error)) from error
        finally:
            env.close()

    def test_results_can_travel(self) -> None:
        """What reset and step return can be sent to another process."""
        env = self.make_env()
        try:
            returned: tuple[Any, ...] = env.reset(seed=SEED)
            action = sampler(env)(returned[0], np.random.default_rng(SEED))
            for values in (returned, env.step(action)):
                encode_value([values[0], values[-1]])
        except ProtocolError as error:
            raise AssertionError(TRAVEL.format(error=error)) from error
        finally:
            env.close()

    def test_sample_space_is_consistent(self) -> None:
        """Fields, roles and units fit together, with something to learn from and something to learn."""
        spec = self._spec()
        for role in ("input", "target"):
            _require(bool(spec.names(role)), ROLES.format(role=role))

    def test_sampler_gives_valid_actions(self) -> None:
        """Sampled actions are in the action space and depend on the generator alone."""
        env = self.make_env()
        draw = sampler(env)
        observation, _ = env.reset(seed=SEED)
        for seed in range(10):
            action = draw(observation, np.random.default_rng(seed))
            _require(env.action_space.contains(action), SAMPLER.format(action=action, space=env.action_space))
            again = draw(observation, np.random.default_rng(seed))
            _require(_equal(env.action_space, action, again), SAMPLER_SEED)
        env.close()

    def test_samples_fit_the_declaration(self) -> None:
        """Steps give samples, each with the declared fields, shapes and dtypes, all finite."""
        transitions = self._episode(self._spec(), SEED)  # checks every sample
        _require(
            any(t.sample is not None for t in transitions),
            SAMPLES.format(steps=len(transitions), reason=transitions[-1].rejected),
        )

    def test_same_seed_same_episode(self) -> None:
        """A seed names an episode."""
        spec, space = self._spec(), self.make_env().observation_space
        first, second = self._episode(spec, SEED), self._episode(spec, SEED)
        _require(len(first) == len(second), SAME_SEED.format(what="the length", step=len(second)))
        for a, b in zip(first, second, strict=True):
            same = _equal(space, a.observation, b.observation)
            _require(same, SAME_SEED.format(what="the observation", step=a.step))
            _require(a.reward == b.reward, SAME_SEED.format(what="the reward", step=a.step))
            _require((a.sample is None) == (b.sample is None), SAME_SEED.format(what="rejection", step=a.step))
            for name in a.sample or ():
                assert a.sample is not None
                assert b.sample is not None
                same = _bits(a.sample[name], b.sample[name])
                _require(same, SAME_SEED.format(what=f"sample field {name!r}", step=a.step))

    def test_observations_are_not_changed_later(self) -> None:
        """What was returned stays as it was."""
        env = self.make_env()
        draw, rng = sampler(env), np.random.default_rng(SEED)
        observation, _ = env.reset(seed=SEED)
        for step in range(STEPS):
            before = [np.copy(leaf) for leaf in flatten(env.observation_space, observation)]
            following, _, terminated, truncated, _ = env.step(draw(observation, rng))
            if terminated or truncated:
                env.reset()
            after = flatten(env.observation_space, observation)
            _require(all(map(_bits, before, after)), ALIAS.format(step=step))
            observation = following if not (terminated or truncated) else env.reset()[0]
        env.close()

    def test_equal_through_a_worker(self) -> None:
        """A socket vector env gives what Gymnasium's own in-process one gives."""
        reference = SyncVectorEnv([self.make_env] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
        ours = SocketVectorEnv([self.make_env] * 2, num_workers=1, autoreset_mode=AutoresetMode.SAME_STEP)
        try:
            sampling = self.make_env()
            sampling.reset(seed=SEED)
            draw, rng = sampler(sampling), np.random.default_rng(SEED)
            single = reference.single_action_space
            results = [env.reset(seed=SEED)[:1] for env in (reference, ours)]
            for step in range(STEPS):
                for what, a, b in zip(("observation", "reward", "terminated", "truncated"), *results, strict=False):
                    space = reference.observation_space if what == "observation" else None
                    same = _bits(a, b) if space is None else _equal(space, a, b)
                    _require(same, VECTOR.format(what=f"the {what}", step=step))
                empty: Any = create_empty_array(single, 2)
                actions = concatenate(single, [draw(None, rng) for _ in range(2)], empty)
                results = [env.step(actions)[:4] for env in (reference, ours)]  # type: ignore[misc]
        finally:
            reference.close()
            ours.close()

    def test_renders(self) -> None:
        """Frames have the usual form, if the environment says that it renders off screen."""
        if "rgb_array" not in self.make_env().metadata.get("render_modes", []):
            return
        env = self.make_env(render_mode="rgb_array")
        env.reset(seed=SEED)
        frame: Any = env.render()
        env.close()
        good = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
        got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        _require(good, RENDER.format(got=got))

    def test_closes_twice(self) -> None:
        """Closing again does no harm."""
        env = self.make_env()
        env.reset(seed=SEED)
        env.close()
        env.close()

    def _spec(self) -> SampleSpec:
        env = self.make_env()
        spec = SampleSpec.from_env(env)
        env.close()
        _require(spec is not None, "the environment must declare sample_space; see docs/simulation.md")
        assert spec is not None
        return spec

    def _episode(self, spec: SampleSpec, seed: int) -> list[Transition]:
        env = self.make_env()
        transitions = list(run_episode(env, spec, seed=seed, max_steps=STEPS))
        env.close()
        return transitions


class _Registered(EnvConformance):
    """The suite on a registered environment."""

    def __init__(self, env_id: str) -> None:
        self.spec = find_spec(env_id)

    def make_env(self, **kwargs: Any) -> Env:
        return gymnasium.make(self.spec, **kwargs)


def rules(suite: EnvConformance) -> dict[str, Callable[[], None]]:
    """The tests of a suite by name, in the order of their definition."""
    names = [n for cls in reversed(type(suite).__mro__) for n in vars(cls) if n.startswith("test_")]
    return {name: getattr(suite, name) for name in dict.fromkeys(names) if inspect.ismethod(getattr(suite, name))}


def check_env(env: str | Callable[..., Env], report: Callable[[str, str], None] | None = None) -> None:
    """Check an environment against all rules.

    Args:
        env: Registered id, or a callable that makes one and accepts ``render_mode``.
        report: Called for each rule with its name and the broken rule's text, empty if it holds.

    Raises:
        AssertionError: Rules are broken; the text lists all of them.
        ConfigError: The id is not registered.
    """
    if isinstance(env, str):
        suite: EnvConformance = _Registered(env)
    else:
        suite = EnvConformance()
        suite.make_env = env  # type: ignore[method-assign]
    broken = []
    for name, rule in rules(suite).items():
        try:
            rule()
            text = ""
        except (Exception, SystemExit) as error:  # noqa: BLE001 - an environment may raise anything
            text = str(error) if isinstance(error, (AssertionError, PhysGymError)) else f"it raised {error!r}"
            broken.append(f"{name}: {text}")
        if report is not None:
            report(name, text)
    if broken:
        raise AssertionError("the environment breaks rules:\n- " + "\n- ".join(broken))


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise AssertionError(rule)


def _bits(a: Array, b: Array) -> bool:
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _equal(space: gymnasium.Space[Any], a: Any, b: Any) -> bool:
    return all(map(_bits, flatten(space, a), flatten(space, b)))
