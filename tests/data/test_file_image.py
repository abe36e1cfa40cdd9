"""The metadata of a partition are made whole, whatever comes meanwhile."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from physgym.data import SampleDataset, SampleWriter, file_image
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (7,), np.dtype("f4"), "input"), Field("y", (), np.dtype("f8"), "target")])


@pytest.mark.parametrize("count", [1, 3])
def test_ctrl_c_while_hdf5_writes_waits_and_stays_ctrl_c(tmp_path, monkeypatch, count):
    write, left = file_image._HeaderImage.write, [count]

    def interrupted(image, data):
        if left[0]:
            left[0] -= 1
            signal.raise_signal(signal.SIGINT)
        return write(image, data)

    monkeypatch.setattr(file_image, "_last_images", ())
    monkeypatch.setattr(file_image._HeaderImage, "write", interrupted)

    def store(writer):
        samples = {"x": np.ones((2, 7), "f4"), "y": np.ones(2)}
        writer.append(samples, episode=[0, 0], step=[0, 1], seed=[1, 1])
        writer.commit()

    with SampleWriter(tmp_path, SPEC) as writer:
        with pytest.raises(KeyboardInterrupt):
            store(writer)
        assert left == [0]
        writer.commit()
    assert len(SampleDataset(tmp_path)) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
