"""Windows of padded fields keep the masks within a row: compared with the masks of the rows one by one."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.data import Loader
from physgym.data.dataset import SampleDataset
from physgym.data.next_rows import NextRows
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec, present

F4, FLAG = np.dtype("f4"), np.dtype("?")
FIELDS = [
    Field("state", (3, 2), F4, "input", mask="count"),
    Field("next_state", (3, 2), F4, "target", mask="count", feeds="state"),
    Field("flow", (2, 2, 3), F4, "target", mask="wet"),
    Field("heat", (), F4, "target", mask="hot"),
    Field("force", (2,), F4, "input"),
    Field("count", (), np.dtype("i8"), "additional"),
    Field("wet", (2, 3), np.dtype("u1"), "additional"),
    Field("hot", (), FLAG, "additional"),
]
SPEC = SampleSpec(FIELDS)
LENGTHS = (7, 3, 5)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    rng, rows = np.random.default_rng(0), sum(LENGTHS)
    values = {name: rng.normal(size=(rows, *field.shape)).astype(field.dtype) for name, field in SPEC.items()}
    values |= {"count": rng.integers(0, 4, rows), "wet": rng.integers(0, 2, (rows, 2, 3)).astype("u1")}
    values["hot"] = rng.random(rows) < 0.5
    episode = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    step = np.concatenate([np.arange(length) for length in LENGTHS])
    folder = tmp_path_factory.mktemp("padded") / "data"
    with SampleWriter(folder, SPEC) as writer:
        writer.append(values, episode=episode, step=step, seed=episode.astype("u8"))
    return folder


@pytest.fixture(scope="module")
def dataset(stored):
    return SampleDataset(stored)


def there(dataset, name):
    """The flags of the values of a field, of every row, in its whole shape."""
    field = dataset.spec[name]
    mask = dataset.spec[field.mask]
    return np.broadcast_to(present(field, mask, dataset.arrays[mask.name]), (len(dataset), *field.shape))


def of_windows(windows, name, batch):
    field = windows.spec[name]
    flags = present(field, windows.spec[field.mask], batch[field.mask])
    return np.broadcast_to(flags, batch[name].shape)


@pytest.mark.parametrize("stride", [1, 2])
def test_flags_are_those_of_the_rows(dataset, stride):
    windows = dataset.windows(2, 2, stride=stride)
    batch, firsts = windows.gather(np.arange(len(windows))), []
    for episode, step in zip(windows.index("episode"), windows.index("step"), strict=True):
        firsts += np.flatnonzero((dataset.index("episode") == episode) & (dataset.index("step") == step)).tolist()
    for name, offset in (("state", 0), ("next_state", 1), ("flow", 1), ("heat", 1)):
        rows = np.array(firsts)[:, None] + stride * (offset + np.arange(2))
        np.testing.assert_array_equal(of_windows(windows, name, batch), there(dataset, name)[rows], name)
    assert windows.spec["present/state"].shape == (2, 3)
    assert windows.spec["present/flow"].shape == (2, 2, 2, 3)
    assert windows.spec["present/heat"].shape == (2,)
    assert windows.spec["force"].mask == ""
    same = {name: value for name, value in windows.read(0, len(windows)).items() if name.startswith("present/")}
    for name, value in same.items():
        np.testing.assert_array_equal(value, batch[name])
    (loaded,) = Loader(windows, len(windows), shuffle=False)
    np.testing.assert_array_equal(np.asarray(loaded["present/flow"]), batch["present/flow"])


def test_a_padded_window_is_padded_in_both_ways(dataset):
    windows = dataset.windows(1, 4, short="pad")
    assert windows.padded == 1
    batch = windows.gather(np.arange(len(windows)))
    short = int(np.flatnonzero(windows.index("episode") == 1)[0])
    rows = np.flatnonzero(dataset.index("episode") == 1)
    flags = of_windows(windows, "next_state", batch)[short]
    np.testing.assert_array_equal(flags[:3], there(dataset, "next_state")[rows])
    assert not flags[3].any()
    assert windows.spec["next_state"].mask == "present/next_state"
    assert batch["mask"][short].tolist() == [True, True, True, False]


def test_a_target_of_the_next_row_keeps_its_mask(dataset):
    rows = NextRows(dataset, {"state": "following"})
    assert len(rows) == sum(LENGTHS) - len(LENGTHS)
    follows = np.flatnonzero(dataset.index("episode")[1:] == dataset.index("episode")[:-1]) + 1
    batch = rows.gather(np.arange(len(rows)))
    np.testing.assert_array_equal(batch["following"], dataset.arrays["state"][follows])
    flags = present(rows.spec["following"], rows.spec[rows.spec["following"].mask], batch["present/following"])
    np.testing.assert_array_equal(np.broadcast_to(flags, (len(rows), 3, 2)), there(dataset, "state")[follows])


def test_a_mask_that_was_not_loaded_and_a_name_that_is_taken_are_said(stored, tmp_path):
    windows = SampleDataset(stored, fields=["state", "next_state", "force"]).windows(1, 2)
    assert windows.spec["next_state"].mask == "count"  # which they lack: a loss and metrics say so
    assert not [name for name in windows.spec if name.startswith("present/")]
    spec = SampleSpec([*FIELDS, Field("present", (), F4, "additional")])
    with SampleWriter(tmp_path / "taken", spec) as writer:
        rows = {name: np.zeros((3, *field.shape), field.dtype) for name, field in spec.items()}
        writer.append(rows, episode=np.zeros(3, int), step=np.arange(3), seed=np.zeros(3, "u8"))
    with pytest.raises(ConfigError, match=r"there are fields \['present'\]"):
        SampleDataset(tmp_path / "taken").windows(1, 1)
