from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from physgym.data.statistics import Statistics
from physgym.errors import ConfigError
from physgym.nn import (
    MLP,
    Compose,
    Hold,
    Inverse,
    LossTransform,
    Normalize,
    Predictor,
    Transform,
    Transforms,
    build,
    describe,
    register,
)
from physgym.sample import Field, SampleSpec
from physgym.training import load_checkpoint, save_checkpoint
from tests.support.memory_samples import MemorySamples, spec_of

RNG = np.random.default_rng(0)


@register
class Scale(Transform):
    """Multiplies all fields."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, fields):
        return {name: value * self.factor for name, value in fields.items()}

    def inverse(self, fields):
        return {name: value / self.factor for name, value in fields.items()}

    @property
    def config(self):
        return {"factor": self.factor}


@register
class Shift(Transform):
    def forward(self, fields):
        return {name: value + 1 for name, value in fields.items()}


class Select(Transform):
    """Gives one field under a name, and no other."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, fields):
        return {self.name: next(iter(fields.values()))}


def tensors(arrays):
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def moments(arrays):
    return {name: Statistics.of(value) for name, value in arrays.items()}


def rebuilt(module):
    other = build(json.loads(json.dumps(describe(module))))
    other.load_state_dict(module.state_dict())
    return other


def test_normalize_per_component_gives_zero_mean_and_unit_deviation():
    arrays = {"state": RNG.normal([5.0, -300.0, 1e-4], [1e-3, 50.0, 2.0], (1000, 3))}
    normalize = Normalize.from_statistics(moments(arrays))
    state = normalize(tensors(arrays))["state"]
    torch.testing.assert_close(state.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-3, rtol=0)
    # the scale of the first component is held up by the floor relative to the field: 1e-3 of 29
    torch.testing.assert_close(state.std(0, correction=0)[1:], torch.ones(2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_normalize_per_field_keeps_proportions():
    displacement = RNG.normal(0.0, [[1e-6] * 3, [1.0] * 3], (2000, 2, 3))  # next to the clamp, and at the free end
    arrays = {"displacement": displacement}
    for scale in ("auto", "field"):
        result = Normalize.from_statistics(moments(arrays), scale=scale)(tensors(arrays))["displacement"]
        ratio = result.std(0) / torch.from_numpy(displacement.std(0))
        torch.testing.assert_close(ratio, ratio[0, 0].expand(2, 3), rtol=1e-3, atol=0)
        assert result.square().mean().sqrt().item() == pytest.approx(1, rel=1e-2)


def test_auto_scales_vectors_by_component_and_arrays_by_field():
    normalize = Normalize({"number": (), "vector": (3,), "nodes": (4, 3), "named": (4, 3)}, {"named": "component"})
    assert normalize.scale == {"number": "component", "vector": "component", "nodes": "field", "named": "component"}


@pytest.mark.parametrize("scale", ["auto", "field", "component", {"b/c": "component"}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverse_undoes_normalize(scale, dtype):
    arrays = {
        "a.x": RNG.normal(3, 2, (50, 4, 3)).astype(dtype),
        "b/c": RNG.normal(-7, [0, 1e-9, 5], (50, 3)).astype(dtype),
        "d": RNG.normal(1e3, 1, 50).astype(dtype),
    }
    given = tensors(arrays)
    normalize = Normalize.from_statistics(moments(arrays), scale=scale)
    normalized = normalize(given)
    assert set(normalized) == set(arrays)
    assert all(np.abs(normalized[name].numpy() - arrays[name]).max() > 0.1 for name in arrays)
    for name, value in normalize.inverse(normalized).items():
        assert value.dtype == given[name].dtype
        np.testing.assert_allclose(value.numpy(), arrays[name], rtol=1e-5, atol=1e-5)
    for name, value in rebuilt(normalize)(given).items():
        assert torch.equal(value, normalized[name])


@pytest.mark.parametrize("scale", ["field", "component"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constants_are_not_blown_up(scale, value):
    constant = np.full((100, 3, 2), value)
    partly = constant.copy()
    partly[:, 0] = RNG.normal(0, 10, (100, 2))
    arrays = {"constant": constant, "partly": partly}
    normalize = Normalize.from_statistics(moments(arrays), scale=scale)
    near = {name: torch.from_numpy(a) + 1e-3 for name, a in arrays.items()}
    result = normalize(near)
    assert result["constant"].abs().max() < 0.05
    assert result["partly"][:, 1:].abs().max() < 0.2


def test_normalize_leaves_other_fields_and_its_argument_alone():
    arrays = {"a": RNG.random((5, 2)), "b": RNG.random((5, 2))}
    given = tensors(arrays)
    result = Normalize.from_statistics(moments(arrays), ["a"])(given)
    assert torch.equal(result["b"], given["b"])
    np.testing.assert_array_equal(given["a"].numpy(), arrays["a"])
    assert set(Normalize.from_statistics(moments(arrays))({"a": given["a"]})) == {"a"}


def test_normalize_names_what_is_wrong():
    with pytest.raises(ConfigError, match=r"no field 'c' to transform; there are \['a'\]"):
        Normalize.from_statistics(moments({"a": RNG.random((5, 2))}), ["c"])
    with pytest.raises(ConfigError, match="scale of field 'a' is 'row'"):
        Normalize({"a": (2,)}, "row")
    with pytest.raises(ConfigError, match=r"field 'a' has shape \(1,\) where it is normalized; .* \(2,\)"):
        Normalize({"a": (2,)})({"a": torch.zeros(5, 1)})


@pytest.mark.parametrize("kind", ["field", "channel", "channel_last"])
def test_one_mean_for_what_has_one_scale_fits_any_grid(kind):
    values = RNG.normal([[[-12.0]], [[1e5]]], [[[0.5]], [[3e4]]], (60, 2, 4, 6)) + np.linspace(0, 3, 6)
    values = np.moveaxis(values, 1, -1) if kind == "channel_last" else values
    axes = {"field": None, "channel": (0, 2, 3), "channel_last": (0, 1, 2)}[kind]
    normalize = rebuilt(Normalize.from_statistics(moments({"a": values}), scale=kind, pointwise_mean=False))
    mean, std = (np.asarray(getattr(values, name)(axes, keepdims=True)) for name in ("mean", "std"))
    np.testing.assert_allclose(
        normalize(tensors({"a": values}))["a"].numpy(), (values - mean) / std, rtol=1e-4, atol=1e-4
    )
    fine = values.repeat(2, 1 if kind == "channel_last" else 2)
    there = normalize(tensors({"a": fine}))
    np.testing.assert_allclose(there["a"].numpy(), (fine - mean) / std, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(normalize.inverse(there)["a"].numpy(), fine, rtol=1e-5, atol=1e-3)
    other = fine[..., :1] if kind == "channel_last" else fine[:, :1]
    if kind != "field":
        with pytest.raises(ConfigError, match="where it is normalized; its statistics have"):
            normalize(tensors({"a": other}))
    with pytest.raises(ConfigError, match="where it is normalized; its statistics have"):
        normalize(tensors({"a": fine[..., 0]}))


def test_one_mean_leaves_vectors_and_constants_as_they_are():
    arrays = {"vector": RNG.normal([1, 1e6], [1, 1e3], (50, 2)), "constant": np.full((50, 3, 3), 7.0)}
    one, own = (Normalize.from_statistics(moments(arrays), pointwise_mean=flag) for flag in (False, True))
    for name, value in one(tensors(arrays)).items():
        assert torch.equal(value, own(tensors(arrays))[name])
    assert one.config != own.config
    assert "pointwise_mean" not in own.config  # as it was written before there was a choice
    with pytest.raises(ConfigError, match="pointwise_mean"):
        Normalize({"a": (3,)}, pointwise_mean="no")


def test_a_component_that_no_sample_has_is_left_out_of_the_one_mean():
    values = RNG.normal(5, 2, (40, 3, 3))
    values[:, 0, 0] = np.nan
    normalize = Normalize.from_statistics(moments({"a": values}), pointwise_mean=False)
    known = values[np.isfinite(values)]
    assert normalize.get_buffer("mean_0").item() == pytest.approx(known.mean(), rel=1e-5)
    assert normalize.get_buffer("scale_0").item() == pytest.approx(known.std(), rel=1e-5)


def test_the_error_of_another_grid_names_what_to_do():
    with pytest.raises(ConfigError, match="with pointwise_mean=False grids may be of any size"):
        Normalize({"a": (4, 4)})({"a": torch.zeros(2, 8, 8)})


def test_a_normalization_without_statistics_changes_nothing():
    x = {"a": torch.rand(5, 4, 3)}
    assert torch.equal(Normalize({"a": (4, 3)})(x)["a"], x["a"])


def test_a_transform_of_fields_alone_is_not_taken_before_the_loss():
    with pytest.raises(ConfigError, match=r"pass LossTransform\(None, Shift\(\.\.\.\)\) for the targets"):
        Transforms(before_loss=Shift())


def test_compose_applies_in_order_and_undoes_in_reverse():
    both = Compose([Shift(), Scale(3.0)])
    assert both({"a": torch.tensor([1.0])})["a"].item() == 6
    with pytest.raises(ConfigError, match="Shift has no inverse"):
        both.inverse({"a": torch.tensor([6.0])})
    arrays = {"a": RNG.normal(9, 2, (50, 3))}
    chain = Compose([Scale(3.0), Normalize.from_statistics({"a": Statistics.of(3 * arrays["a"])}), Scale(0.5)])
    there = rebuilt(chain)(tensors(arrays))
    assert there["a"].std(0, correction=0).tolist() == pytest.approx([0.5] * 3, rel=1e-5)
    np.testing.assert_allclose(Inverse(chain)(there)["a"].numpy(), arrays["a"], rtol=1e-6)
    np.testing.assert_allclose(Inverse(Inverse(chain))(tensors(arrays))["a"].numpy(), there["a"].numpy())


def test_the_default_changes_nothing():
    x = {"a": torch.rand(3)}
    transforms = rebuilt(Transforms())
    assert transforms.before_prediction(x) is x
    assert transforms.before_loss(x, x) == (x, x)
    assert transforms.before_apply.inverse(x) is x


def test_loss_transform_tells_prediction_from_target():
    x = {"a": torch.tensor([1.0])}
    prediction, target = rebuilt(LossTransform(Scale(2.0), Scale(5.0)))(x, x)
    assert (prediction["a"].item(), target["a"].item()) == (2, 5)


def make_samples():
    arrays = {
        "force": RNG.normal(40, 9, (300, 4, 3)).astype(np.float32),
        "kind": RNG.integers(0, 5, (300, 1)),
        "moved": RNG.normal(2, 1e-3, (300, 4, 3)),
        "label": RNG.integers(0, 5, 300),
        "beside": RNG.normal(7, 1, (300, 2)),
    }
    roles = {"force": "input", "kind": "input", "moved": "target", "label": "target"}
    return MemorySamples(arrays, spec_of(arrays, roles))


def test_ready_made_normalization():
    samples = make_samples()
    given = tensors(samples.arrays)
    transforms = Transforms.normalization(samples)
    fed = transforms.before_prediction({name: given[name] for name in ("force", "kind")})
    assert fed["force"].std().item() == pytest.approx(1, rel=1e-2)
    assert fed["force"].dtype == torch.float32
    assert torch.equal(fed["kind"], given["kind"])  # integers may be labels

    ones = {"moved": torch.ones(300, 4, 3)}
    prediction, target = transforms.before_loss(ones, given)
    assert torch.equal(prediction["moved"], ones["moved"])
    assert target["moved"].std().item() == pytest.approx(1, rel=1e-2)
    assert torch.equal(target["label"], given["label"])
    assert torch.equal(target["beside"], given["beside"])
    # what the network says in its units, applied, is what the loss took for equal
    applied = transforms.before_apply({"moved": target["moved"]})
    np.testing.assert_allclose(applied["moved"].numpy(), samples.arrays["moved"], rtol=1e-6)

    again = rebuilt(transforms)
    assert torch.equal(again.before_apply(ones)["moved"], transforms.before_apply(ones)["moved"])
    assert torch.equal(again.before_loss(ones, given)[1]["moved"], target["moved"])


def test_normalization_with_the_loss_in_physical_units():
    samples = make_samples()
    given = tensors(samples.arrays)
    transforms = Transforms.normalization(samples, ["beside"], ["moved"], physical_loss=True)
    prediction, target = transforms.before_loss({"moved": torch.zeros(300, 4, 3)}, given)
    assert torch.equal(target["moved"], given["moved"])
    np.testing.assert_allclose(prediction["moved"][0].numpy(), samples.arrays["moved"].mean(0), rtol=1e-6)
    assert torch.equal(transforms.before_prediction(given)["force"], given["force"])


def test_statistics_move_and_are_saved_with_the_module():
    transforms = Transforms.normalization(make_samples())
    assert {name for name, _ in transforms.named_buffers(remove_duplicate=False)} == set(transforms.state_dict())
    assert all(buffer.dtype == torch.float64 for buffer in transforms.double().buffers())
    assert not list(transforms.parameters())


# --- values that are held


def test_hold_sets_entries_and_stops_their_gradient():
    mask = np.zeros((4, 3), bool)
    mask[0], mask[2, 1] = True, True
    hold = Hold.where({"moved": mask}, {"moved": [1.0, 2.0, 3.0]})
    given = torch.rand(5, 4, 3, dtype=torch.float64, requires_grad=True)
    fields = {"moved": given, "other": torch.rand(5)}
    held = hold(fields)
    expected = np.where(mask, [1.0, 2.0, 3.0], given.detach().numpy())
    np.testing.assert_array_equal(held["moved"].detach().numpy(), expected)
    assert held["other"] is fields["other"]
    assert fields["moved"] is given
    held["moved"].sum().backward()
    np.testing.assert_array_equal(given.grad.numpy(), np.broadcast_to(~mask, (5, 4, 3)))
    assert torch.equal(rebuilt(hold)(fields)["moved"], held["moved"])
    assert set(hold({"other": fields["other"]})) == {"other"}


def test_hold_has_a_bare_value_and_no_inverse():
    hold = Hold.where({"x": [True, False]})
    assert hold({"x": torch.ones(1, 2)})["x"].tolist() == [[0.0, 1.0]]
    with pytest.raises(ConfigError, match="Hold has no inverse"):
        hold.inverse({"x": torch.ones(1, 2)})
    with pytest.raises(ConfigError, match=r"field 'x' has shape \(3,\) where parts of it are held; .* \(2,\)"):
        hold({"x": torch.ones(1, 3)})
    with pytest.raises(ConfigError, match="no field 'y'"):
        Hold.where({"x": [True]}, {"y": 1.0})


def test_a_held_prediction_in_physical_units_survives_a_checkpoint(tmp_path):
    x = RNG.normal(3, 2, (50, 4)).astype(np.float32)
    arrays = {"x": x, "y": 2 * x}
    samples = MemorySamples(arrays, spec_of(arrays, {"x": "input", "y": "target"}))
    normal = Transforms.normalization(samples)
    hold = Hold.where({"y": [True, False, False, True]}, {"y": 7.0})
    transforms = Transforms(normal.before_prediction, normal.before_loss, Compose([normal.before_apply, hold]))
    predictor = Predictor(MLP(4, 4, (8,)), samples.spec, transforms=transforms)
    predicted = predictor.predict({"x": x}, batched=True)["y"]
    assert (predicted[:, [0, 3]] == 7).all()
    assert not (predicted[:, [1, 2]] == 7).any()
    loaded = load_checkpoint(save_checkpoint(tmp_path / "one", predictor))
    np.testing.assert_array_equal(loaded.predict({"x": x}, batched=True)["y"], predicted)


# --- what is not a number, and what is not there


def fields_of(**fields):
    roles = {"y": "target"}
    return SampleSpec(
        [
            Field(n, v.shape[1:], v.dtype, roles.get(n, "input"), kind=kind, mask=mask)
            for n, (v, kind, mask) in fields.items()
        ]
    )


def test_flags_one_hot_and_bool_are_not_normalized():
    arrays = {
        "wall": (RNG.integers(0, 2, (50, 4, 4)).astype("f4"), "flag", ""),
        "material": (np.eye(3, dtype="f4")[RNG.integers(0, 3, 50)], "one-hot", ""),
        "wet": (RNG.random((50, 4, 4)) < 0.5, "number", ""),
        "load": (RNG.normal(5, 2, (50, 3)).astype("f4"), "number", ""),
        "y": (RNG.integers(0, 2, (50, 2)).astype("f4"), "flag", ""),
    }
    samples = MemorySamples({name: value for name, (value, *_) in arrays.items()}, fields_of(**arrays))
    transforms = Transforms.normalization(samples)
    assert list(transforms.before_prediction.shapes) == ["load"]
    assert list(transforms.before_apply.transform.shapes) == []
    given = tensors(samples.arrays)
    assert all(
        torch.equal(value, given[name]) for name, value in transforms.before_prediction(given).items() if name != "load"
    )


def test_a_float_field_of_zeros_and_ones_gets_a_hint(caplog):
    flags = RNG.integers(0, 2, (50, 4)).astype("f4")
    for values, hinted in (
        (flags, True),
        (flags * 0.5, False),
        (RNG.random((50, 4)), False),
        (np.ones((50, 4)), False),
    ):
        caplog.clear()
        Normalize.from_statistics({"wall": Statistics.of(values)})
        assert ("'wall' holds nothing but zeros and ones" in caplog.text) is hinted


def test_padding_with_nan_is_normalized_by_what_is_there():
    values = np.full((100, 6), np.nan, "f4")
    for i in range(100):
        values[i, : 1 + i % 5] = 1000 + 10 * RNG.normal(size=1 + i % 5)
    normal = Normalize.from_statistics({"y": Statistics.of(values)})({"y": torch.from_numpy(values)})["y"].numpy()
    for component in normal.T[:5]:
        known = component[np.isfinite(component)]
        assert (abs(known.mean()) < 1e-3, abs(known.std() - 1) < 1e-3) == (True, True)
    assert np.array_equal(np.isfinite(normal), np.isfinite(values))
    filled = Normalize.from_statistics({"y": Statistics.of(values)})({"y": torch.full((1, 6), 1000.0)})["y"]
    assert filled.abs().max() < 1  # also the component that no sample has
    for scale in ("field", "component", "auto"):
        with pytest.warns(UserWarning, match="no value of field 'y' is finite in any sample, so it is not normalized"):
            nothing = Normalize.from_statistics({"y": Statistics.of(np.full((9, 4), np.nan))}, scale=scale)
        assert nothing({"y": torch.full((1, 4), 3.0)})["y"].tolist() == [[3.0] * 4]


def test_zero_padding_that_a_mask_names_does_not_enter():
    number = RNG.integers(1, 6, 200).astype("i4")
    there = np.arange(6) < number[:, None]
    points = np.where(there[..., None], RNG.normal(1000, 10, (200, 6, 2)), 0).astype("f4")
    arrays = {
        "points": (points, "number", "number"),
        "number": (number, "number", ""),
        "y": (points[:, 0], "number", ""),
    }
    samples = MemorySamples({name: value for name, (value, *_) in arrays.items()}, fields_of(**arrays))
    normalize = Transforms.normalization(samples, ["points"]).before_prediction
    normal = normalize({"points": torch.from_numpy(points)})["points"].numpy()[there]
    assert abs(normal.mean()) < 0.01
    assert abs(normal.std() - 1) < 0.05


@pytest.mark.parametrize(("scale", "axis"), [("channel", 1), ("channel_last", 3)])
def test_a_scale_for_each_channel(scale, axis):
    y = RNG.normal(size=(50, 4, 4, 4)) * np.reshape([1, 1e5, 1e-3, 0], [-1 if a == axis else 1 for a in range(4)])
    normalize = Normalize.from_statistics(moments({"y": y}), scale=scale)
    normal = normalize({"y": torch.from_numpy(y)})["y"]
    for channel in normal.unbind(axis)[:3]:
        assert channel.std().item() == pytest.approx(1, rel=0.05)
    assert not normal.unbind(axis)[3].any()
    assert torch.allclose(normalize.inverse({"y": normal})["y"], torch.from_numpy(y))
    assert torch.equal(rebuilt(normalize)({"y": torch.from_numpy(y)})["y"], normal)
    with pytest.raises(ConfigError, match=r"'a' is 'channel', one for each channel, but it has shape \(3,\)"):
        Normalize({"a": (3,)}, "channel")


class Nothing(Transform):
    def forward(self, fields):
        pass

    def inverse(self, fields):
        pass


@pytest.mark.parametrize(
    ("transforms", "where"),
    [
        (Transforms(before_prediction=Nothing()), "before_prediction, Nothing, returned None"),
        (Transforms(before_apply=Nothing()), "before_apply, Nothing, returned None"),
        (Transforms(before_apply=Compose([Nothing(), Transform()])), "in Compose, Nothing, returned None"),
        (Transforms(before_apply=Inverse(Compose([Nothing()]))), "in Compose, Nothing, returned None"),
        (Transforms(before_apply=Select("x")), r"before_apply, Select, returned no field \['y'\]; it gave \['x'\]"),
    ],
)
def test_a_hook_that_returns_something_else_is_named(transforms, where):
    spec = SampleSpec([Field("x", (2,), np.dtype("f4"), "input"), Field("y", (2,), np.dtype("f4"), "target")])
    with pytest.raises(ConfigError, match=where):
        Predictor(MLP(2, 2), spec, transforms=transforms)


def test_a_hook_before_the_loss_that_returns_something_else_is_named():
    x = {"a": torch.ones(1)}

    class Both(LossTransform):
        def __init__(self, result):
            super().__init__()
            self.result = result

        def forward(self, prediction, target):
            return self.result

    for result, message in (
        (None, "Both, returned a NoneType instead of two dictionaries"),
        ((x,), "returned 1 values instead of two"),
        ((x, None), "before_loss, Both, returned None instead of a dictionary"),
    ):
        with pytest.raises(ConfigError, match=message):
            Transforms(before_loss=Both(result)).for_loss(x, x)
    with pytest.raises(ConfigError, match="before_loss, Nothing, returned None"):
        Transforms(before_loss=LossTransform(on_target=Nothing())).for_loss(x, x)


@register
class Lost(Transform):
    """Does not tell its argument."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor


def test_a_transform_whose_arguments_would_be_lost_is_refused_before_a_training():
    with pytest.raises(
        ConfigError, match=r"Lost takes the arguments \['factor'\], which its property `config` does not"
    ):
        Transforms(before_prediction=Lost(2.0))
