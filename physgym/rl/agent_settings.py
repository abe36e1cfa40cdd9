"""`AgentSettings`: the numbers of a training of an agent, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from physgym.checks import fraction, integer
from physgym.errors import ConfigError
from physgym.rl.step_limit import StepLimit

# what a training that is continued may have otherwise
FREE = ("steps", "evaluate_every", "evaluate_episodes", "save_every", "keep")


@dataclass(frozen=True)
class AgentSettings:
    """Numbers of a training of an agent; see `AgentTrainer`."""

    steps: int
    num_envs: int
    learning_starts: int
    learn_every: int
    gradient_steps: int
    batch_size: int
    capacity: int | None
    stack: int
    infos: tuple[str, ...]
    cache_share: float
    limit: StepLimit | None
    evaluate_every: int
    evaluate_episodes: int
    report_every: int
    save_every: int
    keep: int
    seed: int

    @classmethod
    def of(
        cls,
        *,
        learn_every: int | None,
        capacity: int | None,
        infos: Sequence[str],
        cache_share: float,
        max_episode_steps: int | Mapping[str, Any] | None,
        **numbers: int,
    ) -> AgentSettings:
        """Return settings of arguments as a person gives them.

        Raises:
            ConfigError: One of them is out of range.
        """
        least = dict.fromkeys(("learning_starts", "evaluate_every", "save_every", "seed"), 0)
        checked = {name: integer(name, value, least.get(name, 1)) for name, value in numbers.items()}
        if isinstance(infos, str):
            raise ConfigError(f"infos are a list of names, not the text {infos!r}")
        return cls(
            learn_every=checked["num_envs"] if learn_every is None else integer("learn_every", learn_every, 1),
            capacity=None if capacity is None else integer("capacity", capacity, checked["num_envs"] * 4),
            infos=tuple(infos),
            cache_share=fraction("cache_share", cache_share),
            limit=StepLimit.of(max_episode_steps),
            **checked,
        )

    @property
    def kept(self) -> dict[str, Any]:
        """Return what must be the same for a training to be continued, as JSON data."""
        found = {name: value for name, value in asdict(self).items() if name not in FREE}
        return found | {"limit": None if self.limit is None else self.limit.config, "infos": list(self.infos)}
