"""A normalization gets the moments of what it is given, also behind another transform."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from physgym.data import SampleDataset, SampleWriter
from physgym.data.statistics import Statistics
from physgym.errors import ConfigError
from physgym.nn import MLP, Compose, Hold, Inverse, LossTransform, Normalize, Transform, Transforms
from physgym.sample import Field, SampleSpec
from physgym.training import SampleSource, Trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is declared to be:UserWarning")  # random rows do not follow

X = np.exp(np.random.default_rng(0).normal(size=(64, 3)) * [0.5, 1.0, 2.0]).astype("f4")
Y = X[:, :1].copy()
SPEC = SampleSpec([Field("x", (3,), np.dtype("f4"), "input"), Field("y", (1,), np.dtype("f4"), "target")])
COLUMNS = {"x": X, "y": Y}


class Log(Transform):
    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, fields):
        self.modes.append(self.training)
        return {**fields, "x": fields["x"].log()}


class Wide(Transform):
    def forward(self, fields):
        return {**fields, "x": fields["x"][:, :2]}


class Stored:
    """Samples in memory, as a trainer takes them."""

    spec = SPEC

    def __init__(self, rows=slice(None)):
        self.columns = {name: column[rows] for name, column in COLUMNS.items()}

    @property
    def statistics(self):
        return {name: Statistics.of(column) for name, column in self.columns.items()}

    def __len__(self):
        return len(self.columns["x"])

    def gather(self, indices, fields=None):
        return {name: self.columns[name][indices] for name in fields or SPEC}

    def split(self, validation_fraction, seed):
        return Stored(slice(16, None)), Stored(slice(16))


class Fresh(SampleSource):
    """The same samples, one after the other."""

    spec = SPEC

    def __init__(self):
        self.rows = itertools.cycle(range(len(X)))

    def draw(self, count):
        rows = [next(self.rows) for _ in range(count)]
        return {name: column[rows] for name, column in COLUMNS.items()}


def around(*before):
    normalize = Normalize({"x": (3,)})
    return normalize, Transforms(Compose([*before, normalize]), LossTransform(None, None))


def fitted(samples, *before, **options):
    normalize, transforms = around(*before)
    trainer = Trainer(
        MLP(3, 1, hidden=()), samples, inputs=["x"], outputs=["y"], transforms=transforms, epochs=1, batch_size=16,
        progress=False, device="cpu", **options,
    )  # fmt: skip
    return normalize, trainer


def check(normalize, values):
    assert normalize.fitted
    torch.testing.assert_close(normalize.mean_0, torch.from_numpy(values.mean(0)).float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normalize.scale_0, torch.from_numpy(values.std(0)).float(), rtol=1e-5, atol=1e-6)


def test_stored_samples():
    log = Log()
    normalize, _ = fitted(Stored(), log, validation=None)
    check(normalize, np.log(X))
    assert not any(log.modes)  # as in a prediction


def test_samples_that_validate_do_not_count():
    normalize, _ = fitted(Stored(), Log(), validation=0.25)
    check(normalize, np.log(X[16:]))


def test_a_loader():
    batches = [{name: column[start : start + 16] for name, column in COLUMNS.items()} for start in range(0, 64, 16)]
    normalize, _ = fitted(DataLoader(batches, batch_size=None), Log(), validation=None)
    check(normalize, np.log(X))


def test_a_source():
    normalize, trainer = fitted(None, Log(), validation=None, source=Fresh(), produce="always", batches_per_epoch=4)
    trainer.fit()
    check(normalize, np.log(X))


def test_fields_as_they_are_and_one_behind_the_other():
    check(fitted(Stored(), validation=None)[0], X)
    check(fitted(Stored(), Transform(), validation=None)[0], X)
    first = Normalize({"x": (3,)})
    second, _ = fitted(Stored(), Compose([Log(), first]), validation=None)
    check(first, np.log(X))
    check(second, (np.log(X) - np.log(X).mean(0)) / np.log(X).std(0))


def test_moments_that_are_given_stay():
    normalize, transforms = around(Log())
    normalize.fit({"x": Statistics.of(X)})
    Trainer(MLP(3, 1), Stored(), transforms=transforms, epochs=1, validation=None, device="cpu")
    check(normalize, X)


def test_another_shape_is_refused():
    with pytest.raises(ConfigError, match=r"field 'x'"):
        fitted(Stored(), Wide(), validation=None)


def test_windows_of_an_unrolled_training(tmp_path):
    fields = [
        Field("x", (3,), np.dtype("f4"), "input"),
        Field("next_x", (3,), np.dtype("f4"), "target", feeds="x"),
    ]
    with SampleWriter(tmp_path, SampleSpec(fields)) as writer:
        steps = {"episode": np.repeat(np.arange(4), 16), "step": np.tile(np.arange(16), 4)}
        writer.append({"x": X, "next_x": X}, **steps, seed=np.zeros(64, "u8"))
    normalize, transforms = around(Log())
    Trainer(
        MLP(3, 3, hidden=()), SampleDataset(tmp_path), transforms=transforms, unroll=3, epochs=1, validation=None,
        device="cpu",
    )  # fmt: skip
    check(normalize, np.log(X))


def test_a_field_that_a_transform_adds():
    class Added(Transform):
        def forward(self, fields):
            return {"x": fields["x"], "log_x": fields["x"].log()}

    class Net(torch.nn.Module):
        def forward(self, x, log_x):
            return log_x[:, :1] + x[:, :1]

    normalize = Normalize({"log_x": (3,)})
    transforms = Transforms(Compose([Added(), normalize]), LossTransform(None, None))
    net = Net()
    net.weight = torch.nn.Parameter(torch.zeros(1))
    Trainer(net, Stored(), inputs=["x"], outputs=["y"], transforms=transforms, epochs=1, validation=None, device="cpu")
    check(normalize, np.log(X))


class LogOfTarget(Transform):
    def forward(self, fields):
        return {**fields, "y": fields["y"].log()}


def test_a_target_behind_a_transform_before_the_loss():
    normalize, plain = Normalize({"y": (1,)}), Normalize({"y": (1,)})
    for on_target, wanted in ((Compose([LogOfTarget(), normalize]), np.log(Y)), (Compose([plain]), Y)):
        transforms = Transforms(None, LossTransform(None, on_target))
        Trainer(MLP(3, 1), Stored(), transforms=transforms, epochs=1, validation=None, device="cpu")
        found = on_target.transforms[-1]
        np.testing.assert_allclose(found.get_buffer("mean_0"), wanted.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.get_buffer("scale_0"), wanted.std(0), rtol=1e-5)


class UndoneLogOfTarget(LogOfTarget):
    def inverse(self, fields):
        return {**fields, "y": fields["y"].exp()}


@pytest.mark.parametrize("apart", [False, True])
def test_a_transform_that_is_undone_has_the_moments_of_what_it_gets(apart):
    """Also where it is another object than the one before the loss."""
    normalize = Normalize({"y": (1,)})
    undone = [Inverse(Compose([UndoneLogOfTarget(), normalize]))]
    if apart:
        undone = [Inverse(normalize), Inverse(UndoneLogOfTarget())]
    on_target = Compose([LogOfTarget(), Normalize({"y": (1,)})])
    transforms = Transforms(None, LossTransform(None, on_target), Compose(undone))
    Trainer(MLP(3, 1), Stored(), transforms=transforms, epochs=1, validation=None, device="cpu")
    np.testing.assert_allclose(normalize.get_buffer("mean_0"), np.log(Y).mean(0), rtol=1e-5)
    np.testing.assert_allclose(normalize.get_buffer("scale_0"), np.log(Y).std(0), rtol=1e-5)


def test_what_is_held_after_a_normalization_needs_no_inverse():
    made = Transforms.normalizing(SPEC, physical_loss=True)
    held = Compose([made.before_apply, Hold.where({"y": [True]}, {"y": 1.0})])
    transforms = Transforms(made.before_prediction, made.before_loss, held)
    Trainer(MLP(3, 1), Stored(), transforms=transforms, epochs=1, validation=None, device="cpu")
    np.testing.assert_allclose(made.before_apply.transform.get_buffer("mean_0"), Y.mean(0), rtol=1e-5)


@pytest.mark.parametrize("where", ["prediction", "loss", "apply"])
def test_moments_of_other_values_than_a_normalization_gets_are_refused(where):
    normalize = Normalize({"y": (1,)})
    target = Compose([UndoneLogOfTarget(), normalize])
    transforms = {
        "prediction": lambda: Transforms(Compose([Log(), Inverse(Normalize({"x": (3,)}))])),
        "loss": lambda: Transforms(None, LossTransform(Inverse(target), None)),
        "apply": lambda: Transforms(None, None, Inverse(Inverse(Inverse(target)))),
    }[where]
    options = {"epochs": 1, "validation": None, "device": "cpu"}
    with pytest.raises(
        ConfigError, match=rf"of \['[xy]'\] with (Log|UndoneLogOfTarget) in before_{where} has no moments"
    ):
        Trainer(MLP(3, 1), Stored(), transforms=transforms(), **options)
    shared = Transforms(None, LossTransform(Inverse(target), None), Inverse(target))  # a loss in physical units
    Trainer(MLP(3, 1), Stored(), transforms=shared, **options)
    np.testing.assert_allclose(normalize.get_buffer("mean_0"), np.log(Y).mean(0), rtol=1e-5)


def test_a_normalization_within_a_module_of_ones_own_is_refused_without_moments():
    class Around(Transform):
        def __init__(self):
            super().__init__()
            self.inner = Normalize({"x": (3,)})

        def forward(self, fields):
            return self.inner({**fields, "x": fields["x"].log()})

    around = Around()
    options = {"epochs": 1, "validation": None, "device": "cpu"}
    with pytest.raises(ConfigError, match=r"of \['x'\] within Around has no moments, and what it gets there is not kn"):
        Trainer(MLP(3, 1), Stored(), transforms=Transforms(Compose([around])), **options)
    around.inner.fit({"x": Statistics.of(np.log(X))})
    Trainer(MLP(3, 1), Stored(), transforms=Transforms(Compose([around])), **options)
    check(around.inner, np.log(X))
