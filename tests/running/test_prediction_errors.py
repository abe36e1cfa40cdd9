import numpy as np
import pytest

from physgym.errors import SampleError
from physgym.running.prediction_errors import compare


def test_errors_of_vectors_scalars_and_zeros():
    target = np.zeros((2, 3, 2))
    target[0] = [[3, 4], [0, 0], [6, 8]]
    prediction = target.copy()
    prediction[0, 1] = [0, 5]
    errors = compare(prediction, target)
    np.testing.assert_allclose(errors.relative_l2, [5 / np.sqrt(125), 0])
    np.testing.assert_allclose(errors.mean, [5 / 3, 0])
    np.testing.assert_allclose(errors.largest, [5, 0])
    np.testing.assert_allclose(errors.size, [5, 0])
    grid = compare(np.ones((2, 8, 8)), np.zeros((2, 8, 8)))  # a field of scalars: every cell is off by one
    np.testing.assert_allclose([grid.mean, grid.largest], 1)
    scalars = compare(np.array([2.0, 1.0]), np.array([1.0, 0.0]))
    np.testing.assert_allclose(scalars.relative_l2, [1, np.inf])
    assert scalars.summary["max_error"] == 1
    with pytest.raises(SampleError, match="prediction has shape"):
        compare(np.zeros((2, 3)), np.zeros((2, 4)))
