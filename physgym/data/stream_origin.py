"""`HasOrigin`: the interface of what produces samples, as far as it says where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from physgym.code.record import Code

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset


class StreamOrigin(Protocol):
    """Origin of samples that are being produced; a `SampleStream` is one."""

    @property
    def source(self) -> Mapping[str, Any]:
        """Return the function that the samples are of, as JSON data."""
        ...

    @property
    def code(self) -> Code:
        """Return the code of the simulation."""
        ...

    @property
    def defaults(self) -> Any:
        """Return the arguments of the simulation where none are given, as JSON data."""
        ...

    @property
    def loaded(self) -> SampleDataset | None:
        """Return the samples whose episodes are run again; None where episodes are drawn."""
        ...

    def episode_seed(self, episode: int) -> int:
        """Return the seed of an episode, by its index."""
        ...


class HasOrigin:
    """A producer of samples; one that knows where they come from says it."""

    @property
    def origin(self) -> StreamOrigin | None:
        """Return where the samples come from; None where nobody knows."""
        return None


def origin_of(samples: Any) -> StreamOrigin | None:
    """Return where samples come from that are being produced; None of all else."""
    return samples.origin if isinstance(samples, HasOrigin) else None
