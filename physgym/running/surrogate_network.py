"""The network of a surrogate, which can be exchanged while the surrogate lives.

torch is not imported here, so that a surrogate can stand in a worker whose predictions are made elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from physgym.engine_names import Engine
from physgym.errors import ConfigError, SampleError
from physgym.sample import Sample
from physgym.simulation import PredictFunction

if TYPE_CHECKING:
    from physgym.nn import Predictor
    from physgym.nn.prepared import PreparedPredictor

Network: TypeAlias = "Predictor | PreparedPredictor | PredictFunction | str | Path | None"


class SurrogateNetwork:
    """The network that a surrogate has now, as a function of one sample; shared by the surrogate and its core.

    Args:
        predictor: The network, or a function from input fields to output fields, or None.
        engine: What computes the predictions of a network, see `physgym.nn.engines`.

    Attributes:
        predictor: The same.
        inputs: Names of the fields that feed it, None where it does not say them.
        checks: Whether it refuses inputs that are not finite; a function does not.
        memory: What a recurrent network remembers of the episode; None at its beginning.
    """

    def __init__(self, predictor: Any, engine: Engine = "torch") -> None:
        self._engine = engine
        self.use(predictor)

    def use(self, predictor: Any) -> None:
        """Put another network in its place, which remembers nothing yet."""
        self.predictor = predictor
        self._prepared = prepared(predictor, engine=self._engine)
        self.checks = getattr(predictor, "takes_nonfinite", True) is False
        self.inputs: tuple[str, ...] | None = getattr(predictor, "inputs", None)
        self._predict: PredictFunction | None = getattr(self._prepared, "predict", self._prepared)
        self._recurrent = getattr(predictor, "recurrent", False) is True
        self.memory: Any = None

    def refresh(self) -> None:
        """Take over weights that have changed since an engine was made of them."""
        if self._engine != "torch" and self.predictor is not None:
            self._prepared.refresh()

    def __call__(self, fed: Sample) -> Sample:
        """Predict for one sample."""
        if self._predict is None:
            raise SampleError(
                "the surrogate has no network. Pass one to SurrogateEnv, or as predictor= to the vector env or the "
                "Runner in which it stands"
            )
        if not self._recurrent:
            return self._predict(fed)
        found, self.memory = self._prepared.predict_from(fed, self.memory)
        prediction: Sample = found
        return prediction


def loaded(predictor: Network) -> Any:
    """Return a network, which is loaded where it is given as the folder of its session or checkpoint."""
    if not isinstance(predictor, (str, Path)):
        return predictor
    from physgym.training import load_checkpoint

    return load_checkpoint(predictor)


def prepared(network: Any, batch_size: int = 1, engine: Engine = "torch") -> Any:
    """Return a network that is a `Predictor` ready to predict often, and anything else as it is.

    Args:
        network: The network.
        batch_size: How many samples are predicted at once where it is not one.
        engine: What computes, see `physgym.nn.engines`.

    Raises:
        ConfigError: There is no such engine, or it cannot be made of the network.
    """
    if "torch" in sys.modules:  # else it is none
        from physgym.nn import Predictor
        from physgym.nn.prepared import PreparedPredictor

        if isinstance(network, PreparedPredictor):  # by the pipeline in which the surrogate stands
            return network
        if isinstance(network, Predictor):
            return PreparedPredictor(network, batch_size, engine)
    if engine != "torch" and network is not None:
        raise ConfigError(f"engine={engine!r} is made of a physgym.nn.Predictor, not of {network!r}")
    return network
