"""`KeptPadding`: what an input that a network feeds itself holds where nothing is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.sample import Field, SampleSpec, present
from physgym.spaces import Array


@dataclass(frozen=True)
class KeptPadding:
    """The padding of a state from which a network continues, which its own predictions get too.

    Attributes:
        present: Flags of the values that are there in that state, which broadcast to the field's shape; None for all.
        values: What it holds where nothing is there, and zeros elsewhere; shape of the field.
    """

    present: Array | None
    values: Array

    @classmethod
    def of(cls, spec: SampleSpec, field: Field, state: Array, mask: Array | None) -> KeptPadding:
        """Return the padding of a state.

        Args:
            spec: The fields of the samples, the mask among them.
            field: That of the state.
            state: Shape of the field.
            mask: Its mask, where it has one.
        """
        if mask is None:
            return cls(None, np.zeros_like(state))
        there = present(field, spec[field.mask], np.asarray(mask)[np.newaxis])[0]
        return cls(there, np.where(there, np.zeros_like(state), state))

    def put_into(self, prediction: Array, there: Array | None) -> Array:
        """Return a prediction with this padding where nothing is there.

        Args:
            prediction: Shape (..., *field shape).
            there: Flags of its values that are there, which broadcast to that shape; None for those of the state.
        """
        flags = self.present if there is None else there
        return prediction if flags is None else np.where(flags, prediction, self.values)
