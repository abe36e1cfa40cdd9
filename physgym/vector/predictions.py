"""Answers predictions for which environments ask in the middle of a step."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np

from physgym.protocol.messages import Predict, Prediction

AnyPredictor: TypeAlias = Any  # a `physgym.nn.Predictor`, or a callable of batched fields; torch is not imported here


class Answering(Protocol):
    """Something with a network.

    Attributes:
        predictor: That of the moment.
    """

    predictor: AnyPredictor


def answerer(this: weakref.ref[Answering]) -> Callable[[list[Predict]], list[Prediction]]:
    """Return what answers predictions by the network that something has at the moment; it does not keep that alive."""

    def answer_all(questions: list[Predict]) -> list[Prediction]:
        owner = this()
        return answer(None if owner is None else owner.predictor, questions)

    return answer_all


def answer(predictor: AnyPredictor, questions: list[Predict]) -> list[Prediction]:
    """Return answers to environments that wait for a prediction, in one batch where their fields are alike.

    Args:
        predictor: A `physgym.nn.Predictor`, a callable of batched fields, or None.
        questions: What they ask.

    Returns:
        One answer per question; an error goes to the environment that asked.
    """
    if predictor is None:
        text = (
            "the simulation asked for a prediction, but this pipeline has no network. Pass predictor= to the vector "
            "env, run the simulation in a Runner, or do not ask during generation."
        )
        return [Prediction({}, text) for _ in questions]
    if getattr(predictor, "recurrent", False) is True:
        text = (
            "the network is recurrent, and a simulation that asks for predictions does not say which of its steps "
            "follows which: the network would start without its memory at each of them. Ask a network without a memory"
        )
        return [Prediction({}, text) for _ in questions]
    if len({_signature(question.inputs) for question in questions}) == 1:
        return _predict(predictor, questions)
    return [answer for question in questions for answer in _predict(predictor, [question])]


def _signature(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, np.shape(value), np.asarray(value).dtype.str) for name, value in inputs.items())


def _predict(predictor: AnyPredictor, questions: list[Predict]) -> list[Prediction]:
    names = list(questions[0].inputs)
    batch = {name: np.stack([np.asarray(question.inputs[name]) for question in questions]) for name in names}
    predict = getattr(predictor, "predict", None)
    try:
        fields = predictor(batch) if predict is None else predict(batch, batched=True)
        rows = [{name: np.asarray(value[i]) for name, value in fields.items()} for i in range(len(questions))]
    except Exception as error:  # noqa: BLE001 - raised where the prediction was asked for
        return [Prediction({}, f"the network failed: {type(error).__name__}: {error}") for _ in questions]
    return [Prediction(row) for row in rows]
