"""The vector envs under comparison: how each is built, stepped and closed, in its own idiom.

Opening one constructs it, resets its environments and yields a function that steps all of them (in a send/receive loop:
those that are ready) and returns how many calls of an environment's `step` or `reset` that was. So libraries that reset
in a step of its own and libraries that reset within the last step are compared by what their environments did.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space

Make = Callable[[], Any]
Step = Callable[[], int]

PATIENCE = 60.0  # seconds


def endless(sample: Callable[[], Any]) -> Iterator[Any]:
    """Yield a few random actions for ever, so that sampling them is no part of a start."""
    pool = [sample() for _ in range(16)]
    while True:
        yield from pool


def in_lockstep(envs: Any) -> Step:
    """Step an object with Gymnasium's interface; the step that resets an environment counts as one."""
    envs.action_space.seed(0)
    actions, num_envs = endless(envs.action_space.sample), envs.num_envs

    def step() -> int:
        envs.step(next(actions))
        return num_envs

    return step


@contextlib.contextmanager
def gymnasium_sync(make: Make, num_envs: int, workers: int, **options: Any) -> Iterator[Step]:
    from gymnasium.vector import SyncVectorEnv

    with contextlib.closing(SyncVectorEnv([make] * num_envs, **options)) as envs:
        envs.reset(seed=0)
        yield in_lockstep(envs)


@contextlib.contextmanager
def gymnasium_async(make: Make, num_envs: int, workers: int) -> Iterator[Step]:
    from gymnasium.vector import AsyncVectorEnv

    with contextlib.closing(AsyncVectorEnv([make] * num_envs)) as envs:
        envs.reset(seed=0)
        yield in_lockstep(envs)


@contextlib.contextmanager
def stable_baselines(make: Make, num_envs: int, workers: int, **options: Any) -> Iterator[Step]:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    with contextlib.closing(SubprocVecEnv([make] * num_envs, **options)) as envs:
        envs.seed(0)
        envs.reset()
        space = batch_space(envs.action_space, num_envs)
        space.seed(0)
        actions = endless(space.sample)

        def step() -> int:
            _, _, dones, _ = envs.step(next(actions))
            return num_envs + int(np.count_nonzero(dones))  # those it has reset as well

        yield step


@contextlib.contextmanager
def tianshou_shmem(make: Make, num_envs: int, workers: int) -> Iterator[Step]:
    from tianshou.env import ShmemVectorEnv

    with contextlib.closing(ShmemVectorEnv([make] * num_envs)) as envs:
        envs.seed(0)
        envs.reset()
        space = batch_space(envs.action_space[0], num_envs)
        space.seed(0)
        actions = endless(space.sample)

        def step() -> int:
            _, _, terminated, truncated, _ = envs.step(next(actions))
            ended = np.flatnonzero(terminated | truncated)
            if len(ended):  # as its collector does
                envs.reset(ended)
            return num_envs + len(ended)

        yield step


@contextlib.contextmanager
def torchrl_parallel(make: Make, num_envs: int, workers: int, **options: Any) -> Iterator[Step]:
    import torch
    from torchrl.envs import GymWrapper, ParallelEnv

    def wrapped() -> GymWrapper:
        return GymWrapper(make(), categorical_action_encoding=True)

    torch.manual_seed(0)
    envs = ParallelEnv(num_envs, wrapped, **options)
    try:
        state, actions = envs.reset(), endless(envs.action_spec.rand)

        def step() -> int:
            nonlocal state
            state["action"] = next(actions)
            stepped, state = envs.step_and_maybe_reset(state)
            return num_envs + int(stepped["next", "done"].sum())  # those it has reset as well

        yield step
    finally:
        envs.close()


