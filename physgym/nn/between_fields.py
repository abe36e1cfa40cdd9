"""`BetweenFields`: networks whose arguments are the shapes of the fields that they lead from and to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import nn

from physgym.nn.predictor import field_names
from physgym.sample import SampleSpec
from physgym.step_fields import fields_for


class BetweenFields(nn.Module):
    """A network that is made from the shapes of its inputs and outputs; of one output the shape stands alone."""

    @classmethod
    def from_spec(
        cls,
        spec: SampleSpec,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """Return a network between the fields of samples.

        Args:
            spec: The samples' fields.
            inputs: Names of the fields that feed it, by default those of role "input".
            outputs: Names of the fields that it predicts, by default those of role "target".
            options: The other arguments of the constructor.

        Raises:
            ConfigError: There is no field to feed or to predict, or as in the constructor.
        """
        spec = fields_for(spec, outputs)
        inputs, outputs = field_names(spec, inputs, outputs)
        shapes = [spec[name].shape for name in outputs]
        return cls([spec[name].shape for name in inputs], shapes[0] if len(shapes) == 1 else shapes, **options)
