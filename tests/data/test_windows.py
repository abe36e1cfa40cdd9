"""Windows are what their formulas say: row numbers as data, compared one by one."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from physgym.data import row_reader
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError, SampleError
from physgym.sample import Field, SampleSpec
from tests.support import sizes  # noqa: F401  # files of a few rows

I8 = np.dtype("i8")
SPEC = SampleSpec(
    [
        Field("state", (), I8, "input"),
        Field("load", (2,), I8, "input"),
        Field("next_state", (), I8, "target"),
        Field("nothing", (0, 3), np.dtype("f4"), "target"),
        Field("row", (), np.dtype("f8"), "additional"),
        Field("text", (), np.dtype("U6"), "additional"),
    ]
)
ONCE = SampleSpec([SPEC["state"], SPEC["load"], SPEC["row"]])
AFTER = 10_000  # between the state of a row and the one after it
# episodes of several lengths, one with a step that is missing (rejected)
EPISODES = [(0, range(9)), (1, range(2)), (2, [*range(5), *range(6, 14)]), (4, range(7)), (7, range(1)), (8, range(12))]
WHERE = np.array([(episode, step) for episode, steps in EPISODES for step in steps])


def columns(row: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "state": row,
        "load": np.stack([row, -row], 1),
        "next_state": AFTER + row,
        "nothing": np.zeros((len(row), 0, 3), "f4"),
        "row": row / 2,
        "text": np.array([f"row {r}" for r in row], "U6"),
    }


def stored(path, spec=SPEC, where=WHERE, feedback="next_state -> state", first=0, per_file=11) -> SampleDataset:
    """A dataset whose fields are the numbers of its rows, in several files."""
    values = columns(first + np.arange(len(where)))
    spec = spec.with_feedback(feedback)
    with SampleWriter(path, spec, max_file_size=per_file * (spec.nbytes + 28)) as writer:
        writer.append(
            {name: values[name] for name in spec}, episode=where[:, 0], step=where[:, 1], seed=where[:, 0].astype("u8")
        )
    return SampleDataset(path)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("windows") / "both")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("windows") / "once", ONCE, feedback="state")


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("windows") / "silent", feedback={})


def pieces(dataset):
    """Episode and step of the first row, and the numbers of the rows, of each unbroken piece of an episode."""
    rows = 2 * dataset.gather(np.arange(len(dataset)), ["row"])["row"]
    names = zip(
        dataset.index("episode").tolist(), dataset.index("step").tolist(), rows.astype(int).tolist(), strict=True
    )
    found: list[tuple[int, int, list[int]]] = []
    for episode, step, row in sorted(set(names)):
        if found and found[-1][0] == episode and found[-1][1] + len(found[-1][2]) == step:
            found[-1][2].append(row)
        else:
            found.append((episode, step, [row]))
    return found


def by_the_formulas(dataset, n, m, stride=1, every=1, *, pad=False, repeat=False):
    """Return what the windows of a dataset are, from the definition alone."""
    told, alone = bool(dataset.feedback), bool(dataset.feedback.once)
    count = n + m if alone else n + m - 1  # rows
    found = []
    for episode, step, rows in pieces(dataset):
        first = (1 - n) * stride if repeat else 0  # the first row stands in place of those before it
        starts = [s for s in range(first, len(rows), every) if s + (count - 1) * stride < len(rows)]
        if pad and not starts and first + (count - m) * stride < len(rows):
            starts = [first]
        for s in starts:
            there = [s + j * stride for j in range(count) if s + j * stride < len(rows)]
            places = there + [there[-1]] * (count - len(there))
            row = np.array([rows[max(place, 0)] for place in places])  # of s + j * stride
            window = {
                "state": row[:n],
                "load": columns(row[: n + m - 1] if told else row[:n])["load"],
                "row": row[: n + m - 1] / 2,
            }
            if alone:
                window["next_state"] = row[n : n + m]
            else:
                window["next_state"] = AFTER + row[n - 1 : n + m - 1]
                window["nothing"] = np.zeros((m, 0, 3))
                window["text"] = columns(row[: n + m - 1])["text"]
            if pad:
                window["mask"] = np.arange(count - m, count) < len(there)
            found.append(((episode, step + max(s, 0)), window))
    return found


def assert_windows(windows, want):
    assert len(windows) == len(want)
    names = list(zip(windows.index("episode").tolist(), windows.index("step").tolist(), strict=True))
    assert names == [name for name, _ in want]
    every, in_turn = windows.gather(np.arange(len(want))), windows[:]
    for i, (_, window) in enumerate(want):
        for name, field in windows.spec.items():
            assert field.shape == every[name].shape[1:]
            np.testing.assert_array_equal(every[name][i], window[name], f"{name} of window {i}")
            np.testing.assert_array_equal(in_turn[name][i], window[name], f"{name} of window {i}")


FEW = st.integers(1, 4)


@pytest.mark.parametrize("kind", ["both", "once", "silent"])
@settings(max_examples=10, deadline=None)
@given(
    n=FEW,
    m=FEW,
    stride=st.integers(1, 3),
    every=FEW,
    pad=st.booleans(),
    kept=st.integers(0, 2 ** len(WHERE) - 1),
    order=st.integers(0, 2),
)
def test_every_window_is_what_the_formulas_say(request, kind, n, m, stride, every, pad, kept, order):
    dataset = request.getfixturevalue(kind)
    if kept % 3:  # parts: some rows, in order or in another one, or twice
        rows = np.flatnonzero([kept >> i & 1 for i in range(len(WHERE))])
        rows = np.union1d(rows, np.arange(20)) if kept % 2 else rows
        rows = (rows, rows[::-1], np.random.default_rng(kept).choice(rows, 2 * len(rows)) if len(rows) else rows)[order]
        dataset = dataset.subset(rows)
    want = by_the_formulas(dataset, n, m, stride, every, pad=pad)
    short = "pad" if pad else "drop"
    if not want:
        with pytest.raises(ConfigError, match="is longer than every episode"):
            dataset.windows(n, m, stride, every, short=short)
        return
    windows = dataset.windows(n, m, stride, every, short=short)
    assert_windows(windows, want)
    assert windows.left_out == sum(
        not any(episode == e and step <= s < step + len(rows) for (e, s), _ in want)
        for episode, step, rows in pieces(dataset)
    )
    assert windows.padded == sum(not window["mask"].all() for _, window in want if pad)


def test_windows_are_a_dataset(both):
    windows = both.windows(inputs=2, targets=3, stride=1, every=2)
    want = by_the_formulas(both, 2, 3, every=2)
    assert len(windows) == len(want) == 14
    for got, number in (
        (windows[4], 4),
        (windows[-1], 13),
        (list(windows)[7], 7),
        (windows.__getitems__([3, 5])[1], 5),
    ):
        for name, value in want[number][1].items():
            np.testing.assert_array_equal(got[name], value)
    for got in (windows[2:5], windows[[2, 3, 4]], windows[np.isin(np.arange(14), [2, 3, 4])]):
        np.testing.assert_array_equal(got["load"], np.stack([window["load"] for _, window in want[2:5]]))
    assert {name: (field.role, field.shape) for name, field in windows.spec.items()} == {
        "state": ("input", (2,)),
        "load": ("input", (4, 2)),
        "next_state": ("target", (3,)),
        "nothing": ("target", (3, 0, 3)),
        "row": ("additional", (4,)),
        "text": ("additional", (4,)),
    }
    assert windows.statistics["next_state"].mean == both.statistics["next_state"].mean  # those of one row
    assert windows.nbytes == 14 * windows.row_nbytes == 14 * sum(value.nbytes for value in windows[0].values())
    assert windows.stored_nbytes(["state"]) == 8 * len(both)
    with pytest.raises(IndexError):
        windows[14]
    with pytest.raises(ConfigError, match="between 0 and 13"):
        windows.gather([14])


def test_arrays_can_be_given(both):
    for windows in (both.windows(2, 3), both.windows(2, 3, stride=2), both.windows(2, 6, short="pad")):
        want, spec = windows[3:6], windows.spec
        for into, where in ((windows.gather, ([3, 4, 5],)), (windows.read, (3, 6))):
            out = {name: np.zeros((3, *field.shape), field.dtype) for name, field in spec.items()}
            got = into(*where, out=out)
            for name in spec:
                assert got[name] is out[name] or np.shares_memory(got[name], out[name]) or not out[name].size
                np.testing.assert_array_equal(out[name], want[name])
    with pytest.raises(ConfigError, match=r"out\['state'\] must be a C-contiguous array \(1, 2\)"):
        both.windows(2, 3).gather([0], ["state"], out={"state": np.zeros((1, 3), int)})


@pytest.mark.parametrize(
    ("fields", "names", "got"),
    [
        (["row", "state"], None, ["row", "state", "next_state"]),  # stored once, it is input and target
        (["next_state"], None, ["next_state"]),
        (["load", "state"], {"state": "then"}, ["load", "state", "then"]),
        (None, {"state": "then"}, ["state", "then", "load", "row"]),
    ],
)
def test_fields_can_be_chosen_and_outputs_named(once, fields, names, got):
    windows = once.windows(2, 3, fields=fields, names=names)
    whole = once.windows(2, 3)[:]
    assert list(windows.spec) == got
    for name, value in windows[:].items():
        np.testing.assert_array_equal(value, whole["next_state" if name == "then" else name])
    assert windows.feedback == {("then" if names else "next_state"): "state"}
    assert windows.spec.names("target") == tuple(name for name in got if name in ("next_state", "then"))


def test_a_feedback_can_be_given(silent):
    windows = silent.windows(2, 3, feedback="next_state -> state")
    assert windows.spec["load"].shape == (4, 2)
    assert silent.windows(2, 3).spec["load"].shape == (2, 2)
    with pytest.raises(SampleError, match=r"names \['velocity'\]"):
        silent.windows(2, 3, feedback="velocity")


def test_a_dataset_with_some_of_its_fields_knows_what_feeds_what(both):
    some = SampleDataset(both.paths, fields=["load", "next_state"])
    np.testing.assert_array_equal(some.windows(2, 3)[5]["load"], both.windows(2, 3)[5]["load"])


def test_chosen_fields_leave_the_windows_as_they_are(once):
    """One reads another field of a window by the window's index."""
    for options in ({}, {"every": 2}, {"stride": 2}, {"targets": 6, "short": "pad"}):
        options = {"inputs": 2, "targets": 3, **options}
        whole, some = once.windows(**options), once.windows(**options, fields=["load"])
        of_some = SampleDataset(once.paths, fields=["load"]).windows(**options)
        assert len(some) == len(of_some) == len(whole)
        assert some.padded == of_some.padded == whole.padded
        for got in (some[:], of_some[:]):
            assert set(got) <= {"load", "mask"}
            for name, values in got.items():
                np.testing.assert_array_equal(values, whole[:][name])


