"""Events of a generation: which callbacks are called, and when."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.generation.named_samples import NamedSamples


class GenerationCallbacks:
    """Callbacks that get the events of a generation; a context that closes them.

    Args:
        callbacks: In the order in which an event reaches them.
        stream: Their argument.

    Raises:
        ConfigError: One of them is no `Callback`.
    """

    def __init__(self, callbacks: Sequence[Callback], stream: Any) -> None:
        self._stream, self._callbacks, self._begun = stream, tuple(callbacks), False
        self._singly: list[Callback] = []
        if self._callbacks:
            for callback in self._callbacks:
                if not isinstance(callback, Callback):
                    raise ConfigError(f"callbacks must be of physgym.training.Callback, not {callback!r}")
                events = ("sample_begin", "sample_end")
                if any(getattr(type(callback), name) is not getattr(Callback, name) for name in events):
                    self._singly.append(callback)

    def begin(self) -> None:
        """Call ``data_generation_begin``."""
        self._begun = True
        for callback in self._callbacks:
            callback.data_generation_begin(self._stream)

    def batch(self, rows: NamedSamples) -> None:
        """Call the events of some samples, which are stored."""
        if self._singly:
            for row in range(len(rows)):
                sample = {name: column[row] for name, column in rows.samples.items()}
                for callback in self._singly:
                    callback.sample_begin(self._stream)
                for callback in self._singly:
                    callback.sample_end(self._stream, sample)
        for callback in self._callbacks:
            callback.data_generation_batch_end(self._stream, len(rows))

    def end(self) -> None:
        """Call ``data_generation_end``."""
        if self._begun:
            self._begun = False
            for callback in self._callbacks:
                callback.data_generation_end(self._stream)

    def __enter__(self) -> GenerationCallbacks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *args: object) -> None:
        with ExitStack() as stack:
            for callback in self._callbacks:
                stack.callback(callback.close)
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self.end()
