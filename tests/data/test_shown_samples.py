"""Pictures of samples and episodes, and a dataset in a notebook."""

from __future__ import annotations

import numpy as np
import pytest

import physgym
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError
from physgym.sample import Field, SampleSpec

NAME = "u<b>"  # a name that would be a tag


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Two episodes of three steps; all numbers follow from (episode, step)."""
    spec = SampleSpec(
        [
            Field("scalar", (), np.dtype("f4"), "input", "m"),
            Field("curve", (6,), np.dtype("f8"), "target", "K"),
            Field("image", (10, 9), np.dtype("f4"), "target"),
            Field("volume", (2, 10, 9), np.dtype("f4"), "additional"),
            Field("count", (), np.dtype("i8"), "additional"),
            Field("padded", (4,), np.dtype("f4"), "additional", mask="count"),
            Field("phase", (3,), np.dtype("c16"), "additional"),
            Field(NAME, (), np.dtype("S3"), "additional", "&m"),
        ]
    )
    path = tmp_path_factory.mktemp("shown") / "data"
    with SampleWriter(path, spec) as writer:
        for episode in range(2):
            for step in range(3):
                number = 10 * episode + step
                image = number + np.arange(90, dtype="f4").reshape(10, 9)
                sample = {
                    "scalar": np.float32(number),
                    "curve": number + np.arange(6.0),
                    "image": image,
                    "volume": np.stack([image, -image]),
                    "count": np.int64(2),
                    "padded": np.full(4, 7, "f4"),
                    "phase": np.full(3, 3 + 4j),
                    NAME: np.array(b"abc"),
                }
                columns = {name: np.array([value]) for name, value in sample.items()}
                writer.append(columns, episode=[episode], step=[step], env=[0], seed=[1])
    return physgym.SampleDataset(path)


def panels(picture):
    return {axes.get_title(): axes for axes in picture.figure.axes if axes.get_title()}


def test_a_sample_is_curves_and_images_and_its_numbers_are_text(dataset):
    picture = dataset.show(4)  # episode 1, step 1: number 11
    shown = panels(picture)
    assert list(shown) == ["curve (6,)", "image (10, 9)", "volume[0, :, :] (2, 10, 9)", "padded (4,)", "|phase| (3,)"]
    assert [bar.get_height() for bar in shown["curve (6,)"].patches] == [11, 12, 13, 14, 15, 16]
    assert shown["curve (6,)"].get_ylabel() == "K"
    image = 11 + np.arange(90.0).reshape(10, 9)
    np.testing.assert_array_equal(shown["image (10, 9)"].images[0].get_array(), image)
    np.testing.assert_array_equal(shown["volume[0, :, :] (2, 10, 9)"].images[0].get_array(), image)
    heights = [bar.get_height() for bar in shown["padded (4,)"].patches]
    np.testing.assert_array_equal(heights, [7, 7, np.nan, np.nan])
    assert shown["|phase| (3,)"].lines[0].get_ydata().tolist() == [5, 5, 5]
    title = picture.figure.get_suptitle().splitlines()
    assert title[:2] == ["sample 4 (episode 1, step 1)", "scalar = 11 m"]
    assert dataset.show(-2).figure.get_suptitle() == picture.figure.get_suptitle()


def test_an_episode_is_drawn_over_its_steps(dataset):
    picture = dataset.show(episode=1)
    shown = panels(picture)
    assert shown["scalar"].lines[0].get_xydata().tolist() == [[0, 10], [1, 11], [2, 12]]
    expected = [np.sqrt(np.mean((number + np.arange(90.0)) ** 2)) for number in (10, 11, 12)]
    np.testing.assert_allclose(shown["root mean square of image"].lines[0].get_ydata(), expected, rtol=1e-6)
    assert len(shown["curve"].lines) == 6
    assert picture.figure.get_suptitle().splitlines() == ["episode 1: 3 samples", f"no numbers: {NAME}"]


def test_a_state_of_few_numbers_has_a_panel_for_each_and_ticks_at_whole_steps(tmp_path):
    said = {"unit": "m, m/s", "shape": (2,), "dtype": "f4"}
    spec = SampleSpec([Field("state", role="input", **said), Field("next_state", role="target", **said)])
    with SampleWriter(tmp_path / "data", spec) as writer:
        rows = np.arange(8.0, dtype="f4").reshape(4, 2)
        where = {"episode": np.zeros(4, int), "step": np.arange(4), "seed": np.zeros(4, "u8")}
        writer.append({"state": rows, "next_state": rows + 2}, **where)
    dataset = physgym.SampleDataset(tmp_path / "data")
    picture = dataset.show(episode=0)
    picture.figure.canvas.draw()
    drawn = panels(picture)
    assert [(name, axes.get_ylabel()) for name, axes in drawn.items()] == [
        *(("next_state[0]", "m"), ("next_state[1]", "m/s")),  # the state is the same a step before
    ]
    assert all(tick == round(tick) for axes in drawn.values() for tick in axes.get_xticks())
    bars = dataset.show(1).figure.axes
    assert [(axes.get_title(), axes.get_ylabel(), axes.patches[0].get_height()) for axes in bars] == [
        *(("state (2,)", "m", 2), ("state (2,)", "m/s", 3), ("next_state (2,)", "m", 4), ("next_state (2,)", "m/s", 5)),
    ]
    assert [label.get_text() for axes in bars[:2] for label in axes.get_xticklabels()] == ["[0]", "[1]"]


def test_a_sample_without_an_array_is_one_curve_of_its_numbers(dataset):
    part = physgym.SampleDataset(dataset.paths[0], fields=["scalar", "count"])
    assert panels(part.show(2))["all numbers"].lines[0].get_ydata().tolist() == [2, 2]
    with pytest.raises(ConfigError, match="nothing to draw"):
        physgym.SampleDataset(dataset.paths[0], fields=[NAME]).show(0)


def test_a_wrong_sample_is_named(dataset):
    with pytest.raises(ConfigError, match="no sample 6; the dataset has 6"):
        dataset.show(6)
    with pytest.raises(ConfigError, match="no episode 9"):
        dataset.show(episode=9)
    for wrong in ({}, {"sample": 1, "episode": 1}):
        with pytest.raises(ConfigError, match="either a sample or an episode"):
            dataset.show(**wrong)


def test_a_notebook_shows_the_fields_escaped(dataset):
    text = dataset._repr_html_()
    assert text.count('<td style="text-align: left">') == text.count("<td") == 5 * len(dataset.spec)
    text = text.replace(' style="text-align: left"', "")
    assert "<td>u&lt;b&gt;</td><td>additional</td><td>()</td><td>|S3</td><td>&amp;m</td>" in text
    assert "<td>curve</td><td>target</td><td>(6,)</td><td>float64</td><td>K</td>" in text
    assert "6 training samples, 2 episodes, " in text
    assert NAME not in text
