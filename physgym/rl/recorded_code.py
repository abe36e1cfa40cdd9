"""The code of the environments that a recording is of, and its comparison where a recording is continued."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

from physgym.code.env_description import AROUND, describe_env
from physgym.code.record import Code
from physgym.code.search import code_of
from physgym.data.description import UNKNOWN, Description, Mode, partition_files
from physgym.data.provenance import begun, continued
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.naming import spec_text
from physgym.registration import ELSEWHERE, MAKE_ARGUMENTS
from physgym.vector.vector_env import SocketVectorEnv

CLASSES = "classes"  # as `describe_env` has them
OF_MANY = ("num_envs", "vectorization_mode", "vector_kwargs")  # arguments of `gymnasium.make_vec`
WRAPPERS = "wrappers"  # the one of these that an environment depends on


def code_of_environment(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> Code:
    """Return the code of an environment or vector environment: of its class, its wrappers, its arguments.

    Of a vector environment the first one counts, and every wrapper around all of them. An `AsyncVectorEnv` that was not
    made of a registration says nothing of its environments: one more is made and closed, as Gymnasium does for their
    spaces.

    Args:
        env: The environment, with the wrappers around it.
    """
    spec, made, maker = _spec_of_one(env), describe_env(env), None
    if isinstance(env, VectorEnv):
        inner = env.unwrapped
        around = [name for name in made[CLASSES] if name.partition(":")[0].partition(".")[0] not in AROUND]
        first: Mapping[str, Any] | None = None
        if isinstance(inner, SocketVectorEnv):
            first = inner.description.get("code") or {}
        elif isinstance(inner, SyncVectorEnv):
            spec, first = spec or inner.envs[0].spec, describe_env(inner.envs[0])
        elif isinstance(inner, AsyncVectorEnv):
            first = {}
            if spec is None:
                maker = inner.env_fns[0]
                try:
                    with contextlib.closing(maker()) as one:
                        spec, first = one.spec, describe_env(one)
                except Exception as error:  # noqa: BLE001 - of anybody's environment
                    return Code(unknown=(f"one of the environments cannot be made for it: {error}",))
        if first is not None:
            made = {**first, CLASSES: [*around, *first.get(CLASSES, ())]}
    if spec is not None and spec.id.startswith(ELSEWHERE):
        return code_of(spec.id, None, made)
    try:
        return code_of(maker if spec is None else _without_pictures(spec), None, made)
    except ConfigError as error:  # a file that the simulation says it reads is missing
        return Code(unknown=(str(error),))


def text_of_environment(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> str:
    """Return Gymnasium's description of an environment, or of one of a vector environment if all are the same.

    Empty where there is none, or where it does not say all, as of wrappers that `gymnasium.make_vec` was given.
    """
    inner, spec = env.unwrapped, _spec_of_one(env)
    if spec is None and isinstance(inner, SyncVectorEnv):
        texts = {spec_text(one.spec) for one in inner.envs}
        return texts.pop() if len(texts) == 1 else ""
    return "" if spec is not None and WRAPPERS in spec.kwargs else spec_text(spec)


def _spec_of_one(env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> EnvSpec | None:
    """Return a registration without what `gymnasium.make_vec` notes besides: how many there are, and where."""
    spec = env.spec
    if spec is None or not isinstance(env, VectorEnv):
        return spec
    return replace(spec, kwargs={name: one for name, one in spec.kwargs.items() if name not in OF_MANY})


def _without_pictures(spec: EnvSpec) -> EnvSpec:
    """Return a registration without the arguments that change nothing of what happens."""
    return replace(spec, kwargs={name: one for name, one in spec.kwargs.items() if name not in MAKE_ARGUMENTS})


class RecordedCode:
    """The code of what is recorded, for the provenance of a recording.

    Args:
        code: The code of now.
        allow_changed: Whether a recording of other code may be continued, and both be recorded.
    """

    def __init__(self, code: Code, *, allow_changed: bool) -> None:
        self._code, self._allow = code, allow_changed
        self._said = False  # whether it was compared already, with its warnings

    def check(self, folder: Path, mode: Mode) -> None:
        """Compare the code with that of a part of a dataset, before anything is written there.

        Raises:
            ChangedCode: The part was made by other code, or one of both is unknown.
        """
        self._said = True
        if partition_files(folder, mode):
            self._continued(Description.read(folder).provenance(mode), 0, folder, mode)
        else:
            begun(self._code)  # which warns where it is unknown

    def record(self, writer: SampleWriter) -> None:
        """Note the code in the description of a dataset.

        Raises:
            ChangedCode: What is there was made by other code, or one of both is unknown.
        """
        with warnings.catch_warnings():
            if self._said:
                warnings.simplefilter("ignore", UserWarning)
            if not writer.count:
                writer.provenance = begun(self._code)
            else:
                writer.provenance = self._continued(writer.provenance, writer.count, writer.path, writer.mode)

    def _continued(self, provenance: Any, samples: int, folder: Path, mode: Mode) -> dict[str, Any]:
        # recordings of before say that it is unknown, and were never made by a code that cannot be known
        before = None if provenance == UNKNOWN else provenance
        where = f"the part {mode} of {folder}"
        return continued(before, self._code, samples, where, allow=self._allow)