def test_a_stride_has_no_feedback_between_its_rows_but_of_what_is_stored_once(both, once):
    strided = both.windows(2, 3, stride=2)
    assert not strided.feedback  # the stored target is that of one step, its row is two steps before the next one
    assert both.windows(2, 3).feedback == {"next_state": "state"}
    assert strided[0]["load"].shape == (4, 2)  # the fields are those of the declared feedback all the same
    for same in (pickle.loads(pickle.dumps(strided)), *strided.split(0.4)):  # noqa: S301 - our own
        assert same.spec == strided.spec
        assert not same.feedback
    window = once.windows(2, 3, stride=2)
    assert window.feedback == {"next_state": "state"}
    np.testing.assert_array_equal(window[0]["next_state"], window[0]["state"][-1] + [2, 4, 6])


def test_an_output_has_a_name_of_its_own(tmp_path):
    fields = SampleSpec([Field(name, (), I8, "input") for name in ("a", "b", "c")]).with_feedback(["a", "b"])
    with SampleWriter(tmp_path / "d", fields) as writer:
        row = np.arange(3)
        writer.append({"a": row, "b": row + 10, "c": row}, episode=[0] * 3, step=range(3), seed=[0] * 3)
    dataset = SampleDataset(tmp_path / "d", fields=["a", "b"])
    for names, taken in (({"a": "z", "b": "z"}, "'z'"), ({"a": "next_b"}, "'next_b'"), ({"a": "b"}, r"\['b'\]")):
        with pytest.raises(SampleError, match=taken):
            dataset.windows(names=names)
    with pytest.raises(SampleError, match=r"has fields \['c'\] already"):  # one that is not among those that are read
        dataset.windows(names={"a": "c"})
    got = dataset.windows(names={"a": "next_b", "b": "next_a"})[0]
    assert (got["next_b"].tolist(), got["next_a"].tolist()) == ([1], [11])


