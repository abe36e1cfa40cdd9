"""`BatchLoss`: the loss of a batch, from its fields to the values that are minimized and logged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from physgym.errors import ConfigError
from physgym.nn.transforms import Fields
from physgym.spaces import Array
from physgym.training.predictors import compiled
from physgym.training.supply import Learner, Supply
from physgym.training.unroll import Unroll

LossValues = dict[str, Tensor]


class BatchLoss:
    """Loss of a batch of samples: prediction, transforms, loss.

    Args:
        learner: The network, its fields and the loss.
        compile: Whether to call the network through `torch.compile`, or its arguments.
    """

    def __init__(self, learner: Learner, compile: bool | Mapping[str, Any]) -> None:
        if compile and learner.predictor.recurrent:
            raise ConfigError("compile is not for a recurrent network, which is called with its memory; leave it out")
        self._learner = learner
        self._forward = compiled(learner.predictor, compile)

    @property
    def unroll(self) -> Unroll | None:
        """Return the form of a training over several steps; None for one step of each sample."""
        return None

    @property
    def settings(self) -> dict[str, Any]:
        """Return what must be the same for a training to be continued."""
        return {"unroll": None if self.unroll is None else self.unroll.settings}

    @property
    def record(self) -> dict[str, float]:
        """Return what the record of an epoch says of the loss."""
        return {}

    def begin(self, batch: dict[str, Tensor], supply: Supply) -> dict[str, Tensor]:
        """Return a batch as it is trained on.

        Args:
            batch: As it was loaded.
            supply: Where it comes from.
        """
        return batch

    def summands(self, arrays: Mapping[str, Array | Tensor]) -> Iterator[LossValues]:
        """Yield the parts that the losses of a batch are the sums of; each has a gradient of its own.

        The caller computes the gradient of a part before it asks for the next one, so that one of them is in memory.

        Args:
            arrays: As for `values`.
        """
        yield self.values(arrays)

    def values(self, arrays: Mapping[str, Array | Tensor]) -> LossValues:
        """Return the losses of a batch.

        Args:
            arrays: Fields of shape (batch, *shape): those that feed the network, and those of the loss.

        Returns:
            Scalars by name; "loss" is the one to minimize.
        """
        learner = self._learner
        device = learner.ranks.device
        fields = learner.predictor.tensors(arrays, device)  # name -> (batch, *shape)
        with learner.optimization.autocast(device):
            prediction, _ = self._predicted(fields)  # name -> (batch, *shape), in units of the network
            target = {name: fields[name] for name in learner.loss_fields}
            return self._compared(prediction, target, fields, learner.padding.present(fields))

    def _predicted(self, fields: Fields, memory: Any = None) -> tuple[Fields, Any]:
        """Return the prediction in units of the network, and what a recurrent network remembers after it."""
        learner = self._learner
        try:
            if learner.predictor.recurrent:
                prediction, memory = learner.predictor.advance(fields, memory)
            else:
                prediction = self._forward(fields)
        except RuntimeError as error:
            if type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
                reason = " ".join(str(error).split("\n\n")[0].split())
                raise ConfigError(
                    f"torch.compile fails: {reason}. Its usual backend needs a C++ compiler on the CPU and Triton "
                    'on a GPU; without them leave compile out, or try compile={"backend": "aot_eager"}'
                ) from error
            raise
        if learner.optimization.precision != "float32":
            dtype = learner.predictor.dtype
            prediction = {name: value.to(dtype) for name, value in prediction.items()}
        return prediction, memory

    def _compared(self, prediction: Fields, target: Fields, fields: Fields, present: Fields) -> LossValues:
        """Return the losses of a prediction in units of the network.

        Args:
            prediction: The prediction.
            target: What the loss gets from the samples.
            fields: What fed the network.
            present: The flags of the values that are there, by padded field.
        """
        learner = self._learner
        return learner.optimization.losses(*learner.predictor.for_loss(prediction, target, fields), present)
