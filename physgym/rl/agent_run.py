"""`AgentRun`: what an agent does in its environment, step by step in this process, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from physgym.checks import integer
from physgym.episode import episode_seed, part_seed
from physgym.events import Callback, Callbacks
from physgym.interrupt import Interrupt
from physgym.placement import Env
from physgym.progress import Progress
from physgym.running.run_view import RunView
from physgym.viewing.shown import UNSEEN, LiveView, show
from physgym.worker.scene_offers import PresentScene

if TYPE_CHECKING:
    from physgym.rl.agent_policy import AgentPolicy

PART = "prediction"  # the episodes of a run are none of those of the training with the same seed


@dataclass
class AgentRun:
    """Figures of a run of an agent; as text, a summary of them.

    Attributes:
        steps: Steps made.
        returns: Sum of the rewards of each episode that ended.
        lengths: Steps of each of these.
        begun: Sum of the rewards of the episode that has not ended.
        interrupted: Whether Ctrl-C ended the run.
    """

    steps: int = 0
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    begun: float = 0.0
    interrupted: bool = False

    @property
    def figures(self) -> dict[str, str]:
        """Return the means over the episodes that ended, as a person reads them."""
        if not self.returns:
            return {}
        return {
            "mean return": f"{np.mean(self.returns):.4g}",
            "mean length": f"{np.mean(self.lengths):.4g}",
        }

    @property
    def episodes(self) -> list[tuple[float, int]]:
        """Return return and length of each episode that ended."""
        return list(zip(self.returns, self.lengths, strict=True))

    def __str__(self) -> str:
        if not self.returns:
            return f"{self.steps} steps, no episode ended; return so far {self.begun:.4g}"
        spread = f", from {min(self.returns):.4g} to {max(self.returns):.4g}" if len(self.returns) > 1 else ""
        return (
            f"{self.steps} steps, {len(self.returns)} episodes ended: mean return {np.mean(self.returns):.4g}{spread}, "
            f"mean length {np.mean(self.lengths):.4g}"
        )


class AgentRunner:
    """Runs an agent without exploration in an environment of this process, one episode after the other.

    Args:
        policy: The agent with its preprocessing.
        env: The environment, as it is without preprocessing; it is closed with this.
        seed: Seed of the run, from which those of its episodes follow.
        first: Number of the first episode.
        view: How it is shown while it runs.
        title: What is shown.
        places: Folders by which ``physgym watch`` finds the run.

    Attributes:
        env: The environment with the preprocessing around it.
        stepping: Whether `env` steps in this process, for callbacks.
    """

    stepping = True

    def __init__(
        self,
        policy: AgentPolicy,
        env: Env,
        *,
        seed: int = 0,
        first: int = 0,
        view: LiveView = UNSEEN,
        title: str = "",
        places: Sequence[str] = (),
    ) -> None:
        self.env, self._policy = policy.wrap(env), policy
        self._seed, self._number = part_seed(integer("seed", seed, 0), PART), integer("first", first, 0)
        self._shown = RunView(lambda: PresentScene(lambda: env))
        show(self._shown.views, view, title, places)

    def run(self, steps: int | None, *, callbacks: Sequence[Callback] = (), progress: bool = True) -> AgentRun:
        """Make a number of steps, or step until Ctrl-C.

        Args:
            steps: How many; None continues until Ctrl-C.
            callbacks: Get the events of a prediction run.
            progress: Whether to show a progress bar.

        Raises:
            SampleError: What the environment returns does not fit its spaces.
        """
        found, events = AgentRun(), Callbacks(callbacks)
        observation: Any = None
        length = 0
        try:
            with Interrupt() as interrupt, Progress(steps, "run", "step", enabled=progress) as bar:
                events.emit("prediction_begin", self)
                while steps is None or found.steps < steps:
                    events.emit("sample_begin", self)
                    self._shown.attend()
                    with interrupt.held():
                        if not length:
                            observation, _ = self.env.reset(seed=episode_seed(self._seed, self._number))
                            self._policy.reset()
                        action = self._policy.act_preprocessed(observation)
                        observation, reward, terminated, truncated, info = self.env.step(action)
                        found.steps, length = found.steps + 1, length + 1
                        found.begun += float(reward)
                        self._shown.offer(self._number, length - 1, info.get("sample"))
                        if terminated or truncated:
                            found.returns.append(found.begun)
                            found.lengths.append(length)
                            found.begun, length = 0.0, 0
                            self._number += 1
                    events.emit("sample_end", self, {})
                    bar.update()
        except KeyboardInterrupt:
            found.interrupted = True
        finally:
            self._shown.close()
            events.emit("prediction_end", self)
            events.close()
        return found

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
