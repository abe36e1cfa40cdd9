"""An episode that continues from a snapshot: which one, and the environment that continues there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from physgym.code.record import Code, check_same
from physgym.data.provenance import runs_of
from physgym.data.snapshots import Snapshot, read_snapshot, snapshot_steps
from physgym.errors import ChangedCode, ConfigError, DatasetError
from physgym.placement import Env
from physgym.policies import ActionPolicy, SkippingPolicy
from physgym.samplers.base import Sampler
from physgym.simulation import Simulation
from physgym.worker.snapshots import set_elapsed_steps


class ResumedEpisode(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose reset leads into the middle of an episode.

    Args:
        env: The environment.
        snapshot: Where to.
    """

    def __init__(self, env: Env, snapshot: Snapshot) -> None:
        super().__init__(env)
        self._snapshot = snapshot

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Begin the episode, and take the state of the snapshot.

        Raises:
            ConfigError: It does not fit the simulation.
        """
        _, info = self.env.reset(**kwargs)
        inner: Any = self.env.unwrapped
        try:
            inner.set_state({name: value.copy() for name, value in self._snapshot.state.items()})
        except ConfigError as error:
            raise ConfigError(f"the snapshot {self._snapshot.file} does not fit the simulation: {error}") from error
        set_elapsed_steps(self.env, self._snapshot.step)
        return inner.observation(), info


def nearest_snapshot(folder: Path, mode: str, episode: int, step: int) -> Snapshot | None:
    """Return the last snapshot of an episode before a step or at it; None where there is none.

    Raises:
        DatasetError: Its file is damaged.
    """
    steps = [at for at in snapshot_steps(folder, mode, episode) if at <= step]
    return read_snapshot(folder, mode, episode, steps[-1]) if steps else None


def check_seed(snapshot: Snapshot, seed: int) -> None:
    """Check that a snapshot is of an episode with this seed.

    Raises:
        DatasetError: It is of another one.
    """
    if snapshot.seed != seed:
        raise DatasetError(
            f"the snapshot {snapshot.file} is of an episode with the seed {snapshot.seed}, that of the dataset is "
            f"{seed}: it is one of another dataset. Delete it, and the episode is replayed from its seed"
        )


def check_version(snapshot: Snapshot, provenance: Any, now: Code) -> None:
    """Check that the code of a simulation is that which made a snapshot.

    Args:
        snapshot: The snapshot.
        provenance: That of the dataset.
        now: The code as it is now.

    Raises:
        ChangedCode: It is another version.
    """
    if not snapshot.code or now.hash is None:  # nothing is known; what follows is compared with the stored samples
        return
    where = f"the snapshot {snapshot.file}"
    for run in runs_of(provenance):
        code = run.get("code")
        if isinstance(code, Mapping) and code.get("hash") == snapshot.code:
            check_same(code, now, where, compare_factories=False)
            return
    if snapshot.code != now.hash:
        raise ChangedCode(
            f"{where} was made by another version of the simulation: code {snapshot.code[:16]}, which the dataset does "
            f"not name; it is {now.hash[:16]} now. Delete it, and the episode is replayed from its seed"
        )


def check_step_seconds(snapshot: Snapshot, env: Env) -> None:
    """Check that a step of a simulation takes the time that it took.

    Raises:
        DatasetError: It takes another.
    """
    now = getattr(env.unwrapped, "step_seconds", None)
    if snapshot.step_seconds is not None and now is not None and now != snapshot.step_seconds:
        raise DatasetError(
            f"the snapshot {snapshot.file} is of steps of {snapshot.step_seconds} s, the simulation takes steps of "
            f"{now} s. Use the arguments with which the dataset was made"
        )


def draws_alone(env: Env, sampler: Sampler | None) -> bool:
    """Return whether actions follow from the seed alone, so that those of steps to come need no steps before them.

    Args:
        env: The environment.
        sampler: Of the actions; None for that of the environment.
    """
    if sampler is not None:
        return not sampler.observes
    own = getattr(env.unwrapped, "sample_action", None)
    return own is None or getattr(own, "__func__", None) is Simulation.sample_action


def skip_actions(policy: ActionPolicy, rng: np.random.Generator, steps: int) -> None:
    """Pass over the actions of the first steps of an episode, which nobody needs."""
    if isinstance(policy, SkippingPolicy):
        policy.skip(rng, steps)
        return
    for _ in range(steps):
        policy(None, rng)
