"""What a network is fed by users: the dtype of the field by the one rule for casts, or an error that names it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from physgym.errors import ConfigError, SampleError
from physgym.nn import Predictor, Transforms
from physgym.nn.prepared import PreparedPredictor
from physgym.protocol.messages import Predict
from physgym.sample import Field, SampleSpec
from physgym.training.foreign import Feed, TorchSamples
from physgym.vector.predictions import answer

F4, F8 = np.dtype("f4"), np.dtype("f8")


def spec(dtype=F4, shape=(2,)):
    return SampleSpec([Field("x", shape, dtype, "input"), Field("y", (2,), F4, "target")])


class Keeps(nn.Module):
    """Gives what it is fed, and notes its dtype."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x):
        self.got = x.dtype
        return x * self.one


def normalized(kind=F4):
    moments = {
        name: type("M", (), {"mean": np.full(2, 1.0), "std": np.full(2, 2.0), "counts": np.full(2, 9)}) for name in "xy"
    }
    return Predictor(Keeps(), spec(kind), transforms=Transforms.normalizing(spec(kind), ["x"], ["y"]).fit(moments))


GOOD = {
    "float64": (np.array([0.1, 2.0]), [np.float32(0.1), 2.0]),
    "list": ([0.1, 2.0], [np.float32(0.1), 2.0]),
    "integers": (np.array([1, 2**24]), [1.0, 2.0**24]),
    "flags": (np.array([True, False]), [1.0, 0.0]),
    "list of flags": ([True, False], [1.0, 0.0]),
    "byte order": (np.array([1.5, 2.0], ">f8"), [1.5, 2.0]),
    "tensor": (torch.tensor([1.5, 2.0], dtype=torch.float64), [1.5, 2.0]),
    "large": (np.array([1e38, 1e30]), [np.float32(1e38), np.float32(1e30)]),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("batched", [False, True])
def test_what_a_field_can_hold_is_fed_in_its_dtype(kind, batched):
    value, want = GOOD[kind]
    if batched:
        value, want = (value[None] if hasattr(value, "shape") else [value]), [want]
    predictor = Predictor(Keeps(), spec())
    np.testing.assert_array_equal(predictor.predict({"x": value}, batched=batched)["y"], want)
    assert predictor.network.got == torch.float32


BAD = {
    "overflow": (np.array([1.0, 1e300]), r"values that float32 cannot hold, the first 1e\+300 of dtype float64 at ind"),
    "overflow in a list": ([1e300, 0.0], r"values that float32 cannot hold, the first 1e\+300 of dtype float64"),
    "rounded": (np.array([2**53 + 1, 0]), "values that float32 cannot hold, the first 9007199254740993 of dtype int64"),
    "rounded in a list": ([2**24 + 1, 0.5], "values that float32 cannot hold, the first 16777217 of dtype int"),
    "complex": (np.array([1 + 1j, 0]), "dtype complex128, which does not convert to float32"),
    "texts": (["1", "2"], "dtype <U1, which does not convert to float32"),
    "bytes": (np.array([b"1", b"2"]), r"dtype \|S1, which does not convert to float32"),
    "objects": (np.array([None, 1.0]), "dtype object, which does not convert to float32"),
    "nothing": (None, "dtype object, which does not convert to float32"),
    "time": (np.array([1, 2], "m8[s]"), r"dtype timedelta64\[s\], which does not convert to float32"),
    "ragged": ([[1.0], [1.0, 2.0]], "is not an array"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("with_moments", [False, True])
def test_what_a_field_cannot_hold_is_refused(kind, with_moments):
    value, message = BAD[kind]
    predictor = normalized() if with_moments else Predictor(Keeps(), spec())
    with pytest.raises(SampleError, match=rf"field 'x' for the network (has )?{message}"):
        predictor.predict({"x": value})
    with pytest.raises(SampleError, match=rf"field 'x' for the network (has )?{message}"):
        predictor.tensors({"x": value})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("engine", [None, "torch"])
def test_what_is_not_finite_is_refused_with_its_field_and_place(value, engine):
    predictor = Predictor(Keeps(), spec())
    predict = predictor.predict if engine is None else PreparedPredictor(predictor, engine=engine).predict
    with pytest.raises(
        SampleError, match=f"field 'x' for the network holds {value} at index \\(1,\\), which is not fin"
    ):
        predict({"x": [0.0, value]})
    batch = np.zeros((5, 2))
    batch[3, 1] = value
    with pytest.raises(SampleError, match=f"holds {value} at index \\(1,\\) of sample 3, which is not finite. Repair"):
        predict({"x": batch}, batched=True)
    np.testing.assert_array_equal(predict({"x": batch}, batched=True, finite=False)["y"], batch.astype("f4"))
    number = Predictor(Keeps(), SampleSpec([Field("x", (), F8, "input"), Field("y", (), F4, "target")]))
    with pytest.raises(SampleError, match=f"'x' for the network holds {value}, which is not finite"):
        number.predict({"x": value})


class TakesAll(Keeps):
    """Has zeros where nothing was measured."""

    takes_nonfinite = True

    def forward(self, x):
        return super().forward(x).nan_to_num(0.0)


def test_a_network_that_says_so_takes_what_is_not_finite():
    predictor = Predictor(TakesAll(), spec())
    assert predictor.takes_nonfinite
    assert predictor.predict({"x": [np.nan, 1.0]})["y"].tolist() == [0, 1]


def test_what_a_mask_takes_out_need_not_be_finite():
    fields = [
        Field("x", (3, 2), F4, "input", mask="count"),
        Field("count", (), np.dtype("i4"), "input"),
        Field("y", (3, 2), F4, "target", mask="count"),
    ]

    class Points(nn.Module):
        def forward(self, x, count):
            return torch.where(torch.arange(3)[:, None] < count[:, None, None], x, 0)

    value = np.array([[1, 2], [3, 4], [np.nan, np.inf]], "f4")
    predictor = Predictor(Points(), SampleSpec(fields))
    assert predictor.predict({"x": value, "count": 2})["y"].tolist() == [[1, 2], [3, 4], [0, 0]]
    value[0, 1] = np.inf
    with pytest.raises(SampleError, match=r"'x' for the network holds inf at index \(0, 1\), which is not finite"):
        predictor.predict({"x": value, "count": 2})


def test_flags_are_numbers_under_a_normalization():
    assert normalized().predict({"x": [True, False]})["y"].tolist() == [1, 0]


def test_a_field_of_integers_takes_no_fractions():
    predictor = Predictor(nn.Embedding(5, 2), spec(np.dtype("i8"), ()))
    assert predictor.predict({"x": 3})["y"].shape == (2,)
    assert predictor.predict({"x": np.uint8(3)})["y"].shape == (2,)
    with pytest.raises(SampleError, match="'x' for the network has dtype float64, which does not convert to int64"):
        predictor.predict({"x": 3.0})


@pytest.mark.parametrize(("field", "weights", "value"), [(F8, torch.float32, -1e300), (F4, torch.float16, 1e5)])
def test_values_that_become_infinite_in_the_dtype_of_the_weights_are_refused(field, weights, value):
    predictor = Predictor(Keeps(weights), spec(field))
    text = rf"field 'x' for the network Keeps has values that {weights} cannot hold, the first .* at index \(0, 1\)"
    with pytest.raises(SampleError, match=text):
        predictor.predict({"x": [0.0, value]})
    assert np.isinf(predictor.predict({"x": [0.0, np.inf]}, finite=False)["y"][1])  # as it was given
    assert predictor.predict({"x": [0.0, 1.0]})["y"].tolist() == [0, 1]
    assert Predictor(Keeps(torch.float64), spec(F8)).predict({"x": [0.0, 1e30]})["y"][1] == np.float32(1e30)


def test_what_is_large_before_a_normalization_is_fed():
    samples = spec(F4)
    moments = {
        name: type("M", (), {"mean": np.full(2, mean), "std": np.full(2, 10.0), "counts": np.full(2, 9)})
        for name, mean in (("x", 1e5), ("y", 0.0))
    }
    transforms = Transforms.normalizing(samples, ["x"], ["y"]).fit(moments)
    found = Predictor(Keeps(torch.float16), samples, transforms=transforms).predict({"x": [1e5, 1e5 + 10]})["y"]
    np.testing.assert_allclose(found, [0, 10], atol=0.1)


def test_arrays_of_the_declared_dtype_are_fed_as_they_are():
    predictor = Predictor(Keeps(), spec())
    given = torch.zeros(1, 2).numpy()  # which lies where torch lays it
    assert predictor.tensors({"x": given})["x"].data_ptr() == given.ctypes.data
    beside = predictor.tensors({"other": np.array([1.5])})["other"]
    assert (beside.dtype, beside.item()) == (torch.float64, 1.5)
    with pytest.raises(SampleError, match="field 'other' for the network has dtype <U1, of which a network is fed"):
        predictor.tensors({"other": np.array(["a"])})


def test_a_simulation_that_asks_is_told():
    question = Predict(0, {"x": np.array([0.0, 1e300])})
    (found,) = answer(Predictor(Keeps(), spec()), [question])
    assert "the first 1e+300 of dtype float64" in found.error


class Items(Dataset):
    """Samples that are not all of one dtype."""

    def __init__(self, *weights):
        self.weights = weights

    def __len__(self):
        return len(self.weights)

    def __getitem__(self, index):
        return {"x": np.zeros(2, "f4"), "weight": self.weights[index]}


def test_samples_of_ones_own_take_the_dtype_of_the_first_by_the_rule():
    assert TorchSamples(Items(1.0, 2, np.float32(0.5))).gather(np.arange(3))["weight"].tolist() == [1, 2, 0.5]
    for weights, message in (
        ((1, 1.5), "dtype float64, which does not convert to int64"),
        ((np.float32(1), 1e300), r"values that float32 cannot hold, the first 1e\+300"),
        ((1, "a"), "str"),
    ):
        with pytest.raises((SampleError, ConfigError), match=f"field 'weight' .*{message}"):
            TorchSamples(Items(*weights)).gather(np.arange(2))


def test_batches_of_ones_own_that_are_no_numbers_are_named():
    loader = [{"x": np.zeros((2, 2))}, {"x": np.array([["a", "b"]])}]
    with pytest.raises(
        ConfigError, match="field 'x' of a sample of list is a ndarray of <U1, which is no array of num"
    ):
        list(Feed(loader).batches(0))
