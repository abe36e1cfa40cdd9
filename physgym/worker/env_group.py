"""Several environments in one process, served one after another: the requests of the protocol, without sockets.

A worker process has such a group, and a vector env without workers has one in its own process.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from gymnasium.vector import AutoresetMode

from physgym import spaces as walk
from physgym.casting import as_arrays
from physgym.code.env_description import describe_env
from physgym.errors import ProtocolError, SampleError, UnequalSpaces
from physgym.placement import Env
from physgym.protocol.buffers import IDLE, Arena, Layout
from physgym.protocol.messages import (
    Call,
    CallResult,
    GiveInputs,
    Message,
    Predict,
    Prediction,
    Reset,
    Rollout,
    Step,
    WatchScenes,
)
from physgym.protocol.sample_slots import SlotWriter
from physgym.sample import SampleSpec, declaration
from physgym.scene.declared import described_scene
from physgym.spaces import Array
from physgym.worker.arena_rows import ArenaRows
from physgym.worker.batch import RowBatch
from physgym.worker.batched_episodes import BatchedEpisodes
from physgym.worker.batched_steps import BatchedStepper
from physgym.worker.episodes import EpisodeRunner
from physgym.worker.failures import RequestFailed, failure
from physgym.worker.folders import Folder
from physgym.worker.given_inputs import give_input
from physgym.worker.guard import Guard
from physgym.worker.machine_claims import release_machine
from physgym.worker.scene_offers import Offer, SceneOffers, live_scenes, nobody
from physgym.worker.sharing import refuse_same
from physgym.worker.stepping import Emit, Stepper
from physgym.worker.variants import Variants, describe_spaces
from physgym.worker.working_folders import WorkingFolders

Ask: TypeAlias = Callable[[Predict], Prediction]


class EnvGroup:
    """Serves requests on a list of environments.

    Args:
        envs: The environments; all have spaces of equal layout.
        mode: What happens when an episode ends.
        ask: How to get a prediction that an environment asks for in the middle of a step.
        seeds: Where the worker was started again, the seed for the next reset of each environment; its episode counts
            as cut until then.
        closing: Whether the parent wants to close, which ends a rollout between two steps; asked now and then, also to
            notice that it wishes for other frames.
        offer: Takes the frames of environments that are watched.
        folders: The working folders in which their constructors left the process; by default they did not change it.
        local: Whether the process is not theirs alone, and is to be left in the folder in which it was.
        batch: What they are rows of; None where each is by itself.

    Raises:
        UnequalSpaces: The environments differ.
        WrongValue: Two are the same object.
    """

    def __init__(
        self,
        envs: Sequence[Env],
        mode: AutoresetMode,
        ask: Ask,
        seeds: Sequence[int | None] | None = None,
        closing: Callable[[], bool] = lambda: False,
        *,
        offer: Offer = nobody,
        folders: Sequence[Folder] = (),
        local: bool = False,
        batch: RowBatch | None = None,
    ) -> None:
        refuse_same(envs)
        self.envs = list(envs)
        self.count = len(self.envs)
        _check_equal(self.envs if batch is None else self.envs[:1])
        first = envs[0]
        self.spec, self.parameter_spec = SampleSpec.from_env(first), SampleSpec.parameters_of(first)
        self._rows = ArenaRows(first.observation_space, first.action_space, self.count)
        self._folders = WorkingFolders(self.envs, folders, local=local)
        self._guard = Guard(self._rows, self._folders)
        self._offers = offers = SceneOffers(live_scenes(self.envs), self._folders.of, offer)
        self._stepper: Stepper | BatchedStepper
        self._episodes: EpisodeRunner | BatchedEpisodes
        if batch is not None:
            self._stepper = BatchedStepper(batch.rows, mode, self._rows, self._folders, seeds, offers)
            specs = self.spec, self.parameter_spec
            self._episodes = BatchedEpisodes(batch, self.envs, specs, self._guard, self._stepper.ended, closing, offers)
            return
        self._stepper = Stepper(self.envs, mode, first.action_space, self._rows, self._folders, seeds, offers)
        self._episodes = EpisodeRunner(
            self.envs, self.spec, self.parameter_spec, self._guard, self._stepper.ended, closing, offers
        )
        for i, env in enumerate(self.envs):
            inner = env.unwrapped
            if hasattr(inner, "predictor") and (inner.predictor is None or isinstance(inner.predictor, _Asker)):
                inner.predictor = _Asker(i, ask, self._folders)  # a surrogate may have a network of its own

    def layouts(self) -> tuple[Layout, Layout]:
        """Return the layouts of actions and results."""
        return self._rows.layouts()

    def attach(self, arena: Arena, first: int, worker: int | None) -> None:
        """Read actions from and write results to an arena, from its row `first` on.

        Args:
            arena: The arrays.
            first: Index of the first environment.
            worker: Which worker this is, for `Arena.current_env`; None if nobody looks there.
        """
        self._rows.attach(arena, first, worker)

    def share_samples(self, file: int, worker: int, samples: Layout) -> None:
        """Leave samples of rollouts in memory that is shared with the parent, where that has made room for them.

        Args:
            file: Descriptor of the memory.
            worker: Which worker this is.
            samples: Layout of a sample.
        """
        if self._episodes.slots is None:
            with contextlib.suppress(OSError, ValueError):
                self._episodes.slots = SlotWriter(file, worker, samples)

    def describe(self) -> dict[str, Any]:
        """Return what `Ready` tells the parent: JSON data."""
        env = self.envs[0]
        return {
            "observation_space": walk.to_json(env.observation_space),
            "observation_spaces": self._further_spaces(),
            "action_space": walk.to_json(env.action_space),
            "sample_space": None if self.spec is None else walk.to_json(declaration(env, "sample_space")),
            "sample_fields": None if self.spec is None else self.spec.to_json(),
            "parameter_space": (
                None if self.parameter_spec is None else walk.to_json(declaration(env, "parameter_space"))
            ),
            "parameter_fields": None if self.parameter_spec is None else self.parameter_spec.to_json(),
            "metadata": _json_only(env.metadata),
            "render_mode": env.render_mode,
            "max_episode_steps": getattr(env.spec, "max_episode_steps", None),
            "code": describe_env(env.present if isinstance(env, Variants) else env),
        }

    def _further_spaces(self) -> list[Any]:
        """Return the observation spaces of all environments if they differ (in their bounds), else none."""
        first = self.envs[0].observation_space
        if all(env.observation_space is first or env.observation_space == first for env in self.envs):
            return []
        return [walk.to_json(env.observation_space) for env in self.envs]

    def watch(self, request: WatchScenes, *, now: bool = False) -> None:
        """Offer frames of other environments from now on, and at once where no step comes soon."""
        self._offers.watch(request)
        if now:
            self._offers.begin(request.rows)

    def give(self, given: GiveInputs) -> None:
        """Have a person's inputs of an environment changed at the beginning of its next step, where it takes some."""
        for name, value in given.changes:
            give_input(self.envs[given.env], name, value)

    def serve(self, message: Message, emit: Emit) -> Message:
        """Return the reply to a request; parts of it that come before go to `emit`.

        Raises:
            RequestFailed: An environment raised.
        """
        home = self._folders.before()
        try:
            if message.__class__ is Step:
                self._episodes.stopped = None
                reply: Message = self._stepper.step(message, emit)
            else:
                reply = self._serve(message, emit)
        except Exception:
            self._rows.current_env[0] = IDLE
            raise
        finally:
            moved = self._folders.back(home)
        self._rows.current_env[0] = IDLE  # not where an environment ends the process, so that the parent can name it
        if moved:
            self._folders.keep(moved)
        return reply

    def _serve(self, message: Message, emit: Emit) -> Message:
        if isinstance(message, Rollout):
            return self._episodes.serve(message, emit)
        self._episodes.stopped = None  # something else is asked
        match message:
            case Reset():
                return self._stepper.reset(message)
            case Call():
                return CallResult(self._call(message))
            case _:
                raise ProtocolError(f"a worker does not serve {type(message).__name__}")

    def _call(self, request: Call) -> list[Any]:
        rows = range(self.count) if request.rows is None else request.rows
        return [self._guard(i, request.name, _call, request, place, self.envs[i]) for place, i in enumerate(rows)]

    def close(self) -> None:
        """Close the environments, all of them even where one raises.

        Raises:
            RequestFailed: The first one that raised.
        """
        failed: RequestFailed | None = None
        for i, env in enumerate(self.envs):
            try:
                self._guard(i, "close", env.close)
            except RequestFailed as error:
                if failed is None:
                    failed = error
                elif failed.__cause__ is not None:
                    other = failure(i, error.__cause__ or error)
                    failed.__cause__.add_note(f"At the same time: close of environment {i}: {other.message}")
            release_machine(env)
        if failed is not None:
            raise failed


