"""`CallbackList`: the callbacks of a training, in their order and with their states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from physgym.errors import CheckpointError
from physgym.events import Callback, Callbacks
from physgym.generation.sample_source import SampleSource
from physgym.nn.predictor import Predictor
from physgym.training.answers import answers_of
from physgym.training.breeding import breeding_of
from physgym.training.callbacks import ProgressBar
from physgym.training.checkpointing import Checkpoints
from physgym.training.loggers import Logger
from physgym.training.tensorboard_logger import TensorBoard


class CallbackList(Callbacks):
    """The callbacks of a training as one.

    Args:
        callbacks: In their order; checkpoints come last.
        rank: Number of this process: those that are for the first one alone are left out in others.

    Attributes:
        saves: Whether checkpoints are saved, in any process.
    """

    def __init__(self, callbacks: Iterable[Callback], rank: int = 0) -> None:
        given = list(callbacks)
        called = [call for call in given if call.every_rank or rank == 0]
        # checkpoints hold the state of the other callbacks, which must have seen the event
        super().__init__(sorted(called, key=lambda call: isinstance(call, Checkpoints)))
        self.saves = any(isinstance(call, Checkpoints) for call in given)

    def _by_name(self) -> Iterator[tuple[str, Callback]]:
        """Yield the callbacks by the name of their class, and a number."""
        seen: dict[str, int] = {}
        for callback in self:
            name = type(callback).__name__
            seen[name] = seen.get(name, 0) + 1
            yield f"{name}-{seen[name]}", callback

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the callbacks by name.

        Raises:
            CheckpointError: One of them is no dictionary.
        """
        return {name: _state_of(callback) for name, callback in self._by_name()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Continue from states; callbacks without one stay as they are."""
        for name, callback in self._by_name():
            if name in states:
                callback.load_state_dict(states[name])


def _state_of(callback: Callback) -> dict[str, Any]:
    state = callback.state_dict()
    if not isinstance(state, dict):
        raise CheckpointError(f"state_dict of {type(callback).__name__} gave a {type(state).__name__}, not a dict")
    return state


def own_callbacks(
    given: Sequence[Callback],
    predictor: Predictor,
    source: SampleSource | None,
    session: Path | None,
    *,
    progress: bool,
) -> list[Callback]:
    """Return the callbacks that a trainer adds to those of its user.

    Args:
        given: Those of the user, some of which take the place of the trainer's.
        predictor: The network in training.
        source: The producer of the samples.
        session: The folder of the session.
        progress: Whether to show a progress bar.
    """
    own: list[Callback] = [ProgressBar()] if progress else []
    if source is not None and source.lacks_predictor and (answers := answers_of(predictor)) is not None:
        # simulations that ask for a prediction get that of the network in training
        source.answer_with(answers)
        own.append(answers)
    if session is not None and not any(isinstance(callback, Logger) for callback in given):
        own.append(TensorBoard(session / "stats"))
    if session is not None and not any(isinstance(callback, Checkpoints) for callback in given):
        own.append(Checkpoints(session / "networks"))
    breeding = breeding_of(source, session)
    return own if breeding is None else [*own, breeding]
