import numpy as np
import pytest
from gymnasium import spaces

from physgym.errors import SampleError
from physgym.running.space_fitting import fitter


def test_no_cast_destroys_what_a_network_predicts_or_is_fed():
    keep = fitter(spaces.Box(0, 255, (2,), np.uint8))
    assert keep(np.array([300, -1])).tolist() == [255, 0]  # and not 44, which uint8 makes of 300
    keep = fitter(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    with pytest.raises(
        SampleError, match="the predicted observation has values that float32 cannot hold, the first 1e"
    ):
        keep(np.array([1.0, 1e300]))
    with pytest.raises(SampleError, match="has dtype complex128, which does not convert to float32"):
        keep(np.array([1j, 1.0]))
    assert keep(np.array([1.0, 0.1])).dtype == np.float32
