"""Reports of datasets: what they say of parts, fields, outliers, parameters, duplicates and rejected samples."""

import html
import re

import numpy as np
import pytest

from physgym.data import surgery
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.report import drawn_samples
from physgym.report.drawn_samples import DrawnSamples
from physgym.report.parameter_coverage import covered, outside
from physgym.report.repeated_samples import sample_digests
from physgym.report.reports import dataset_report, parts_of, write_report
from physgym.sample import Field, SampleSpec
from tests.support.datasets import PARAMETERS, write

NUMBER = SampleSpec([Field("x", (2,), np.dtype("f4"), "input", "m, s"), Field("y", (), np.dtype("f8"), "target")])


def numbers(path, x, mode="training", seed=0, **options):
    """Samples of two fields, in episodes of ten."""
    count = len(x)
    with SampleWriter(path, NUMBER, mode=mode, **options) as writer:
        writer.append(
            {"x": np.stack([x, np.ones(count)], 1).astype("f4"), "y": np.asarray(x, "f8") ** 2},
            episode=np.arange(count) // 10,
            step=np.arange(count) % 10,
            seed=(seed + np.arange(count) // 10).astype("u8"),
        )
    return SampleDataset(path, mode)


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Leave out what takes most of the time of a report; the test in a browser has pictures."""
    monkeypatch.setattr(SampleDataset, "show", no_picture)


def no_picture(*where, **more):
    raise ConfigError("there is nothing to draw")


def words(page):
    """What a reader sees of a page, cells of tables with a blank between them."""
    text = re.sub(r"<(script|style)>.*?</\1>", "", page.html(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_a_report_has_fields_parameters_rejected_samples_and_provenance(tmp_path):
    write(tmp_path / "line", 60, parameters=PARAMETERS, rejected=True)
    page = dataset_report(tmp_path / "line")
    text = words(page)
    for said in (
        *("line", "samples of toy/Line-v0", "60 samples", "12 episodes", "forces input 4 x 3 float32 N"),
        *("group/flags", "label", "stiffness Pa training 12", "2 samples were rejected", "diverged", "too stiff"),
        *('"size": 3', "Duplicates"),
    ):
        assert said in text, said
    assert page.html().count('class="plot"') > 8


def test_the_report_of_a_dataset_is_written_where_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers("data/some", np.arange(20))
    before = {file.name for file in (tmp_path / "data" / "some").iterdir()}
    file = write_report("data/some")
    assert file == tmp_path / "some-report.html"
    assert 4e6 < file.stat().st_size < 10e6
    assert {one.name for one in (tmp_path / "data" / "some").iterdir()} == before
    assert write_report("data/some", "other.html") == tmp_path / "other.html"


def test_samples_are_drawn_with_a_word(tmp_path):
    dataset = numbers(tmp_path / "d", np.arange(300))
    text = words(dataset_report(tmp_path / "d", samples=100))
    assert "Table: all 300 samples. Histograms: drawn from 100 of 300 samples, with the seed 0." in text
    drawn = DrawnSamples(dataset, 100)
    assert len(drawn) == 100
    assert (drawn.rows == DrawnSamples(dataset, 100).rows).all()
    assert (drawn.values("y") == drawn.rows.astype("f8") ** 2).all()


def test_large_samples_are_few_and_large_parts_are_not_read_as_a_whole(tmp_path, monkeypatch):
    dataset = numbers(tmp_path / "d", np.arange(300.0))
    part = dataset.subset(np.arange(200))
    found, count = DrawnSamples(part, 50).statistics
    assert (count, found["y"].max) == (200, 199**2)
    monkeypatch.setattr(drawn_samples, "WHOLE", 0)
    drawn = DrawnSamples(part, 50)
    found, count = drawn.statistics
    assert (count, found["y"].max) == (50, drawn.values("y").max())
    assert DrawnSamples(dataset, 50).statistics[1] == 300  # which are stored
    monkeypatch.setattr(drawn_samples, "BYTES", 3 * dataset.row_nbytes)
    assert len(DrawnSamples(dataset)) == 3
    monkeypatch.setattr(drawn_samples, "BYTES", 1)
    assert len(DrawnSamples(dataset)) == 1


def test_an_outlier_is_named(tmp_path):
    x = np.random.default_rng(0).normal(size=400)
    x[123] = 40
    numbers(tmp_path / "d", x)
    text = words(dataset_report(tmp_path / "d"))
    # distance, field, entry, value, sample, episode, step
    assert re.search(r"1\d\.?\d* x 0 40 m 123 12 3", text)
    assert "5 standard deviations" in text


def test_numbers_of_several_units_are_counted_by_unit(tmp_path):
    units = "m, m, m, rad/s, rad/s"
    with SampleWriter(tmp_path / "d", SampleSpec([Field("state", (5,), "f4", "target", units)])) as writer:
        where = {"episode": np.zeros(20, int), "step": np.arange(20), "seed": np.zeros(20, "u8")}
        writer.append({"state": np.random.default_rng(0).normal(size=(20, 5)).astype("f4")}, **where)
    content = dataset_report(tmp_path / "d").html()
    assert "<figcaption>state [0], [1], [2]</figcaption>" in content
    assert "<figcaption>state [3], [4]</figcaption>" in content


def test_values_that_are_not_finite_are_counted(tmp_path):
    x = np.linspace(0, 1, 100)
    x[[3, 5]] = np.nan
    numbers(tmp_path / "d", x, nonfinite="allow")
    text = words(dataset_report(tmp_path / "d"))
    assert "2 values are not finite and not drawn" in text
    assert re.search(r"x input 2 float32 m, s [\d.]+ [\d.]+ 0 1 [\d.]+ 2 ", text)


def test_samples_in_two_parts_are_counted(tmp_path):
    numbers(tmp_path / "d", np.arange(40))
    numbers(tmp_path / "d", np.array([3, 5, 100, 100]), mode="test", seed=50)
    text = words(dataset_report(tmp_path / "d"))
    assert "training all 40 samples 0 2" in text
    assert "test all 4 samples 1 2" in text
    assert "No two parts have an episode in common" in text


def test_digests_are_equal_where_samples_are(tmp_path):
    dataset = numbers(tmp_path / "d", np.array([1, 2, 1]))
    first, second, third = sample_digests(DrawnSamples(dataset))
    assert first == third != second


def test_parts_of_a_recorded_split_are_told_apart(tmp_path):
    numbers(tmp_path / "d", np.arange(100))
    surgery.describe(tmp_path / "d", {"split": "training=0.8 test=0.2"})
    found = parts_of([tmp_path / "d"])
    assert {name: len(part) for name, part in found.items()} == {"training": 80, "test": 20}


def test_coverage_of_a_range():
    assert covered(np.linspace(0, 1, 200)) == 1
    assert covered(np.array([0, 1])) == 0.1
    assert covered(np.array([2.0])) == 1
    assert outside(np.array([-1, 0.5, 2]), np.array([0, 1, np.nan])) == 2


def test_padding_is_no_value(tmp_path):
    spec = SampleSpec([Field("p", (3,), "f4", "input", mask="n"), Field("n", (), "i4", "additional")])
    with SampleWriter(tmp_path / "d", spec) as writer:
        writer.append(
            {"p": np.array([[1, 0, 0], [1, 1, 0]], "f4"), "n": np.array([1, 2], "i4")},
            episode=np.arange(2),
            step=np.zeros(2, int),
            seed=np.zeros(2, "u8"),
        )
    values = DrawnSamples(SampleDataset(tmp_path / "d")).values("p")
    assert np.isnan(values).sum() == 3
    assert np.nansum(values) == 3


def test_what_is_no_dataset_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no nowhere: name the folder"):
        write_report("nowhere")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="nothing is neither a session nor a dataset"):
        write_report("nothing")
    with SampleWriter(tmp_path / "empty", NUMBER, rejected=True) as writer:
        row = {"x": np.zeros((1, 2), "f4"), "y": np.zeros(1)}
        writer.add_rejected(row, ["diverged"], episode=np.zeros(1, int), step=np.zeros(1, int), seed=np.zeros(1, "u8"))
    with pytest.raises(DatasetError, match="has no samples yet"):
        write_report("empty")
    numbers(tmp_path / "d", np.arange(10))
    with pytest.raises(ConfigError, match="there is no folder"):
        write_report("d", "gone/page.html")
    with pytest.raises(ConfigError, match="it is a folder"):
        write_report("d", "nothing")
    assert not list(tmp_path.glob("*.html"))
