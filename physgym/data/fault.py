"""`WriterFault`: the error that a writer's next call raises."""

from __future__ import annotations

from physgym.errors import PhysGymError, SampleError


class WriterFault:
    """An error of a writer, here or in a thread: nothing more is taken, unless it concerned one sample.

    Attributes:
        error: The error, None where all is well.
        raised: Whether a caller has heard of it.
    """

    def __init__(self) -> None:
        self.error: PhysGymError | None = None
        self.raised = False

    def set(self, error: PhysGymError, *, raised: bool = False) -> None:
        """Note an error that a caller hears of now, or by the next call."""
        self.error, self.raised = error, raised

    def check(self) -> None:
        """Raise the error if there is one."""
        error = self.error
        if error is not None:
            self.raised = True
            if isinstance(error, SampleError):
                self.error = None  # it concerns one sample, and is said once
            raise error