def test_a_part_gives_windows_of_that_part(both, tmp_path):
    for part, seeds in zip(both.split(0.4, seed=3), both.windows(2, 3).split(0.4, seed=3), strict=True):
        assert_windows(part.windows(2, 3), by_the_formulas(part, 2, 3))
        assert_windows(seeds, by_the_formulas(part, 2, 3))
    training, validation = both.windows(2, 3).split(0.4, seed=3)
    assert not set(training.index("episode")) & set(validation.index("episode"))
    assert set(training.episodes) | set(validation.episodes)
    with pytest.raises(ConfigError, match="longer than every episode: at most 2 follow one another"):
        both.subset(both.index("episode") == 1).windows(2, 2)
    mini = SampleDataset(both.paths, mini=6)
    assert_windows(mini.windows(1, 2), by_the_formulas(mini, 1, 2))


def test_a_selection_of_windows_keeps_its_windows_and_episodes(both):
    rng = np.random.default_rng(0)
    for options in ({}, {"stride": 2, "every": 2}, {"targets": 6, "short": "pad"}):
        whole = both.windows(**{"inputs": 2, "targets": 3, **options})
        chosen = rng.permutation(len(whole))[: 2 * len(whole) // 3]
        some = whole.subset(chosen)
        flags = np.isin(np.arange(len(whole)), chosen)
        for part, numbers in (
            (some, chosen),
            (pickle.loads(pickle.dumps(some)), chosen),  # noqa: S301 - our own
            (some.subset(np.arange(3)), chosen[:3]),
            (whole.subset(flags), np.flatnonzero(flags)),
        ):
            assert (part.spec, part.form) == (whole.spec, whole.form)
            for name in ("episode", "step"):
                np.testing.assert_array_equal(part.index(name), whole.index(name)[numbers])
            for name, values in whole.gather(numbers).items():
                np.testing.assert_array_equal(part[:][name], values)
                np.testing.assert_array_equal(part.gather(np.arange(len(part)))[name], values)
        assert some.padded == np.count_nonzero(~whole[:]["mask"].all(1)[chosen]) if whole.padded else not some.padded
        training, validation = some.split(0.4, seed=1)
        assert len(training) + len(validation) == len(some)
        assert not set(training.index("episode")) & set(validation.index("episode"))
        used = whole.subset(np.flatnonzero(whole.index("episode") == 0))
        rows = np.flatnonzero(both.index("episode") == 0)
        assert (
            used.statistics["row"].mean == both.subset(rows).statistics["row"].mean
        )  # of the rows that they are made of


def test_a_split_says_which_part_has_no_window(tmp_path):
    where = np.array([(episode, step) for episode, steps in enumerate((9, 2, 9)) for step in range(steps)])
    windows = stored(tmp_path / "d", where=where).windows(1, 4)
    said = set()
    for fraction, seed in itertools.product((0.3, 0.7), range(6)):
        try:
            windows.split(fraction, seed)
        except ConfigError as error:
            said.add(str(error).split(" follow one another")[0])
    assert said == {
        f"the {part} part of the split has no window: a window takes 4 steps and is longer than every episode: "
        "at most 2"
        for part in ("training", "validation")
    }


def test_several_folders_and_steps_that_lie_interleaved(both, tmp_path):
    other = stored(tmp_path / "other", where=WHERE[np.argsort(WHERE[:, 1], kind="stable")], first=100)
    assert_windows(other.windows(2, 3), by_the_formulas(other, 2, 3))
    together = SampleDataset([*both.paths, tmp_path / "other"])
    want = by_the_formulas(both, 2, 3) + by_the_formulas(other, 2, 3)
    assert_windows(together.windows(2, 3), want)
    assert_windows(together.subset(np.arange(len(together))[::-1]).windows(2, 3), want)


def test_windows_do_not_change_when_a_dataset_grows(tmp_path):
    dataset = stored(tmp_path / "d", per_file=100)
    windows = dataset.windows(2, 2)
    want = by_the_formulas(dataset, 2, 2)
    with SampleWriter(tmp_path / "d", dataset.spec, resume=True) as writer:
        writer.append(
            {name: values[:4] for name, values in columns(np.arange(500, 504)).items()},
            episode=[9] * 4, step=range(4), seed=[9] * 4,
        )  # fmt: skip
    again = pickle.loads(pickle.dumps(windows))  # noqa: S301 - as the workers of a DataLoader get them
    assert dataset.refresh() == 4
    assert_windows(windows, want)
    assert_windows(again, want)
    assert len(dataset.windows(2, 2)) == len(want) + 2


def test_what_is_short_is_said(both, caplog):
    windows = both.windows(3, 6)
    assert (windows.left_out, windows.padded) == (4, 0)
    assert "shorter than a window: 4 left out" in caplog.text
    assert "4 shorter left out, 0 padded" in repr(windows)
    padded = both.windows(3, 6, short="pad", mask="there")
    assert (padded.left_out, padded.padded) == (2, 2)
    assert padded.spec["next_state"].mask == "there"  # so that losses and statistics know
    assert padded[0]["there"].all()
    with pytest.raises(ConfigError, match="the windows have a field 'row'; give their mask another name"):
        both.windows(3, 6, short="pad", mask="row")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 12}, "a window takes 13 steps and is longer than every episode: at most 12 follow one another"),
        ({"inputs": 3, "stride": 6}, "a window takes 19 steps"),
        ({"inputs": 0}, "inputs must be"),
        ({"targets": 1.5}, "targets must be"),
        ({"stride": 0}, "stride must be"),
        ({"every": -1}, "every must be"),
        ({"short": "cut"}, "short must be"),
        (
            {"fields": ["stat"]},
            r"fields \['stat'\] are not in the dataset, which has .*, and of windows \['next_state'\]",
        ),
        ({"names": {"state": "row"}}, r"the dataset has fields \['row'\] already"),
        ({"names": {"load": "then"}}, r"stored once, \['state'\]; \['load'\] are none"),
    ],
)
def test_what_cannot_be_is_one_clear_error(once, options, message):
    with pytest.raises((ConfigError, SampleError), match=message):
        once.windows(**options)


