"""Training of the networks of a case, all in the same way."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from physgym.nn import Changes, Optimization, Predictor, RelativeL2, Transforms
from physgym.training import Trainer
from yardsticks.case import Case, Fields, Network, Predict, Shown


def trained(case: Case, network: Network, train: Shown, seed: int) -> tuple[Predict, dict[str, Any]]:
    """Return what predicts with a trained network, its weights those of the last epoch, and what the training took.

    Args:
        case: Says how it is trained.
        network: Is made anew, its weights drawn from the seed.
        train: All of these are trained on, samples or windows.
        seed: Of weights and order.
    """
    torch.manual_seed(seed)
    module = network.make(train.spec)
    how = case.training
    physical = how.loss == "relative"  # which is relative to the field itself, not to its normalized values
    scales: dict[str, Any] = {"scale": "field", "physical_loss": physical}
    # a predicted change has units of its own
    form: dict[str, Any] = {"transforms": Transforms.normalization(train, outputs=[] if how.change else None, **scales)}
    if how.change:
        form["predict"] = Changes.of(train.spec, ["state"], ["next_state"], **scales)
    trainer = Trainer(
        module,
        train,
        epochs=how.epochs,
        batch_size=how.batch_size,
        validation=None,
        optimization=_optimization(module, case, network.lr, len(train)),
        seed=seed,
        progress=sys.stderr.isatty(),
        **form,
    )
    start, used = time.perf_counter(), time.process_time()
    history = trainer.fit()
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used}
    if history.interrupted:
        raise KeyboardInterrupt
    done = {"parameters": trainer.predictor.num_parameters, "epochs": how.epochs, "steps": trainer.step}
    return _predict(trainer.predictor), {**done, "training_loss": history["loss"][-1], **took}


def _optimization(module: nn.Module, case: Case, lr: float, samples: int) -> Optimization:
    """Return loss, optimizer and learning rates of a case."""
    how = case.training
    loss: Any = RelativeL2 if how.loss == "relative" else nn.MSELoss
    if how.constant_rate:
        return Optimization(module, loss=loss, lr=lr)
    steps = how.epochs * -(-samples // how.batch_size)
    return Optimization(
        module,
        loss=loss,
        optimizer=partial(torch.optim.AdamW, weight_decay=1e-4),
        lr=lr,
        scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1),
        scheduler_every="batch",
    )


def _predict(predictor: Predictor) -> Predict:
    """Return what predicts stacks of fields, of which those that the network does not read are left out."""

    def predict(fields: Fields) -> Fields:
        read: dict[str, np.ndarray] = {name: fields[name] for name in predictor.inputs}
        return predictor.predict(read, batched=True)

    return predict
