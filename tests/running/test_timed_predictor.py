import numpy as np
import pytest

from physgym.running.timed_predictor import TimedPredictor
from tests.running.test_runner import predictor


@pytest.mark.parametrize("batch_size", [1, 4])
def test_several_are_predicted_as_one_by_one_and_rejected_ones_not_at_all(batch_size):
    timed = TimedPredictor(predictor(), batch_size)
    samples = [None if i == 2 else {"x": np.full(3, i, np.float32)} for i in range(5)]
    found = list(timed.several(samples))
    assert found[2][0] is None
    assert np.isnan(found[2][1])
    for sample, (prediction, seconds) in zip(samples, found, strict=True):
        if sample is not None:
            np.testing.assert_allclose(prediction["y"], timed.one(sample)[0]["y"], rtol=1e-6)
            assert seconds > 0


def test_waiting_environments_are_answered_one_by_one_without_batches():
    timed = TimedPredictor(predictor(), 1)
    batch = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    answers = timed.predict(batch)
    assert answers["y"].shape == (2, 3)
    assert answers["y"][1].tobytes() == timed.one({"x": batch["x"][1]})[0]["y"].tobytes()