def test_an_episode_is_arrays(both, tmp_path):
    for episode, steps in EPISODES:
        found = both.episode(episode)
        rows = np.flatnonzero(WHERE[:, 0] == episode)
        assert len(rows) == len(steps)
        for name, values in columns(rows).items():
            np.testing.assert_array_equal(found[name], values)
    np.testing.assert_array_equal(both.subset(np.arange(len(both))[::-1]).episode(4)["state"], both.episode(4)["state"])
    with pytest.raises(ConfigError, match="there is no episode 3; there are 0 to 8"):
        both.episode(3)
    stored(tmp_path / "other", first=100)
    together = SampleDataset([*both.paths, tmp_path / "other"])
    with pytest.raises(ConfigError, match="several folders have an episode 4; open them one by one"):
        together.episode(4)


def test_folders_that_are_joined_agree_on_the_feedback(both, silent, tmp_path):
    fields = SampleSpec([SPEC["state"], SPEC["next_state"], Field("velocity", (), I8, "input")])
    names = {}
    for name, feedback in (("a", "next_state -> state"), ("b", "next_state -> velocity"), ("c", {})):
        with SampleWriter(names.setdefault(name, tmp_path / name), fields.with_feedback(feedback)) as writer:
            columns = {field: np.arange(3) for field in fields}
            writer.append(columns, episode=[0] * 3, step=range(3), seed=[0] * 3)
    for order in itertools.permutations("ac"):  # one is silent: the other one holds, wherever it stands
        joined = SampleDataset([names[name] for name in order])
        assert joined.feedback == pickle.loads(pickle.dumps(joined)).feedback == {"next_state": "state"}  # noqa: S301
        assert joined.windows(2, 1).feedback == {"next_state": "state"}
    for order in itertools.permutations("abc"):
        with pytest.raises(DatasetError, match="declares the feedback next_state -> ") as found:
            SampleDataset([names[name] for name in order])
        assert all(str(names[name]) in str(found.value) for name in "ab")
    assert SampleDataset(names.values(), feedback="next_state -> state").feedback == {"next_state": "state"}