def _check_equal(envs: Sequence[Env]) -> None:
    """Check that environments have spaces of equal layout, and declare the same samples and parameters.

    Raises:
        UnequalSpaces: They differ.
    """
    first, leaves = envs[0], walk.leaves(envs[0].observation_space)
    for i, env in enumerate(envs):
        if env.action_space != first.action_space:
            raise _difference(i, "action_space", env.action_space, first.action_space)
        if walk.leaves(env.observation_space) != leaves:
            raise _difference(i, "observation_space", env.observation_space, first.observation_space)
    wanted = describe_spaces(first)
    names = ["sample_fields", "parameter_space"]
    if isinstance(first, Variants):  # of one dataset
        names = list(wanted)
    for i, env in enumerate(envs[1:], start=1):
        found = describe_spaces(env)
        for name in names:
            if found[name] != wanted[name]:
                raise _difference(i, name, found[name], wanted[name])


def _difference(i: int, name: str, got: Any, want: Any) -> UnequalSpaces:
    return UnequalSpaces(
        f"environment {i} of this worker has {name} {got}, the first one {want}; environments of one vector env need "
        "equal spaces"
    )


class _Asker:
    """Asks the pipeline's network for the predictions of an environment."""

    def __init__(self, index: int, ask: Ask, folders: WorkingFolders) -> None:
        self._index, self._ask, self._folders = index, ask, folders

    def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
        inputs = as_arrays(inputs, "the network")
        with self._folders.outside(self._index):  # the network is not the environment's
            answer = self._ask(Predict(self._index, inputs))
        if answer.error:
            raise SampleError(answer.error)
        return answer.fields


def _call(request: Call, place: int, env: Env) -> Any:
    if request.kind == "render":
        return env.render()
    if request.kind == "scene":
        return described_scene(env.present if isinstance(env, Variants) else env)
    if request.kind == "set":
        env.set_wrapper_attr(request.name, request.args[place])
        return None
    value = env.get_wrapper_attr(request.name)
    return value(*request.args, **request.kwargs) if callable(value) else value


def _json_only(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of an env's metadata that can be sent; foreign objects in it stay behind."""
    plain = {}
    for key, value in metadata.items():
        try:
            plain[key] = json.loads(json.dumps(value))
        except TypeError:
            continue
    return plain
