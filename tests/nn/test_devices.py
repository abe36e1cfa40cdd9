"""``auto`` is the best device of the machine."""

from __future__ import annotations

import pytest
import torch

from physgym.nn.devices import as_device


@pytest.mark.parametrize(("cuda", "mps", "best"), [(1, 1, "cuda"), (1, 0, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_auto_takes_cuda_else_mps_else_the_cpu(monkeypatch, cuda, mps, best):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert as_device("auto") == torch.device(best)
    assert as_device("cpu") == as_device(torch.device("cpu")) == torch.device("cpu")


def test_a_name_of_no_device_is_an_error():
    with pytest.raises(RuntimeError, match="nonsense"):
        as_device("nonsense")