@contextlib.contextmanager
def puffer(make: Make, num_envs: int, workers: int, *, backend: str, **options: Any) -> Iterator[Step]:
    from pufferlib import vector
    from pufferlib.emulation import GymnasiumPufferEnv

    def wrapped(buf: Any = None, seed: int = 0) -> GymnasiumPufferEnv:
        return GymnasiumPufferEnv(env_creator=make, buf=buf, seed=seed)

    if backend == "Multiprocessing":
        options = {"num_workers": workers, "overwork": True, **options}  # overwork: cores may be hyperthreads
    envs = vector.make(wrapped, num_envs=num_envs, backend=getattr(vector, backend), **options)
    try:
        envs.reset(seed=0)
        yield in_lockstep(envs)
    finally:
        envs.close()
        for process in getattr(envs, "processes", ()):  # it ends them but does not wait
            process.join(PATIENCE)


@contextlib.contextmanager
def ours(make: Make, num_envs: int, workers: int, **options: Any) -> Iterator[Step]:
    from physgym import SocketVectorEnv

    with contextlib.closing(SocketVectorEnv([make] * num_envs, **{"num_workers": workers, **options})) as envs:
        envs.reset(seed=0)
        yield in_lockstep(envs)


@contextlib.contextmanager
def ours_ready(make: Make, num_envs: int, workers: int, **options: Any) -> Iterator[Step]:
    """Send new actions to a quarter of the environments as soon as that many are ready."""
    from physgym import SocketVectorEnv

    with contextlib.closing(SocketVectorEnv([make] * num_envs, **{"num_workers": workers, **options})) as envs:
        envs.reset(seed=0)
        envs.action_space.seed(0)
        actions, quarter, under_way = endless(envs.action_space.sample), max(1, num_envs // 4), False

        def step() -> int:
            nonlocal under_way
            if not under_way:
                envs.send(next(actions), np.arange(num_envs))
                under_way = True
            env_ids = envs.recv(min_envs=quarter, timeout=PATIENCE)[-1]
            envs.send(next(actions)[env_ids], env_ids)
            return len(env_ids)

        yield step
        if under_way:
            envs.recv(min_envs=num_envs, timeout=PATIENCE)


@dataclass(frozen=True)
class Contestant:
    """A vector env.

    Args:
        title: As printed.
        open: Called with a factory, the number of environments, the number of workers and the options.
        distribution: The package that it comes in.
        module: What of that is imported before a clock runs.
        observations: What `step` hands out: "copies", which stay as they are, or "views" of a buffer that is written
            again.
        options: Keyword arguments of `open`.
        only: Measured on workloads with this attribute.
    """

    title: str
    open: Callable[..., AbstractContextManager[Step]]
    distribution: str
    module: str
    observations: str = "copies"
    options: Mapping[str, Any] = field(default_factory=dict)
    only: str | None = None


def physgym(title: str, open: Callable[..., Any] = ours, observations: str = "copies", **more: Any) -> Contestant:
    return Contestant(title, open, "physgym", "physgym.vector", observations, **more)


def pufferlib(title: str, **options: Any) -> Contestant:
    return Contestant(title, puffer, "pufferlib", "pufferlib.vector", "views", options)


DEFAULT = {"num_workers": None}  # what is fastest

# the part of a name before the hyphen is what is asked for; of several settings the fastest counts
OURS = {
    "ours": physgym("physgym"),
    "ours-default": physgym("physgym, default", options=DEFAULT),
    "ours-views": physgym("physgym, copy=False", observations="views", options={"copy": False}, only="large"),
    "ours-default-views": physgym(
        "physgym, default, copy=False", observations="views", options={**DEFAULT, "copy": False}, only="large"
    ),
    "ours-default-one": physgym(
        "physgym, one buffer",
        observations="views",
        options={**DEFAULT, "copy": False, "observation_buffers": 1},
        only="large",
    ),
    "ours-ready": physgym("physgym, send/recv", ours_ready, only="waits"),
}
PEERS = {
    "sync": Contestant("Gymnasium Sync", gymnasium_sync, "gymnasium", "gymnasium.vector"),
    "sync-views": Contestant(
        "Gymnasium Sync, copy=False", gymnasium_sync, "gymnasium", "gymnasium.vector", "views", {"copy": False}, "large"
    ),
    "async": Contestant("Gymnasium Async", gymnasium_async, "gymnasium", "gymnasium.vector"),
    # SB3 and TorchRL are forked: by default each of 64 processes imports torch, which takes minutes and steps no faster
    "sb3": Contestant(
        "SB3 Subproc",
        stable_baselines,
        "stable-baselines3",
        "stable_baselines3.common.vec_env",
        options={"start_method": "fork"},
    ),
    "puffer-serial": pufferlib("PufferLib Serial", backend="Serial"),
    # its processes spin while they wait, so that one worker beside the main process may beat a worker per core
    "puffer-one": pufferlib("PufferLib, 1 worker", backend="Multiprocessing", num_workers=1),
    "puffer-all": pufferlib("PufferLib, all workers", backend="Multiprocessing"),
    "tianshou": Contestant("Tianshou Shmem", tianshou_shmem, "tianshou", "tianshou.env"),
    "torchrl": Contestant(
        "TorchRL Parallel", torchrl_parallel, "torchrl", "torchrl.envs", options={"mp_start_method": "fork"}
    ),
}
CONTESTANTS = OURS | PEERS
LIBRARIES = list(dict.fromkeys(name.partition("-")[0] for name in PEERS))


def of_libraries(asked: str, pythons: Mapping[str, str]) -> list[str]:
    """Return the names of the contestants of the peers asked for; those that are not installed are named and left out.

    Args:
        asked: Libraries, with commas.
        pythons: The interpreters of libraries that are installed in other environments.

    Raises:
        SystemExit: There is no such peer.
    """
    libraries = pick(asked, LIBRARIES, "peer")
    names = [name for name in PEERS if name.partition("-")[0] in libraries]
    here = (name for name in names if name.partition("-")[0] not in pythons)
    missing = {PEERS[name].distribution for name in here if not installed(PEERS[name].module)}
    for distribution in sorted(missing):
        print(f"{distribution}: not installed, skipped")
    return [name for name in names if PEERS[name].distribution not in missing]


def pick(asked: str, known: Iterable[str], what: str) -> list[str]:
    """Return the parts of a list with commas.

    Raises:
        SystemExit: One is not known.
    """
    names = [name for name in asked.split(",") if name]
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown {what} {name!r}; there are {', '.join(known)}")
    return names


def installed(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None


def versions(names: Iterable[str], pythons: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of Python and of the packages of the contestants.

    Args:
        names: Contestants.
        pythons: The interpreters of libraries that are installed in other environments.

    Raises:
        SystemExit: A library is not installed in the environment that was named for it.
    """
    packages = {CONTESTANTS[name].distribution: pythons.get(name.partition("-")[0]) for name in names}
    found = {package: version(package, python) for package, python in packages.items()}
    return {"python": platform.python_version(), **found}


def version(package: str, python: str | None) -> str:
    if python is None:
        return importlib.metadata.version(package)
    script = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    asked = subprocess.run(
        [python, "-c", script, package], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    if asked.returncode:
        raise SystemExit(f"{package} is not installed where {python} is: {asked.stderr.strip().splitlines()[-1]}")
    return asked.stdout.strip()


def interpreters(given: Iterable[str]) -> dict[str, str]:
    """Return the interpreters of options LIBRARY=INTERPRETER by library.

    Raises:
        SystemExit: A library is not known, or there is no such program.
    """
    found = {}
    for option in given:
        library, _, python = option.partition("=")
        pick(library, LIBRARIES, "peer")
        if not (path := shutil.which(python)):
            raise SystemExit(f"--python {option}: there is no program {python!r}; write LIBRARY=INTERPRETER")
        found[library] = path
    return found
