"""Small datasets of every kind, for tests of what reads and copies them."""

from __future__ import annotations

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec(
    [
        Field("forces", (4, 3), np.dtype("f4"), "input", "N"),
        Field("energy", (), np.dtype("f8"), "target", "J"),
        Field("group/flags", (5,), np.dtype("?"), "additional"),
        Field("group/count", (2,), np.dtype("i4"), "additional"),
        Field("wave", (3,), np.dtype("c8"), "additional"),
        Field("label", (), np.dtype("S8"), "additional"),
        Field("nothing", (0, 3), np.dtype("f4"), "additional"),
    ]
)
PARAMETERS = SampleSpec([Field("stiffness", (), np.dtype("f8"), "input", "Pa")])
SOURCE = {"env": "toy/Line-v0", "env_kwargs": {"size": 3}, "seed": 7}
PER_EPISODE = 5


def rows(start: int, stop: int, spec: SampleSpec = SPEC) -> dict[str, np.ndarray]:
    i = np.arange(start, stop)
    values = {
        "forces": (i[:, None, None] + np.arange(12).reshape(4, 3) / 10).astype("f4"),
        "energy": i**2 / 7,
        "group/flags": (i[:, None] >> np.arange(5)) & 1 == 1,
        "group/count": np.stack([i, -i], 1).astype("i4"),
        "wave": (i[:, None] + 1j * np.arange(3)).astype("c8"),
        "label": np.array([f"step {n}" for n in i], "S8"),
        "nothing": np.empty((len(i), 0, 3), "f4"),
    }
    return {name: values[name] for name in spec}


def where(start: int, stop: int) -> dict[str, np.ndarray]:
    i = np.arange(start, stop)
    return {"episode": i // PER_EPISODE, "step": i % PER_EPISODE, "seed": (1000 + i // PER_EPISODE).astype("u8")}


def write(path, count: int, *, start: int = 0, spec: SampleSpec = SPEC, close: bool = True, **options) -> SampleDataset:
    """A dataset; with parameters or rejected samples where the options say so, left open without `close`."""
    episodes = np.arange(-(-start // PER_EPISODE), -(-count // PER_EPISODE))
    writer = SampleWriter(path, spec, source=SOURCE, **options)
    if options.get("parameters"):
        writer.add_parameters({"stiffness": 1e3 + episodes}, episode=episodes, seed=(1000 + episodes).astype("u8"))
    if options.get("rejected"):
        bad = {name: column[:2] for name, column in rows(start, start + 2, spec).items()}
        apart = {name: column[:2] for name, column in where(start, start + 2).items()}
        writer.add_rejected(bad, ["diverged", "too stiff"], **apart)
    writer.append(rows(start, count, spec), **where(start, count))
    writer.close(seal=close)
    return SampleDataset(path, mode=options.get("mode", "training"))


def assert_rows(dataset: SampleDataset, start: int, stop: int) -> None:
    got, want = dataset[:], rows(start, stop, dataset.spec)
    assert len(dataset) == stop - start
    for name, field in dataset.spec.items():
        assert got[name].dtype == field.dtype
        np.testing.assert_array_equal(got[name], want[name])
    for name, column in where(start, stop).items():
        np.testing.assert_array_equal(dataset.index(name), column)
