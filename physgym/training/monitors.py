"""Checks before the first batch: values that are watched and never come, and state that cannot be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from physgym.errors import CheckpointError, ConfigError, PhysGymError
from physgym.events import Callback
from physgym.nn.optimization import Optimization
from physgym.nn.predictor import Predictor, evaluating
from physgym.sample import SampleSpec
from physgym.training.checkpoint_files import check_network
from physgym.training.random_state import generator_states, set_generator_states
from physgym.training.state_codec import encode
from physgym.training.validation import NamesFigures

MonitorMode = Literal["min", "max"]  # what is better

ALWAYS = ("loss", "epoch", "lr", "seconds", "samples")  # in the record of every epoch
VALIDATION, ROLLOUT = "validation_", "rollout_"

NOT_THERE = "{what} watches {name!r}, which an epoch of this training does not give; there are {known}"
NO_STATE = "the callback {name} cannot be saved: {error}"


def check_watched(
    callbacks: Sequence[Callback],
    losses: Callable[[], set[str] | None],
    *,
    validated: bool,
    rollout: Any = None,
    predictor: Predictor | None = None,
    metrics: Iterable[str] = (),
) -> None:
    """Raise ConfigError where a callback watches a value that no epoch gives.

    Args:
        callbacks: In their order; each sees what those before it add.
        losses: Gives the names of the losses of a batch, None where they are unknown; called only if needed.
        validated: Whether there are samples to validate on.
        rollout: The costlier validation, if any; one with a method ``names(predictor)`` says what it gives.
        predictor: The network.
        metrics: What a source adds.
    """
    known = {*ALWAYS, *metrics}
    if validated:
        known.add("validation_loss")
    uncertain = False  # whether a callback before may have added anything
    for callback in callbacks:
        for name in callback.watches:
            if name in known or (uncertain and name != "validation_loss"):
                continue
            if name.startswith(ROLLOUT) and rollout is not None:
                given = _names_of(rollout, predictor)
                if given is None or name.removeprefix(ROLLOUT) in given:
                    continue
                known |= {f"{ROLLOUT}{one}" for one in given}
            if (found := losses()) is None and not name.startswith((VALIDATION, ROLLOUT)):
                continue
            found = found or set()
            known |= found | ({f"{VALIDATION}{one}" for one in found} if validated else set())
            if name not in known:
                more = (
                    (". There is no validation: hold out episodes, give samples to validate on, or watch another value")
                    if name.startswith(VALIDATION) and not validated
                    else ""
                )
                more = (
                    ". There is no rollout: give one, or watch another value"
                    if name.startswith(ROLLOUT) and rollout is None
                    else more
                )
                what = getattr(callback, "called", type(callback).__name__)
                text = NOT_THERE.format(what=what, name=name, known=sorted(known))
                raise ConfigError(text + more)
        known |= set(callback.adds)
        uncertain = uncertain or _adds_unnamed(callback)


def _adds_unnamed(callback: Callback) -> bool:
    """Return whether a callback may add any values to an epoch, since it does not name those that it adds."""
    for kind in (callback, *type(callback).__mro__):
        if "adds" in vars(kind):
            return False
        if "epoch_end" in vars(kind):
            return True
    return False


def _names_of(rollout: Any, predictor: Predictor | None) -> set[str] | None:
    if predictor is None or not isinstance(rollout, NamesFigures) or not callable(rollout.names):
        return None
    return set(rollout.names(predictor))


def loss_names(
    predictor: Predictor,
    optimization: Optimization,
    losses: Callable[[Any], Any],
    spec: SampleSpec,
    fields: Iterable[str],
) -> set[str] | None:
    """Return the names of what the loss of a batch consists of; None where a batch of zeros does not tell it.

    Args:
        predictor: The network.
        optimization: The loss; one whose `transform_loss` is the usual one is not tried.
        losses: Computes the losses of a batch by name.
        spec: Fields of the samples.
        fields: Those of a batch.
    """
    kind = type(optimization)
    if kind.transform_loss is Optimization.transform_loss and kind.losses is Optimization.losses:
        return {"loss"}
    batch = {name: np.zeros((2, *spec[name].shape), spec[name].dtype) for name in fields}
    before = generator_states()
    try:
        with torch.no_grad(), evaluating(predictor):
            return set(losses(batch))
    except Exception:  # noqa: BLE001 - what fails on zeros may be right on samples
        return None
    finally:
        set_generator_states(before)


def check_saved(
    predictor: Predictor, optimization: Optimization, callbacks: Iterable[Callback], *, begun: bool = False
) -> None:
    """Raise CheckpointError where checkpoints cannot hold the state of a training.

    Args:
        predictor: The network.
        optimization: Loss and optimizer.
        callbacks: Those whose state is saved.
        begun: Whether they know that the training begins; before, one whose `state_dict` fails may wait for that.
    """
    check_network(predictor)
    try:
        encode(optimization.state_dict(), "optimization", shared=True)
    except PhysGymError:
        raise
    except Exception as error:
        text = f"the state of the optimization cannot be saved: {type(error).__name__}: {error}"
        raise CheckpointError(text) from error
    for callback in callbacks:
        try:
            state = callback.state_dict()
        except Exception as error:
            if not begun:
                continue
            problem = f"{type(error).__name__}: {error}"
            raise CheckpointError(NO_STATE.format(name=type(callback).__name__, error=problem)) from error
        check_state(callback, state)


def check_state(callback: Callback, state: Any) -> None:
    """Raise CheckpointError unless the state of a callback is data."""
    name = type(callback).__name__
    if not isinstance(state, dict):
        raise CheckpointError(f"state_dict of {name} gave a {type(state).__name__}, not a dict")
    try:
        encode(state, "state_dict", shared=True)
    except CheckpointError as error:
        raise CheckpointError(NO_STATE.format(name=name, error=error)) from error
