import itertools
import math

import numpy as np
import pytest

from physgym.errors import ConfigError, SampleError
from physgym.nn.metrics import METRICS, FieldComparison, FieldMetrics, Metric, MetricTable, component_axis, metrics_of
from physgym.sample import Field, SampleSpec

ALL = tuple(METRICS)
VECTOR = Field("force", (2,), "float32", "target", "N")


def measured(field, prediction, target, batches, metrics=ALL, **more):
    """The metrics of a field over samples that arrive in batches of these sizes."""
    table = MetricTable(SampleSpec([field]), [field.name], metrics)
    ends = np.cumsum([0, *batches])
    assert ends[-1] == len(target)
    for start, stop in itertools.pairwise(ends):
        table.add({field.name: prediction[start:stop]}, {field.name: target[start:stop]})
    return table.fields[field.name]


def test_values_are_those_of_the_formulas():
    target = np.array([[3.0, 4.0], [0.0, 2.0], [6.0, 0.0]], np.float32)
    prediction = target + np.array([[1.0, 0.0], [0.0, -2.0], [0.0, 3.0]], np.float32)
    found = {name: one.value() for name, one in measured(VECTOR, prediction, target, [3]).whole.items()}
    squares = 1 + 4 + 9
    spread = (0 + 9 + 9) + (4 + 0 + 4)  # both columns have the means 3 and 2
    expected = {
        "mse": squares / 6,
        "rmse": math.sqrt(squares / 6),
        "mae": (1 + 2 + 3) / 6,
        "max_error": 3.0,
        "relative_l2": (1 / 5 + 2 / 2 + 3 / 6) / 3,
        "r2": 1 - squares / spread,
        "nrmse": math.sqrt(squares / spread),
    }
    assert found.keys() == expected.keys() == METRICS.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-12), name


def test_components_are_measured_one_by_one():
    target = np.array([[1.0, 10.0], [3.0, 30.0]])
    prediction = target + np.array([[0.5, -4.0], [0.5, 0.0]])
    components = measured(VECTOR, prediction, target, [1, 1]).components
    assert [one["mae"].value() for one in components] == [0.5, 2.0]
    assert [one["max_error"].value() for one in components] == [0.5, 4.0]
    assert [one["relative_l2"].value() for one in components] == pytest.approx([(0.5 + 0.5 / 3) / 2, (0.4 + 0) / 2])
    assert [one["r2"].value() for one in components] == pytest.approx([1 - 0.5 / 2, 1 - 16 / 200])


@pytest.mark.parametrize("batches", [[7], [1] * 7, [3, 3, 1], [0, 5, 2]])
def test_the_division_into_batches_changes_nothing(batches):
    # a mean of the means of 3, 3 and 1 samples would be another number: the last sample is far off
    generator = np.random.default_rng(0)
    target = generator.normal(1e6, 1.0, (7, 2))
    prediction = target + generator.normal(size=(7, 2))
    prediction[-1] += 100
    error = prediction - target
    found = measured(VECTOR, prediction, target, batches)
    values = {name: one.value() for name, one in found.whole.items()}
    assert values["mse"] == pytest.approx((error**2).mean(), rel=1e-12)
    assert values["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-12)
    assert values["max_error"] == np.abs(error).max()
    norms = np.sqrt((error**2).sum(1)) / np.sqrt((target**2).sum(1))
    assert values["relative_l2"] == pytest.approx(norms.mean(), rel=1e-12)
    assert values["r2"] == pytest.approx(1 - (error**2).sum() / ((target - target.mean(0)) ** 2).sum(), rel=1e-9)


def test_values_that_are_not_there_count_for_nothing():
    # two, one and no nodes are there; what stands in the others is padding
    field = Field("x", (2, 3), "float64", "target", "m", mask="nodes")
    spec = SampleSpec([field, Field("nodes", (), "int64", "additional")])
    target = np.zeros((3, 2, 3))
    target[:, :, 0] = 2.0
    prediction = target + 100.0
    prediction[0], prediction[1, 0] = target[0] + [1.0, 0, 0], target[1, 0] + [0, 3.0, 0]
    table = MetricTable(spec, ["x"], ["mse", "mae", "max_error", "relative_l2"])
    assert table.masks == ["nodes"]
    table.add({"x": prediction}, {"x": target, "nodes": np.array([2, 1, 0])})
    values = table.values()
    assert values["mse/x"] == pytest.approx((2 * 1 + 9) / 9)  # nine values are there
    assert values["mae/x"] == pytest.approx((2 * 1 + 3) / 9)
    assert values["max_error/x"] == 3.0
    assert values["relative_l2/x"] == pytest.approx((math.sqrt(2) / math.sqrt(8) + 3 / 2) / 2)  # of two samples
    assert [one["mae"].value() for one in table.fields["x"].components] == [2 / 3, 1.0, 0.0]
    with pytest.raises(SampleError, match="its mask 'nodes'"):
        MetricTable(SampleSpec([field]), ["x"], ["mae"])


def test_what_is_not_defined_is_said():
    constant = np.ones((3, 2))
    found = measured(VECTOR, constant, constant, [2, 1])
    assert math.isnan(found.whole["r2"].value())
    assert "the same in all samples" in found.whole["r2"].remark
    zero = measured(VECTOR, np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 0], [0, 0], [1, 0]]), [3])
    assert zero.whole["relative_l2"].value() == math.inf
    assert zero.whole["relative_l2"].remark == "infinite for 1 samples whose target is zero"
    broken = measured(VECTOR, np.array([[1.0, np.nan], [0.0, 0.0]]), np.array([[1.0, 0], [0, 1]]), [1, 1])
    assert all(math.isnan(one.value()) for one in broken.whole.values())
    assert broken.whole["r2"].remark == ""