def test_frames_that_are_stored_once_are_stacked(tmp_path):
    """A stack of four frames, and the next one: windows of one field, without a copy on the disk."""
    spec = SampleSpec([Field("frame", (2, 2), np.dtype("u1"), "input"), Field("action", (), I8, "input")])
    with SampleWriter(tmp_path / "d", spec.with_feedback("frame")) as writer:
        frames = np.arange(9, dtype="u1").repeat(4).reshape(9, 2, 2)
        writer.append({"frame": frames, "action": np.arange(9)}, episode=[0] * 9, step=range(9), seed=[0] * 9)
    stacks = SampleDataset(tmp_path / "d").windows(inputs=4, targets=1)
    for i, stack in enumerate(stacks):
        np.testing.assert_array_equal(stack["frame"], frames[i : i + 4])
        np.testing.assert_array_equal(stack["next_frame"], frames[i + 4 : i + 5])
    assert len(stacks) == 5


@pytest.mark.parametrize("small", [0, row_reader.SMALL])  # rows that are copied one by one, or whole slices
def test_slices_over_the_borders_of_files(both, small, monkeypatch):
    """Between two files some addresses have no memory."""
    monkeypatch.setattr(row_reader, "SMALL", small)
    both = SampleDataset(both.paths)
    assert len(both.partitions) == 4
    for dataset, length in itertools.product((both, both.subset(np.arange(3, 30))), (1, 3, 5, 8)):
        starts = np.random.default_rng(length).permutation(len(dataset) - length + 1)
        got = dataset.stored_slices(dataset.stored_rows(starts), length, list(SPEC))
        for i, start in enumerate(starts):
            for name, value in dataset[start : start + length].items():
                np.testing.assert_array_equal(got[name][i], value)


@pytest.mark.parametrize("form", ["both", "once", "silent"])
@pytest.mark.parametrize(
    ("n", "m", "stride", "every"), [(4, 1, 1, 1), (3, 2, 1, 2), (2, 1, 3, 1), (3, 1, 2, 2), (1, 2, 1, 1)]
)
@pytest.mark.parametrize("pad", [False, True])
def test_stacks_repeat_the_first_row_before_an_episode(request, form, n, m, stride, every, pad):
    dataset = request.getfixturevalue(form)
    windows = dataset.windows(n, m, stride=stride, every=every, short="pad" if pad else "drop", begin="repeat")
    want = by_the_formulas(dataset, n, m, stride, every, pad=pad, repeat=True)
    assert_windows(windows, want)
    assert_windows(pickle.loads(pickle.dumps(windows)), want)  # noqa: S301 - its own
    chosen = [0, len(want) - 1, len(want) // 2]
    some = windows.subset(np.array(chosen))
    for i, place in enumerate(chosen):
        for name, value in some[i].items():
            np.testing.assert_array_equal(value, want[place][1][name])
