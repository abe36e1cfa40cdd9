"""`Online`: simulations and training at the same time, with a buffer between them."""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from physgym import limits
from physgym.checks import integer
from physgym.data.dataset import SampleDataset
from physgym.errors import ClosedError, ConfigError, DatasetError, WaitTimeout, WorkerError
from physgym.generation.named_samples import NamedSamples, SampleNames
from physgym.generation.online_report import METRICS, OnlineReport, OnlineTimes
from physgym.generation.options import OnlineOptions
from physgym.generation.reservoir import Reservoir
from physgym.generation.sample_source import SampleSource
from physgym.generation.stream import SampleStream
from physgym.options import complete, takes
from physgym.sample import Sample, SampleSpec

WAIT = 1.0  # seconds after which a waiting thread looks around
STOP = 10.0  # seconds that the thread gets to end before its simulations are ended by force


@takes(OnlineOptions)
class Online(SampleSource):
    """Samples for a training from simulations that run meanwhile: a source for `Trainer(source=..., produce="always")`.

    A thread moves the samples of a stream to a buffer, from which batches are drawn by a rule; see `Reservoir` for the
    rules. The simulations pause only while the buffer takes no more: with rule "reservoir" while it holds `capacity`
    samples that have not been drawn, with the others while it is full. A draw waits only while the buffer holds fewer
    than `minimum` samples (or, with the other rules, fewer than the batch), and not once the production has ended.

    The simulations begin with the first draw. What is drawn depends on the speed of both sides, so that no two
    trainings are alike to the bit.

    Args:
        stream: Gives the samples; closed together with this. If it stores them, they are stored before they are drawn.
            With rule "reservoir" the buffer begins with a random selection of those that it has stored already, which
            count as drawn.
        seed: Of the random choices.
        timeout: Seconds without a new sample after which a draw that waits for some gives up.
        **options: See `physgym.generation.options.OnlineOptions`.

    Attributes:
        stream: The stream.
        spec: The sample fields.
        drawn: Names of the samples that were drawn last.

    Raises:
        ConfigError: An argument is out of range, or there is no memory for the buffer.
    """

    def __init__(
        self,
        stream: SampleStream,
        *,
        seed: int = 0,
        timeout: float = limits.TIMEOUT,
        **options: Unpack[OnlineOptions],
    ) -> None:
        options = complete(OnlineOptions, options, "Online.__init__")
        capacity, minimum, samples = options["capacity"], options["minimum"], options["samples"]
        for name, number in (("minimum", minimum), ("samples", samples)):
            if number is not None:
                integer(name, number, 1)
        if not timeout > 0:
            raise ConfigError(f"timeout must be positive seconds, not {timeout}")
        if minimum > capacity:
            raise ConfigError(
                f"minimum={minimum} samples do not fit into a buffer of capacity={capacity}; raise capacity or lower "
                "minimum"
            )
        self.stream, self.minimum, self.timeout = stream, minimum, timeout
        self.drawn = SampleNames()
        self._samples = math.inf if samples is None else samples
        self._seed = seed
        self._changed = threading.Condition()  # the one lock: of the buffer and of all that follows
        self._buffer = Reservoir(stream.spec, capacity, options["rule"], seed)
        self._place = stream.state_dict()  # behind the samples that are in the buffer, or were
        self._restored = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._ended = self._closed = False
        self._times = OnlineTimes()

    @property
    def origin(self) -> SampleStream:
        """Return the stream, which knows where the samples come from."""
        return self.stream

    @property
    def spec(self) -> SampleSpec:  # type: ignore[override]  # the stream has the attribute
        """Return the sample fields."""
        return self.stream.spec

    @property
    def predictor(self) -> Any:
        """Return the network that answers simulations in the middle of a step; may be set at any time."""
        return self.stream.predictor

    @predictor.setter
    def predictor(self, predictor: Any) -> None:
        self.stream.predictor = predictor

    @property
    def lacks_predictor(self) -> bool:
        """Return whether nothing answers simulations that ask for a prediction."""
        return self.stream.lacks_predictor

    def answer_with(self, predictor: Any) -> None:
        """Let a network answer simulations that ask for a prediction."""
        self.stream.answer_with(predictor)

    # --- the training's side

    def draw(self, batch_size: int) -> Sample:
        """Return a batch: fields of shape (batch_size, *field shape), copies.

        With the rules "fifo" and "firo" the last one has what is left.

        Raises:
            ConfigError: The batch does not fit into the buffer.
            DatasetError: The production has ended, and every sample was drawn once.
            WaitTimeout: No sample came for `timeout` seconds.
            ClosedError: It is closed.
            PhysGymError: What went wrong in the simulations or with the dataset, as of `SampleStream.take`.
        """
        buffer = self._buffer
        needed = self.minimum
        if buffer.rule != "reservoir":
            if batch_size > buffer.capacity:
                raise ConfigError(
                    f"a batch of {batch_size} samples does not fit into a buffer of capacity={buffer.capacity}, from "
                    f'which rule={buffer.rule!r} draws every sample once; raise capacity, or use rule="reservoir"'
                )
            needed = max(needed, batch_size)
        begun = time.monotonic()
        try:
            with self._changed:
                self._wait_for(needed, begun)
                samples, self.drawn = buffer.draw(batch_size)
                self._changed.notify_all()
        except KeyboardInterrupt:
            self.hurry()
            self.close()  # a cell of a notebook keeps what it has made, and closes nothing
            raise
        return samples

    def _wait_for(self, needed: int, begun: float) -> None:
        """Wait for so many samples in the buffer, and note how long that took from a moment on."""
        if self._thread is None and not self._closed:
            self._begin(begun)
        try:
            self._await(needed, begun)
        finally:
            now = time.monotonic()
            self._times.waited += now - begun
        self._times.note_batch(now)

    def _await(self, needed: int, begun: float) -> None:
        """Wait for so many samples in the buffer."""
        while True:
            if self._closed:
                raise ClosedError("the online training is closed; make a new stream of samples for another one")
            if self._error is not None:
                raise self._error
            count, received = len(self._buffer), self._buffer.received
            if count >= needed or (self._ended and count):
                return
            if self._ended:
                raise DatasetError(
                    f"the simulations have ended after {received} samples, all of which were drawn. Train for fewer "
                    'batches, let more be produced (samples=), or use rule="reservoir", which continues drawing'
                )
            if self._thread is None or not self._thread.is_alive():  # as in a forked child
                raise WorkerError("the thread that takes samples from the simulations has died; make a new source")
            if isinstance(self.stream, SampleStream) and self.stream.paused:
                begun = time.monotonic()  # nobody is late
            since = time.monotonic() - max(begun, self._times.arrived)
            if since >= self.timeout:
                raise WaitTimeout(
                    f"no sample came for {since:.0f} s, while the training waited for {needed} in the buffer, which "
                    f"has {count}; {received} came before. If the simulations are as slow as that, give a larger "
                    "timeout: timeout=600 of Online, or dataset.timeout=600 of a configuration"
                )
            self._changed.wait(min(WAIT, self.timeout - since))

    # --- the simulations' side

    def _begin(self, now: float) -> None:
        """Begin to take samples."""
        self._times.arrived = now
        self._preload()
        self._times.begin(now, self._buffer.received)
        if math.isfinite(self._samples) and isinstance(self.stream, SampleStream) and not self.stream.begun:
            self.stream.expect(max(0, int(self._samples) - self._buffer.received))
        self._thread = threading.Thread(target=self._produce, name="physgym-online", daemon=True)
        atexit.register(self.close)  # for a program that forgets to: no thread may run while the interpreter ends
        self._thread.start()

    def _preload(self) -> None:
        """Put some of the samples that are stored up to the place of the stream into a reservoir."""
        dataset = self.stream.dataset() if self.stream.stored else None
        if dataset is None or self.stream.position is None:
            return
        names = SampleNames(*(dataset.index(name) for name in ("episode", "step", "seed")))
        count = len(names) - int(np.count_nonzero(names.after(*self.stream.position)))
        if not self._restored:
            self._buffer.received = count
        if self._buffer.rule == "reservoir":
            rng = np.random.default_rng((self._seed, count))
            chosen = np.sort(rng.choice(count, min(count, self._buffer.capacity), replace=False))
            self._buffer.add(dataset.gather(chosen), names.cut(chosen), seen=True)

    def _produce(self) -> None:
        """Move samples from the stream to the buffer: the thread."""
        try:
            while not self._closed and (missing := self._samples - self._buffer.received) > 0:
                rows = self.stream.take(int(min(missing, 1 << 30)))
                if not len(rows):
                    break
                self._put(rows, self.stream.state_dict())
        except BaseException as error:  # noqa: BLE001 - raised by the next draw
            with self._changed:
                if not self._closed:
                    self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, rows: NamedSamples, place: dict[str, Any]) -> None:
        """Put samples into the buffer, as there is room."""
        buffer, done = self._buffer, 0
        while done < len(rows):
            with self._changed:
                while not buffer.room and not self._closed:
                    begun = time.monotonic()
                    self._changed.wait(WAIT)  # for the training, which may take its time
                    self._times.paused += time.monotonic() - begun
                if self._closed:
                    return
                part = slice(done, done + min(buffer.room, len(rows) - done))
                buffer.add({name: column[part] for name, column in rows.samples.items()}, rows.names.cut(part))
                done = part.stop
                if done == len(rows):
                    self._place = place
                self._times.arrived = time.monotonic()
                self._changed.notify_all()

    # --- what it holds, and its end

    @property
    def stored(self) -> int:
        """Return the number of samples of the dataset; 0 without one."""
        return self.stream.stored

    def dataset(self) -> SampleDataset | None:
        """Return all samples stored so far, None where they are not stored."""
        return self.stream.dataset()

    def report(self) -> OnlineReport:
        """Return figures of the buffer so far."""
        with self._changed:
            return self._times.report(self._buffer, self.minimum)

    def metrics(self) -> dict[str, float]:
        """Return the figures of `report`, for the record of an epoch."""
        report = self.report()
        counts = (report.most, report.received, report.seen, report.unseen)
        figures = (report.waiting, report.paused, report.repeats, *map(float, counts))
        return dict(zip(METRICS, figures, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the place of the stream and the buffer's random generator, as JSON data, without the samples."""
        with self._changed:
            return {"stream": self._place, "buffer": self._buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a saved state, before the first draw: with the samples that come after those that came then.

        The buffer itself is not saved: it begins with stored samples, or empty where none are stored.

        Args:
            state: What `state_dict` gave; empty for the beginning.

        Raises:
            ConfigError: It is the state of something else, or samples were drawn already.
        """
        if self._thread is not None:
            raise ConfigError("load the state of an online training before its first draw")
        if state and not {"stream", "buffer"} <= set(state):
            raise ConfigError(f"not the state of an online training: it has {sorted(state)}")
        self.stream.load_state_dict(state["stream"] if state else {})
        if state:
            self._buffer.load_state_dict(state["buffer"])
            self._times.received_before = self._buffer.received
        self._place, self._restored = self.stream.state_dict(), bool(state)

    def hurry(self) -> None:
        """Let `close` not wait for what takes long, as after Ctrl-C."""
        self.stream.hurry()

    def close(self) -> None:
        """End the thread, the simulations and the dataset; calling it again does no harm.

        Raises:
            WorkerError: A simulation in this process does not end its step.
            DatasetError: The disk refuses.
        """
        with self._changed:
            self._closed = True
            self._times.stop()
            self._changed.notify_all()
        atexit.unregister(self.close)
        thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            self.stream.cancel()
            thread.join(STOP)
            if thread.is_alive():  # such as where a worker is being started again
                self.stream.kill()
                thread.join(STOP)
            if thread.is_alive():
                raise WorkerError(
                    f"the simulation did not end within {2 * STOP:.0f} s, so that its thread still runs; use workers "
                    "(num_workers=)"
                )
        self.stream.close()

    def __enter__(self) -> Online:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
