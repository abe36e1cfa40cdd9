"""`UnrolledLoss`: the loss of windows over several steps that a network makes from its own outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from physgym.feedback import Feedback
from physgym.nn.predictor import Predictor
from physgym.nn.transforms import Fields
from physgym.sample import SampleSpec
from physgym.spaces import Array
from physgym.training.batch_loss import BatchLoss, LossValues
from physgym.training.history import TrainingProgress
from physgym.training.input_noise import InputNoise
from physgym.training.supply import Learner, StoredSupply, Supply
from physgym.training.unroll import Unroll
from physgym.training.unrolled_samples import check_loss_fields, fed_inputs


class UnrolledLoss(BatchLoss):
    """Loss of a batch of windows: the weighted mean of the losses of their steps.

    Args:
        learner: The network, its fields and the loss.
        compile: As in `BatchLoss`.
        unroll: The form of the training.
        feedback: What feeds what.
        progress: Where the training is.
        seed: Of the noise.

    Raises:
        ConfigError: The network does not fit the feedback, or the noise the network.
    """

    def __init__(
        self,
        learner: Learner,
        compile: bool | Mapping[str, Any],
        unroll: Unroll,
        feedback: Feedback,
        progress: TrainingProgress,
        seed: int,
    ) -> None:
        super().__init__(learner, compile)
        self._unroll = unroll
        self._fed = fed_inputs(learner.predictor, feedback, unroll)
        self._noise = InputNoise(unroll, learner.predictor, list(self._fed), seed)
        self._progress = progress

    @property
    def unroll(self) -> Unroll:
        """Return the form of the training."""
        return self._unroll

    @property
    def record(self) -> dict[str, float]:
        """Return what the record of an epoch says: the steps of a window in it."""
        return {"unroll": self._unroll.steps_in(self._progress.epoch)}

    def begin(self, batch: dict[str, Tensor], supply: Supply) -> dict[str, Tensor]:
        """Return a batch as it is trained on: with noise on its inputs."""
        if not self._noise:
            return batch
        assert isinstance(supply, StoredSupply)
        noisy = self._noise.added(batch, supply, self._progress)
        for name, flags in self._present(batch, 0).items():
            if name in self._fed:
                noisy[name][:, 0] = torch.where(flags, noisy[name][:, 0], batch[name][:, 0])
        return noisy

    def _present(self, rows: Mapping[str, Tensor], step: int) -> Fields:
        """Return the flags of the values that are there at a step; of an input that is fed back at the first one."""
        padding = self._learner.padding
        masks = {name: rows[name] for name in padding.masks}
        return padding.present({name: _row(mask, min(step, mask.shape[1] - 1)) for name, mask in masks.items()})

    def summands(self, arrays: Mapping[str, Array | Tensor]) -> Iterator[LossValues]:
        """Yield the losses of a batch of windows in the training, each part until the gradient is cut."""
        steps = self._unroll.steps_in(self._progress.epoch)
        return self._unrolled(arrays, steps, self._unroll.first_counted(steps), self._unroll.truncate)

    def values(self, arrays: Mapping[str, Array | Tensor]) -> LossValues:
        """Return the losses of a batch of windows, all of their steps.

        Args:
            arrays: Fields of shape (batch, rows, *shape): those that feed the network, and those of the loss.

        Returns:
            Scalars by name; "loss" is the weighted mean over the steps.
        """
        (found,) = self._unrolled(arrays, self._unroll.steps, 0, None)
        return found

    def _unrolled(
        self, arrays: Mapping[str, Array | Tensor], steps: int, first: int, cut: int | None
    ) -> Iterator[LossValues]:
        """Yield the losses of steps, each already with its share of the whole.

        Args:
            arrays: The batch.
            steps: How many steps to make.
            first: The first one with a gradient, and in the loss.
            cut: Steps after which the gradient is cut and the losses are yielded; None for not before the end.
        """
        learner = self._learner
        predictor, shares = learner.predictor, self._unroll.shares(steps, first)
        rows = predictor.tensors(arrays)  # name -> (batch, rows, *shape), in physical units
        own: Fields = {name: _row(rows[name], 0) for name in self._fed}  # name -> (batch, *shape)
        begun = {name: flags for name, flags in self._present(rows, 0).items() if name in own}
        padding = {name: torch.where(flags, 0, own[name]) for name, flags in begun.items()}
        memory: Any = None
        total: LossValues = {}
        for step in range(steps):
            given = {name: own[name] if name in own else _row(rows[name], step) for name in predictor.inputs}
            present = self._present(rows, step)
            gradient = torch.is_grad_enabled() and step >= first
            with torch.set_grad_enabled(gradient), learner.optimization.autocast(predictor.device):
                prediction, memory = self._predicted(given, memory)  # in units of the network
                if shares[step]:
                    target = {name: _row(rows[name], step) for name in learner.loss_fields}
                    for name, value in self._compared(prediction, target, given, present).items():
                        total[name] = value * shares[step] + total.get(name, 0.0)
                if step + 1 < steps:
                    made = predictor.applied(prediction, given)  # in physical units
                    own = {name: made[output].to(rows[name].dtype) for name, output in self._fed.items()}
                    for name, output in self._fed.items():  # what is not there is fed as the padding that it was
                        there = present.get(output, begun.get(name))
                        if there is not None:
                            own[name] = torch.where(there, own[name], padding.get(name, 0))
            if step + 1 == steps or (cut is not None and step >= first and (step + 1 - first) % cut == 0):
                if total:
                    yield total
                total, own, memory = {}, {name: value.detach() for name, value in own.items()}, _detached(memory)


def loss_of(
    learner: Learner,
    compile: bool | Mapping[str, Any],
    unroll: Unroll | None,
    specs: tuple[SampleSpec, SampleSpec],
    progress: TrainingProgress,
    seed: int,
) -> BatchLoss:
    """Return the loss of a training: of single samples, or of windows.

    Args:
        learner: The network, its fields and the loss.
        compile: As in `BatchLoss`.
        unroll: The form of the training; None for single samples.
        specs: Fields of what is trained on, and of one step.
        progress: Where the training is.
        seed: Its seed.

    Raises:
        ConfigError: The network does not fit the unroll.
    """
    if unroll is None:
        if learner.predictor.recurrent:
            warnings.warn(
                "the network is recurrent, and each sample is trained on as if it were the first step of its episode: "
                "nothing is learned of what the network remembers. Pass unroll=, which makes steps in their order",
                UserWarning,
                stacklevel=3,
            )
        return BatchLoss(learner, compile)
    check_unrolled(learner.predictor, learner.loss_fields, unroll, specs)
    return UnrolledLoss(learner, compile, unroll, specs[1].feedback, progress, seed)


def check_unrolled(
    predictor: Predictor, loss_fields: Sequence[str], unroll: Unroll, specs: tuple[SampleSpec, SampleSpec]
) -> None:
    """Raise ConfigError where a network, or its loss, does not fit an unroll.

    Args:
        predictor: The network.
        loss_fields: Fields that the loss gets.
        unroll: The form of the training.
        specs: Fields of what is trained on, and of one step.
    """
    windows, step = specs
    check_loss_fields(windows, loss_fields, unroll)
    InputNoise(unroll, predictor, list(fed_inputs(predictor, step.feedback, unroll)), seed=0)


def _row(rows: Tensor, step: int) -> Tensor:
    """Return the fields of one step of windows, shape (batch, *shape)."""
    return rows[:, step].contiguous()


def _detached(memory: Any) -> Any:
    """Return what a recurrent network remembers, without its gradient."""
    if isinstance(memory, Tensor):
        return memory.detach()
    if isinstance(memory, Mapping):
        return {name: _detached(value) for name, value in memory.items()}
    if isinstance(memory, (tuple, list)):
        values = [_detached(value) for value in memory]
        return type(memory)(*values) if hasattr(memory, "_fields") else type(memory)(values)
    return memory
