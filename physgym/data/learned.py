"""The record of a network's training samples: the network keeps it, and runs compare it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.code.record import Code, recorded_code
from physgym.data.dataset import SampleDataset
from physgym.data.provenance import codes_of, learned_samples
from physgym.data.windows import without_windows


class Learned:
    """Record of the samples of a network's training.

    Args:
        code: Record of the code of the simulation that made the samples, see `physgym.code.record`; None if nothing
            says it.
        samples: The samples; None if they are not at hand.
        checkpoint: Where the network was loaded from: a session around it may say which samples they were.
    """

    def __init__(
        self,
        code: Mapping[str, Any] | None = None,
        samples: SampleDataset | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.code, self._samples, self._checkpoint = code, samples, checkpoint

    @classmethod
    def of(cls, training: Any) -> Learned | None:
        """Return what samples, or a stream of them, say; None if they say nothing.

        A code that is unknown in part can be compared with nothing within the program that trains.
        """
        training = without_windows(training)
        found = [code for _, code in codes_of(training) if not Code.from_json(code).unknown]
        samples = training if isinstance(training, SampleDataset) else None
        return cls(found[0] if found else None, samples) if found or samples is not None else None

    @classmethod
    def at(cls, checkpoint: Path, record: Mapping[str, Any] | None) -> Learned:
        """Return what a checkpoint and the session around it say.

        Args:
            checkpoint: Its folder.
            record: The record in its manifest, None if it has none, as in older versions.
        """
        code = None if record is None else record.get("code")
        return cls(recorded_code(checkpoint) if code is None else code, checkpoint=checkpoint)

    def to_json(self) -> dict[str, Any] | None:
        """Return what the manifest of a checkpoint says of it."""
        return None if self.code is None else {"code": dict(self.code)}

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
        return Learned, (self.code, None, self._checkpoint)
