"""The record of a network's training samples: the network keeps it, and runs compare it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.code.record import Code, recorded_code
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import codes_of, learned_samples
from physgym.data.windows import EpisodeWindows, without_windows


class Learned:
    """Record of the samples of a network's training.

    Args:
        code: Record of the code of the simulation that made the samples, see `physgym.code.record`; None if nothing
            says it.
        samples: The samples; None if they are not at hand.
        checkpoint: Where the network was loaded from: a session around it may say which samples they were.
        stride: Steps from a row of the windows that it was trained on to the next one.

    Attributes:
        code: As given.
        stride: As given.
    """

    def __init__(
        self,
        code: Mapping[str, Any] | None = None,
        samples: SampleDataset | None = None,
        checkpoint: Path | None = None,
        stride: int = 1,
    ) -> None:
        self.code, self._samples, self._checkpoint, self.stride = code, samples, checkpoint, stride

    @classmethod
    def of(cls, training: Any) -> Learned | None:
        """Return what samples, or a stream of them, say; None if they say nothing.

        A code that is unknown in part can be compared with nothing within the program that trains.
        """
        stride = 1
        if isinstance(training, EpisodeWindows):
            form = training.form
            one_row = form.inputs == form.targets == 1 and not training.feedback.once  # whatever its stride
            stride = 1 if one_row else form.stride
        training = without_windows(training)
        found = [code for _, code in codes_of(training) if not Code.from_json(code).unknown]
        samples = training if isinstance(training, SampleDataset) else None
        return cls(found[0] if found else None, samples, stride=stride) if found or samples is not None else None

    @classmethod
    def at(cls, checkpoint: Path, record: Mapping[str, Any] | None) -> Learned:
        """Return what a checkpoint and the session around it say.

        Args:
            checkpoint: Its folder.
            record: The record in its manifest, None if it has none, as in older versions.
        """
        code = None if record is None else record.get("code")
        stride = 1 if record is None else int(record.get("stride", 1))
        return cls(recorded_code(checkpoint) if code is None else code, checkpoint=checkpoint, stride=stride)

    def to_json(self) -> dict[str, Any] | None:
        """Return what the manifest of a checkpoint says of it."""
        said: dict[str, Any] = {} if self.code is None else {"code": dict(self.code)}
        return (said | ({} if self.stride == 1 else {"stride": self.stride})) or None

    @property
    def checkpoint(self) -> Path | None:
        """Return the folder of the checkpoint that the network was loaded from; None if it was not."""
        return self._checkpoint

    @property
    def samples(self) -> SampleDataset | None:
        """Return the samples, None if they are not found."""
        if self._samples is None and self._checkpoint is not None:
            self._samples = learned_samples(self._checkpoint)
        return self._samples

    def __deepcopy__(self, memo: Any) -> Learned:
        return self  # networks are copied often, and samples are large

    def __reduce__(self) -> tuple[Any, ...]:
        return Learned, (self.code, None, self._checkpoint, self.stride)
