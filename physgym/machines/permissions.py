"""`Permissions`: what a worker on another machine lets any parent make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from physgym.errors import ConfigError, NotAllowed
from physgym.object_references import KEY
from physgym.placement import EnvFactory
from physgym.protocol.messages import Call, Message
from physgym.samplers.find import rebuild_sampler
from physgym.vector.make import NAMED, env_factory
from physgym.worker.sampled_actions import SAMPLED_ACTIONS, SampledActionsFactory
from physgym.worker.snapshots import SNAPSHOTS, SnapshotsFactory
from physgym.worker.stored_actions import STORED_ACTIONS, StoredActionsFactory
from physgym.worker.variants import BY_EPISODE, ByEpisode

# the shipped simulations that start no program and load no code or file that a parent could name
HARMLESS = (
    "physgym/Beam-v0",
    "physgym/BeamFull-v0",
    "physgym/Burgers-v0",
    "physgym/BurgersStep-v0",
    "physgym/Darcy-v0",
    "physgym/Heat-v0",
    "physgym/HeatBatch-v0",
    "physgym/KuramotoSivashinsky-v0",
    "physgym/NavierStokes2D-v0",
    "physgym/Spring-v0",
    "physgym/Track-v0",
)

# kinds of parts that stand further down: what is to be made, and the module whose `factory_of` makes it
MAKERS = {"numbered episodes": "physgym.rl.numbered_episodes"}
# methods that change no argument, whatever they are given: the last ones are those of numbered episodes
READING = ("has_wrapper_attr", "get_wrapper_attr", "skip_to", "resume_episode")


@dataclass(frozen=True)
class Permissions:
    """The environments that a worker makes for its parent.

    Attributes:
        envs: The ids that it makes; empty for `HARMLESS`.
        fixed: Arguments that are as they are here, by name: a parent that gives another value is refused.
    """

    envs: Sequence[str] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[str, ...]:
        """Return the ids that the worker makes."""
        return tuple(self.envs) or HARMLESS

    def factory(self, description: Any) -> EnvFactory:
        """Return the factory that a description is of, see `physgym.placement.PortableFactory`.

        Raises:
            ConfigError: The worker does not allow it, it is wrong, or the environment is unknown here.
        """
        try:
            make, of = description["make"], description.get("of")
            if make == NAMED:
                return self._named(description["env"], description["arguments"])
            if make == BY_EPISODE:
                return ByEpisode([self.factory(one) for one in of])
            if make == SAMPLED_ACTIONS:
                sampler = rebuild_sampler(description["sampler"], "actions")
                assert sampler is not None
                return SampledActionsFactory(self.factory(of), sampler, description["seed"])
            if make == STORED_ACTIONS:
                return StoredActionsFactory(self.factory(of))
            if make == SNAPSHOTS:
                return SnapshotsFactory(self.factory(of), description["every"])
            if make in MAKERS:
                made: EnvFactory = import_module(MAKERS[make]).factory_of(description, self.factory(of))
                return made
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"the parent's description of an environment is wrong: {error!r}") from error
        raise ConfigError(f"the parent wants {make!r} made, which this version does not know; update this machine")

    def added(self, descriptions: Sequence[Any]) -> dict[str, Any]:
        """Return the fixed arguments that the parent does not give itself, for descriptions that `factory` takes."""
        given = set[str]()
        parts = [*descriptions]
        while parts:
            part = parts.pop()
            given |= set(part.get("arguments", ()))
            of = part.get("of", [])
            parts += of if isinstance(of, list) else [of]
        return {name: value for name, value in self.fixed.items() if name not in given}

    def check(self, request: Message) -> None:
        """Check that a request leaves the fixed arguments as they are.

        Where some are fixed, attributes are read and not set, and methods are called without arguments: an environment
        keeps its arguments under names that nobody else knows.

        Raises:
            NotAllowed: It may change one.
        """
        if not self.fixed or not isinstance(request, Call) or request.kind not in ("set", "call"):
            return
        reads = request.name in READING or not (request.args or request.kwargs or request.name.startswith("_"))
        if request.kind == "call" and reads:
            return
        doing = f"set {request.name!r}" if request.kind == "set" else f"call {request.name!r} with arguments"
        raise NotAllowed(
            f"this worker fixes {', '.join(self.fixed)} (--arg), and its parent wants to {doing}, which may change "
            "that; start it without --arg if you trust what its parent may have it do"
        )

    def _named(self, env: Any, arguments: Mapping[str, Any]) -> EnvFactory:
        if env not in self.allowed:
            raise NotAllowed(
                f"this worker does not make {env!r}; it allows {', '.join(self.allowed)}. Start it with --env {env} if "
                "you trust what its parent may have it do"
            )
        if KEY in json.dumps(arguments):
            raise NotAllowed(
                f"the arguments of {env} name an object of Python ({KEY}), whose code a worker does not load for "
                "its parent; fix the argument there with --arg"
            )
        if not self.envs and (harmful := sorted(name for name in arguments if name in ("render_mode", "additional"))):
            raise NotAllowed(f"the argument {harmful[0]} of {env} is not for a parent to choose")
        for name, value in self.fixed.items():
            if name in arguments and arguments[name] != value:
                raise NotAllowed(
                    f"this worker fixes {name}={value!r}, and its parent wants {arguments[name]!r}; start it without "
                    f"--arg {name}=..., or give the parent the same"
                )
        return env_factory(env, {**arguments, **self.fixed})