def test_complex_fields_are_measured_by_absolute_values():
    field = Field("wave", (2,), "complex128", "target")
    target = np.array([[3 + 4j, 0], [0, 1j]])
    found = measured(field, target + np.array([[1j, 0], [0, 2]]), target, [2]).whole
    assert found["mse"].value() == pytest.approx((1 + 4) / 4)
    assert found["max_error"].value() == 2.0
    spread = (abs(target - target.mean(0)) ** 2).sum()
    assert found["r2"].value() == pytest.approx(1 - 5 / spread)


def test_own_metrics_are_averaged_over_samples():
    def overshoot(prediction, target):
        return (prediction - target).max(1)

    prediction, target = np.array([[1.0, 2], [0, 0], [6, 1]]), np.zeros((3, 2))
    found = measured(VECTOR, prediction, target, [2, 1], [overshoot, "mae"])
    assert found.whole["overshoot"].value() == pytest.approx((2 + 0 + 6) / 3)
    assert found.unit("overshoot") == ""
    with pytest.raises(ConfigError, match=r"the metric <lambda> returned float64 of shape \(\) for 2 samples; return"):
        measured(VECTOR, prediction, target, [2, 1], [lambda a, b: np.abs(a - b).mean()])

    class Count(Metric):
        name = "count"

        def __init__(self):
            self.seen = 0

        def add(self, comparison):
            self.seen += len(comparison)

        def value(self):
            return float(self.seen)

    assert measured(VECTOR, prediction, target, [2, 1], [Count]).whole["count"].value() == 3


def test_unknown_and_repeated_metrics_are_refused():
    for named, text in (
        (["mae", "mape"], "there is no metric 'mape'; there are mse, rmse"),
        ("mae", "must be a list"),
        (["mae", "mae"], "two metrics are called 'mae'"),
        ([3], "3 is no metric"),
    ):
        with pytest.raises(ConfigError, match=text):
            metrics_of(named)


def test_units_are_powers_of_that_of_the_field():
    for unit, of_mse, of_mae in (("N", "N^2", "N"), ("m/s", "(m/s)^2", "m/s"), ("", "", "")):
        found = FieldMetrics(Field("x", (), "float32", "target", unit), metrics_of(ALL))
        assert (found.unit("mse"), found.unit("mae"), found.unit("r2")) == (of_mse, of_mae, "1")


def test_components_are_those_of_vectors_and_channels():
    for shape, dimensions, axis in (
        ((), None, None),
        ((5,), None, 0),
        ((5,), 1, None),  # a grid
        ((100,), None, None),  # too many
        ((64, 3), None, 1),  # vectors at nodes
        ((2, 16, 16), 2, 0),  # channels
        ((16, 16, 2), 2, 2),
        ((16, 16), 2, None),
        ((16, 16), None, None),
        ((1,), None, None),
    ):
        assert component_axis(Field("x", shape, "float32", "target", "", dimensions)) == axis


def test_shapes_that_differ_are_refused():
    with pytest.raises(SampleError, match="prediction has shape"):
        FieldComparison.of(np.zeros((2, 3)), np.zeros((2, 4)))


def test_components_may_have_units_of_their_own():
    found = FieldMetrics(Field("state", (2,), "float32", "target", "m, m/s"), metrics_of(["mse", "mae", "r2"]))
    assert (found.component_units("mse"), found.unit("mse")) == (["m^2", "(m/s)^2"], "m^2, (m/s)^2")
    assert (found.component_units("mae"), found.unit("mae")) == (["m", "m/s"], "m, m/s")
    assert (found.component_units("r2"), found.unit("r2")) == (["1", "1"], "1")
